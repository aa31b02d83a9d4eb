//! [`Supervisor`] watches the parts of the process. When a part ends that must not end, the supervisor logs
//! it, reports it to health checks, and shuts the process down in order.
//!
//! A part is a task or a thread with state that others depend on (subscriptions, queues, positions). A
//! restart would lose that state, so the process ends with the part: it drains what it can, and the service
//! manager starts a new process. [`Supervisor::again`] restarts parts that hold no state.

use std::any::Any;
use std::fmt::Display;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::task::Poll;
use std::thread;
use std::time::Duration;

use tokio::sync::{oneshot, watch};
use tokio::time::{sleep, sleep_until};

use crate::clock::Clock;

/// Interval at which a thread reports that it runs.
const BEAT: Duration = Duration::from_millis(500);
/// A thread silent for this long counts as stuck.
const SILENCE_MAX: Duration = Duration::from_secs(5);
/// Minimum time for which the greatest lag of a thread is remembered.
const LAG_KEPT: Duration = Duration::from_secs(10);
/// Pause before a part without state is restarted.
const AGAIN: Duration = Duration::from_secs(1);

/// A handle; all clones supervise the same process.
#[derive(Debug, Clone)]
pub struct Supervisor {
    ended: watch::Sender<Option<PartEnded>>,
}

/// A part has ended that must not. The first one is recorded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the part `{part}` of the gateway has ended: {why}")]
pub struct PartEnded {
    /// Name of the part.
    pub part: Box<str>,
    /// The message of the panic or the error.
    pub why: Box<str>,
}

/// A future panicked with this message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Panicked(pub Box<str>);

impl Default for Supervisor {
    fn default() -> Self {
        Self { ended: watch::Sender::new(None) }
    }
}

impl Supervisor {
    /// The first part that ended, if one has.
    pub fn ended(&self) -> Option<PartEnded> {
        self.ended.borrow().clone()
    }

    /// Waits until a part has ended.
    pub async fn failed(&self) -> PartEnded {
        let mut ended = self.ended.subscribe();
        // This handle holds the sender, so waiting cannot fail.
        let ended = ended.wait_for(Option::is_some).await.ok().and_then(|ended| ended.clone());
        match ended {
            Some(ended) => ended,
            None => std::future::pending().await,
        }
    }

    /// Reports that a part has ended that must not.
    pub fn report(&self, part: &str, why: impl Display) {
        tracing::error!(part, %why, "part of the gateway ended; the gateway drains and exits");
        self.ended.send_if_modified(|ended| {
            let first = ended.is_none();
            if first {
                *ended = Some(PartEnded { part: part.into(), why: why.to_string().into() });
            }
            first
        });
    }

    /// Runs a part that never ends: any end is reported. Dropping the future does not count as an end.
    pub fn forever<F: Future<Output = ()>>(
        &self,
        part: &str,
        future: F,
    ) -> impl Future<Output = ()> + use<F> {
        let (this, part) = (self.clone(), Box::<str>::from(part));
        async move {
            match catch(std::pin::pin!(future)).await {
                Ok(()) => this.report(&part, "it returned"),
                Err(Panicked(words)) => this.report(&part, words),
            }
        }
    }

    /// Runs a part that ends with the process: a panic is reported, a normal end is not.
    pub fn until_done<F: Future<Output = ()>>(
        &self,
        part: &str,
        future: F,
    ) -> impl Future<Output = ()> + use<F> {
        let (this, part) = (self.clone(), Box::<str>::from(part));
        async move {
            if let Err(Panicked(words)) = catch(std::pin::pin!(future)).await {
                this.report(&part, words);
            }
        }
    }

    /// Runs a part without state, and restarts it whenever it has ended.
    pub async fn again<F: Future<Output = ()>>(part: &'static str, begin: impl Fn() -> F) {
        loop {
            let why = match catch(std::pin::pin!(begin())).await {
                Ok(()) => "it returned".into(),
                Err(Panicked(words)) => words,
            };
            tracing::error!(part, %why, "part of the gateway ended; restarting it");
            sleep(AGAIN).await;
        }
    }

