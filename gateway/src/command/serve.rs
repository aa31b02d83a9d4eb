//! `gateway serve`.

use std::path::PathBuf;

use tokio::signal::unix::{Signal, SignalKind, signal};

use super::{Failure, configuration};
use crate::config::Config;
use crate::gateway::{Gateway, MakeSite, PluginsMissing};
use crate::telemetry;

/// The exit code of a gateway that a second signal ended: it did not finish what it began.
const CUT_OFF: i32 = 5;

/// Serve clients until SIGTERM or Ctrl-C
///
/// On a signal the gateway stops accepting, asks its clients to go elsewhere at the pace of `drain.closes_per_second`, and
/// ends after `drain.deadline` at the latest. A second signal ends it at once.
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// The configuration file; without one everything has its default
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

pub(super) fn run(arguments: &Arguments) -> Result<(), Failure> {
    let config = configuration(arguments.config.as_deref())?;
    telemetry::init_logging(&config.log);
    serve(config, None, |_| ()).map_err(failure)
}

/// With the exit code that fits.
pub(super) fn failure(error: anyhow::Error) -> Failure {
    match error.downcast::<PluginsMissing>() {
        Ok(missing) => Failure::Plugins(missing.to_string()),
        Err(error) => Failure::Runtime(error),
    }
}

/// Binds, tells where, and serves until a signal.
pub(super) fn serve(
    config: Config,
    site: Option<MakeSite>,
    bound: impl FnOnce(&Gateway),
) -> anyhow::Result<()> {
    let gateway = Gateway::build(config, site)?;
    bound(&gateway);
    gateway.run(stop())
}

/// Ends with the first signal to stop; from then on a second one ends the process.
async fn stop() {
    let mut signals = match Signals::listen() {
        Ok(signals) => signals,
        Err(error) => {
            tracing::error!(%error, "failed to listen for signals: one will end the gateway without draining");
            return std::future::pending().await;
        }
    };
    let signal = signals.next().await;
    tracing::info!(signal, "asked to stop; a second signal stops at once");
    tokio::spawn(async move {
        let signal = signals.next().await;
        tracing::warn!(signal, "asked to stop again: clients are cut off");
        std::process::exit(CUT_OFF);
    });
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn listen() -> std::io::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}
