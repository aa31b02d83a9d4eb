//! [`AskQueue`] holds the questions of one upstream that wait to be sent. Workers fill it, one task empties
//! it. A question whose client has gone is not sent: clients that come, ask and leave would otherwise fill
//! the queue beyond what the limits of connections allow.

use std::collections::VecDeque;
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;

use super::{AskError, Charge, ENDED, Question};
use crate::config::Asks;
use crate::telemetry::upstream::UpstreamMetrics;

/// Least time between two looks for abandoned questions in a full queue: each visits all of it.
const LOOK_PAUSE: Duration = Duration::from_millis(20);

/// A bounded queue of entries that have to be taken out before their deadlines. Deadlines do not fall.
#[derive(Debug)]
struct Waiting<T> {
    entries: VecDeque<(Duration, T)>,
    max: usize,
}

impl<T> Waiting<T> {
    fn new(max: usize) -> Self {
        Self { entries: VecDeque::new(), max }
    }

    fn is_full(&self) -> bool {
        self.entries.len() >= self.max
    }

    /// `None` if there was room.
    fn put(&mut self, deadline: Duration, entry: T) -> Option<T> {
        if self.is_full() {
            return Some(entry);
        }
        self.entries.push_back((deadline, entry));
        None
    }

    /// The first entry, if its deadline has passed.
    fn expired(&mut self, now: Duration) -> Option<T> {
        let is_late = self.next_deadline().is_some_and(|deadline| deadline <= now);
        if is_late { self.take() } else { None }
    }

    fn take(&mut self) -> Option<T> {
        self.entries.pop_front().map(|(_, entry)| entry)
    }

    fn next_deadline(&self) -> Option<Duration> {
        self.entries.front().map(|(deadline, _)| *deadline)
    }

    /// Takes out all entries of this kind, in order.
    fn take_all(&mut self, is_of_kind: impl Fn(&T) -> bool) -> Vec<T> {
        let mut taken = Vec::new();
        for (deadline, entry) in std::mem::take(&mut self.entries) {
            if is_of_kind(&entry) {
                taken.push(entry);
            } else {
                self.entries.push_back((deadline, entry));
            }
        }
        taken
    }
}

/// The questions of one upstream that wait.
pub(in crate::upstream) struct AskQueue {
    state: Mutex<State>,
    arrived: Notify,
    /// Bytes of the questions that wait or are in flight.
    bytes: Arc<AtomicUsize>,
    metrics: Arc<UpstreamMetrics>,
}

struct State {
    waiting: Waiting<Question>,
    /// Whether the gateway is ending.
    is_closed: bool,
    /// When a full queue is looked through again.
    look_at: Duration,
}

impl AskQueue {
    pub(in crate::upstream) fn new(asks: &Asks, metrics: Arc<UpstreamMetrics>) -> Self {
        let waiting = Waiting::new(asks.waiting_max);
        let state = State { waiting, is_closed: false, look_at: Duration::ZERO };
        Self { state: Mutex::new(state), arrived: Notify::new(), bytes: Arc::default(), metrics }
    }

    /// Queues a question. One that is refused is not answered.
    pub(super) fn put(&self, mut question: Question) -> Result<(), AskError> {
        let mut state = self.lock();
        let charge = |state: &State| match state.waiting.is_full() {
            false => Charge::add(&self.bytes, question.bytes(), Asks::BYTES_MAX),
            true => None,
        };
        let mut room = charge(&state);
        let asked_at = question.content.asked_at;
        if room.is_none() && asked_at >= state.look_at {
            state.look_at = asked_at + LOOK_PAUSE;
            state.waiting.take_all(Question::is_abandoned).into_iter().for_each(Question::abandon);
            room = charge(&state);
        }
        let refused = match (state.is_closed, room) {
            (true, _) => Some((question, AskError::Failed(ENDED.into()))),
            (false, None) => Some((question, AskError::Busy)),
            (false, charge) => {
                question.charge = charge;
                let deadline = question.content.deadline;
                state.waiting.put(deadline, question).map(|question| (question, AskError::Busy))
            }
        };
        self.count(&state);
        drop(state);
        match refused {
            None => {
                self.arrived.notify_one();
                Ok(())
            }
            Some((question, error)) => {
                question.forget();
                Err(error)
            }
        }
    }

