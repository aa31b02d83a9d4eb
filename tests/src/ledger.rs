//! One book of everything that was published and everything that subscribers were given and told, and the
//! figures that come of it. The headline figure is *lost silently*: acknowledged, never delivered, and the
//! subscriber was told that all is well.
//!
//! A [`Ledger`] is written by [`Publisher`]s, [`Subscriber`]s and [`HealthWatch`]es while a test breaks
//! something; [`check`] is a function of the [`History`] and knows nothing of where it came from.

mod check;
mod events;
mod health;
mod history;
mod publisher;
mod report;
mod subscriber;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::task::spawn_blocking;
use tokio::time::{sleep, timeout};

pub use self::check::check;
pub use self::events::{EventReport, Fact, compare, dead_events, events_of};
pub use self::health::{Health, HealthWatch};
pub use self::history::{Entry, Event, History, Outcome, Position, Published};
pub use self::publisher::Publisher;
pub use self::report::Report;
pub use self::subscriber::Subscriber;
use crate::wait::within_time;

/// Between two looks through everything that is written.
const LOOK: Duration = Duration::from_millis(100);
/// How long subscribers have to be given what was acknowledged last.
const SETTLING: Duration = Duration::from_secs(10);

/// The book, open for writing.
#[derive(Debug)]
pub struct Ledger {
    begin: Instant,
    history: Mutex<History>,
    next_number: AtomicU64,
    /// Subscriptions that subscribers want and do not have.
    missing: watch::Sender<usize>,
}

impl Ledger {
    /// An empty one. Its time begins now.
    pub fn open() -> Arc<Self> {
        Arc::new(Self {
            begin: Instant::now(),
            history: Mutex::default(),
            next_number: AtomicU64::new(1),
            missing: watch::Sender::new(0),
        })
    }

    /// Time since it was opened.
    pub fn now(&self) -> Duration {
        self.begin.elapsed()
    }

    /// What is written so far.
    pub fn history(&self) -> History {
        self.lock().clone()
    }

    /// Waits until every subscriber has all its subscriptions; how long that took.
    pub async fn all_subscribed(&self, limit: Duration) -> Duration {
        let begin = Instant::now();
        let mut missing = self.missing.subscribe();
        let what = "every subscriber to have its subscriptions";
        within_time(limit, what, missing.wait_for(|missing| *missing == 0))
            .await
            .expect("we hold the sender");
        begin.elapsed()
    }

    /// Waits until every subscription has got something that was published after this moment; how long after
    /// it that was.
    pub async fn live_again(&self, since: Duration, limit: Duration) -> Duration {
        within_time(limit, "every subscription to get what is published now", async {
            loop {
                if let Some(after) = self.ask(move |history| history.live_again(since)).await {
                    return after;
                }
                sleep(LOOK).await;
            }
        })
        .await
    }

    /// Waits until nothing that was acknowledged is still on its way, for some seconds at most, and checks.
    /// The publishers have to be stopped.
    pub async fn settle(&self) -> Report {
        let settled = async {
            while !self.ask(check).await.is_settled() {
                sleep(LOOK).await;
            }
        };
        // What has not arrived by now is lost: the report says so.
        let _ = timeout(SETTLING, settled).await;
        self.ask(check).await
    }

    /// Goes through what is written so far on another thread: whoever writes goes on meanwhile.
    async fn ask<T: Send + 'static>(&self, question: impl FnOnce(&History) -> T + Send + 'static) -> T {
        let history = self.history();
        spawn_blocking(move || question(&history)).await.expect("a question does not panic")
    }

    fn lock(&self) -> MutexGuard<'_, History> {
        self.history.lock().expect("nobody panics with the lock")
    }

    /// A number no other publication has.
    fn number(&self) -> u64 {
        self.next_number.fetch_add(1, Ordering::Relaxed)
    }
}
