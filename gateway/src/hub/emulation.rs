//! [`EmulatedInput`]: the messages of a client that only receives a stream. They come in requests of their own.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;

use crate::backplane::input::InputOutcome;
use crate::protocol::reply::Emulation;

/// Messages that wait at most. A client that sends faster than its commands run is closed, because it could
/// not be told otherwise: client libraries do not look at the responses to their requests.
const MESSAGES_MAX: usize = 64;

/// The queue of messages of one connection.
#[derive(Debug)]
pub struct EmulatedInput {
    /// What the client has to know to send messages.
    pub address: Arc<Emulation>,
    messages: RefCell<VecDeque<Bytes>>,
    bytes: Cell<usize>,
}

impl EmulatedInput {
    /// A queue with the message that came with the request for the stream.
    pub fn new(address: Arc<Emulation>, first: Bytes) -> Self {
        let bytes = Cell::new(first.len());
        Self { address, messages: RefCell::new(VecDeque::from([first])), bytes }
    }

    /// Whether this is the session of the client.
    pub fn has_session(&self, session: &str) -> bool {
        is_same(session, &self.address.session)
    }

    /// Queues a message. The bytes that wait are bounded by the size of the largest message.
    pub fn put(&self, session: &str, data: Bytes, bytes_max: usize) -> InputOutcome {
        if !self.has_session(session) {
            return InputOutcome::NoSession;
        }
        let (mut messages, bytes) = (self.messages.borrow_mut(), self.bytes.get() + data.len());
        if messages.len() >= MESSAGES_MAX || bytes > bytes_max {
            return InputOutcome::Full;
        }
        self.bytes.set(bytes);
        messages.push_back(data);
        InputOutcome::Accepted
    }

    /// Takes the oldest message.
    pub fn take(&self) -> Option<Bytes> {
        let mut messages = self.messages.borrow_mut();
        let message = messages.pop_front()?;
        self.bytes.update(|bytes| bytes - message.len());
        if messages.is_empty() {
            // An idle connection keeps no queue.
            *messages = VecDeque::new();
        }
        Some(message)
    }

    /// Whether a message waits.
    pub fn has_messages(&self) -> bool {
        !self.messages.borrow().is_empty()
    }
}

/// Compares in a time that does not depend on where the texts differ.
fn is_same(a: &str, b: &str) -> bool {
    a.len() == b.len() && a.bytes().zip(b.bytes()).fold(0, |seen, (a, b)| seen | (a ^ b)) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn input() -> EmulatedInput {
        let address = Emulation { session: "secret".into(), node: "n".into() };
        EmulatedInput::new(Arc::new(address), Bytes::from_static(b"connect"))
    }

    fn put(input: &EmulatedInput, data: &'static str) -> InputOutcome {
        input.put("secret", Bytes::from_static(data.as_bytes()), 16)
    }

    #[test]
    fn messages_come_out_in_order_and_the_first_is_that_of_the_stream() {
        let input = input();
        assert_eq!((put(&input, "a"), put(&input, "b")), (InputOutcome::Accepted, InputOutcome::Accepted));
        let all: Vec<_> = std::iter::from_fn(|| input.take()).collect();
        assert_eq!(all, ["connect", "a", "b"]);
        assert!(!input.has_messages());
    }

    #[test]
    fn only_the_secret_opens_it() {
        let input = input();
        for session in ["", "secre", "secreT", "secret2"] {
            assert_eq!(input.put(session, Bytes::new(), 16), InputOutcome::NoSession, "{session}");
        }
        assert_eq!(input.take().as_deref(), Some(&b"connect"[..]));
        assert_eq!(input.take(), None);
    }

    #[test]
    fn bytes_and_messages_that_wait_are_bounded() {
        let input = input();
        assert_eq!(put(&input, "nine bytes"), InputOutcome::Full);
        assert_eq!(put(&input, "nine byte"), InputOutcome::Accepted);
        while input.take().is_some() {}
        let queued = (0..1000).take_while(|_| put(&input, "") == InputOutcome::Accepted).count();
        assert_eq!(queued, MESSAGES_MAX);
    }
}
