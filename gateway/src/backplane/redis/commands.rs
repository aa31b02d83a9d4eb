//! Sends requests to Redis and returns the responses.

pub(crate) mod request;
pub(crate) mod dispatch;
pub(crate) mod repeats;
