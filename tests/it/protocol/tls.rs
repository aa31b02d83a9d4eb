//! Clients over TLS: certificates by name and their exchange, certificates of clients, and everything that a
//! connection in the clear has as well.

use std::fs;
use std::time::{Duration, Instant};

use gateway_tests::{
    API_KEY, Authority, Client, Frame, Gateway, Handshake, Socket, Stream, Tool, eventually, gateway_binary,
    node, request, within, within_time,
};
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

const CONFIG: &str = "
    client.anonymous = true
    channel.allow_subscribe = 'anyone'
    channel.allow_publish = 'anyone'
";
const WEBSOCKET: &str = "/connection/websocket";

/// Time in which changed files are noticed: they are read every two seconds.
const NOTICED: Duration = Duration::from_secs(15);

/// An authority with a certificate for `localhost` in `site.pem`.
fn authority() -> Authority {
    let authority = Authority::new();
    authority.write("site", &authority.issue(&["localhost"]));
    authority
}

/// Settings of a gateway with these certificates.
fn with(authority: &Authority, names: &[&str], more: &str) -> String {
    format!("{CONFIG}\n{more}\n[listen.tls]\n{}\n", authority.settings(names))
}

async fn connect(client: &mut Client) {
    client.ask("connect", json!({})).await.expect("the connect command is accepted");
}

#[tokio::test]
async fn the_published_library_connects_and_publishes_over_tls() {
    let authority = authority();
    let gateway = Gateway::start(&with(&authority, &["site"], "")).await;
    let output = node("secure.mjs")
        .env("NODE_EXTRA_CA_CERTS", authority.file("ca.pem"))
        .env("PORT", gateway.address().port().to_string())
        .run(Duration::from_secs(60))
        .await;
    assert_eq!(output.lines().collect::<Vec<_>>(), ["connected", "published"]);
}

#[tokio::test]
async fn a_large_publication_arrives_whole_in_both_directions() {
    let authority = authority();
    let limits = "limits = { message_bytes_max = '4MiB', outbound_bytes_max = '16MiB' }";
    let gateway = Gateway::start(&with(&authority, &["site"], limits)).await;
    let tunnel = authority.client().tunnel(gateway.address()).await;
    let mut client = Client::open(tunnel.address()).await;
    connect(&mut client).await;
    client.subscribe("news").await;
    let text: String = (0..400_000).map(|n| char::from(b'a' + (n % 23) as u8)).collect();
    for n in 0..5 {
        client.publish("news", json!({ "n": n, "text": text })).await;
    }
    for n in 0..5 {
        assert_eq!(client.publication("news").await["data"], json!({ "n": n, "text": text }));
    }
    client.close().await;
}

#[tokio::test]
async fn streams_and_their_commands_go_over_tls_as_well() {
    let authority = authority();
    let gateway = Gateway::start(&with(&authority, &["site"], "")).await;
    let tunnel = authority.client().tunnel(gateway.address()).await;
    let mut streams = Vec::new();
    for path in ["/connection/http_stream", "/connection/sse"] {
        let mut ann = Stream::connect(tunnel.address(), path, json!({})).await;
        ann.ask(2, "subscribe", json!({ "channel": "news" })).await;
        streams.push(ann);
    }
    let text = "x".repeat(50_000);
    streams[0].send(&json!({ "id": 3, "publish": { "channel": "news", "data": text } }).to_string()).await;
    for stream in &mut streams {
        while stream.next().await.expect("a message")["push"]["pub"]["data"] != text {}
    }
    gateway.terminate();
    for stream in &mut streams {
        assert_eq!(stream.closed().await.code, Some(3001), "the last message, and an orderly end");
    }
}

