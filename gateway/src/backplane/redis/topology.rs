//! Finds out which server has which slot, and assigns servers to shards.

pub(crate) mod cluster;
pub(crate) mod sentinel;
pub(crate) mod poll;
pub(crate) mod shard;
