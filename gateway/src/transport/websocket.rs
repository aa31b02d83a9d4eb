//! [`WebSocket`] reads WebSocket messages (RFC 6455) from bytes. No other module names the WebSocket library.
//!
//! The library reads from memory, never from the socket: the driver fills the worker's one [`ReadBuffer`],
//! and all complete messages are handed over before the next connection uses it. What the library writes
//! (pongs, the response to a close) goes to the outbound queue like all other frames. So an idle connection
//! holds no read buffer, and writes of the library never interleave with other frames.

pub mod deflate;

use std::cell::RefCell;
use std::io::{self, ErrorKind, Read, Write};
use std::rc::Rc;

use tokio_tungstenite::tungstenite::error::CapacityError;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocket as Library, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Error, Message};

use self::deflate::{Decompression, Incoming};
use super::Transport;
use crate::hub::connection_handle::ConnectionHandle;
use crate::hub::signal::Signal;
use crate::outbound::Pushed;
use crate::protocol::code::Close;
use crate::protocol::codec::Inbound;
use crate::telemetry::metrics::ControlFrame;

/// Most bytes that a worker reads from a socket at once.
pub const READ_BUFFER_BYTES: usize = 64 * 1024;

/// Least bytes that it reads at once, from a client that keeps it busy.
pub const READ_BYTES_MIN: usize = 4 * 1024;

/// Most bytes that the library gets in one step. Frames without payload are no message, and there may be
/// many.
const STEP_BYTES: usize = 4 * 1024;

/// Bytes that the library reads at once from memory. It keeps a buffer of about this size for each
/// connection.
const LIBRARY_BUFFER_BYTES: usize = 512;

/// Bytes of one socket on their way to the library. One per worker; empty between two turns.
pub struct ReadBuffer {
    buffer: Box<[u8]>,
    range: std::ops::Range<usize>,
}

impl Default for ReadBuffer {
    fn default() -> Self {
        Self { buffer: vec![0; READ_BUFFER_BYTES].into(), range: 0..0 }
    }
}

impl ReadBuffer {
    /// Space for the next bytes of a socket, at most `bytes_max`.
    pub fn space(&mut self, bytes_max: usize) -> &mut [u8] {
        debug_assert!(self.range.is_empty(), "the connection before must have taken its bytes");
        let end = self.buffer.len().min(bytes_max);
        &mut self.buffer[..end]
    }

    /// Marks `count` bytes as read.
    pub fn filled(&mut self, count: usize) {
        self.range = 0..count;
    }

    /// Drops unread bytes: they must never reach another connection.
    pub fn clear(&mut self) {
        self.range = 0..0;
    }

    fn take(&mut self) -> Vec<u8> {
        self.buffer[std::mem::take(&mut self.range)].to_vec()
    }
}

/// Result of one step.
#[derive(Debug)]
pub enum Step {
    /// A complete message.
    Message(Inbound),
    /// A ping or a pong. The library answers pings at its next step.
    Control(ControlFrame),
    /// No complete message so far, but there are more bytes.
    More,
    /// No complete message; more bytes are needed.
    Wait,
    /// The client closed; the close frame is queued.
    Closed(Close),
    /// The client broke the protocol; it gets this close frame.
    Violation(Close),
}

/// WebSocket framing of one connection.
pub struct WebSocket {
    library: Library<Feed>,
}

struct Feed {
    buffer: Rc<RefCell<ReadBuffer>>,
    /// Bytes taken out of the read buffer before they could be used; they come first.
    rest: Vec<u8>,
    rest_used: usize,
    /// Bytes left of [`STEP_BYTES`].
    step_left: usize,
    handle: Rc<ConnectionHandle>,
    /// If the client may compress. Boxed, because others then need no memory for it.
    incoming: Option<Box<Incoming>>,
}

impl WebSocket {
    /// Framing for a server whose handshake is complete. `early` are bytes that followed the handshake. The
    /// client may compress its messages if there is a `decompression`.
    pub fn new(
        handle: Rc<ConnectionHandle>,
        buffer: Rc<RefCell<ReadBuffer>>,
        early: &[u8],
        message_bytes_max: usize,
        decompression: Option<Rc<Decompression>>,
    ) -> Self {
        let config = WebSocketConfig::default()
            .read_buffer_size(LIBRARY_BUFFER_BYTES)
            // Writes go straight to the outbound queue, which has the bound.
            .write_buffer_size(0)
            .max_write_buffer_size(4096)
            .max_message_size(Some(message_bytes_max))
            .max_frame_size(Some(message_bytes_max));
        let incoming =
            decompression.map(|decompression| Box::new(Incoming::new(decompression, message_bytes_max)));
        let feed = Feed { buffer, rest: early.to_vec(), rest_used: 0, step_left: 0, handle, incoming };
        Self { library: Library::from_raw_socket(feed, Role::Server, Some(config)) }
    }

