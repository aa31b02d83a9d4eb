//! What the end-to-end tests are written in: the gateway as a process of its own, clients of it, and waiting
//! that ends.
//!
//! Every wait is for an event and has a bound; what was waited for is in the message when it does not come.

// A failed expectation in here is a failed test: panicking is how it is told.
#![allow(
    clippy::missing_panics_doc,
    reason = "every function of a test harness panics when the test is to fail"
)]

mod artifacts;
mod client;
mod endpoint;
mod flood;
mod folder;
mod gateway;
mod http;
mod http2;
mod log;
mod metrics;
mod nats;
mod port;
mod postgres;
mod process;
mod proxy;
mod random;
mod raw;
mod redis;
mod socket;
mod stream;
mod tls;
mod tool;
mod wait;
mod web_proxy;

pub mod ledger;
pub mod token;

pub use artifacts::{Target, gateway_binary, target_folder, wasm, wasm_for};
pub use client::{Client, Refused};
pub use endpoint::{Endpoint, Received, Reply};
pub use flood::{Flood, Flooding};
pub use folder::Folder;
pub use gateway::{API_KEY, Builder, Gateway};
pub use http::{Answer, request};
pub use http2::{Http2, Http2Stream};
pub use log::{Line, Log};
pub use metrics::Metrics;
pub use nats::Nats;
pub use port::free_address;
pub use postgres::Postgres;
pub use proxy::Proxy;
pub use random::Random;
pub use raw::RawClient;
pub use redis::{Cluster, Data, Redis, Reply as RedisReply, Sentinels, Setup as RedisSetup};
pub use socket::{Closed, Frame, Handshake, Socket};
pub use stream::{Stream, emulate};
pub use tls::{Authority, Issued, TlsClient, Tunnel};
pub use tool::{Talk, Tool, node};
pub use wait::{PATIENCE, eventually, eventually_within, within, within_time};
pub use web_proxy::WebProxy;
