//! Requests out, replies back.

pub(crate) mod request;
pub(crate) mod dispatch;
pub(crate) mod pipeline;
pub(crate) mod repeats;
