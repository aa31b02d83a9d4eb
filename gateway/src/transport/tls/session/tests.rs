//! A session and a client of the library on both ends of a real connection.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use rcgen::{CertificateParams, KeyPair};
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::PrivateKeyDer;
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, RootCertStore, SupportedProtocolVersion};
use tokio::io::{DuplexStream, copy, duplex, split};
use tokio::net::TcpListener;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::super::ciphers;
use super::*;

/// A session, and its client behind a link that passes on pieces of at most so many bytes.
async fn connected(version: &'static SupportedProtocolVersion, piece: usize) -> (Session, Client) {
    connected_with(ring::default_provider(), version, piece).await
}

/// The same for a client with this cryptography.
async fn connected_with(
    provider: CryptoProvider,
    version: &'static SupportedProtocolVersion,
    piece: usize,
) -> (Session, Client) {
    let key = KeyPair::generate().unwrap();
    let params = CertificateParams::new(["localhost".to_owned()]).unwrap();
    let certificate = params.self_signed(&key).unwrap().der().clone();
    let server = ServerConfig::builder_with_provider(Arc::new(ciphers::provider()))
        .with_protocol_versions(&[version])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.clone()], PrivateKeyDer::try_from(key.serialize_der()).unwrap())
        .unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(certificate).unwrap();
    let client = ClientConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(&[version])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (near, far) = duplex(piece);
    tokio::spawn(async move {
        let mut socket = TcpStream::connect(address).await.unwrap();
        socket.set_nodelay(true).unwrap();
        let (mut to, mut from) = split(far);
        let (mut reader, mut writer) = socket.split();
        let upwards = async {
            let _ = copy(&mut to, &mut writer).await;
            let _ = writer.shutdown().await;
        };
        let downwards = async {
            let _ = copy(&mut reader, &mut from).await;
            let _ = from.shutdown().await;
        };
        tokio::join!(upwards, downwards);
    });
    let connecting = TlsConnector::from(Arc::new(client)).connect("localhost".try_into().unwrap(), near);
    let accepting = async {
        let socket = listener.accept().await.unwrap().0;
        Session::accept(Arc::new(server), Unread::new(socket)).await.map_err(|(error, _)| error)
    };
    let (session, client) = tokio::join!(accepting, connecting);
    (*session.unwrap(), client.unwrap())
}

type Client = TlsStream<DuplexStream>;

fn bytes(count: usize) -> Vec<u8> {
    (0..count).map(|n| (n % 251) as u8).collect()
}

async fn from_client(client: &mut Client, session: &mut Session, bytes: &[u8]) {
    let mut got = vec![0; bytes.len()];
    let sending = async {
        client.write_all(bytes).await.unwrap();
        client.flush().await.unwrap();
    };
    let (_, read) = tokio::join!(sending, session.read_exact(&mut got));
    read.unwrap();
    assert!(got == bytes, "they came back changed");
}

async fn to_client(client: &mut Client, session: &mut Session, bytes: &[u8]) {
    let mut got = vec![0; bytes.len()];
    let sending = async {
        session.write_all(bytes).await.unwrap();
        session.flush().await.unwrap();
    };
    let (_, read) = tokio::join!(sending, client.read_exact(&mut got));
    read.unwrap();
    assert!(got == bytes, "they came back changed");
}

/// Bytes of the buffers of a session.
fn kept(session: &Session) -> usize {
    session.incoming.capacity() + session.plain.capacity() + session.outgoing.capacity()
}

#[tokio::test]
async fn bytes_arrive_whole_in_both_directions_whatever_the_pieces() {
    for version in [&TLS13, &TLS12] {
        for (piece, count) in [(1, 2_000), (1000, 100_000), (256 * 1024, 1_000_000)] {
            let (mut session, mut client) = connected(version, piece).await;
            for _ in 0..2 {
                from_client(&mut client, &mut session, &bytes(count)).await;
                to_client(&mut client, &mut session, &bytes(count)).await;
            }
        }
    }
}