    /// Runs a part on its own thread: an error or a panic is reported at once. The receiver resolves when it
    /// has ended.
    ///
    /// # Errors
    ///
    /// If the system does not start another thread.
    pub fn thread<E: Display>(
        &self,
        name: String,
        run: impl FnOnce() -> Result<(), E> + Send + 'static,
    ) -> io::Result<oneshot::Receiver<()>> {
        let (this, part) = (self.clone(), name.clone());
        let (over, ended) = oneshot::channel();
        thread::Builder::new().name(name).spawn(move || {
            match catch_unwind(AssertUnwindSafe(run)) {
                Ok(Ok(())) => (),
                Ok(Err(error)) => this.report(&part, error),
                Err(payload) => this.report(&part, panic_message(&*payload)),
            }
            let _ = over.send(());
        })?;
        Ok(ended)
    }
}

/// Runs a future until it ends or panics. A future that has panicked is not polled again.
pub fn catch<F: Future>(mut future: Pin<&mut F>) -> impl Future<Output = Result<F::Output, Panicked>> {
    std::future::poll_fn(move |cx| match catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(cx))) {
        Ok(Poll::Ready(output)) => Poll::Ready(Ok(output)),
        Ok(Poll::Pending) => Poll::Pending,
        Err(payload) => Poll::Ready(Err(Panicked(panic_message(&*payload).into()))),
    })
}

/// The message of a panic.
pub(crate) fn panic_message(payload: &(dyn Any + Send)) -> &str {
    let text = payload.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| payload.downcast_ref::<&str>().copied()).unwrap_or("no words")
}

/// Heartbeat of a thread that runs tasks. The thread writes, others read. Times are since the start of the
/// process.
#[derive(Debug, Default)]
pub struct Beat {
    /// Milliseconds plus one; 0 before the first beat.
    last: AtomicU64,
    /// Greatest lag since `since`, and in the period before, in microseconds.
    lag: AtomicU64,
    lag_before: AtomicU64,
    /// Milliseconds.
    since: AtomicU64,
}

/// Stored instead of the last beat: the thread has ended normally.
const AT_REST: u64 = u64::MAX;

impl Beat {
    /// Beats as long as the thread that runs this makes progress.
    pub async fn run(&self, clock: Clock) {
        let mut due = clock.now().at;
        loop {
            let now = clock.now().at;
            self.beat(now, now.saturating_sub(due));
            due = now + BEAT;
            sleep_until(clock.instant(due).into()).await;
        }
    }

    /// Records a beat that came this much too late.
    fn beat(&self, now: Duration, late: Duration) {
        let now = millis(now);
        self.last.store(now + 1, Relaxed);
        let late = u64::try_from(late.as_micros()).unwrap_or(u64::MAX);
        if now.saturating_sub(self.since.load(Relaxed)) >= millis(LAG_KEPT) {
            self.since.store(now, Relaxed);
            self.lag_before.store(self.lag.swap(late, Relaxed), Relaxed);
        } else {
            self.lag.fetch_max(late, Relaxed);
        }
    }

    /// Marks a normal end of the thread.
    pub fn rest(&self) {
        self.last.store(AT_REST, Relaxed);
    }

    /// How long the thread has been silent, if that is too long.
    pub fn stuck(&self, now: Duration) -> Option<Duration> {
        self.silent(now).filter(|silent| *silent > SILENCE_MAX)
    }

    /// The greatest lag of the last ten to twenty seconds, including the current one.
    pub fn lag(&self, now: Duration) -> Duration {
        let kept = self.lag.load(Relaxed).max(self.lag_before.load(Relaxed));
        let present = self.silent(now).unwrap_or_default().saturating_sub(BEAT);
        Duration::from_micros(kept).max(present)
    }

