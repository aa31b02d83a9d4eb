//! The channels that this node subscribes to in Redis.

pub(crate) mod interest;
pub(crate) mod sync;
pub(crate) mod incoming;
