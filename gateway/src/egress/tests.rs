//! Outgoing requests against real servers on loopback.

#![allow(clippy::unwrap_used, reason = "a failing test may panic")]

pub(crate) mod server;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::PrivateKeyDer;

use super::*;
use server::{Server, answer};

const SOON: Duration = Duration::from_secs(5);
const KIB: usize = 1 << 10;

fn get(url: &str) -> Request {
    request("GET", url, &[]).unwrap()
}

fn request(method: &str, url: &str, headers: &[(&str, &str)]) -> Result<Request, Error> {
    Request::new(method, &Url::parse(url).unwrap(), headers.iter().copied(), Bytes::new())
}

async fn send(server: &Server) -> Result<Response, Error> {
    Client::new().send(get(&server.url("/")), Reach::Anywhere, SOON, KIB).await
}

#[tokio::test]
async fn an_answer_comes_back_as_the_server_gave_it() {
    let gzip = "\u{1f}\u{7f}not really";
    let server =
        Server::start(move |_, _| answer(203, "X-A: 1\r\nx-a: 2\r\ncontent-encoding: gzip\r\n", gzip)).await;
    let headers = [("X-Mine", "yes"), ("accept-encoding", "gzip")];
    let sent = request("POST", &server.url("/a?b=c"), &headers).unwrap();
    let response = Client::new().send(sent, Reach::Anywhere, SOON, KIB).await.unwrap();
    assert_eq!((response.status, &*response.body), (203, gzip.as_bytes()), "nothing is decompressed");
    let named = response.headers.iter().filter(|(name, _)| &**name == "x-a");
    assert_eq!(named.map(|(_, value)| value).collect::<Vec<_>>(), ["1", "2"]);
    let seen = server.seen().remove(0);
    assert!(seen.starts_with("POST /a?b=c HTTP/1.1\r\n") && seen.contains("x-mine: yes\r\n"), "{seen}");
    assert!(seen.contains(&format!("host: {}\r\n", server.address)), "{seen}");
}

#[tokio::test]
async fn addresses_that_are_not_public_are_refused_before_anything_is_sent() {
    let server = Server::start(|_, _| answer(200, "", "")).await;
    let client = Client::new();
    let port = server.address.port();
    // A permitted request leaves a connection in the pool, which must not serve the others.
    assert!(client.send(get(&server.url("/")), Reach::Anywhere, SOON, KIB).await.is_ok());
    for host in [
        "127.0.0.1",
        "localhost",
        "[::1]",
        "[::ffff:127.0.0.1]",
        "127.1",
        "0x7f000001",
        "2130706433",
        "0.0.0.0",
    ] {
        let url = format!("http://{host}:{port}/");
        let refused = client.send(get(&url), Reach::Public, SOON, KIB).await;
        assert!(matches!(refused, Err(Error::Refused(_))), "{host}: {refused:?}");
    }
    assert_eq!((server.connections(), server.seen().len()), (1, 1));
}

#[tokio::test]
async fn a_redirect_is_an_answer_like_any_other() {
    let server = Server::start(|_, _| answer(302, "location: http://elsewhere.example/\r\n", "")).await;
    let response = send(&server).await.unwrap();
    assert_eq!((response.status, response.header("location")), (302, Some("http://elsewhere.example/")));
    assert_eq!(server.seen().len(), 1);
}

#[tokio::test]
async fn an_answer_of_exactly_the_limit_is_taken_and_nothing_above() {
    let server = Server::start(|_, _| answer(200, "", &"x".repeat(KIB))).await;
    assert_eq!(send(&server).await.unwrap().body.len(), KIB);
    let head = "HTTP/1.1 200 x\r\n";
    let announced =
        Server::start(move |_, _| format!("{head}content-length: 10000000000\r\n\r\n").into_bytes()).await;
    assert_eq!(send(&announced).await, Err(Error::TooLarge(KIB)), "without waiting for it");
    let endless = Server::start(move |_, _| {
        let chunk = format!("1000\r\n{}\r\n", "x".repeat(0x1000));
        format!("{head}transfer-encoding: chunked\r\n\r\n{}", chunk.repeat(100)).into_bytes()
    });
    assert_eq!(send(&endless.await).await, Err(Error::TooLarge(KIB)));
    let long = Server::start(|_, _| answer(200, &format!("x-long: {}\r\n", "x".repeat(100 * KIB)), "")).await;
    assert!(matches!(send(&long).await, Err(Error::Failed(_))));
    let many = Server::start(|_, _| answer(200, &"x-a: 1\r\n".repeat(101), "")).await;
    assert!(matches!(send(&many).await, Err(Error::Failed(_))));
}