#[tokio::test]
async fn the_name_that_a_client_asks_for_chooses_the_certificate() {
    let authority = Authority::new();
    let all = [
        ("first", authority.issue(&["localhost"])),
        ("exact", authority.issue(&["a.example.org"])),
        ("wild", authority.issue(&["*.example.org"])),
    ];
    for (name, issued) in &all {
        authority.write(name, issued);
    }
    let gateway = Gateway::start(&with(&authority, &["first", "exact", "wild"], "")).await;
    let served = async |name: &str| {
        let stream = authority.client().connect(gateway.address(), name).await.expect("a handshake");
        let session = stream.get_ref().1;
        assert_eq!(session.alpn_protocol(), None, "none was offered");
        session.peer_certificates().expect("a certificate")[0].clone()
    };
    assert_eq!(served("localhost").await, all[0].1.certificate);
    assert_eq!(served("a.example.org").await, all[1].1.certificate);
    assert_eq!(served("A.Example.org").await, all[1].1.certificate);
    assert_eq!(served("b.example.org").await, all[2].1.certificate);
    // A wildcard stands for one label. The client refuses what it gets for any other name.
    let refused = authority.client().connect(gateway.address(), "c.b.example.org").await;
    assert!(refused.is_err_and(|error| error.to_string().contains("not valid for name")));
    eventually("the refused handshake to be counted", async || {
        let metrics = gateway.metrics().await;
        (metrics.get("gateway_connections_refused_total{reason=\"tls\"}") >= 1.0).then_some(())
    })
    .await;
    let metrics = gateway.metrics().await;
    for (index, name) in ["localhost", "a.example.org", "*.example.org"].iter().enumerate() {
        let series = format!(
            "gateway_tls_certificate_expires_seconds{{listener=\"listen\",certificate=\"{index}\",name=\"{name}\"}}"
        );
        assert!(metrics.get(&series) > 1e9, "{series}");
    }
}

#[tokio::test]
async fn changed_files_apply_to_new_connections_and_broken_ones_to_none() {
    let authority = authority();
    let gateway = Gateway::start(&with(&authority, &["site"], "")).await;
    let tunnel = authority.client().tunnel(gateway.address()).await;
    let mut client = Client::open(tunnel.address()).await;
    connect(&mut client).await;
    client.subscribe("news").await;
    let served = async || {
        let stream = authority.client().connect(gateway.address(), "localhost").await.expect("a handshake");
        stream.get_ref().1.peer_certificates().expect("a certificate")[0].clone()
    };
    let mark = gateway.log().mark();
    let second = authority.issue(&["localhost"]);
    authority.write("site", &second);
    gateway.log().wait_within(NOTICED, mark, &["TLS certificates exchanged"]).await;
    assert_eq!(served().await, second.certificate);

    let mark = gateway.log().mark();
    fs::write(authority.file("site.pem"), "-----BEGIN CERTIFICATE-----\nnonsense").unwrap();
    let line = gateway.log().wait_within(NOTICED, mark, &["last good certificates"]).await;
    assert!(line.text.contains("site.pem"), "{line:?}");
    assert_eq!(served().await, second.certificate);

    let mark = gateway.log().mark();
    let other = authority.issue(&["localhost"]);
    authority.write("other", &other);
    authority.write("site", &second);
    gateway.log().wait_within(NOTICED, mark, &["again those in use"]).await;
    fs::copy(authority.file("other.key"), authority.file("site.key")).unwrap();
    let line = gateway.log().wait_within(NOTICED, mark, &["last good certificates"]).await;
    assert!(line.text.contains("is not the key of the certificate"), "{line:?}");
    assert_eq!(served().await, second.certificate);

    client.publish("news", json!("still there")).await;
    assert_eq!(client.publication("news").await["data"], "still there");
}

#[tokio::test]
async fn files_that_cannot_serve_are_refused_at_the_start_with_what_to_do() {
    let authority = authority();
    authority.write("other", &authority.issue(&["localhost"]));
    let expired = authority.issue_with(&["localhost"], |params| {
        params.not_before = rcgen::date_time_ymd(2020, 1, 1);
        params.not_after = rcgen::date_time_ymd(2021, 1, 1);
    });
    authority.write("expired", &expired);
    let future = authority.issue_with(&["localhost"], |params| {
        params.not_before = rcgen::date_time_ymd(3000, 1, 1);
    });
    authority.write("future", &future);
    authority.write("mixed", &authority.issue(&["localhost"]));
    fs::copy(authority.file("other.key"), authority.file("mixed.key")).unwrap();
    authority.write("swapped", &authority.issue(&["localhost"]));
    fs::copy(authority.file("other.key"), authority.file("swapped.pem")).unwrap();
    authority.write("keyless", &authority.issue(&["localhost"]));
    fs::copy(authority.file("other.pem"), authority.file("keyless.key")).unwrap();
    for (name, says) in [
        ("missing", "cannot be read"),
        ("expired", "expired on"),
        ("future", "is not valid before"),
        ("mixed", "is not the key of the certificate"),
        ("swapped", "holds no certificate in PEM"),
        ("keyless", "holds no private key in PEM"),
    ] {
        let builder = Gateway::with(&with(&authority, &[name], ""));
        let check = Tool::new(gateway_binary()).arg("check").arg("--config").arg(builder.config());
        let output = check.output(Duration::from_secs(30)).await;
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(3), "{name}: {text}");
        assert!(text.contains(says) && text.contains("listen.tls.certificates"), "{name}: {text}");
        assert!(text.contains(&format!("{name}.")), "{text}");
        let (text, code) = builder.run();
        assert!(code == Some(3) && text.contains(says), "{name}: {code:?} {text}");
    }
}