    /// Takes the next question out whose client is still there.
    pub(super) fn take(&self) -> Option<Question> {
        let mut state = self.lock();
        let question = loop {
            match state.waiting.take() {
                Some(question) if question.is_abandoned() => question.abandon(),
                question => break question,
            }
        };
        self.count(&state);
        question
    }

    /// Takes a question out whose deadline has passed.
    pub(super) fn expired(&self, now: Duration) -> Option<Question> {
        let mut state = self.lock();
        let question = state.waiting.expired(now);
        self.count(&state);
        question
    }

    /// The earliest deadline of a question that waits.
    pub(super) fn next_deadline(&self) -> Option<Duration> {
        self.lock().waiting.next_deadline()
    }

    /// Waits until a question is queued. Dropping the future loses nothing.
    pub(super) async fn arrived(&self) {
        self.arrived.notified().await;
    }

    /// Accepts no further question and answers those that wait.
    pub(super) fn close(&self) {
        let mut state = self.lock();
        state.is_closed = true;
        let waiting = std::mem::take(&mut state.waiting.entries);
        self.count(&state);
        drop(state);
        // Each is answered when it is dropped.
        drop(waiting);
    }

    fn count(&self, state: &State) {
        self.metrics.asks.set_waiting(state.waiting.entries.len());
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    #[test]
    fn entries_leave_in_order_and_late_ones_first() {
        let mut waiting = Waiting::new(9);
        for (deadline, entry) in [(10, 'a'), (20, 'b'), (20, 'c'), (30, 'd')] {
            assert_eq!(waiting.put(at(deadline), entry), None);
        }
        assert_eq!((waiting.expired(at(9)), waiting.next_deadline()), (None, Some(at(10))));
        assert_eq!(waiting.expired(at(10)), Some('a'), "at its deadline it is late");
        assert_eq!(waiting.expired(at(10)), None);
        assert_eq!((waiting.expired(at(29)), waiting.expired(at(29))), (Some('b'), Some('c')));
        assert_eq!((waiting.expired(at(29)), waiting.take(), waiting.take()), (None, Some('d'), None));
        assert_eq!(waiting.next_deadline(), None);
    }

    #[test]
    fn a_full_queue_gives_back_what_does_not_fit() {
        let mut waiting = Waiting::new(2);
        assert_eq!([1, 2, 3].map(|entry| waiting.put(at(1), entry)), [None, None, Some(3)]);
        assert_eq!((waiting.take(), waiting.put(at(1), 4)), (Some(1), None));
    }

    #[test]
    fn entries_of_a_kind_leave_and_the_others_keep_their_order() {
        let mut waiting = Waiting::new(4);
        for (deadline, entry) in [(10, 1), (20, 2), (30, 3), (40, 4)] {
            assert_eq!(waiting.put(at(deadline), entry), None);
        }
        assert_eq!(waiting.take_all(|entry| entry % 2 == 0), [2, 4]);
        assert_eq!((waiting.is_full(), waiting.next_deadline()), (false, Some(at(10))));
        assert_eq!([waiting.take(), waiting.take(), waiting.take()], [Some(1), Some(3), None]);
    }

    #[test]
    fn bytes_count_until_they_are_given_back() {
        let all = Arc::new(AtomicUsize::new(0));
        let first = Charge::add(&all, 6, 10).expect("room");
        assert!(Charge::add(&all, 5, 10).is_none());
        let second = Charge::add(&all, 4, 10).expect("exactly");
        drop((first, second));
        assert!(Charge::add(&all, 10, 10).is_some());
    }
}