#[tokio::test]
async fn the_deadline_is_for_all_of_it() {
    let deadline = Duration::from_millis(150);
    let begins = b"HTTP/1.1 204 x\r\ncontent-length: 100\r\n\r\nbeginning";
    let silent = Server::start(|_, _| Vec::new()).await;
    let stalls = Server::start(|_, _| b"HTTP/1.1 200 x\r\ncontent-length: 100\r\n\r\nbegin".to_vec()).await;
    for server in [silent, stalls] {
        let answer = Client::new().send(get(&server.url("/")), Reach::Anywhere, deadline, KIB).await;
        assert_eq!(answer, Err(Error::Timeout(deadline)));
        assert_eq!(server.seen().len(), 1);
    }
    // `send_for_head` needs only the head.
    let stalls = Server::start(|_, _| begins.to_vec()).await;
    let answer = Client::new().send_for_head(get(&stalls.url("/")), Reach::Anywhere, SOON).await;
    assert_eq!(answer.unwrap().status, 204);
}

#[tokio::test]
async fn connections_are_used_again() {
    let server = Server::start(|_, _| answer(200, "", "x")).await;
    let client = Client::new();
    for _ in 0..5 {
        client.send(get(&server.url("/")), Reach::Anywhere, SOON, KIB).await.unwrap();
        client.send_for_head(get(&server.url("/")), Reach::Anywhere, SOON).await.unwrap();
    }
    assert_eq!((server.connections(), server.seen().len()), (1, 10));
}

#[tokio::test]
async fn nobody_there_and_no_http_are_failures_in_words() {
    let vacant = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let url = format!("http://{vacant}/secret");
    let failed = Client::new().send(get(&url), Reach::Anywhere, SOON, KIB).await;
    let Err(error @ Error::Unreachable(_)) = failed else { panic!("{failed:?}") };
    assert!(error.to_string().contains("refused") && !error.to_string().contains("secret"), "{error}");
    let server = Server::start(|_, _| b"SSH-2.0-OpenSSH\r\n\r\n".to_vec()).await;
    assert!(matches!(send(&server).await, Err(Error::Failed(_))));
}

#[test]
fn what_belongs_to_the_connection_is_not_for_the_asker_to_set() {
    let url = "http://a.example/";
    for (name, value) in [
        ("Host", "b.example"),
        ("content-length", "5"),
        ("Transfer-Encoding", "chunked"),
        ("connection", "close"),
        ("upgrade", "h2c"),
        ("bad name", "x"),
        ("", "x"),
        ("x", "a\r\nb: c"),
        ("x", "\0"),
    ] {
        assert!(matches!(request("GET", url, &[(name, value)]), Err(Error::Invalid(_))), "{name}: {value}");
    }
    for method in ["", "get", "CONNECT", "TRACE", "G ET"] {
        assert!(matches!(request(method, url, &[]), Err(Error::Invalid(_))), "{method}");
    }
    assert!(request("DELETE", url, &[("authorization", "Bearer x")]).is_ok());
}

/// A server with a self-signed certificate for `localhost`.
async fn encrypted() -> (u16, Vec<u8>) {
    let certified = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let provider = Arc::new(tokio_rustls::rustls::crypto::ring::default_provider());
    let builder =
        ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let key = PrivateKeyDer::Pkcs8(certified.signing_key.serialize_der().into());
    let config =
        builder.with_no_client_auth().with_single_cert(vec![certified.cert.der().clone()], key).unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            let Ok(stream) = acceptor.accept(socket).await else { continue };
            let service = service_fn(async |_| {
                Ok::<_, hyper::Error>(hyper::Response::new(Full::new(Bytes::from_static(b"it is me"))))
            });
            let builder = hyper::server::conn::http1::Builder::new();
            tokio::spawn(builder.serve_connection(TokioIo::new(stream), service));
        }
    });
    (port, certified.cert.der().to_vec())
}

