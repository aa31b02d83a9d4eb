//! [`Tls`] speaks TLS on a listener. Its certificates, keys and authorities come from files, which are
//! checked before they are used and can be exchanged while connections are open.

mod ciphers;
mod client;
mod files;
mod reload;
mod session;
mod stream;

use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use rustls::crypto::{CryptoProvider, ring};
use rustls::server::{NoClientAuth, NoServerSessionStorage, ProducesTickets, WebPkiClientVerifier};
use rustls::version::{TLS12, TLS13};
use rustls::{RootCertStore, ServerConfig};

pub use self::client::ClientCertificate;
use self::files::Contents;
pub use self::reload::keep_current;
pub use self::session::Session;
pub use self::stream::Stream;
use super::proxy::Unread;
use crate::clock::Clock;
use crate::config::{self, ClientCertificates, Config, ConfigError, ConfigErrors, TlsVersion};
use crate::telemetry::metrics::{ServedCertificate, TlsListener};

/// The application protocols that are offered (RFC 7301).
const HTTP_2: &[u8] = b"h2";
const HTTP_1_1: &[u8] = b"http/1.1";

/// Tickets for a new connection of TLS 1.3. Each is a write and some bytes; clients use one.
const TICKETS: usize = 1;

/// TLS of a listener, shared by all workers.
pub struct Tls {
    listener: TlsListener,
    settings: config::Tls,
    /// Locked once per handshake.
    current: Mutex<Servers>,
    served: Mutex<Served>,
    tickets: Arc<dyn ProducesTickets>,
}

/// The configuration of the library.
#[derive(Clone)]
struct Servers {
    /// For clients.
    clients: Arc<ServerConfig>,
    /// For trusted proxies, which get HTTP/1.1: of one connection of HTTP/2 all their clients would share the
    /// limits, and its end.
    proxies: Arc<ServerConfig>,
}

/// The files in use.
#[derive(Clone)]
struct Served {
    contents: Contents,
    certificates: Arc<[ServedCertificate]>,
}

/// Why a socket does not speak TLS.
pub enum NotTls {
    /// It began with a text, such as an HTTP request.
    Text(Unread),
    /// The handshake failed. The client has been sent an alert.
    Failed(Unread, io::Error),
    /// It has gone.
    Gone,
}

/// A socket after its handshake.
pub struct Encrypted {
    /// The socket.
    pub stream: Stream,
    /// The certificate of the client, which was verified.
    pub client: Option<ClientCertificate>,
    /// Whether the client speaks HTTP/2.
    pub http2: bool,
}

/// Checks the files that a configuration names for TLS.
///
/// # Errors
///
/// All errors of all listeners.
pub fn check(config: &Config) -> Result<(), ConfigErrors> {
    let listeners = [(TlsListener::Clients, &config.listen.tls), (TlsListener::Admin, &config.admin.tls)];
    let loaded = listeners.map(|(listener, tls)| tls.as_ref().map(|tls| Tls::load(listener, tls)));
    let errors = loaded.into_iter().flatten().filter_map(Result::err);
    let errors: Vec<_> = errors.flat_map(|errors| errors.errors().to_vec()).collect();
    if errors.is_empty() { Ok(()) } else { Err(ConfigErrors::new(errors)) }
}

impl Tls {
    /// Reads and checks the files.
    ///
    /// # Errors
    ///
    /// All errors of the files.
    pub fn load(listener: TlsListener, settings: &config::Tls) -> Result<Self, ConfigErrors> {
        let failed = |error: rustls::Error| fault(listener, format!("failed to prepare TLS: {error}"));
        let tickets = ring::Ticketer::new().map_err(failed)?;
        let contents = Contents::read(listener, settings)?;
        let (server, certificates) = server(listener, settings, &contents, &tickets)?;
        let served = Served { contents, certificates };
        let settings = settings.clone();
        Ok(Self { listener, settings, current: Mutex::new(server), served: Mutex::new(served), tickets })
    }

    /// The certificates in use.
    pub fn certificates(&self) -> Arc<[ServedCertificate]> {
        self.served().certificates
    }

    /// The listener.
    pub fn listener(&self) -> TlsListener {
        self.listener
    }

