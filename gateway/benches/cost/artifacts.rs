//! The plugins, built.

use std::env;
use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;

use anyhow::{Context as _, bail, ensure};

const PLUGINS: [&str; 6] = ["auth-jwt", "echo", "rate-limit", "router", "guest-no-sdk", "guest-trap"];

/// The bytes of a plugin of this repository, by the name of its crate.
pub(crate) fn wasm(plugin: &str) -> anyhow::Result<Vec<u8>> {
    assert!(PLUGINS.contains(&plugin), "{plugin} is not in the list of plugins that are built");
    let path = folder()?.join(format!("{}.wasm", plugin.replace('-', "_")));
    std::fs::read(&path).with_context(|| format!("failed to read the plugin {}", path.display()))
}

fn folder() -> anyhow::Result<PathBuf> {
    static TARGET: OnceLock<PathBuf> = OnceLock::new();
    let target = match (TARGET.get(), env::var_os("GATEWAY_WASM")) {
        (Some(target), _) => target,
        (None, Some(built)) => TARGET.get_or_init(|| built.into()),
        (None, None) => {
            let built = build()?;
            TARGET.get_or_init(|| built)
        }
    };
    Ok(target.join("wasm32-wasip1").join("plugin"))
}

/// Has cargo build what is missing or old, into the folder this program was built into.
fn build() -> anyhow::Result<PathBuf> {
    // <target>/<profile>/deps/<this program>
    let program = env::current_exe()?;
    let Some(target) = program.ancestors().nth(3) else {
        bail!("{} does not lie where cargo puts benchmarks", program.display());
    };
    let status = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .args(["build", "--quiet", "--profile", "plugin", "--target", "wasm32-wasip1", "--target-dir"])
        .arg(target)
        .args(PLUGINS.iter().flat_map(|name| ["-p", name]))
        .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
        .status()
        .context("failed to start cargo to build the plugins")?;
    ensure!(status.success(), "cargo failed to build the plugins: see above, and `rustup target list`");
    Ok(target.to_owned())
}
