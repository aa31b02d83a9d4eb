//! `gateway demo`: builds the shipped plugins and serves a chat page.

use std::io::IsTerminal as _;
use std::net::SocketAddr;
use std::path::PathBuf;

use super::Failure;
use super::serve::{listen, serve, start_logging};
use crate::demo::{Demo, Options};
use crate::telemetry;

/// Build the shipped plugins and serve a chat page to try things on
///
/// Use it to see the gateway at work, and to try your own plugin in it. It builds the plugins of the source
/// tree for WebAssembly, puts them into a separate folder, serves a chat page that shows which plugins are
/// live, and prints what to try next. The page gives a token to everybody, so the demo listens on loopback
/// addresses only. It ends on Ctrl-C, on SIGTERM, or when its terminal closes.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "Example:\n  gateway demo --listen 127.0.0.1:9000")]
pub(super) struct Arguments {
    /// The address for the page and its clients
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8000")]
    listen: SocketAddr,

    /// The address for health, metrics and the HTTP API
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8001")]
    admin: SocketAddr,

    /// The source tree [default: found from the current folder or the program's own]
    #[arg(long, value_name = "DIR")]
    source: Option<PathBuf>,

    /// The plugin folder [default: target/demo/plugins in the source tree]
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

pub(super) fn run(arguments: &Arguments) -> Result<(), Failure> {
    let options = Options {
        listen: arguments.listen,
        admin: arguments.admin,
        source: arguments.source.clone(),
        folder: arguments.dir.clone(),
    };
    // Closing the terminal of the demo should end it.
    let signals = listen(std::io::stdin().is_terminal())?;
    let demo = Demo::prepare(&options).map_err(Failure::Runtime)?;
    let config = demo.config().map_err(Failure::Configuration)?;
    demo.write_config().map_err(Failure::Runtime)?;
    start_logging(&config)?;
    let next = demo.what_next();
    let site = demo.site();
    serve(config, Some(site), signals, |_| telemetry::say(&format!("\n{next}\n")))
}
