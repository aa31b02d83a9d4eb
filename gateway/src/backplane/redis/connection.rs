//! Connects to one server and watches its health.

pub(crate) mod server_connection;
pub(crate) mod subscription;
pub(crate) mod status;
pub(crate) mod client;
pub(crate) mod fitness;
