//! Where a client comes from, behind proxies and without: plugins and limits see its address, and it cannot
//! choose one.

use std::net::{IpAddr, SocketAddr};

use gateway::config::{Proxies, Tell};
use gateway::transport::forwarded::{self, Unclear};
use gateway::transport::proxy::{BYTES_MAX, Preamble, parse};
use gateway_tests::{Frame, Gateway, Handshake, Socket, WebProxy, eventually};
use proptest::prelude::*;

/// The proxies are at 127.0.0.1, clients at other addresses of loopback.
const CONFIG: &str = "
    listen.trusted_proxies = ['127.0.0.1']
    handshake.headers_kept = ['x-test']
";
const GRANTS: &str = "grants.effects = ['publish', 'set-attribute']";
const WEBSOCKET: &str = "/connection/websocket";

/// A gateway whose plugin says of every client that has gone where it came from.
async fn gateway(config: &str) -> Gateway {
    Gateway::with(config).plugin("10-disconnect-log", "guest-disconnect-log", GRANTS).start().await
}

fn client(n: u8) -> IpAddr {
    IpAddr::from([127, 0, 0, n])
}

/// Sends these bytes and a handshake with these headers; the status of the answer.
async fn shake(from: IpAddr, to: SocketAddr, preamble: &[u8], headers: &[&str]) -> (Socket, Option<u16>) {
    let mut socket = Socket::connect_from(from, to).await;
    let handshake =
        headers.iter().fold(Handshake::to(WEBSOCKET), |handshake, header| handshake.with(header)).bytes();
    socket.send(&[preamble, &handshake].concat()).await;
    let status = socket.answer().await.map(|answer| answer.status);
    (socket, status)
}

/// What plugins get to know of the address of a client, and of its header `x-test`.
async fn seen(
    gateway: &Gateway,
    from: IpAddr,
    to: SocketAddr,
    preamble: &[u8],
    headers: &[&str],
) -> (String, String) {
    let (mut socket, status) = shake(from, to, preamble, headers).await;
    assert_eq!(status, Some(101), "{from} {headers:?}");
    let mark = gateway.log().mark();
    socket.send(&Frame::text("{\"id\":1,\"connect\":{\"token\":\"ann\"}}").bytes()).await;
    let reply = socket.frame().await.expect("a connect reply");
    assert!(String::from_utf8_lossy(&reply.payload).contains("\"connect\""), "{reply:?}");
    socket.send(&Frame::new(Frame::CLOSE, [0x03, 0xe8]).bytes()).await;
    let line = gateway.log().wait_since(mark, &["gone: "]).await;
    let text = line.text.split("gone: ").nth(1).and_then(|rest| rest.split('"').next()).unwrap_or_default();
    let mut words = text.splitn(7, ' ').skip(4);
    let address = words.next().unwrap_or_default().to_owned();
    (address, words.nth(1).unwrap_or_default().to_owned())
}

const LIES: [&str; 2] = ["X-Forwarded-For: 6.6.6.6", "X-Real-IP: 6.6.6.6"];

#[tokio::test]
async fn a_client_behind_nginx_is_seen_with_its_own_address() {
    let gateway = gateway(CONFIG).await;
    let lines = "proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;";
    let nginx = WebProxy::nginx(gateway.address(), lines).await;
    for (n, headers) in [(5, &[][..]), (6, &LIES[..]), (7, &["X-Forwarded-For: nonsense, 127.0.0.1"])] {
        let (address, _) = seen(&gateway, client(n), nginx.address(), b"", headers).await;
        assert_eq!(address, client(n).to_string(), "{headers:?}");
    }
    // nginx passes on what it does not set, and a client could have written that.
    let (_, status) = shake(client(5), nginx.address(), b"", &["Forwarded: for=6.6.6.6"]).await;
    assert_eq!(status, Some(400));
}

#[tokio::test]
async fn what_proxies_do_not_set_can_be_left_out() {
    let gateway = gateway(&format!("{CONFIG}\nlisten.client_address_from = ['x-forwarded-for']")).await;
    let lines = "proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;";
    let nginx = WebProxy::nginx(gateway.address(), lines).await;
    let (address, _) = seen(&gateway, client(5), nginx.address(), b"", &["Forwarded: for=6.6.6.6"]).await;
    assert_eq!(address, "127.0.0.5");
    let (_, status) = shake(client(1), gateway.address(), b"PROXY TCP4 6.6.6.6 127.0.0.1 1 2\r\n", &[]).await;
    assert_eq!(status, Some(400));
}

