//! `gateway plugin new`: creates the crate of a new plugin.

use std::path::PathBuf;

use anyhow::Context as _;

use crate::command::{Failure, print};
use crate::plugin_tools::crates::{Sdk, check_name, write};
use crate::plugin_tools::tree;

/// Create the crate of a new plugin that builds and passes its tests
///
/// Use it to start a plugin in Rust. The crate has a plugin with settings and one hook, tests, a settings
/// file, events for `gateway plugin run`, and a README with the next commands. The command overwrites
/// nothing.
#[derive(Debug, clap::Args)]
#[command(
    after_long_help = "Examples:\n  gateway plugin new shout\n  gateway plugin new shout --path work/plugins/shout"
)]
pub(super) struct Arguments {
    /// The plugin's name: letters, digits, `-` and `_`, a letter first
    #[arg(value_name = "NAME")]
    name: String,

    /// The folder of the crate [default: a folder with the plugin's name]
    #[arg(long, value_name = "DIR")]
    path: Option<PathBuf>,
}

pub(super) fn run(arguments: &Arguments) -> Result<(), Failure> {
    let Arguments { name, path } = arguments;
    check_name(name).map_err(Failure::Unexpected)?;
    let folder = path.clone().unwrap_or_else(|| PathBuf::from(name));
    let sdk = match tree::find(None).map_err(Failure::Unexpected)? {
        Some(root) => Sdk::Path(root.join("plugin-sdk")),
        None => Sdk::Version,
    };
    write(&folder, name, &sdk).map_err(Failure::Unexpected)?;
    let folder =
        folder.canonicalize().context("failed to find what was written").map_err(Failure::Unexpected)?;
    let from = match &sdk {
        Sdk::Path(path) => format!("the SDK comes from the source tree, {}", path.display()),
        Sdk::Version => format!(
            "no source tree of the gateway was found, so the crate requests the SDK by its version, {}: where no registry \
             has it, change the line `gateway-plugin-sdk` in Cargo.toml to a path",
            env!("CARGO_PKG_VERSION")
        ),
    };
    let wasm = format!("target/wasm32-wasip1/release/{}.wasm", name.replace('-', "_"));
    print(&format!(
        "\
Made the plugin {name} in {folder}
  {from}

Next, in that folder:
  cargo test                       try the hooks in src/lib.rs
  gateway plugin build             build the WebAssembly file
  gateway plugin run {wasm} --settings {name}.toml --events events.jsonl
  gateway plugin build --into DIR  build it and drop it into a gateway's plugin folder, where it is live at once
",
        folder = folder.display(),
    ))
}
