//! What a client exchanges with the gateway: commands and frames, channels, direct messages, recovery, and
//! published client libraries.

mod channels;
mod clients;
mod compression;
mod conformance;
mod deltas;
mod direct;
mod filters;
mod fuzz;
mod http2;
mod malformed;
mod nothing_lost;
mod personal;
mod protobuf;
mod raw;
mod recovered;
mod recovery;
mod simulation;
mod streams;
mod tls;
mod wildcards;
mod workers;