#[tokio::test]
async fn a_client_behind_haproxy_is_seen_with_its_own_address() {
    let gateway = gateway(CONFIG).await;
    for (mode, options, lines) in [
        ("http", "", "option forwardfor"),
        ("http", "", "http-request add-header Forwarded for=\\\"%[src]:%[src_port]\\\""),
        ("http", "send-proxy", ""),
        ("tcp", "send-proxy", ""),
        ("tcp", "send-proxy-v2", ""),
        ("tcp", "send-proxy-v2 proxy-v2-options crc32c", ""),
    ] {
        let haproxy = WebProxy::haproxy(gateway.address(), mode, options, lines).await;
        // What comes with a PROXY header is about the client itself, which is not trusted.
        let lies: &[&str] = match (options, lines) {
            ("", "option forwardfor") => &["X-Forwarded-For: 6.6.6.6"],
            ("", _) => &["Forwarded: for=6.6.6.6;by=_x"],
            _ => &["X-Forwarded-For: 6.6.6.6", "Forwarded: for=7.7.7.7"],
        };
        for headers in [&[][..], lies] {
            let (address, _) = seen(&gateway, client(8), haproxy.address(), b"", headers).await;
            assert_eq!(address, "127.0.0.8", "{mode} {options} {lines} {headers:?}");
        }
    }
}

#[tokio::test]
async fn a_client_behind_two_proxies_is_seen_with_its_own_address() {
    let gateway = gateway(CONFIG).await;
    let lines = "proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;";
    let nginx = WebProxy::nginx(gateway.address(), lines).await;
    let haproxy = WebProxy::haproxy(nginx.address(), "http", "", "option forwardfor").await;
    let (address, _) = seen(&gateway, client(9), haproxy.address(), b"", &LIES).await;
    assert_eq!(address, "127.0.0.9");
}

#[tokio::test]
async fn without_a_proxy_nobody_is_believed() {
    let gateway = gateway(CONFIG).await;
    let lies = ["X-Forwarded-For: 6.6.6.6", "Forwarded: for=6.6.6.6", "Forwarded: nonsense"];
    let (address, _) = seen(&gateway, client(5), gateway.address(), b"", &lies).await;
    assert_eq!(address, "127.0.0.5");
    let binary = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\x06\x06\x06\x06\x7f\0\0\x01\0\x01\0\x02";
    for preamble in [&b"PROXY TCP4 6.6.6.6 127.0.0.1 1 2\r\n"[..], binary] {
        let (_, status) = shake(client(5), gateway.address(), preamble, &[]).await;
        assert_eq!(status, Some(400));
    }
    // Out of the box there is no proxy.
    let gateway = self::gateway("").await;
    let (address, _) = seen(&gateway, client(1), gateway.address(), b"", &lies).await;
    assert_eq!(address, "127.0.0.1");
}

#[tokio::test]
async fn every_form_of_a_proxy_header_is_understood_or_refused() {
    let gateway = gateway(CONFIG).await;
    let proxy = client(1);
    let v2 = |command: u8, family: u8, fields: &[u8]| {
        let size = u16::try_from(fields.len()).unwrap().to_be_bytes();
        [b"\r\n\r\n\0\r\nQUIT\n", &[command, family][..], &size, fields].concat()
    };
    let v4 = [192, 0, 2, 1, 127, 0, 0, 1, 0, 1, 0, 2];
    let with_more = [&v4[..], &[0xea, 0, 3, b'a', b'b', b'c']].concat();
    for (preamble, address) in [
        (b"PROXY TCP4 192.0.2.1 127.0.0.1 1 2\r\n".to_vec(), "192.0.2.1"),
        (b"PROXY TCP6 2001:db8::1 ::1 1 2\r\n".to_vec(), "2001:db8::1"),
        (b"PROXY TCP6 ::ffff:192.0.2.9 ::1 1 2\r\n".to_vec(), "192.0.2.9"),
        (b"PROXY UNKNOWN\r\n".to_vec(), "127.0.0.1"),
        (v2(0x21, 0x11, &v4), "192.0.2.1"),
        (v2(0x21, 0x11, &with_more), "192.0.2.1"),
        (v2(0x20, 0, &[]), "127.0.0.1"),
        (v2(0x21, 0x31, &[0; 216]), "127.0.0.1"),
        (v2(0x21, 0, &[1, 2, 3]), "127.0.0.1"),
        (Vec::new(), "127.0.0.1"),
    ] {
        let seen = seen(&gateway, proxy, gateway.address(), &preamble, &[]).await;
        assert_eq!(seen.0, address, "{preamble:?}");
    }
    for preamble in [&b"PROXY TCP4 192.0.2.1\r\n"[..], &v2(0x31, 0x11, &v4), &v2(0x21, 0x11, &[0; 5000])] {
        let (_, status) = shake(proxy, gateway.address(), preamble, &[]).await;
        assert_eq!(status, Some(400), "{preamble:?}");
    }
    gateway.log().wait(&["WARN", "malformed or too large PROXY header"]).await;
    // What a client without an address writes itself is not believed; what a proxy writes that speaks for
    // itself is.
    let lies = ["X-Forwarded-For: 192.0.2.3"];
    for (preamble, address) in [
        (b"PROXY UNKNOWN\r\n".to_vec(), "127.0.0.1"),
        (v2(0x21, 0, &[]), "127.0.0.1"),
        (v2(0x21, 0x31, &[0; 216]), "127.0.0.1"),
        (v2(0x20, 0, &[]), "192.0.2.3"),
        (Vec::new(), "192.0.2.3"),
    ] {
        let seen = seen(&gateway, proxy, gateway.address(), &preamble, &lies).await;
        assert_eq!(seen.0, address, "{preamble:?}");
    }
    // One that names another trusted proxy goes on with the headers of the request.
    let preamble = b"PROXY TCP4 127.0.0.1 127.0.0.1 1 2\r\n";
    let headers = ["X-Forwarded-For: 6.6.6.6, 192.0.2.3"];
    assert_eq!(seen(&gateway, proxy, gateway.address(), preamble, &headers).await.0, "192.0.2.3");
}

