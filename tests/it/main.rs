//! The gateway from outside: what is promised, tried on the real binary.

#![allow(clippy::unwrap_used, reason = "an unmet expectation is a failed test")]
#![allow(clippy::large_futures, reason = "a test has the stack for itself")]

mod channels;
mod connect;
mod auth;
mod jwks;
mod schema;
mod direct;
mod recovery;
mod nothing_lost;
mod rewrite;
mod workers;
mod raw;
mod plugins;
mod failures;
mod rate_limit;
mod hostile;
mod breaker;
mod grants;
mod hooks;
mod delivery;
mod upstreams;
mod outgoing;
mod swap;
mod languages;
mod malformed;
mod origins;
mod limits;
mod slow;
mod memory;
mod admin;
mod drain;
mod cli;
mod author;
mod explain;
mod clients;
mod browser;
mod conformance;
mod readme;
mod restart;
mod publishing;
mod redis_inspect;
mod redis;
mod redis_servers;
mod redis_cluster;
mod redis_faults;
mod nodes;
mod redis_presence;
mod redis_departed;
mod redis_survey;
mod redis_reach;
mod redis_soak;
mod redis_limits;
mod simulation;
mod walls;
