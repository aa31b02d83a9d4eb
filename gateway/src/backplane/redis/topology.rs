//! Which server has which slot, and how that is found out.

pub(crate) mod slots;
pub(crate) mod cluster;
pub(crate) mod sentinel;
pub(crate) mod poll;
pub(crate) mod shard;
