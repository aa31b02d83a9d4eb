//! What plugins do with events, what they may reach, and how the gateway loads, replaces and contains them.

mod breaker;
mod compiling;
mod delivery;
mod explain;
mod failures;
mod folder;
mod grants;
mod hooks;
mod hostile;
mod interface;
mod languages;
mod outgoing;
mod promised;
mod rate_limit;
mod rewrite;
mod schema;
mod swap;
mod upstreams;
