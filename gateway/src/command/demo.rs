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
/// Builds the plugins of the source tree for WebAssembly, puts them into a folder of their own, and serves a
/// chat page that shows which plugins are live. What to do next is printed. The page hands a token to whoever
/// asks for one, so the demo listens on loopback addresses only. It ends with Ctrl-C, SIGTERM, or its
/// terminal.
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// Where the page and its clients are served
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8000")]
    listen: SocketAddr,

    /// Where health, metrics and the HTTP API are served
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8001")]
    admin: SocketAddr,

    /// The source tree; found from where the program runs if not given
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
