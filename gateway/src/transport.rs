//! Turns bytes of a socket into messages. WebSocket is the only transport so far; the modules behind it do
//! not depend on that.

pub mod proxy;
pub mod forwarded;
pub mod handshake;
pub mod websocket;
pub mod tls;
pub mod site;