#[tokio::test]
async fn a_proxy_header_has_to_be_complete_in_time() {
    let gateway = gateway(&format!("{CONFIG}\nhandshake.head_deadline = '300ms'")).await;
    let mut socket = Socket::connect_from(client(1), gateway.address()).await;
    socket.send(b"PROXY TCP4 192.0.2.1").await;
    socket.ended().await;
    eventually("it to be counted", async || {
        let metrics = gateway.metrics().await;
        (metrics.get("gateway_connections_refused_total{reason=\"deadline\"}") == 1.0).then_some(())
    })
    .await;
}

#[tokio::test]
async fn limits_count_clients_and_not_their_proxy() {
    let limits = "limits = { connections_per_address_max = 1, handshakes_per_address_max = 2 }";
    let gateway = gateway(&format!("{CONFIG}\n{limits}")).await;
    let lines = "proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;";
    let nginx = WebProxy::nginx(gateway.address(), lines).await;
    let haproxy = WebProxy::haproxy(gateway.address(), "tcp", "send-proxy-v2", "").await;
    let mut open = Vec::new();
    for (n, proxy) in [(5, nginx.address()), (6, nginx.address()), (7, haproxy.address())] {
        let (socket, status) = shake(client(n), proxy, b"", &[]).await;
        assert_eq!(status, Some(101));
        open.push(socket);
        for proxy in [nginx.address(), haproxy.address()] {
            assert_eq!(shake(client(n), proxy, b"", &LIES).await.1, Some(429), "{n}");
        }
    }
    // A network /64 is one client.
    let named = async |address: &str| {
        let preamble = format!("PROXY TCP6 {address} ::1 1 2\r\n");
        shake(client(1), gateway.address(), preamble.as_bytes(), &[]).await
    };
    let (_first, status) = named("2001:db8::1").await;
    assert_eq!(status, Some(101));
    assert_eq!(named("2001:db8::ffff:1").await.1, Some(429));
    assert_eq!(named("2001:db8:0:1::1").await.1, Some(101));
}

#[tokio::test]
async fn silent_clients_behind_a_proxy_give_way_among_themselves() {
    let limits = "limits = { handshakes_max = 50, handshakes_per_address_max = 10 }";
    let gateway = gateway(&format!("{CONFIG}\n{limits}")).await;
    let haproxy = WebProxy::haproxy(gateway.address(), "tcp", "send-proxy", "").await;
    let mut silent = Vec::new();
    for _ in 0..200 {
        silent.push(Socket::connect_from(client(5), haproxy.address()).await);
    }
    let refused = async |reason: &str| {
        let metrics = gateway.metrics().await;
        metrics.get(&format!("gateway_connections_refused_total{{reason=\"{reason}\"}}"))
    };
    eventually("180 to give way", async || (refused("evicted").await >= 180.0).then_some(())).await;
    assert_eq!(shake(client(6), haproxy.address(), b"", &[]).await.1, Some(101));
    assert_eq!(refused("handshakes").await, 0.0);
}