    fn failed(&mut self, error: &Error) -> Step {
        let close = match error {
            Error::Io(error) if error.kind() == ErrorKind::WouldBlock => {
                return if self.has_bytes() { Step::More } else { Step::Wait };
            }
            Error::ConnectionClosed | Error::AlreadyClosed => return Step::Closed(Close::NORMAL),
            Error::Utf8(_) => Close::INVALID_UTF8,
            Error::Capacity(CapacityError::MessageTooLong { .. }) => Close::MESSAGE_TOO_BIG,
            Error::Protocol(problem) => Close::custom(Close::PROTOCOL_ERROR.code, &problem.to_string()),
            _ => Close::PROTOCOL_ERROR,
        };
        Step::Violation(close)
    }
}

impl Transport for WebSocket {
    /// Takes the next message or control frame out of the available bytes.
    fn step(&mut self) -> Step {
        self.library.get_mut().step_left = STEP_BYTES;
        let message = match self.library.read() {
            Ok(message) => message,
            Err(error) => return self.failed(&error),
        };
        match message {
            Message::Text(text) => Step::Message(Inbound { data: text.into(), binary: false }),
            Message::Binary(data) => match &mut self.library.get_mut().incoming {
                None => Step::Message(Inbound { data, binary: true }),
                Some(incoming) => incoming.restore(data).map_or_else(Step::Violation, Step::Message),
            },
            Message::Ping(_) => Step::Control(ControlFrame::Ping),
            Message::Pong(_) => Step::Control(ControlFrame::Pong),
            Message::Close(frame) => {
                // The library has prepared a response; this passes it to the queue.
                let _ = self.library.flush();
                let close = frame
                    .map_or(Close::NORMAL, |frame| Close::custom(frame.code.into(), frame.reason.as_str()));
                Step::Closed(close)
            }
            // The library never returns this when reading.
            Message::Frame(_) => Step::More,
        }
    }

    fn stash(&mut self) {
        let feed = self.library.get_mut();
        let more = feed.buffer.borrow_mut().take();
        feed.rest.drain(..feed.rest_used);
        feed.rest_used = 0;
        feed.rest.extend_from_slice(&more);
    }

    fn has_bytes(&self) -> bool {
        self.library.get_ref().has_bytes()
    }
}

impl Feed {
    fn has_bytes(&self) -> bool {
        self.rest_used < self.rest.len() || !self.buffer.borrow().range.is_empty()
    }
}

/// How many of these bytes the library may have now.
fn look(incoming: &mut Option<Box<Incoming>>, bytes: &mut [u8]) -> usize {
    match incoming {
        None => bytes.len(),
        Some(incoming) => incoming.look(bytes),
    }
}

impl Read for Feed {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let bytes_max = self.step_left.min(into.len());
        if bytes_max == 0 {
            return Err(ErrorKind::WouldBlock.into());
        }
        if self.rest_used < self.rest.len() {
            let count = (self.rest.len() - self.rest_used).min(bytes_max);
            into[..count].copy_from_slice(&self.rest[self.rest_used..self.rest_used + count]);
            let count = look(&mut self.incoming, &mut into[..count]);
            self.rest_used += count;
            self.step_left -= count;
            if self.rest_used == self.rest.len() {
                (self.rest, self.rest_used) = (Vec::new(), 0);
            }
            return Ok(count);
        }
        let mut buffer = self.buffer.borrow_mut();
        let count = buffer.range.len().min(bytes_max);
        if count == 0 {
            return Err(ErrorKind::WouldBlock.into());
        }
        let start = buffer.range.start;
        into[..count].copy_from_slice(&buffer.buffer[start..start + count]);
        let count = look(&mut self.incoming, &mut into[..count]);
        buffer.range.start += count;
        self.step_left -= count;
        Ok(count)
    }
}

impl Write for Feed {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // The client sends pings and does not read the pongs.
        if self.handle.outbound.reply(bytes) == Pushed::Full {
            self.handle.signal(Signal::Slow);
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The value of `Sec-WebSocket-Accept` for a key (RFC 6455, 4.2.2).
pub fn accept_key(key: &str) -> String {
    derive_accept_key(key.as_bytes())
}
