//! What was built: the gateway and the plugins.
//!
//! `tests/run` builds both and says where they are in `GATEWAY_BIN` and `GATEWAY_WASM`. Without it they are
//! built here, once per process, so that a plain `cargo test` never tests an old gateway.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// What a plugin is compiled for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// A core module, made into a component by the gateway.
    Wasip1,
    /// A component.
    Wasip2,
}

/// The plugins that tests use, and every guest there is.
const PACKAGES: [&str; 8] =
    ["introspection", "auth-jwt", "echo", "rate-limit", "redact", "router", "schema", "guest-*"];

/// The folder cargo builds into, with this test somewhere below it.
pub fn target_folder() -> &'static Path {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| {
        // <target>/<profile>/deps/<test>
        let test = env::current_exe().expect("a test knows where it is");
        test.ancestors().nth(3).expect("cargo puts tests three folders down").to_owned()
    })
}

/// The gateway under test.
pub fn gateway_binary() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| {
        if let Some(binary) = env::var_os("GATEWAY_BIN") {
            return binary.into();
        }
        let release = !cfg!(debug_assertions);
        let profile: &[&str] = if release { &["--release"] } else { &[] };
        build(&["-p", "gateway", "--bin", "gateway"], profile);
        target_folder().join(if release { "release" } else { "debug" }).join("gateway")
    })
}

/// The plugin of this crate as a core module.
pub fn wasm(plugin: &str) -> PathBuf {
    wasm_for(Target::Wasip1, plugin)
}

/// The plugin of this crate.
pub fn wasm_for(target: Target, plugin: &str) -> PathBuf {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    let known = PACKAGES.contains(&plugin) || plugin.starts_with("guest-");
    assert!(known, "{plugin} is not in the list of plugins that tests use");
    let folder = FOLDER.get_or_init(|| {
        if let Some(folder) = env::var_os("GATEWAY_WASM") {
            return folder.into();
        }
        let packages: Vec<_> = PACKAGES.iter().flat_map(|name| ["-p", name]).collect();
        build(&packages, &["--profile", "plugin", "--target", "wasm32-wasip1", "--target", "wasm32-wasip2"]);
        target_folder().to_owned()
    });
    let target = match target {
        Target::Wasip1 => "wasm32-wasip1",
        Target::Wasip2 => "wasm32-wasip2",
    };
    folder.join(target).join("plugin").join(format!("{}.wasm", plugin.replace('-', "_")))
}

fn build(what: &[&str], how: &[&str]) {
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let status = Command::new(cargo)
        .args(["build", "--quiet", "--target-dir"])
        .arg(target_folder())
        .args(what)
        .args(how)
        .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
        .status()
        .expect("cargo runs");
    assert!(status.success(), "failed to build {what:?}: see above; `tests/run` does all the set-up");
}