#[tokio::test]
async fn a_certificate_of_a_client_reaches_the_plugins_and_no_request_can_claim_one() {
    let authority = authority();
    let names = "headers = ['x-client-cert-subject', 'x-client-cert-san', 'x-client-cert-fingerprint']";
    let settings = format!("grants.effects = ['publish', 'set-attribute']\n[config]\n{names}");
    let ca = authority.file("ca.pem");
    let start = async |asked: &str| {
        let tls = format!("client_ca = '{}'\nclient_certificate = '{asked}'", ca.display());
        Gateway::with(&format!("{}{tls}", with(&authority, &["site"], "")))
            .plugin("10-disconnect-log", "guest-disconnect-log", &settings)
            .start()
            .await
    };
    let own = authority.issue_with(&["device-7.example"], |params| {
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(rcgen::DnType::CommonName, "device 7");
    });
    let lies = "X-Client-Cert-Subject: CN=admin\r\nX-Client-Cert-Fingerprint: 00";
    let seen = async |gateway: &Gateway, client: gateway_tests::TlsClient| {
        let tunnel = client.tunnel(gateway.address()).await;
        let mut socket = Socket::connect(tunnel.address()).await;
        socket.send(&Handshake::to(WEBSOCKET).with(lies).bytes()).await;
        assert_eq!(socket.answer().await?.status, 101);
        let mark = gateway.log().mark();
        socket.send(&Frame::text("{\"id\":1,\"connect\":{\"token\":\"ann\"}}").bytes()).await;
        socket.frame().await.expect("a connect reply");
        socket.send(&Frame::new(Frame::CLOSE, [0x03, 0xe8]).bytes()).await;
        Some(gateway.log().wait_since(mark, &["gone: "]).await.text)
    };

    let required = start("required").await;
    let text = seen(&required, authority.client().with(&own)).await.expect("it is let in");
    assert!(text.contains("CN=device 7 DNS:device-7.example "), "{text}");
    let fingerprint = text.split("DNS:device-7.example ").nth(1).and_then(|rest| rest.get(..64));
    assert!(fingerprint.is_some_and(|text| text.bytes().all(|byte| byte.is_ascii_hexdigit())), "{text}");
    assert!(!text.contains("admin"), "{text}");
    assert_eq!(seen(&required, authority.client()).await, None, "it has no certificate");
    let stranger = Authority::new().issue(&["device-7.example"]);
    assert_eq!(seen(&required, authority.client().with(&stranger)).await, None, "of another authority");

    let optional = start("optional").await;
    let text = seen(&optional, authority.client()).await.expect("it is let in");
    assert!(!text.contains("admin") && !text.contains("CN="), "{text}");
    let text = seen(&optional, authority.client().with(&own)).await.expect("it is let in");
    assert!(text.contains("CN=device 7"), "{text}");
    assert_eq!(seen(&optional, authority.client().with(&stranger)).await, None, "of another authority");
}

#[tokio::test]
async fn a_namespace_may_be_for_clients_with_a_certificate_whatever_plugins_permit() {
    let authority = authority();
    let devices = "[namespaces.device]\nclient_certificate = true\nhistory_size = 9\npresence = true\n\
                   allow_subscribe = 'anyone'\nallow_publish = 'anyone'\nallow_history = 'anyone'\n\
                   allow_presence = 'anyone'\nwildcards = true";
    let ca = authority.file("ca.pem");
    let tls = format!("client_ca = '{}'\nclient_certificate = 'optional'", ca.display());
    let gateway = Gateway::with(&format!("{}{tls}", with(&authority, &["site"], devices)))
        .plugin("50-router", "router", "[[config.rules]]\nchannel = 'device:*'\nallow = true")
        .start()
        .await;
    let own = authority.issue(&["device-7.example"]);
    for (client, permitted) in [(authority.client().with(&own), true), (authority.client(), false)] {
        let tunnel = client.tunnel(gateway.address()).await;
        let mut client = Client::open(tunnel.address()).await;
        connect(&mut client).await;
        for (command, mut parameters) in [
            ("subscribe", json!({})),
            ("publish", json!({ "data": 1 })),
            ("history", json!({ "limit": 1 })),
            ("presence", json!({})),
            ("presence_stats", json!({})),
        ] {
            parameters["channel"] = "device:7".into();
            match client.ask(command, parameters).await {
                Ok(_) => assert!(permitted, "{command}"),
                Err(refused) => {
                    assert!(!permitted, "{command}: {refused:?}");
                    assert_eq!(refused.code, 103, "{command}");
                    assert!(refused.message.contains("for clients with a certificate"), "{refused:?}");
                }
            }
        }
        assert_eq!(client.ask("subscribe", json!({ "channel": "device:*" })).await.is_ok(), permitted);
        client.subscribe("news").await;
        client.close().await;
    }
}

