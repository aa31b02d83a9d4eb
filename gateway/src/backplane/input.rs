//! [`Input`]: a message for a connection whose client only receives a stream. It came in a request of its own,
//! at any worker of any gateway.

use bytes::Bytes;

/// See the module.
pub struct Input {
    /// Number of the connection, from its session.
    pub connection: u64,
    /// The secret that proves that the sender is the client.
    pub session: Box<str>,
    /// The message, in the encoding of the connection.
    pub data: Bytes,
    /// Called once with the result. Not called if the worker ends before.
    pub report: Box<dyn FnOnce(InputOutcome) + Send>,
}

/// What became of an [`Input`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InputOutcome {
    /// The connection has it, and handles it after everything that it accepted before.
    Accepted,
    /// There is no such session: the connection has ended, or never existed.
    NoSession,
    /// The connection has no room for it, and is being closed.
    Full,
}
