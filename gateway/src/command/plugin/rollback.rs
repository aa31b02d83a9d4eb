//! `gateway plugin rollback`: restores an earlier version of a plugin.

use serde_json::json;

use crate::command::api::Address;
use crate::command::{Failure, print};

/// Roll a plugin back to an earlier version
///
/// Use it when a new version turns out to be wrong. The version that ran before takes over at once, on every
/// worker and with its own settings; no connection closes. It runs until the file in the folder changes.
/// `gateway inspect` shows the kept versions.
#[derive(Debug, clap::Args)]
#[command(
    after_long_help = "Examples:\n  gateway plugin rollback router\n  gateway plugin rollback router --to 3f1c9a"
)]
pub(super) struct Arguments {
    /// The plugin's name: its file name without the number and `.wasm`
    #[arg(value_name = "NAME")]
    name: String,

    /// The beginning of a kept version's digest [default: the version that ran before]
    #[arg(long, value_name = "DIGEST")]
    to: Option<String>,

    #[command(flatten)]
    address: Address,
}

pub(super) fn run(arguments: &Arguments) -> Result<(), Failure> {
    let Arguments { name, to, address } = arguments;
    let done = address.call("plugin_rollback", &json!({"name": name, "to": to}))?;
    let text = |key: &str| done[key].as_str().unwrap_or("unknown");
    let short = |key: &str| text(key).chars().take(12).collect::<String>();
    print(&format!(
        "{name}: version {}, sha256 {}, runs in place of {}; chain {}\n",
        text("version"),
        short("digest"),
        short("replaced"),
        done["generation"]
    ))
}