#[tokio::test]
async fn a_request_in_the_clear_is_told_that_the_port_speaks_tls() {
    let authority = authority();
    let gateway = Gateway::start(&with(&authority, &["site"], "")).await;
    let answer = request(gateway.address(), "GET", WEBSOCKET, &[], b"").await;
    assert_eq!(answer.status, 400);
    assert!(answer.text().contains("wss://"), "{}", answer.text());
}

#[tokio::test]
async fn a_client_of_tls_on_a_port_in_the_clear_leaves_a_hint() {
    let gateway = Gateway::start(CONFIG).await;
    let refused = Authority::new().client().connect(gateway.address(), "localhost").await;
    assert!(refused.is_err());
    gateway.log().wait(&["client speaks TLS, and this listener does not"]).await;
}

#[tokio::test]
async fn a_handshake_that_does_not_go_on_meets_the_deadline() {
    let authority = authority();
    let gateway = Gateway::start(&with(&authority, &["site"], "handshake.head_deadline = '500ms'")).await;
    let begun = Instant::now();
    // Nothing; the type of a record; the head of a record that promises more.
    for bytes in [&b""[..], &[22], &[22, 3, 1, 2, 0, 1, 0]] {
        let mut socket = Socket::connect(gateway.address()).await;
        socket.send(bytes).await;
        within_time(Duration::from_secs(3), "the deadline", socket.ended()).await;
    }
    // Nor does a client that has shaken hands and sends no request.
    let mut stream = authority.client().connect(gateway.address(), "localhost").await.expect("a handshake");
    let mut rest = Vec::new();
    let _ = within_time(Duration::from_secs(3), "the deadline", stream.read_to_end(&mut rest)).await;
    assert!(begun.elapsed() >= Duration::from_secs(2), "each had its time");
    let metrics = gateway.metrics().await;
    assert_eq!(metrics.get("gateway_connections_refused_total{reason=\"deadline\"}"), 4.0);
}

#[tokio::test]
async fn a_proxy_header_comes_before_tls() {
    let authority = authority();
    let settings = "grants.effects = ['publish', 'set-attribute']";
    let gateway = Gateway::with(&with(&authority, &["site"], "listen.trusted_proxies = ['127.0.0.1']"))
        .plugin("10-disconnect-log", "guest-disconnect-log", settings)
        .start()
        .await;
    let mark = gateway.log().mark();
    let mut stream = authority
        .client()
        .connect_after(gateway.address(), "localhost", b"PROXY TCP4 192.0.2.9 127.0.0.1 1 2\r\n")
        .await
        .expect("a handshake");
    let connect = Frame::text("{\"id\":1,\"connect\":{\"token\":\"ann\"}}").bytes();
    let hello = [Handshake::to(WEBSOCKET).bytes(), connect].concat();
    stream.write_all(&hello).await.unwrap();
    stream.write_all(&Frame::new(Frame::CLOSE, [0x03, 0xe8]).bytes()).await.unwrap();
    let mut rest = Vec::new();
    let _ = within("the end", stream.read_to_end(&mut rest)).await;
    let line = gateway.log().wait_since(mark, &["gone: "]).await;
    assert!(line.text.contains(" 192.0.2.9 "), "{}", line.text);
}

