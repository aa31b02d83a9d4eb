//! [`Streams`] counts the open streams of a connection, and what its client did wrong.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

/// Requests in [`FAULTS_TIME`] that a client may reset before it has a response, or send although they are
/// refused. A page that is left resets its requests, which are far fewer.
const FAULTS_MAX: u32 = 100;
const FAULTS_TIME: Duration = Duration::from_secs(10);

/// The streams of one connection.
pub(super) struct Streams {
    open: Cell<usize>,
    /// Notified when the last stream ends.
    emptied: Notify,
    faults: Cell<u32>,
    faults_since: Cell<Instant>,
}

/// Counts a stream until dropped.
pub(super) struct OpenStream(Rc<Streams>);

impl Streams {
    /// None yet.
    pub(super) fn new() -> Self {
        let now = Instant::now();
        Self {
            open: Cell::new(0),
            emptied: Notify::new(),
            faults: Cell::new(0),
            faults_since: Cell::new(now),
        }
    }

    /// Whether no stream is open.
    pub(super) fn is_empty(&self) -> bool {
        self.open.get() == 0
    }

    /// Resolves when the last stream has ended. Dropping the future loses nothing.
    pub(super) async fn emptied(&self) {
        self.emptied.notified().await;
    }

    /// Counts a request that was work for nothing.
    pub(super) fn count_fault(&self) {
        let now = Instant::now();
        if now.saturating_duration_since(self.faults_since.get()) > FAULTS_TIME {
            self.faults_since.set(now);
            self.faults.set(0);
        }
        self.faults.set(self.faults.get().saturating_add(1));
    }

    /// Whether there were too many of these.
    pub(super) fn is_flooded(&self) -> bool {
        self.faults.get() > FAULTS_MAX
    }
}

impl OpenStream {
    /// One more stream.
    pub(super) fn begin(streams: &Rc<Streams>) -> Self {
        streams.open.set(streams.open.get() + 1);
        Self(streams.clone())
    }

    /// Counts that the client has reset the stream before it had a response.
    pub(super) fn count_fault(&self) {
        self.0.count_fault();
    }
}

impl Drop for OpenStream {
    fn drop(&mut self) {
        self.0.open.set(self.0.open.get() - 1);
        if self.0.is_empty() {
            self.0.emptied.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_are_forgotten_after_a_while() {
        let streams = Streams::new();
        for _ in 0..FAULTS_MAX {
            streams.count_fault();
        }
        assert!(!streams.is_flooded());
        let before = Instant::now().checked_sub(2 * FAULTS_TIME).expect("the machine runs for longer");
        streams.faults_since.set(before);
        streams.count_fault();
        assert_eq!(streams.faults.get(), 1);
        for _ in 0..FAULTS_MAX {
            streams.count_fault();
        }
        assert!(streams.is_flooded());
    }

    #[test]
    fn the_end_of_the_last_stream_is_told() {
        let streams = Rc::new(Streams::new());
        let (first, second) = (OpenStream::begin(&streams), OpenStream::begin(&streams));
        drop(first);
        assert!(!streams.is_empty());
        drop(second);
        assert!(streams.is_empty());
    }
}
