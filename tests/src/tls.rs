//! TLS from the side of a client: an authority for tests, and a tunnel through which clients in the clear
//! reach a listener that speaks TLS.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncWriteExt as _, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::wait::within;

/// An authority that exists for one test, and the folder in which it writes its files.
pub struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    folder: tempfile::TempDir,
}

/// A certificate and its key.
pub struct Issued {
    /// The certificate.
    pub certificate: CertificateDer<'static>,
    key: KeyPair,
    pem: String,
}

impl Authority {
    /// A new one. Its own certificate is in [`file`](Self::file).
    pub fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "authority of a test");
        let key = KeyPair::generate().expect("a key");
        let issuer = CertifiedIssuer::self_signed(params, key).expect("a certificate");
        let folder = tempfile::tempdir().expect("a folder for temporary files");
        fs::write(folder.path().join("ca.pem"), issuer.pem()).expect("a file can be written");
        Self { issuer, folder }
    }

    /// Issues a certificate for these names.
    pub fn issue(&self, names: &[&str]) -> Issued {
        self.issue_with(names, |_| ())
    }

    /// The same, with other properties.
    pub fn issue_with(&self, names: &[&str], change: impl FnOnce(&mut CertificateParams)) -> Issued {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names).expect("well-formed names");
        change(&mut params);
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, &self.issuer).expect("a certificate");
        Issued { certificate: certificate.der().clone(), pem: certificate.pem(), key }
    }

    /// Writes `NAME.pem` and `NAME.key`, each in one step.
    pub fn write(&self, name: &str, issued: &Issued) {
        for (end, text) in [("pem", &issued.pem), ("key", &issued.key.serialize_pem())] {
            let new = self.file("new");
            fs::write(&new, text).expect("a file can be written");
            fs::rename(new, self.file(&format!("{name}.{end}"))).expect("a file can be renamed");
        }
    }

    /// A file of its folder: `ca.pem` or one that was written.
    pub fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The settings of a listener with the certificates of these names.
    pub fn settings(&self, names: &[&str]) -> String {
        let file = |name: &str, end: &str| self.file(&format!("{name}.{end}")).display().to_string();
        let all: Vec<String> = names
            .iter()
            .map(|name| format!("{{ certificate = '{}', key = '{}' }}", file(name, "pem"), file(name, "key")))
            .collect();
        format!("certificates = [{}]", all.join(", "))
    }

    /// A client that trusts this authority.
    pub fn client(&self) -> TlsClient {
        TlsClient { authority: self.issuer.der().clone(), own: None, old: false, protocols: Vec::new() }
    }
}

impl Default for Authority {
    fn default() -> Self {
        Self::new()
    }
}

/// A client of TLS.
#[derive(Clone)]
pub struct TlsClient {
    authority: CertificateDer<'static>,
    own: Option<(CertificateDer<'static>, Vec<u8>)>,
    old: bool,
    protocols: Vec<Vec<u8>>,
}

impl TlsClient {
    /// With a certificate of its own.
    pub fn with(mut self, issued: &Issued) -> Self {
        self.own = Some((issued.certificate.clone(), issued.key.serialize_der()));
        self
    }

    /// Without TLS 1.3.
    pub fn only_tls_1_2(mut self) -> Self {
        self.old = true;
        self
    }

    /// Offering these application protocols.
    pub fn offering(mut self, protocols: &[&str]) -> Self {
        self.protocols = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
        self
    }

    /// Connects and asks for the server of this name.
    pub async fn connect(&self, address: SocketAddr, name: &str) -> io::Result<TlsStream<TcpStream>> {
        self.connect_after(address, name, b"").await
    }

    /// The same, after some bytes in the clear.
    pub async fn connect_after(
        &self,
        address: SocketAddr,
        name: &str,
        clear: &[u8],
    ) -> io::Result<TlsStream<TcpStream>> {
        let mut roots = RootCertStore::empty();
        roots.add(self.authority.clone()).expect("an authority");
        let versions: &[_] = if self.old { &[&TLS12] } else { &[&TLS13, &TLS12] };
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(versions)
            .expect("versions")
            .with_root_certificates(roots);
        let mut config = match &self.own {
            None => builder.with_no_client_auth(),
            Some((certificate, key)) => {
                let key = PrivateKeyDer::try_from(key.clone()).expect("a key");
                builder.with_client_auth_cert(vec![certificate.clone()], key).expect("a key that fits")
            }
        };
        config.alpn_protocols = self.protocols.clone();
        let name = ServerName::try_from(name.to_owned()).expect("a well-formed name");
        within("a TLS handshake", async {
            let mut socket = TcpStream::connect(address).await?;
            socket.set_nodelay(true)?;
            socket.write_all(clear).await?;
            TlsConnector::from(Arc::new(config)).connect(name, socket).await
        })
        .await
    }

    /// A port in the clear for the listener at this address, for clients that do not speak TLS.
    pub async fn tunnel(&self, address: SocketAddr) -> Tunnel {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let entry = listener.local_addr().expect("it is bound");
        let client = self.clone();
        let task = tokio::spawn(async move {
            while let Ok((mut clear, _)) = listener.accept().await {
                let client = client.clone();
                tokio::spawn(async move {
                    if let Ok(mut encrypted) = client.connect(address, "localhost").await {
                        let _ = copy_bidirectional(&mut clear, &mut encrypted).await;
                    }
                });
            }
        });
        Tunnel { entry, task }
    }
}

/// A port that encrypts. Closed when dropped; its connections go on.
pub struct Tunnel {
    entry: SocketAddr,
    task: JoinHandle<()>,
}

impl Tunnel {
    /// Where clients connect in the clear.
    pub fn address(&self) -> SocketAddr {
        self.entry
    }
}

impl Drop for Tunnel {
    fn drop(&mut self) {
        self.task.abort();
    }
}
