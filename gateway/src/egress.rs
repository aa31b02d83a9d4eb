//! The only HTTP client of the process, and the connections of clients of other protocols. Nothing else opens
//! a connection to another host.
//!
//! Every request is bounded: its total time, from the lookup of the name to the last byte of the response;
//! the sizes of head and body; the connections of the process. The client resolves the name, checks the
//! addresses and connects to a checked address, so that the name cannot point elsewhere a moment later. It
//! does not follow redirects or decompress bodies: the caller sees exactly what the server sent.
//!
//! Server certificates are verified against the trust store of the system (`SSL_CERT_FILE` and `SSL_CERT_DIR`
//! change it), so that an operator adds an authority here as everywhere else on the machine. The commands
//! that call the API of a gateway also trust the certificates that its configuration names.

mod url;
mod address;

mod client;
mod connect;
mod dialer;
mod names;
mod tls;

mod fetch;
mod cache;

pub use address::is_public;
pub use client::{CONNECTIONS_MAX, Client, Error, Reach, Request, Response};
pub use dialer::Dialer;
pub use fetch::{Fetch, Fetcher, Refused as FetchRefused, Wanted};
pub use names::Names;
pub use tls::{Encrypted, Settings as TlsSettings};
pub use url::{Origin, Url};

#[cfg(test)]
pub(crate) mod tests;