    /// Shakes hands. Nothing of the socket was used yet. `is_proxy` is whether it is that of a trusted proxy.
    ///
    /// # Errors
    ///
    /// If the client does not speak TLS, or the handshake fails.
    pub async fn accept(&self, mut socket: Unread, is_proxy: bool) -> Result<Encrypted, NotTls> {
        match socket.first_byte().await {
            // A record begins with its type, which is no letter (RFC 8446, 5.1).
            Ok(Some(first)) if first.is_ascii_alphabetic() => return Err(NotTls::Text(socket)),
            Ok(Some(_)) => (),
            Ok(None) | Err(_) => return Err(NotTls::Gone),
        }
        let Servers { clients, proxies } =
            self.current.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let accepted = Session::accept(if is_proxy { proxies } else { clients }, socket).await;
        let session = accepted.map_err(|(error, socket)| NotTls::Failed(Unread::new(socket), error))?;
        let chain = session.peer_certificates();
        let client = chain.first().and_then(|first| ClientCertificate::parse(first));
        let http2 = session.alpn_protocol() == Some(HTTP_2);
        Ok(Encrypted { stream: Stream::Tls(session), client, http2 })
    }

    fn served(&self) -> Served {
        self.served.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Uses these files for new connections, if they are valid.
    fn exchange(&self, contents: Contents) -> Result<(), ConfigErrors> {
        let (server, certificates) = server(self.listener, &self.settings, &contents, &self.tickets)?;
        *self.current.lock().unwrap_or_else(PoisonError::into_inner) = server;
        *self.served.lock().unwrap_or_else(PoisonError::into_inner) = Served { contents, certificates };
        Ok(())
    }
}

/// An error that is not in a file.
fn fault(listener: TlsListener, message: String) -> ConfigErrors {
    let origin = "TLS".to_owned();
    let key = Some(format!("{}.tls", listener.as_str()));
    ConfigErrors::new(vec![ConfigError { origin, position: None, key, message }])
}

type Server = (Servers, Arc<[ServedCertificate]>);

/// Makes the configuration of the library from the contents of the files.
fn server(
    listener: TlsListener,
    settings: &config::Tls,
    contents: &Contents,
    tickets: &Arc<dyn ProducesTickets>,
) -> Result<Server, ConfigErrors> {
    let provider = Arc::new(ciphers::provider());
    let now = i64::try_from(Clock::start().now().unix / 1000).unwrap_or(i64::MAX);
    let (certificates, roots) = contents.parse(listener, settings, &provider, now)?;
    let failed = |error: &dyn std::fmt::Display| fault(listener, format!("failed to prepare TLS: {error}"));
    let versions = match settings.min_version {
        TlsVersion::V12 => &[&TLS13, &TLS12][..],
        TlsVersion::V13 => &[&TLS13],
    };
    let builder = ServerConfig::builder_with_provider(provider.clone()).with_protocol_versions(versions);
    let builder = builder.map_err(|error| failed(&error))?;
    let builder = builder.with_client_cert_verifier(match roots {
        None => Arc::new(NoClientAuth),
        Some(roots) => verifier(settings, roots, provider).map_err(|error| failed(&error))?,
    });
    let served = certificates.served();
    let mut server = builder.with_cert_resolver(Arc::new(certificates));
    server.alpn_protocols = vec![HTTP_1_1.to_vec()];
    server.send_tls13_tickets = TICKETS;
    // Tickets keep the sessions at the clients.
    server.session_storage = Arc::new(NoServerSessionStorage {});
    if settings.client_certificates == ClientCertificates::None {
        server.ticketer = tickets.clone();
    } else {
        // A resumed session would not verify the certificate of the client again.
        server.send_tls13_tickets = 0;
    }
    let proxies = Arc::new(server.clone());
    if settings.http2 {
        // The first one that the client offers as well.
        server.alpn_protocols.insert(0, HTTP_2.to_vec());
    }
    Ok((Servers { clients: Arc::new(server), proxies }, served))
}

fn verifier(
    settings: &config::Tls,
    roots: RootCertStore,
    provider: Arc<CryptoProvider>,
) -> Result<Arc<dyn rustls::server::danger::ClientCertVerifier>, rustls::server::VerifierBuilderError> {
    let builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
    match settings.client_certificates {
        ClientCertificates::Optional { .. } => builder.allow_unauthenticated().build(),
        _ => builder.build(),
    }
}