#[tokio::test]
async fn every_cipher_suite_is_spoken() {
    for suite in ring::ALL_CIPHER_SUITES {
        // The certificate is not for RSA.
        if format!("{:?}", suite.suite()).contains("RSA") {
            continue;
        }
        let provider = CryptoProvider { cipher_suites: vec![*suite], ..ring::default_provider() };
        let version = if suite.tls13().is_some() { &TLS13 } else { &TLS12 };
        let (mut session, mut client) = connected_with(provider, version, 4096).await;
        assert_eq!(session.tls.negotiated_cipher_suite().unwrap().suite(), suite.suite());
        from_client(&mut client, &mut session, &bytes(40_000)).await;
        to_client(&mut client, &mut session, &bytes(40_000)).await;
    }
}

#[tokio::test]
async fn an_idle_session_keeps_no_buffer() {
    for version in [&TLS13, &TLS12] {
        let (mut session, mut client) = connected(version, 4096).await;
        assert_eq!(kept(&session), 0, "after the handshake");
        from_client(&mut client, &mut session, &bytes(50_000)).await;
        to_client(&mut client, &mut session, &bytes(50_000)).await;
        assert_eq!(kept(&session), 0, "after some messages");
    }
}

#[tokio::test]
async fn a_session_keeps_no_more_than_a_record_for_a_client_that_does_not_read() {
    let (mut session, mut client) = connected(&TLS13, 1000).await;
    let sent = bytes(20_000_000);
    let mut taken = 0;
    // Until the system takes no more.
    while let Ok(count) =
        tokio::time::timeout(std::time::Duration::from_millis(300), session.write(&sent[taken..])).await
    {
        taken += count.unwrap();
    }
    assert!(taken > 0 && taken < sent.len(), "{taken}");
    assert!(kept(&session) > 0 && kept(&session) <= 2 * SOCKET_BYTES_MAX, "{}", kept(&session));
    let mut got = vec![0; taken];
    let (flushed, read) = tokio::join!(session.flush(), client.read_exact(&mut got));
    flushed.unwrap();
    read.unwrap();
    assert!(got == sent[..taken], "they came back changed");
    assert_eq!(kept(&session), 0);
}

#[tokio::test]
async fn slices_leave_as_one_record() {
    let (mut session, mut client) = connected(&TLS13, 256 * 1024).await;
    let slices = [IoSlice::new(b"one "), IoSlice::new(b""), IoSlice::new(b"record")];
    assert_eq!(session.write_vectored(&slices).await.unwrap(), 10);
    let mut got = [0; 64];
    // A read ends with a record if there is no other.
    let count = client.read(&mut got).await.unwrap();
    assert_eq!(&got[..count], b"one record");
}

#[tokio::test]
async fn a_client_may_change_its_keys() {
    let (mut session, mut client) = connected(&TLS13, 4096).await;
    for _ in 0..3 {
        client.get_mut().1.refresh_traffic_keys().unwrap();
        from_client(&mut client, &mut session, &bytes(1000)).await;
        to_client(&mut client, &mut session, &bytes(1000)).await;
    }
    assert_eq!(kept(&session), 0);
}

#[tokio::test]
async fn an_end_with_a_word_is_none_and_one_without_is_an_error() {
    let mut rest = Vec::new();
    let (mut session, mut client) = connected(&TLS13, 4096).await;
    client.write_all(b"last").await.unwrap();
    client.shutdown().await.unwrap();
    session.read_to_end(&mut rest).await.unwrap();
    assert_eq!(rest, b"last");
    // It can still be answered, and be told the end in turn.
    session.write_all(b"answer").await.unwrap();
    session.shutdown().await.unwrap();
    assert!(session.write_all(b"more").await.is_err());
    rest.clear();
    client.read_to_end(&mut rest).await.unwrap();
    assert_eq!(rest, b"answer");

    let (mut session, client) = connected(&TLS13, 4096).await;
    drop(client.into_inner());
    let error = session.read_to_end(&mut rest).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
}

#[tokio::test]
async fn bytes_that_are_no_record_end_the_session_with_an_alert() {
    let (mut session, mut client) = connected(&TLS13, 4096).await;
    client.get_mut().0.write_all(&[23, 3, 3, 0, 32].repeat(20)).await.unwrap();
    for _ in 0..2 {
        let error = session.read_u8().await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    }
    assert!(session.write_all(b"more").await.is_err());
    let told = client.read_u8().await.unwrap_err();
    assert!(told.to_string().contains("alert"), "{told}");
}
