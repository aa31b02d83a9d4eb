//! `gateway serve`: serves clients until a signal.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context as _;
use bytes::Bytes;

use super::signals::Signals;
use super::{Failure, configuration, runtime};
use crate::config::Config;
use crate::gateway::{Gateway, MakeSite, PluginsMissing};
use crate::supervisor::PartEnded;
use crate::telemetry;
use crate::transport::site::{Page, Site};

const AFTER_LONG_HELP: &str = "\
Example:
  gateway serve --config gateway.toml

Exit codes:
  0    drained after a signal
  3    error in the configuration
  5    it could not start, or a second signal closed its clients at once
  7    a part of it failed while it served: it drained and must be started again
  130  Ctrl-C before there was anything to drain
  143  SIGTERM before there was anything to drain";

/// Serve clients until SIGTERM or Ctrl-C
///
/// Run it under a service manager that starts it again after a failure. On SIGTERM or Ctrl-C the gateway
/// stops accepting, asks its clients to reconnect elsewhere at the rate of `drain.closes_per_second`, and
/// ends after `drain.deadline` at the latest. A second signal ends it at once. On SIGHUP it only logs that it
/// does not read the configuration again; it ignores SIGUSR1 and SIGUSR2; SIGQUIT writes a core dump.
///
/// If an essential part of the gateway fails, the gateway drains in the same way and ends.
#[derive(Debug, clap::Args)]
#[command(after_long_help = AFTER_LONG_HELP)]
pub(super) struct Arguments {
    /// The configuration file; without it every key has its default
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,

    /// A page to serve at / of the client listener, for development: it has an origin then, which a page that
    /// is opened from the disk has not
    #[arg(long, value_name = "FILE")]
    page: Option<PathBuf>,
}

pub(super) fn run(arguments: &Arguments) -> Result<(), Failure> {
    let signals = listen(false)?;
    let config = configuration(arguments.config.as_deref())?;
    let site = arguments.page.as_deref().map(FileSite::open).transpose().map_err(Failure::Runtime)?;
    start_logging(&config)?;
    let site = site.map(|site| -> MakeSite { Box::new(|_| Arc::new(site)) });
    serve(config, site, signals, |_| ())
}

/// Serves one file at `/`, as it was when the gateway started.
struct FileSite(Bytes);

impl FileSite {
    fn open(file: &Path) -> anyhow::Result<Self> {
        let page =
            std::fs::read(file).with_context(|| format!("failed to read --page {}", file.display()))?;
        Ok(Self(page.into()))
    }
}

impl Site for FileSite {
    fn respond(&self, path: &str, _: Option<&str>) -> Option<Page> {
        (path == "/").then(|| Page {
            status: 200,
            content_type: "text/html; charset=utf-8",
            headers: &[("x-content-type-options", "nosniff"), ("referrer-policy", "no-referrer")],
            body: self.0.clone(),
        })
    }
}

/// Listens for signals. `hangup_stops` as in [`Signals::listen`].
pub(super) fn listen(hangup_stops: bool) -> Result<Signals, Failure> {
    Signals::listen(runtime()?, hangup_stops)
        .context("failed to listen for signals")
        .map_err(Failure::Runtime)
}

pub(super) fn start_logging(config: &Config) -> Result<(), Failure> {
    telemetry::init_logging(&config.log).context("failed to start the log").map_err(Failure::Runtime)
}

/// Binds, prints the addresses, and serves until a signal.
pub(super) fn serve(
    config: Config,
    site: Option<MakeSite>,
    signals: Signals,
    bound: impl FnOnce(&Gateway),
) -> Result<(), Failure> {
    let gateway = Gateway::build(config, site).map_err(Failure::Runtime)?;
    bound(&gateway);
    gateway.run(signals.stop()).map_err(|error| {
        let error = match error.downcast::<PartEnded>() {
            Ok(ended) => return Failure::Part(ended),
            Err(error) => error,
        };
        match error.downcast::<PluginsMissing>() {
            Ok(missing) => Failure::Plugins(missing.to_string()),
            Err(error) => Failure::Runtime(error),
        }
    })
}
