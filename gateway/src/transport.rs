//! Bytes to frames. WebSocket first; what else carries messages shares everything behind it.

pub mod proxy;
pub mod forwarded;
pub mod handshake;
pub mod websocket;
pub mod site;
