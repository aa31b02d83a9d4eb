//! [`Partition`] carries out the entries of one stream, subject or partition, one after the other.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use super::entry::{Entry, Letter};
use super::{nats, postgres, redis_stream};
use crate::admin::carry_out;
use crate::backoff::pause;
use crate::clock::Clock;
use crate::config::{self, Source};
use crate::control::Control;
use crate::dead_letters::DeadLetters;
use crate::seldom::seldom;
use crate::shutdown::Phase;
use crate::supervisor::{Panicked, catch};
use crate::telemetry::consumer::ConsumerMetrics;

/// Limit of the pause before the second attempt of anything.
const PAUSE_MIN: Duration = Duration::from_millis(50);

/// How often a gateway looks whether a partition that another one holds is free.
pub(super) const STANDBY: Duration = Duration::from_secs(1);

/// One partition of a consumer.
pub(super) struct Partition {
    pub(super) name: Box<str>,
    pub(super) index: usize,
    pub(super) config: Arc<config::Consumer>,
    pub(super) control: Control,
    pub(super) clock: Clock,
    pub(super) metrics: Arc<ConsumerMetrics>,
    pub(super) dead: DeadLetters,
    pub(super) node: Arc<str>,
    pub(super) stop: Stop,
}

/// Announces that no more entries may be taken.
#[derive(Clone)]
pub(super) struct Stop(watch::Receiver<Phase>);

impl Stop {
    pub(super) fn of(phase: watch::Receiver<Phase>) -> Self {
        Self(phase)
    }

    pub(super) fn is_set(&self) -> bool {
        // The sender goes with the process.
        self.0.borrow().is_draining() || self.0.has_changed().is_err()
    }

    pub(super) async fn wait(&self) {
        let _ = self.0.clone().wait_for(|phase| phase.is_draining()).await;
    }
}

/// Why entries that were taken are not all carried out. Those that are not stay in the queue.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Interrupted {
    /// The gateway drains, and an entry was refused for now.
    Stopping,
    /// The connection is lost, or another gateway holds the partition.
    Failed(Box<str>),
}

impl From<Box<str>> for Interrupted {
    fn from(why: Box<str>) -> Self {
        Self::Failed(why)
    }
}

/// What a gateway that holds a partition tells the queue.
pub(super) trait Hold {
    /// Gives a sign of life. Called before every attempt and at least three times within `ack_wait`.
    fn keep(&mut self) -> impl Future<Output = Result<(), Box<str>>> + Send;

    /// Acknowledges entries: they will not come again.
    fn acknowledge(&mut self, entries: &[Entry]) -> impl Future<Output = Result<(), Box<str>>> + Send;
}

/// Entries that were taken.
struct Batch<'b, H> {
    entries: &'b [Entry],
    /// How many are carried out or buried.
    settled: usize,
    /// How many of these are acknowledged.
    acknowledged: usize,
    hold: &'b mut H,
}

impl<H: Hold> Batch<'_, H> {
    async fn acknowledge(&mut self) -> Result<(), Box<str>> {
        let settled = &self.entries[self.acknowledged..self.settled];
        if !settled.is_empty() {
            self.hold.acknowledge(settled).await?;
            self.acknowledged = self.settled;
        }
        Ok(())
    }
}

/// Says when the next sign of life is due.
pub(super) struct Due {
    ack_wait: Duration,
    last: Option<Duration>,
}

impl Due {
    pub(super) fn new(ack_wait: Duration) -> Self {
        Self { ack_wait, last: None }
    }

    /// One is given now.
    pub(super) fn begin(&mut self, now: Duration) {
        self.last = Some(now);
    }

    /// Whether it is due now; the next one is due a while later.
    pub(super) fn is(&mut self, now: Duration) -> bool {
        let due = self.last.is_none_or(|last| now >= last + self.ack_wait / 4);
        if due {
            self.begin(now);
        }
        due
    }

    /// Whether the last one was so long ago that another gateway has taken over.
    pub(super) fn is_over(&self, now: Duration) -> bool {
        self.last.is_some_and(|last| now >= last + self.ack_wait)
    }
}

impl Partition {
    /// Runs until the gateway drains: connects again and again, with a random pause in between.
    pub(super) async fn run(self) {
        let mut attempt = 0;
        while !self.stop.is_set() {
            let begun = self.clock.at();
            let session = Box::pin(self.session());
            let why = match catch(pin!(session)).await {
                Ok(Ok(())) => break,
                Ok(Err(why)) => why,
                Err(Panicked(words)) => format!("panicked: {words}").into(),
            };
            self.metrics.disconnected(self.index, &why);
            // A session that worked for a while begins anew.
            attempt = if self.clock.at() > begun + self.config.reconnect_pause_max { 1 } else { attempt + 1 };
            let random = getrandom::u64().unwrap_or(u64::MAX);
            let pause = pause(attempt, PAUSE_MIN, self.config.reconnect_pause_max, random);
            tokio::select! {
                () = sleep(pause) => (),
                () = self.stop.wait() => (),
            }
        }
        self.metrics.ended(self.index);
    }

    /// One connection. Ends without an error when the gateway drains.
    async fn session(&self) -> Result<(), Box<str>> {
        match &self.config.source {
            Source::Redis(streams) => redis_stream::session(self, streams).await,
            Source::Nats(stream) => Box::pin(nats::session(self, stream)).await,
            Source::Postgres(outbox) => postgres::session(self, outbox).await,
        }
    }

