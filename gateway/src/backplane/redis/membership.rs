//! Tracks which gateways are alive, what they agree on, and the takeover of dead ones.

pub(crate) mod nodes;
pub(crate) mod leases;
pub(crate) mod claim;
pub(crate) mod takeover;
pub(crate) mod members;
pub(crate) mod meeting;
