//! Which gateways live, what they agree on, and who takes over from a dead one.

pub(crate) mod nodes;
pub(crate) mod leases;
pub(crate) mod takeover;
pub(crate) mod members;
pub(crate) mod agreement;
pub(crate) mod meeting;
