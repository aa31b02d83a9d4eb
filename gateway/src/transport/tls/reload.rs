//! [`keep_current`] exchanges the certificates of a listener when their files change.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::spawn_blocking;
use tokio::time::{MissedTickBehavior, interval};

use super::Tls;
use super::files::Contents;
use crate::clock::Clock;
use crate::config::ConfigErrors;
use crate::telemetry::metrics::Metrics;

/// How often the files are read: they are small, and this works for every kind of volume.
const PAUSE: Duration = Duration::from_secs(2);
/// Time before the end of a certificate from which on the log warns.
const WARNING: i64 = 14 * DAY;
/// Interval of the warnings.
const DAY: i64 = 24 * 60 * 60;

/// Reads the files of a listener again and again. Changed files are used for new connections once two
/// readings have found the same, so that files which are being written do no harm. Files with an error leave
/// the last good ones in use. Also keeps the metrics, and warns of the end of a certificate.
pub async fn keep_current(tls: Arc<Tls>, metrics: Arc<Metrics>) {
    let mut ticks = interval(PAUSE);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut state = State::default();
    loop {
        ticks.tick().await;
        let reading = tls.clone();
        let look = spawn_blocking(move || {
            state.look(&reading);
            state
        });
        let Ok(kept) = look.await else { return };
        state = kept;
        metrics.node.serve_certificates(tls.listener(), tls.certificates());
        let now = i64::try_from(Clock::start().now().unix / 1000).unwrap_or(i64::MAX);
        state.warn(&tls, now);
    }
}

/// What earlier readings found.
#[derive(Default)]
struct State {
    last: Option<Result<Contents, ConfigErrors>>,
    /// The error that was logged last.
    logged: Option<ConfigErrors>,
    /// Unix time of the last warning, in seconds.
    warned: Option<i64>,
}

impl State {
    /// Reads the files, and uses them if they are others.
    fn look(&mut self, tls: &Tls) {
        let listener = tls.listener().as_str();
        let found = Contents::read(tls.listener(), &tls.settings);
        let settled = self.last.as_ref() == Some(&found);
        self.last = Some(found.clone());
        if !settled {
            return;
        }
        let exchanged = match found {
            Ok(contents) if contents == tls.served().contents => {
                if self.logged.take().is_some() {
                    tracing::info!(listener, "the files of TLS are again those in use");
                }
                return;
            }
            Ok(contents) => tls.exchange(contents),
            Err(errors) => Err(errors),
        };
        match exchanged {
            Ok(()) => {
                self.logged = None;
                self.warned = None;
                let certificates = tls.certificates().len();
                tracing::info!(
                    listener,
                    certificates,
                    "TLS certificates exchanged; new connections use them"
                );
            }
            Err(errors) => {
                if self.logged.as_ref() != Some(&errors) {
                    tracing::error!(
                        listener,
                        %errors,
                        "changed files of TLS are not used; the last good certificates stay in use"
                    );
                    self.logged = Some(errors);
                }
            }
        }
    }

    /// Warns once a day if a certificate ends soon.
    fn warn(&mut self, tls: &Tls, now: i64) {
        if self.warned.is_some_and(|warned| now < warned + DAY) {
            return;
        }
        for certificate in tls.certificates().iter().filter(|one| one.not_after - now < WARNING) {
            self.warned = Some(now);
            tracing::warn!(
                listener = tls.listener().as_str(),
                certificate = certificate.index,
                name = &*certificate.name,
                hours_left = (certificate.not_after - now) / 3600,
                "TLS certificate ends soon; renew it: the gateway takes the new file by itself"
            );
        }
    }
}
