//! An idle connection costs little, and over TLS not much more: its keys and its place in the library, but no
//! buffer.

use gateway_tests::{Authority, Frame, Gateway, Handshake, within};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// Nobody answers pings in here.
const CONFIG: &str = "
    listen.workers = 1
    limits.connections_per_address_max = 5000
    client = { anonymous = true, ping_interval = '10m' }
";

/// The first ones bring in what exists once.
const WARM: usize = 200;
const CONNECTIONS: usize = 2000;

/// What a connection over TLS may cost more than one in the clear, in bytes.
const TLS_BYTES_MAX: u64 = 3 * 1024;

/// Becomes a client that has been connected and does nothing.
async fn idle<S: AsyncRead + AsyncWrite + Unpin>(mut stream: S) -> S {
    let connect = Frame::text("{\"id\":1,\"connect\":{}}").bytes();
    let hello = [Handshake::to("/connection/websocket").bytes(), connect].concat();
    within("a connect reply", async {
        stream.write_all(&hello).await.expect("the gateway takes it");
        let (mut read, mut bytes) = (Vec::new(), [0; 2048]);
        while !String::from_utf8_lossy(&read).contains("\"connect\"") {
            let count = stream.read(&mut bytes).await.expect("the connection stays");
            assert_ne!(count, 0, "{}", String::from_utf8_lossy(&read));
            read.extend_from_slice(&bytes[..count]);
        }
    })
    .await;
    stream
}

/// Bytes of memory for each idle connection of a gateway.
async fn bytes_of_each<S>(gateway: &Gateway, connect: impl AsyncFn() -> S) -> u64 {
    let mut connections = Vec::new();
    let mut grow = async |count: usize| {
        while connections.len() < count {
            connections.push(connect().await);
        }
        gateway.memory()
    };
    let (few, many) = (grow(WARM).await, grow(WARM + CONNECTIONS).await);
    many.saturating_sub(few) * 1024 / CONNECTIONS as u64
}

#[tokio::test]
async fn an_idle_connection_over_tls_costs_at_most_3_kib_more() {
    let gateway = Gateway::start(CONFIG).await;
    let plain = bytes_of_each(&gateway, async || {
        idle(TcpStream::connect(gateway.address()).await.expect("the gateway listens")).await
    })
    .await;
    drop(gateway);

    let authority = Authority::new();
    authority.write("site", &authority.issue(&["localhost"]));
    let gateway = Gateway::start(&format!("{CONFIG}[listen.tls]\n{}\n", authority.settings(&["site"]))).await;
    let client = authority.client();
    let encrypted = bytes_of_each(&gateway, async || {
        idle(client.connect(gateway.address(), "localhost").await.expect("a handshake")).await
    })
    .await;

    println!("an idle connection: {plain} bytes in the clear, {encrypted} bytes over TLS");
    assert!(encrypted <= plain + TLS_BYTES_MAX, "{encrypted} bytes over TLS, {plain} in the clear");
}
