//! [`Dialer`] connects to servers that do not speak HTTP, for the clients of their protocols.

use std::net::SocketAddr;

use tokio::net::TcpStream;

use super::connect::{LOOKUPS_MAX, dial};
use super::names::Names;
use super::tls::{Encrypted, Settings, Tls};

/// Connects to the servers of one operator, who may have named any address.
pub struct Dialer {
    names: Names,
    tls: Tls,
}

impl Dialer {
    /// Trusts the authorities of `authority`, in PEM; without one those of the system.
    pub fn new(authority: Option<&[u8]>) -> Self {
        Self { names: Names::new(LOOKUPS_MAX), tls: Tls::of_servers(authority) }
    }

    /// The addresses of a server, in the order of the system.
    ///
    /// # Errors
    ///
    /// If the name is unknown or has no address.
    pub async fn addresses(&self, host: &str, port: u16) -> Result<Vec<SocketAddr>, Box<str>> {
        let found = self.names.addresses(host).await?;
        let found: Vec<_> = found.iter().map(|address| SocketAddr::new(*address, port)).collect();
        if found.is_empty() { Err("the name of the host has no address".into()) } else { Ok(found) }
    }

    /// Connects, within ten seconds for each address. Whatever is sent, is sent at once.
    ///
    /// # Errors
    ///
    /// If the name is unknown or no address accepts a connection.
    pub async fn connect(&self, host: &str, port: u16) -> Result<TcpStream, Box<str>> {
        let addresses = self.addresses(host, port).await?;
        let socket = dial(&addresses).await.map_err(|error| error.to_string())?;
        let _ = socket.set_nodelay(true);
        Ok(socket)
    }

    /// Encrypts a connection to a host and verifies its certificate. The caller bounds the time.
    ///
    /// # Errors
    ///
    /// If the certificate is not valid for this host, or the server does not speak TLS.
    pub async fn encrypt(&self, host: &str, socket: TcpStream) -> Result<Encrypted, Box<str>> {
        self.tls.encrypt(host, socket).await
    }

    /// The settings of the encryption, for a client that makes its connections by itself.
    ///
    /// # Errors
    ///
    /// If there are no authorities to trust.
    pub async fn tls_config(&self) -> Result<Settings, Box<str>> {
        self.tls.config().await
    }
}
