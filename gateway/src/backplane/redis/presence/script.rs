//! The scripts of presence. Each works on the keys of one channel.

/// Members that are taken out at once when their node is dead.
pub(in crate::backplane::redis) const TAKEN_MAX: usize = 500;

/// What a node has to say of its members in a channel.
pub(in crate::backplane::redis) const WRITE: &str = include_str!("write.lua");

/// The members of some nodes.
pub(in crate::backplane::redis) const READ: &str = include_str!("read.lua");

/// How many connections and users there are.
pub(in crate::backplane::redis) const COUNT: &str = include_str!("count.lua");

/// Takes members of a dead node out.
pub(in crate::backplane::redis) const TAKE: &str = include_str!("take.lua");