#[tokio::test]
async fn plugins_see_all_values_of_a_header() {
    let gateway = gateway(CONFIG).await;
    for (headers, value) in [
        (&["X-Test: a"][..], "a"),
        (&["X-Test: 6.6.6.6", "x-test: b, c"], "6.6.6.6, b, c"),
        (&["X-Test: Zürich"], "Zürich"),
        (&["X-Test: ", "X-Test: d"], ", d"),
    ] {
        let (_, header) = seen(&gateway, client(5), gateway.address(), b"", headers).await;
        assert_eq!(header, value, "{headers:?}");
    }
    let gateway = self::gateway("handshake.headers_kept = ['cookie', 'x-test']").await;
    let headers = ["Cookie: a=1", "Cookie: b=2", "X-Test: e"];
    assert_eq!(seen(&gateway, client(5), gateway.address(), b"", &headers).await.1, "e");
    let two = ["Authorization: Bearer a", "Authorization: Bearer b"];
    assert_eq!(shake(client(5), gateway.address(), b"", &two).await.1, Some(400));
}

// ---- Whatever bytes come ----

fn trusting(network: &str) -> Proxies {
    let tell = [Tell::Forwarded, Tell::XForwardedFor];
    Proxies { networks: [network.parse().unwrap()].into(), tell: tell.into() }
}

/// The bytes of a header that a server takes.
fn header() -> impl Strategy<Value = Vec<u8>> {
    let part = prop_oneof![
        Just("for=".to_owned()),
        Just("\"".to_owned()),
        Just("\\".to_owned()),
        Just(", ".to_owned()),
        Just(";".to_owned()),
        Just("10.0.0.9".to_owned()),
        Just("[::1]:_x".to_owned()),
        Just("by=".to_owned()),
        "[ -~]{0,6}",
        "\\PC{0,3}",
    ];
    proptest::collection::vec(part, 0..12).prop_map(|parts| parts.concat().into_bytes())
}

proptest! {
    #[test]
    fn a_client_cannot_choose_its_address(
        lines in proptest::collection::vec(header(), 0..4),
        same_line in any::<bool>(),
        quoted in any::<bool>(),
    ) {
        let proxies = trusting("10.0.0.0/8");
        let proxy = IpAddr::from([10, 0, 0, 1]);
        let real = IpAddr::from([192, 0, 2, 1]);
        let appended = |name: &str| {
            let mut lines = lines.clone();
            match lines.last_mut().filter(|_| same_line) {
                Some(last) => last.extend(format!(", {name}").bytes()),
                None => lines.push(name.as_bytes().to_vec()),
            }
            lines
        };
        let none = Vec::<Vec<u8>>::new();
        let find = |forwarded: &[Vec<u8>], for_lines: &[Vec<u8>]| {
            let bytes = |lines: &[Vec<u8>]| lines.to_vec();
            let (forwarded, for_lines) = (bytes(forwarded), bytes(for_lines));
            forwarded::client(
                &proxies,
                proxy,
                forwarded.iter().map(|line| &**line),
                for_lines.iter().map(|line| &**line),
            )
        };
        prop_assert_eq!(find(&none, &appended("192.0.2.1")), Ok(real));
        let name = if quoted { "for=\"192.0.2.1:4711\"" } else { "for=192.0.2.1;by=10.0.0.1" };
        // One that breaks the line is told so, and gets no address of its choice either.
        let found = find(&appended(name), &none);
        prop_assert!(matches!(found, Ok(address) if address == real) || found == Err(Unclear::Malformed), "{:?}", found);
        // The other header does not help.
        let found = find(&lines, &appended("192.0.2.1"));
        prop_assert!(found.is_err() || found == Ok(real), "{:?}", found);
        // Who is not trusted is the client.
        let stranger = forwarded::client(
            &proxies,
            real,
            lines.iter().map(|line| &**line),
            lines.iter().map(|line| &**line),
        );
        prop_assert_eq!(stranger, Ok(real));
    }

    #[test]
    fn a_proxy_header_is_bounded_and_its_beginnings_are_partial(
        bytes in proptest::collection::vec(any::<u8>(), 0..64),
        binary in any::<bool>(),
        line in "PROXY (TCP4|TCP6|UNKNOWN) ?[0-9a-f:. ]{0,60}\r\n",
    ) {
        let start: &[u8] = if binary { b"\r\n\r\n\0\r\nQUIT\n" } else { b"" };
        for bytes in [[start, &bytes[..]].concat(), line.into_bytes()] {
            match parse(&bytes) {
                Ok(Preamble::Header { length, .. }) => {
                    prop_assert!(length <= bytes.len() && length <= BYTES_MAX);
                    for shorter in 0..length {
                        prop_assert_eq!(parse(&bytes[..shorter]), Ok(Preamble::Partial));
                    }
                }
                Ok(Preamble::Partial) => prop_assert!(bytes.len() < BYTES_MAX),
                Ok(Preamble::Absent) | Err(_) => {}
            }
        }
    }
}
