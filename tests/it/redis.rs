//! Several gateways on Redis: one server, Sentinels, a Cluster or several servers, and every way in which
//! they fail.

mod agreement;
mod cluster;
mod departed;
mod faults;
mod fitness;
mod gateways;
mod inspect;
mod limits;
mod nodes;
mod presence;
mod reach;
mod servers;
mod soak;
mod starting;
mod survey;
mod wildcards;