    /// An answer of the server, within its time.
    pub(super) async fn answer<T, E: std::fmt::Display>(
        &self,
        answer: impl Future<Output = Result<T, E>>,
    ) -> Result<T, Box<str>> {
        let time = self.config.timeout;
        match timeout(time, answer).await {
            Ok(answer) => answer.map_err(|error| error.to_string().into()),
            Err(_) => Err(format!("no answer within {time:?}").into()),
        }
    }

    /// Carries out entries in order and acknowledges them: all of them, or those before the one at which it
    /// was interrupted: by a drain after the entry that is under way. While an entry is refused, those before
    /// it are acknowledged already.
    pub(super) async fn carry_out<H: Hold>(
        &self,
        entries: &[Entry],
        hold: &mut H,
    ) -> Result<(), Interrupted> {
        let mut batch = Batch { entries, settled: 0, acknowledged: 0, hold };
        // Keys are remembered for a time: the less is not acknowledged, the less may come again.
        let mut acknowledging = Due::new(self.config.ack_wait);
        acknowledging.begin(self.clock.at());
        for entry in entries {
            if self.stop.is_set() {
                batch.acknowledge().await?;
                return Err(Interrupted::Stopping);
            }
            if acknowledging.is(self.clock.at()) {
                batch.acknowledge().await?;
            }
            self.metrics.took(self.index, entry.at);
            match self.settle(entry, &mut batch).await {
                Ok(()) => batch.settled += 1,
                Err(Interrupted::Stopping) => {
                    batch.acknowledge().await?;
                    return Err(Interrupted::Stopping);
                }
                Err(failed) => return Err(failed),
            }
        }
        Ok(batch.acknowledge().await?)
    }

    /// Carries out one entry or buries it. Acknowledges those before it when it is refused for now.
    async fn settle<H: Hold>(&self, entry: &Entry, batch: &mut Batch<'_, H>) -> Result<(), Interrupted> {
        let command = match &entry.command {
            Ok(command) if self.config.methods.contains(&command.method) => command,
            Ok(command) => {
                let allowed: Vec<_> = self.config.methods.iter().map(|name| &**name).collect();
                let why = format!(
                    "the method {:?} is not among those of `methods`: {}",
                    command.method,
                    allowed.join(", ")
                );
                return self.bury(entry, 0, &why, batch).await;
            }
            Err(unreadable) => return self.bury(entry, 0, &unreadable.why, batch).await,
        };
        let key = self.config.source.key(&self.name, self.index, &entry.id);
        let time = self.config.ack_wait / 3;
        for attempt in 1.. {
            batch.hold.keep().await?;
            let carried_out = carry_out(&self.control, &command.method, &command.payload, &key);
            let why = match timeout(time, carried_out).await {
                Ok(Ok(())) => {
                    self.metrics.done(self.index);
                    return Ok(());
                }
                Ok(Err(error)) if !error.temporary => {
                    return self.bury(entry, attempt, &error.message, batch).await;
                }
                Ok(Err(error)) => error.message,
                Err(_) => format!("no answer of the backplane within {time:?}").into(),
            };
            if self.config.retries.is_some_and(|retries| attempt > retries) {
                return self.bury(entry, attempt, &why, batch).await;
            }
            // The time for which the keys of those before it are remembered runs.
            batch.acknowledge().await?;
            let pause = self.pause(attempt);
            self.metrics.retried(self.index, &entry.id, attempt, &why, pause);
            self.rest(pause).await?;
        }
        Ok(())
    }

    /// Writes an entry to the dead letters. As long as that fails, the entry stays in the queue.
    async fn bury<H: Hold>(
        &self,
        entry: &Entry,
        attempts: u64,
        why: &str,
        batch: &mut Batch<'_, H>,
    ) -> Result<(), Interrupted> {
        let at = self.clock.now().unix;
        let line = Letter { consumer: &self.name, entry, attempts, why, at }.line();
        for attempt in 1.. {
            batch.hold.keep().await?;
            let Err(error) = self.dead.write(vec![line.clone()]).await else { break };
            batch.acknowledge().await?;
            let why = format!("failed to write to the dead-letter file: {error}");
            seldom!(error, consumer = &*self.name, %error, "failed to write to the dead-letter file; the consumer is paused");
            let pause = self.pause(attempt);
            self.metrics.retried(self.index, &entry.id, attempt, &why, pause);
            self.rest(pause).await?;
        }
        self.metrics.dead(self.index, &entry.id, why);
        Ok(())
    }

    fn pause(&self, attempt: u64) -> Duration {
        let random = getrandom::u64().unwrap_or(u64::MAX);
        let attempt = u32::try_from(attempt).unwrap_or(u32::MAX);
        // Never longer than signs of life may be apart.
        pause(attempt, PAUSE_MIN, self.config.retry_pause_max.min(self.config.ack_wait / 3), random)
    }

    /// Waits before the next attempt.
    async fn rest(&self, pause: Duration) -> Result<(), Interrupted> {
        if self.stop.is_set() {
            return Err(Interrupted::Stopping);
        }
        tokio::select! {
            () = sleep(pause) => Ok(()),
            () = self.stop.wait() => Err(Interrupted::Stopping),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sign_of_life_is_due_four_times_and_what_was_silent_for_longer_is_lost() {
        let second = Duration::from_secs;
        let mut due = Due::new(second(8));
        assert!(!due.is_over(second(100)), "nothing is held");
        assert!(due.is(second(100)));
        assert!(!due.is(second(101)));
        assert!(due.is(second(102)));
        assert!(!due.is_over(second(109)));
        assert!(due.is_over(second(110)));
    }
}
