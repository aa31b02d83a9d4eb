//! Turns requests and bytes of a socket into messages of a client: [`Transport`].

pub mod proxy;
pub mod forwarded;
pub mod handshake;
pub mod http_stream;
pub mod websocket;
pub mod tls;
pub mod site;

use self::websocket::Step;

/// How the messages of a client arrive. The driver fills the worker's read buffer from the socket, and takes
/// messages out of the transport until there are none.
pub trait Transport {
    /// Takes the next message.
    fn step(&mut self) -> Step;

    /// Saves or drops the bytes left in the read buffer, so that another connection can use it.
    fn stash(&mut self);

    /// Whether something waits for [`step`](Self::step).
    fn has_bytes(&self) -> bool;
}
