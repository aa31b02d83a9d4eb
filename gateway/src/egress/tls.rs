//! `Tls` encrypts connections and verifies the server.

use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use tokio::net::TcpStream;
use tokio::sync::OnceCell;
use tokio::task::spawn_blocking;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// A connection that TLS protects.
pub type Encrypted = TlsStream<TcpStream>;

/// The settings of TLS.
pub type Settings = ClientConfig;

/// Creates encrypted connections. The trust store of the system is read for the first one, and again for the
/// next one if that failed.
pub(super) struct Tls {
    connector: OnceCell<TlsConnector>,
    /// Blocking: reads files.
    roots: fn() -> Result<RootCertStore, Box<str>>,
    /// Certificates of servers that are trusted as they are, whatever their name.
    known: Arc<[CertificateDer<'static>]>,
    /// The only authorities that are trusted, in PEM; `None` for those of `roots`.
    authority: Option<Arc<[u8]>>,
    /// The protocol that is offered within TLS; empty for none.
    alpn: &'static [u8],
}

impl Default for Tls {
    fn default() -> Self {
        Self {
            connector: OnceCell::new(),
            roots: system,
            known: Arc::default(),
            authority: None,
            alpn: b"http/1.1",
        }
    }
}

impl Tls {
    /// Trusts also the servers with these certificates, in PEM. A text without a certificate is left out.
    pub(super) fn knowing(certificates: &[Vec<u8>]) -> Self {
        let first = |pem: &Vec<u8>| CertificateDer::from_pem_slice(pem).ok();
        Self { known: certificates.iter().filter_map(first).collect(), ..Self::default() }
    }

    /// For servers that do not speak HTTP. Trusts only these authorities, in PEM, if there are some.
    pub(super) fn of_servers(authority: Option<&[u8]>) -> Self {
        Self { authority: authority.map(Arc::from), alpn: b"", ..Self::default() }
    }

    /// The settings of the encryption, for a library that makes its connections by itself.
    pub(super) async fn config(&self) -> Result<Settings, Box<str>> {
        Ok(self.connector().await?.config().as_ref().clone())
    }

    /// Encrypts a connection to a host and verifies its certificate.
    pub(super) async fn encrypt(&self, host: &str, socket: TcpStream) -> Result<Encrypted, Box<str>> {
        let connector = self.connector().await?;
        let name = ServerName::try_from(host.to_owned())
            .map_err(|_| "the host is no name that a certificate can have")?;
        connector.connect(name, socket).await.map_err(|error| error.to_string().into())
    }

    async fn connector(&self) -> Result<&TlsConnector, Box<str>> {
        let (roots, known, alpn) = (self.roots, self.known.clone(), self.alpn);
        let authority = self.authority.clone();
        let roots = move || match authority {
            Some(pem) => listed(&pem),
            None => roots(),
        };
        let read = async move || {
            let read = spawn_blocking(move || connector(roots, known, alpn)).await;
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

/// The authorities of a file.
fn listed(pem: &[u8]) -> Result<RootCertStore, Box<str>> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(CertificateDer::pem_slice_iter(pem).flatten());
    if roots.is_empty() { Err("there is no valid certificate in `tls_ca_file`".into()) } else { Ok(roots) }
}

fn connector(
    roots: impl FnOnce() -> Result<RootCertStore, Box<str>>,
    known: Arc<[CertificateDer<'static>]>,
    alpn: &[u8],
) -> Result<TlsConnector, Box<str>> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions();
    let builder = builder.map_err(|error| error.to_string())?;
    let mut config = if known.is_empty() {
        builder.with_root_certificates(roots()?).with_no_client_auth()
    } else {
        // A machine without authorities still knows these servers.
        let roots = roots().ok().map(Arc::new);
        let others = roots.map(|roots| WebPkiServerVerifier::builder_with_provider(roots, provider.clone()));
        let others = others.and_then(|builder| builder.build().ok());
        let verifier = Arc::new(Known { known, others, provider });
        builder.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth()
    };
    if !alpn.is_empty() {
        config.alpn_protocols = vec![alpn.to_vec()];
    }
    Ok(TlsConnector::from(Arc::new(config)))
}

/// Accepts some certificates as they are, and verifies all others.
#[derive(Debug)]
struct Known {
    known: Arc<[CertificateDer<'static>]>,
    others: Option<Arc<WebPkiServerVerifier>>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Known {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        chain: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if self.known.contains(certificate) {
            return Ok(ServerCertVerified::assertion());
        }
        let others = self.others.as_ref().ok_or(CertificateError::UnknownIssuer)?;
        others.verify_server_cert(certificate, chain, name, ocsp, now)
    }

    // That the server has the key of its certificate is verified for all.
    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signed, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
impl Tls {
    /// Trusts this certificate only.
    pub(super) fn trusting(certificate: rustls::pki_types::CertificateDer<'static>) -> Self {
        let mut roots = RootCertStore::empty();
        roots.add(certificate).expect("a certificate");
        let connector = connector(|| Ok(roots), Arc::default(), b"http/1.1").ok();
        Self { connector: OnceCell::new_with(connector), ..Self::default() }
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
        let tls = Tls { roots, ..Tls::default() };
        assert_eq!(tls.connector().await.err().as_deref(), Some("the disk is away"));
        assert!(tls.connector().await.is_ok());
        assert!(tls.connector().await.is_ok());
        assert_eq!(READ.load(Relaxed), 2, "what was read is kept");
    }
}
