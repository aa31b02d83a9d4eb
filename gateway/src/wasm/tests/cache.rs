//! Tests the cache of machine code on disk.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;

use super::support::{component, module};
use crate::disk::StateFolder;
use crate::plugin::counters::PluginCounters;
use crate::plugin::load::{Code, Factory, Loader as _};
use crate::plugin::settings::Settings;
use crate::wasm::{Loader, LoaderConfig};

/// Starts a gateway: a new loader on the same state folder.
fn start(state: &StateFolder) -> Loader {
    let config = LoaderConfig { instances_max: 10 };
    Loader::new(&config).unwrap().with_artifacts(Arc::new(state.artifacts()))
}

fn load(loader: &Loader, wasm: &[u8]) -> Arc<dyn Factory> {
    let factory = loader.load("test", wasm, &Settings::default()).unwrap();
    factory.instantiate(&Arc::new(PluginCounters::new(1))).unwrap();
    factory
}

fn entries(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder.join("state/artifacts")).unwrap();
    let mut entries: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    entries.sort();
    entries
}

#[test]
fn after_a_restart_nothing_is_compiled() {
    let dir = tempfile::tempdir().unwrap();
    let state = StateFolder::open(&dir.path().join("state"), dir.path()).unwrap();
    for wasm in [module("echo.wasm"), component("echo.wasm")] {
        let first = start(&state);
        let kept = load(&first, &wasm);
        assert_eq!(kept.code(), Code::Compiled);
        assert_eq!(load(&first, &wasm).code(), Code::Shared);
        let next = load(&start(&state), &wasm);
        assert_eq!(next.code(), Code::Cached);
        assert_eq!(next.about(), kept.about());
    }
    assert_eq!(entries(dir.path()).len(), 2);
}

#[test]
fn a_damaged_entry_is_compiled_again_and_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let state = StateFolder::open(&dir.path().join("state"), dir.path()).unwrap();
    let wasm = module("echo.wasm");
    load(&start(&state), &wasm);
    let [entry] = &entries(dir.path())[..] else { panic!("one entry") };
    let good = fs::read(entry).unwrap();
    let mut flipped = good.clone();
    // In the middle of the machine code, which the engine does not check.
    flipped[good.len() / 2] ^= 0x10;
    let header_only = good[..40].to_vec();
    for damaged in [flipped, header_only, Vec::new()] {
        fs::write(entry, damaged).unwrap();
        assert_eq!(load(&start(&state), &wasm).code(), Code::Compiled);
        assert_eq!(load(&start(&state), &wasm).code(), Code::Cached, "it was replaced");
    }
}

#[test]
fn files_that_arrive_together_are_compiled_once() {
    let dir = tempfile::tempdir().unwrap();
    let state = StateFolder::open(&dir.path().join("state"), dir.path()).unwrap();
    let (loader, wasm) = (start(&state), module("echo.wasm"));
    let loaded: Vec<_> = thread::scope(|scope| {
        let threads: Vec<_> = (0..8).map(|_| scope.spawn(|| load(&loader, &wasm))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    let compiled = loaded.iter().filter(|factory| factory.code() == Code::Compiled).count();
    assert_eq!(compiled, 1);
}
