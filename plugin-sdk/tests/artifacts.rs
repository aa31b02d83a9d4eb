//! What the macro makes of a plugin, read from the files that cargo builds for both targets.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};
use wasi_preview1_component_adapter_provider::{
    WASI_SNAPSHOT_PREVIEW1_ADAPTER_NAME, WASI_SNAPSHOT_PREVIEW1_REACTOR_ADAPTER,
};
use wasmparser::{Parser, Payload};

const TARGETS: [&str; 2] = ["wasm32-wasip1", "wasm32-wasip2"];

#[test]
fn a_plugin_exports_the_hooks_its_author_wrote_and_imports_what_they_use() {
    let folder = build(&["--package", "echo", "--package", "rate-limit", "--package", "guest-no-sdk"]);
    build(&["--package", "gateway-plugin-sdk", "--example", "lobby"]);
    for target in TARGETS {
        let plugin = |file: &str| Artifact::read(&folder.join(target).join("plugin").join(file));

        let some = plugin("echo.wasm");
        some.check_exports(&["configure", "on-message"]);
        some.check_host_imports(&["interests", "types"]);
        some.check_stamp("echo");

        let limits = plugin("rate_limit.wasm");
        limits.check_exports(&["configure", "on-message"]);
        limits.check_host_imports(&["buckets", "context", "interests", "key-value", "log", "types"]);

        let every = plugin("examples/lobby.wasm");
        every.check_exports(&["configure", "on-connect", "on-message", "on-disconnect"]);
        every.check_host_imports(&["context", "effects", "interests", "log", "types"]);
        every.check_stamp("gateway-plugin-sdk");

        let foreign = plugin("guest_no_sdk.wasm");
        foreign.check_exports(&["on-message"]);
        assert_eq!(foreign.stamp, None, "the stamp is the SDK's");
    }
}

/// Builds plugins the way their authors do and returns cargo's target folder.
fn build(what: &[&str]) -> PathBuf {
    let folder = std::env::current_exe()
        .expect("a test knows its path")
        .ancestors()
        .nth(3)
        .expect("a test lies in target/PROFILE/deps")
        .to_owned();
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["build", "--quiet", "--profile", "plugin"]).env("CARGO_TARGET_DIR", &folder);
    cargo.current_dir(env!("CARGO_MANIFEST_DIR"));
    for target in TARGETS {
        cargo.args(["--target", target]);
    }
    cargo.args(what);
    assert!(cargo.status().expect("cargo runs").success(), "failed to build {what:?}");
    folder
}

/// What a gateway sees of a plugin's file.
struct Artifact {
    path: PathBuf,
    imports: BTreeSet<String>,
    exports: BTreeSet<String>,
    stamp: Option<Value>,
}

impl Artifact {
    fn read(path: &Path) -> Self {
        let bytes = std::fs::read(path).expect("cargo built it");
        let mut artifact = Self {
            path: path.to_owned(),
            imports: BTreeSet::new(),
            exports: BTreeSet::new(),
            stamp: stamp(&bytes),
        };
        let component = if Parser::is_core_wasm(&bytes) { encode(&bytes) } else { bytes };
        let mut depth = 0;
        for payload in Parser::new(0).parse_all(&component) {
            match payload.expect("valid") {
                Payload::ModuleSection { .. } | Payload::ComponentSection { .. } => depth += 1,
                Payload::End(_) => depth -= 1,
                Payload::ComponentImportSection(section) if depth == 0 => {
                    artifact
                        .imports
                        .extend(section.into_iter().map(|i| i.expect("valid").name.name.to_owned()));
                }
                Payload::ComponentExportSection(section) if depth == 0 => {
                    artifact
                        .exports
                        .extend(section.into_iter().map(|e| e.expect("valid").name.name.to_owned()));
                }
                _ => {}
            }
        }
        artifact
    }

    #[track_caller]
    fn check_exports(&self, expected: &[&str]) {
        assert_eq!(self.exports, interfaces(expected), "exports of {}", self.path.display());
    }

    #[track_caller]
    fn check_host_imports(&self, expected: &[&str]) {
        let ours: BTreeSet<String> =
            self.imports.iter().filter(|name| name.starts_with("gateway:")).cloned().collect();
        assert_eq!(ours, interfaces(expected), "imports of {}", self.path.display());
    }

    #[track_caller]
    fn check_stamp(&self, name: &str) {
        let version = env!("CARGO_PKG_VERSION");
        let expected = json!({"name": name, "version": version, "sdk": version, "interface": "0.1"});
        assert_eq!(self.stamp, Some(expected), "stamp of {}", self.path.display());
    }
}

fn interfaces(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|name| format!("gateway:plugin/{name}@0.1.0")).collect()
}

/// What the gateway does with a core module when it loads one.
fn encode(module: &[u8]) -> Vec<u8> {
    wit_component::ComponentEncoder::default()
        .validate(true)
        .module(module)
        .expect("built with bindings")
        .adapter(WASI_SNAPSHOT_PREVIEW1_ADAPTER_NAME, WASI_SNAPSHOT_PREVIEW1_REACTOR_ADAPTER)
        .expect("the adapter is valid")
        .encode()
        .expect("encodes")
}

/// The custom section; in a component it lies in the module within.
fn stamp(bytes: &[u8]) -> Option<Value> {
    Parser::new(0).parse_all(bytes).find_map(|payload| match payload.expect("valid") {
        Payload::CustomSection(section) if section.name() == "gateway-plugin" => {
            Some(serde_json::from_slice(section.data()).expect("the stamp is JSON"))
        }
        _ => None,
    })
}