#[tokio::test]
async fn a_server_must_prove_to_be_the_one_that_was_meant() {
    let (port, certificate) = encrypted().await;
    let (_, other) = encrypted().await;
    let ask = async |client: Client, host: &str| {
        client.send(get(&format!("https://{host}:{port}/")), Reach::Anywhere, SOON, KIB).await
    };
    let response = ask(Client::trusting(certificate.clone()), "localhost").await.unwrap();
    assert_eq!(response.body, "it is me");
    for (client, host) in
        [(Client::trusting(certificate), "127.0.0.1"), (Client::trusting(other), "localhost")]
    {
        let Err(error @ Error::Unreachable(_)) = ask(client, host).await else {
            panic!("{host} is believed")
        };
        assert!(error.to_string().contains("certificate"), "{error}");
    }
}

fn wanted(url: String, cache: u64) -> Wanted {
    Wanted {
        method: "GET".into(),
        url,
        headers: vec![("authorization".into(), "Bearer a".into())],
        body: Bytes::new(),
        deadline: None,
        cache: (cache > 0).then(|| Duration::from_millis(cache)),
    }
}

fn granted(server: &Server) -> Fetch {
    let origin = Origin::parse(&server.url("")).unwrap();
    Fetcher::new(Client::new()).granted([(origin, Reach::Anywhere)])
}

#[tokio::test]
async fn a_plugin_reaches_the_origins_it_was_granted_and_no_other() {
    let server = Server::start(|_, _| answer(200, "", "x")).await;
    let other = Server::start(|_, _| answer(200, "", "x")).await;
    let fetch = granted(&server);
    assert!(fetch.fetch(&wanted(server.url("/any/path"), 0)).await.is_ok());
    for url in [
        other.url("/"),
        server.url("/").replace("http:", "https:"),
        server.url("/").replace("127.0.0.1", "localhost"),
    ] {
        let refused = fetch.fetch(&wanted(url.clone(), 0)).await;
        assert!(matches!(refused, Err(FetchRefused::NotGranted(_))), "{url}");
    }
    assert_eq!((server.seen().len(), other.connections()), (1, 0));
}

#[tokio::test]
async fn the_same_request_is_sent_once_and_its_answer_is_kept_for_as_long_as_was_asked() {
    let server = Server::start(|request, before| {
        answer(if request.starts_with("GET /bad") { 503 } else { 200 }, "", &before.to_string())
    });
    let server = server.await;
    let fetch = granted(&server);
    let ask = async |wanted: Wanted| {
        let (response, cached) = fetch.fetch(&wanted).await.unwrap();
        (String::from_utf8(response.body.to_vec()).unwrap(), cached)
    };
    let long = || wanted(server.url("/"), 60_000);
    let (first, second) = tokio::join!(ask(long()), ask(long()));
    assert_eq!((&*first.0, &*second.0), ("0", "0"), "who comes second waits for the first");
    assert_ne!(first.1, second.1);
    let mut other = long();
    other.headers[0].1 = "Bearer b".into();
    assert_eq!(ask(other).await, ("1".into(), false), "another credential is another request");
    assert_eq!(ask(wanted(server.url("/"), 0)).await, ("2".into(), false), "who wants no cache gets none");
    assert!(!ask(wanted(server.url("/short"), 1)).await.1);
    tokio::time::sleep(Duration::from_millis(5)).await;
    assert!(!ask(wanted(server.url("/short"), 1)).await.1, "it was kept for a millisecond");
    let bad = || wanted(server.url("/bad"), 60_000);
    assert!(!ask(bad()).await.1 && !ask(bad()).await.1, "an error of the server is not kept");
}

#[tokio::test]
async fn a_plugin_that_asks_too_much_at_a_time_is_told_so() {
    let server = Server::start(|_, _| Vec::new()).await;
    let fetch = Arc::new(granted(&server));
    let mut waiting = tokio::task::JoinSet::new();
    for number in 0..33 {
        let (fetch, wanted) = (fetch.clone(), wanted(server.url(&format!("/{number}")), 0));
        waiting.spawn(async move { fetch.fetch(&wanted).await });
    }
    let first = waiting.join_next().await.unwrap().unwrap();
    assert_eq!(first, Err(FetchRefused::Busy), "one is refused at once, the others wait");
}
