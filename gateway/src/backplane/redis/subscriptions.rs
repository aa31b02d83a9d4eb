//! The channels that this node listens to.

pub(crate) mod interest;
pub(crate) mod sync;
pub(crate) mod incoming;
