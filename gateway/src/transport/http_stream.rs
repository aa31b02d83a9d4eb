//! [`HttpStream`]: a connection whose messages come in requests of their own. Its socket carries only the stream
//! to the client.

use std::cell::RefCell;
use std::rc::Rc;

use super::Transport;
use super::websocket::{ReadBuffer, Step};
use crate::hub::connection_handle::ConnectionHandle;
use crate::protocol::codec::Inbound;

/// The messages of one client.
pub struct HttpStream {
    handle: Rc<ConnectionHandle>,
    buffer: Rc<RefCell<ReadBuffer>>,
}

impl HttpStream {
    /// The messages of a client that come in requests of their own.
    pub fn new(handle: Rc<ConnectionHandle>, buffer: Rc<RefCell<ReadBuffer>>) -> Self {
        Self { handle, buffer }
    }
}

impl Transport for HttpStream {
    fn step(&mut self) -> Step {
        match self.handle.take_input() {
            Some(data) => Step::Message(Inbound { data, binary: false }),
            None => Step::Wait,
        }
    }

    fn stash(&mut self) {
        // A client must not send anything on this socket before the response has ended.
        self.buffer.borrow_mut().clear();
    }

    fn has_bytes(&self) -> bool {
        self.handle.has_input()
    }
}
