//! How much clients may take from the gateway and from each other: limits, floods, clients that do not read,
//! and memory.

mod apart;
mod fairness;
mod floods;
mod limits;
mod memory;
mod slow;