#[tokio::test]
async fn a_client_that_does_not_read_is_cut_by_the_write_timeout() {
    let authority = authority();
    let limits = "limits = { write_timeout = '1s', outbound_bytes_max = '16MiB' }";
    let gateway = Gateway::start(&with(&authority, &["site"], limits)).await;
    let mut deaf = authority.client().connect(gateway.address(), "localhost").await.expect("a handshake");
    let frames = ["{\"id\":1,\"connect\":{}}", "{\"id\":2,\"subscribe\":{\"channel\":\"news\"}}"];
    let frames = frames.map(|text| Frame::text(text).bytes()).concat();
    deaf.write_all(&[Handshake::to(WEBSOCKET).bytes(), frames].concat()).await.unwrap();
    let tunnel = authority.client().tunnel(gateway.address()).await;
    let mut client = Client::open(tunnel.address()).await;
    connect(&mut client).await;
    within("the subscription", async {
        while gateway.metrics().await.get("gateway_subscriptions") < 1.0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    // More than the system buffers for it, and less than its queue takes.
    let payload = json!("x".repeat(60_000));
    for _ in 0..200 {
        client.publish("news", payload.clone()).await;
    }
    let closed = "gateway_connections_closed_total{cause=\"slow\"}";
    within_time(Duration::from_secs(15), "the end of the deaf client", async {
        while gateway.metrics().await.get(closed) < 1.0 {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await;
    client.publish("news", json!("still here")).await;
}

#[tokio::test]
async fn a_drain_ends_with_a_close_frame_and_the_end_of_tls() {
    let authority = authority();
    let mut gateway = Gateway::start(&with(&authority, &["site"], "")).await;
    let mut stream = authority.client().connect(gateway.address(), "localhost").await.expect("a handshake");
    let hello = [Handshake::to(WEBSOCKET).bytes(), Frame::text("{\"id\":1,\"connect\":{}}").bytes()].concat();
    stream.write_all(&hello).await.unwrap();
    let mut bytes = vec![0; 4096];
    let mut read = Vec::new();
    while !String::from_utf8_lossy(&read).contains("\"connect\"") {
        let count = within("the connect reply", stream.read(&mut bytes)).await.unwrap();
        assert_ne!(count, 0);
        read.extend_from_slice(&bytes[..count]);
    }
    gateway.terminate();
    let mut rest = Vec::new();
    // An end without `close_notify` would be an error.
    within("the end of the connection", stream.read_to_end(&mut rest)).await.expect("an orderly end");
    assert!(String::from_utf8_lossy(&rest).contains("shutdown"), "{rest:?}");
    assert!(gateway.exit(Duration::from_secs(10)).await.success());
}

#[tokio::test]
async fn only_tls_1_3_if_the_configuration_says_so() {
    let authority = authority();
    for (min_version, accepted) in [("1.2", true), ("1.3", false)] {
        let config = format!("{}min_version = '{min_version}'", with(&authority, &["site"], ""));
        let gateway = Gateway::start(&config).await;
        let old = authority.client().only_tls_1_2().connect(gateway.address(), "localhost").await;
        assert_eq!(old.is_ok(), accepted, "{min_version}");
        authority.client().connect(gateway.address(), "localhost").await.expect("a handshake");
    }
}

#[tokio::test]
async fn the_admin_listener_speaks_tls_and_the_commands_know_its_certificate() {
    // Neither has the certificate the name of the listener nor does the system know its authority.
    let authority = Authority::new();
    authority.write("admin", &authority.issue(&["localhost", "admin.example"]));
    let config = format!("{CONFIG}\n[admin.tls]\n{}", authority.settings(&["admin"]));
    let builder = Gateway::with(&config);
    let file = builder.config();
    let gateway = builder.start_unready().await;
    let tunnel = authority.client().tunnel(gateway.admin()).await;
    let key = format!("X-API-Key: {API_KEY}");
    assert_eq!(
        request(tunnel.address(), "GET", "/health/live", &["Connection: close"], b"").await.status,
        200
    );
    let headers = [&*key, "Content-Type: application/json", "Connection: close"];
    let info = request(tunnel.address(), "POST", "/api/info", &headers, b"{}").await;
    assert_eq!(info.status, 200, "{}", info.text());
    let metrics = request(tunnel.address(), "GET", "/metrics", &["Connection: close"], b"").await.text();
    assert!(metrics.contains("gateway_tls_certificate_expires_seconds{listener=\"admin\""), "{metrics}");
    let clear = request(gateway.admin(), "GET", "/health/live", &["Connection: close"], b"").await;
    assert_eq!(clear.status, 400);
    assert!(clear.text().contains("https://"), "{}", clear.text());

    let inspect = |key: &str| Tool::new(gateway_binary()).arg("inspect").env("GATEWAY_ADMIN_API_KEY", key);
    let address = gateway.admin();
    // The file has port 0: this is the address that was bound.
    let url = format!("https://{address}");
    let config = inspect(API_KEY).arg("--config").arg(&file).arg("--address").arg(&url);
    let table = config.run(Duration::from_secs(30)).await;
    assert!(table.starts_with("chain "), "{table}");
    let stranger = inspect(API_KEY).arg("--address").arg(&url).output(Duration::from_secs(30)).await;
    assert!(!stranger.status.success(), "nothing says that this certificate is to be trusted");
}
