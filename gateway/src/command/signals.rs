//! `Signals` handles the signals of the process. Once it listens, none of the signals it handles ends the
//! process directly. The system still handles the others: SIGQUIT dumps core, SIGKILL cannot be caught.

use std::future::poll_fn;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::task::Poll;
use std::thread;

use tokio::runtime::Runtime;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;

use crate::telemetry;

/// Exit code of a gateway that was ended by a second signal before it had drained.
const CUT_OFF: i32 = 5;

/// The signals with a meaning here, and those that people and programs send to processes that would end by
/// them.
fn heard() -> [(SignalKind, &'static str); 7] {
    [
        (SignalKind::terminate(), "SIGTERM"),
        (SignalKind::interrupt(), "SIGINT"),
        (SignalKind::hangup(), "SIGHUP"),
        (SignalKind::user_defined1(), "SIGUSR1"),
        (SignalKind::user_defined2(), "SIGUSR2"),
        (SignalKind::alarm(), "SIGALRM"),
        (SignalKind::io(), "SIGIO"),
    ]
}

/// Listens on a separate thread.
pub(super) struct Signals {
    stop: watch::Receiver<bool>,
    /// Whether there is something to drain.
    serving: Arc<AtomicBool>,
}

/// The meaning of a signal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Meaning {
    Stop,
    Reload,
    Nothing,
}

impl Signals {
    /// Starts listening, with a thread for this runtime. With `hangup_stops` the end of the terminal ends the
    /// program.
    pub(super) fn listen(runtime: Runtime, hangup_stops: bool) -> io::Result<Self> {
        let mut signals = {
            let _entered = runtime.enter();
            let listen = |(kind, name)| Ok((signal(kind)?, kind.as_raw_value(), name));
            heard().into_iter().map(listen).collect::<io::Result<Vec<_>>>()?
        };
        let (asked, stop) = watch::channel(false);
        let serving = Arc::new(AtomicBool::new(false));
        let is_serving = serving.clone();
        let listening = async move {
            loop {
                let (number, name) = next(&mut signals).await;
                match meaning(name, hangup_stops) {
                    // Ends the process as if the signal were not handled.
                    Meaning::Stop if !is_serving.load(Relaxed) => end(128 + number),
                    Meaning::Stop if asked.send_replace(true) => {
                        tracing::warn!(signal = name, "second stop signal; closing all connections at once");
                        end(CUT_OFF);
                    }
                    Meaning::Stop => {
                        tracing::info!(signal = name, "stop signal received; a second one stops at once");
                    }
                    Meaning::Reload => tracing::warn!(
                        signal = name,
                        "configuration not reloaded; restart the gateway to apply changes"
                    ),
                    Meaning::Nothing => {
                        tracing::info!(signal = name, "signal ignored")
                    }
                }
            }
        };
        thread::Builder::new().name("signals".into()).spawn(move || runtime.block_on(listening))?;
        Ok(Self { stop, serving })
    }

    /// Returns at the first stop signal; from then on a second one ends the process.
    pub(super) async fn stop(mut self) {
        self.serving.store(true, Relaxed);
        if self.stop.wait_for(|stop| *stop).await.is_err() {
            std::future::pending().await
        }
    }
}

/// The next signal.
async fn next(signals: &mut [(Signal, i32, &'static str)]) -> (i32, &'static str) {
    poll_fn(|cx| {
        for (signal, number, name) in &mut *signals {
            if signal.poll_recv(cx).is_ready() {
                return Poll::Ready((*number, *name));
            }
        }
        Poll::Pending
    })
    .await
}

fn meaning(name: &str, hangup_stops: bool) -> Meaning {
    match name {
        "SIGTERM" | "SIGINT" => Meaning::Stop,
        "SIGHUP" if hangup_stops => Meaning::Stop,
        "SIGHUP" => Meaning::Reload,
        _ => Meaning::Nothing,
    }
}

fn end(code: i32) -> ! {
    telemetry::flush();
    std::process::exit(code)
}
