//! Requests that the gateway makes: the one HTTP client of the process. Nothing else opens a connection to another host.
//!
//! A request is bounded in everything: its time as a whole, from the look-up of the name to the last byte of the answer;
//! the sizes of head and body; the connections of the process. Names are resolved here, the addresses are checked, and
//! the connection goes to an address that was checked, so that a name cannot point elsewhere a moment later. Redirects
//! are not followed and bodies are not decompressed: whoever asked sees what the server said.
//!
//! Server certificates are judged by what the system trusts (`SSL_CERT_FILE` and `SSL_CERT_DIR` change that), so that an
//! operator adds an authority here the way it is added everywhere else on the machine.

mod url;
mod address;

mod client;
mod connect;
mod names;
mod tls;

mod fetch;
mod cache;

pub use address::is_public;
pub use client::{CONNECTIONS_MAX, Client, Error, Reach, Request, Response};
pub use fetch::{Fetch, Fetcher, Refused as FetchRefused, Wanted};
pub use names::Names;
pub use url::{Origin, Url};

#[cfg(test)]
pub(crate) mod tests;