    fn silent(&self, now: Duration) -> Option<Duration> {
        match self.last.load(Relaxed) {
            0 | AT_REST => None,
            last => Some(now.saturating_sub(Duration::from_millis(last - 1))),
        }
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX - 1)
}

#[cfg(test)]
mod tests {
    use std::future::pending;
    use std::sync::Arc;
    use std::sync::atomic::AtomicUsize;

    use super::*;

    async fn soon<T>(future: impl Future<Output = T>) -> T {
        tokio::time::timeout(Duration::from_secs(5), future).await.expect("soon")
    }

    #[tokio::test]
    async fn the_first_part_that_ends_is_the_one_that_counts() {
        let supervisor = Supervisor::default();
        tokio::spawn(supervisor.forever("one", async { panic!("out of {}", "luck") }));
        let ended = soon(supervisor.failed()).await;
        soon(supervisor.forever("two", async {})).await;
        assert_eq!(supervisor.ended(), Some(ended.clone()));
        assert_eq!(ended.to_string(), "the part `one` of the gateway has ended: out of luck");
    }

    #[tokio::test]
    async fn what_is_dropped_has_not_ended() {
        let supervisor = Supervisor::default();
        let task = tokio::spawn(supervisor.forever("one", pending()));
        tokio::task::yield_now().await;
        task.abort();
        assert!(task.await.is_err());
        soon(supervisor.until_done("two", async {})).await;
        assert_eq!(supervisor.ended(), None);
    }

    #[tokio::test]
    async fn a_thread_is_heard_of_at_once() {
        for (run, why) in [
            (Box::new(|| Err("no luck")) as Box<dyn FnOnce() -> Result<(), &'static str> + Send>, "no luck"),
            (Box::new(|| panic!("a bug")), "a bug"),
        ] {
            let supervisor = Supervisor::default();
            let ended = supervisor.thread("some".into(), run).expect("a thread");
            soon(ended).await.expect("it says so");
            assert_eq!(supervisor.ended().map(|ended| ended.why), Some(why.into()));
        }
        let supervisor = Supervisor::default();
        soon(supervisor.thread("some".into(), || Ok::<_, String>(())).expect("a thread"))
            .await
            .expect("it says so");
        assert_eq!(supervisor.ended(), None);
    }

    #[tokio::test]
    async fn what_holds_nothing_is_begun_again() {
        let begun = Arc::new(AtomicUsize::new(0));
        let counted = begun.clone();
        tokio::spawn(Supervisor::again("some", move || {
            let count = counted.fetch_add(1, Relaxed);
            async move { assert!(count > 0, "a bug") }
        }));
        soon(async {
            while begun.load(Relaxed) < 3 {
                sleep(BEAT).await;
            }
        })
        .await;
    }

    #[test]
    fn a_worker_is_stuck_when_it_was_silent_for_too_long() {
        let at = Duration::from_millis;
        let beat = Beat::default();
        assert_eq!(beat.stuck(at(60_000)), None, "it is not up");
        beat.beat(at(1000), at(3));
        assert_eq!(beat.stuck(at(6000)), None);
        assert_eq!(beat.stuck(at(6001)), Some(at(5001)));
        assert_eq!(beat.lag(at(6001)), at(4501));
        beat.beat(at(6100), at(4600));
        assert_eq!((beat.stuck(at(6200)), beat.lag(at(6200))), (None, at(4600)));
        for second in 7..=17 {
            beat.beat(at(second * 1000), at(1));
        }
        assert_eq!(beat.lag(at(17_000)), at(4600), "remembered");
        for second in 18..40 {
            beat.beat(at(second * 1000), at(1));
        }
        assert_eq!(beat.lag(at(39_000)), at(1), "forgotten");
        beat.rest();
        assert_eq!(beat.stuck(at(90_000)), None);
    }
}
