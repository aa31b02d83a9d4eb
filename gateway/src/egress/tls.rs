//! `Tls` encrypts connections and verifies the server.

use std::sync::Arc;

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio::sync::OnceCell;
use tokio::task::spawn_blocking;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// Creates encrypted connections. The trust store of the system is read for the first one, and again for the
/// next one if that failed.
pub(super) struct Tls {
    connector: OnceCell<TlsConnector>,
    /// Blocking: reads files.
    roots: fn() -> Result<RootCertStore, Box<str>>,
}

impl Default for Tls {
    fn default() -> Self {
        Self { connector: OnceCell::new(), roots: system }
    }
}

impl Tls {
    /// Encrypts a connection to a host and verifies its certificate.
    pub(super) async fn encrypt(
        &self,
        host: &str,
        socket: TcpStream,
    ) -> Result<TlsStream<TcpStream>, Box<str>> {
        let connector = self.connector().await?;
        let name = ServerName::try_from(host.to_owned())
            .map_err(|_| "the host is no name that a certificate can have")?;
        connector.connect(name, socket).await.map_err(|error| error.to_string().into())
    }

    async fn connector(&self) -> Result<&TlsConnector, Box<str>> {
        let roots = self.roots;
        let read = async move || {
            let read = spawn_blocking(move || connector(roots()?)).await;
            read.unwrap_or_else(|_| Err("the root certificates were not read".into()))
        };
        self.connector.get_or_try_init(read).await
    }
}

fn system() -> Result<RootCertStore, Box<str>> {
    let mut roots = RootCertStore::empty();
    let found = rustls_native_certs::load_native_certs();
    // A store with a hundred authorities usually has an invalid one, which must not disable the others.
    roots.add_parsable_certificates(found.certs);
    if roots.is_empty() {
        return Err(
            "this system has no root certificates; install its package ca-certificates or set SSL_CERT_FILE"
                .into(),
        );
    }
    Ok(roots)
}

fn connector(roots: RootCertStore) -> Result<TlsConnector, Box<str>> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let builder = builder.map_err(|error| error.to_string())?;
    let mut config = builder.with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(TlsConnector::from(Arc::new(config)))
}

#[cfg(test)]
impl Tls {
    /// Trusts this certificate only.
    pub(super) fn trusting(certificate: rustls::pki_types::CertificateDer<'static>) -> Self {
        let mut roots = RootCertStore::empty();
        roots.add(certificate).expect("a certificate");
        let connector = connector(roots).ok();
        Self { connector: OnceCell::new_with(connector), roots: system }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

    use super::*;

    #[tokio::test]
    async fn a_failure_to_read_the_roots_is_not_kept() {
        static READ: AtomicUsize = AtomicUsize::new(0);
        let roots = || match READ.fetch_add(1, Relaxed) {
            0 => Err("the disk is away".into()),
            _ => Ok(RootCertStore::empty()),
        };
        let tls = Tls { connector: OnceCell::new(), roots };
        assert_eq!(tls.connector().await.err().as_deref(), Some("the disk is away"));
        assert!(tls.connector().await.is_ok());
        assert!(tls.connector().await.is_ok());
        assert_eq!(READ.load(Relaxed), 2, "what was read is kept");
    }
}
