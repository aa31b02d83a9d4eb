//! The Protobuf encoding at the level of bytes: how it is agreed on, what a record is, and what becomes of
//! messages that are none. The published client libraries use it in `clients.rs`.

use base64::prelude::{BASE64_STANDARD, Engine as _};
use gateway_tests::{Client, Closed, Frame, Gateway, Handshake, Random, Socket};
use serde_json::json;

const CONFIG: &str = "
    client.anonymous = true
    [namespaces.open]
    history_size = 10
    recovery = true
    allow_subscribe = 'anyone'
    allow_publish = 'anyone'
    [namespaces.latest]
    history_size = 10
    recovery = true
    recovery_mode = 'cache'
    allow_subscribe = 'anyone'
";

const PATH: &str = "/connection/websocket?format=protobuf";

/// Fields of a command and of its requests.
const ID: u8 = 1;
const CONNECT: u8 = 4;
const SUBSCRIBE: u8 = 5;
const PUBLISH: u8 = 7;

/// Bytes after their length.
fn record(bytes: &[u8]) -> Vec<u8> {
    let mut record = Vec::new();
    let mut length = bytes.len();
    while length > 0x7f {
        record.push(length as u8 | 0x80);
        length >>= 7;
    }
    record.push(length as u8);
    [&record, bytes].concat()
}

/// A field that holds bytes: a text, a payload or a message.
fn field(tag: u8, bytes: &[u8]) -> Vec<u8> {
    [vec![tag << 3 | 2], record(bytes)].concat()
}

fn command(id: u8, request: u8, fields: &[Vec<u8>]) -> Vec<u8> {
    record(&[vec![ID << 3, id], field(request, &fields.concat())].concat())
}

fn connect() -> Vec<u8> {
    command(1, CONNECT, &[])
}

fn binary(bytes: impl Into<Vec<u8>>) -> Vec<u8> {
    Frame::new(Frame::BINARY, bytes).bytes()
}

/// The next reply or push that is no ping: a record without its length.
async fn reply(socket: &mut Socket) -> Vec<u8> {
    loop {
        let frame = socket.frame().await.expect("a message");
        assert_eq!(frame.opcode, Frame::BINARY, "{frame:?}");
        let length = 1 + frame.payload.iter().take_while(|byte| **byte & 0x80 != 0).count();
        let bytes = frame.payload[length..].to_vec();
        assert_eq!(record(&bytes), frame.payload, "one record");
        if !bytes.is_empty() {
            return bytes;
        }
    }
}

fn contains(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}

async fn connected(gateway: &Gateway) -> Socket {
    connected_with_id(gateway).await.0
}

/// A connection and its id.
async fn connected_with_id(gateway: &Gateway) -> (Socket, String) {
    let mut socket = Socket::open(gateway.address(), PATH).await;
    socket.send(&binary(connect())).await;
    let hello = reply(&mut socket).await;
    assert_eq!(hello[..3], [ID << 3, 1, 5 << 3 | 2], "the reply to connect: {hello:?}");
    let [key, length, client @ ..] = &hello[4..] else { panic!("{hello:?}") };
    assert_eq!(*key, 1 << 3 | 2, "its first field is the id: {hello:?}");
    (socket, String::from_utf8(client[..usize::from(*length)].to_vec()).unwrap())
}

/// The fields of a push in a channel.
fn push(channel: &[u8], fields: &[u8]) -> Vec<u8> {
    field(4, &[field(2, channel), fields.to_vec()].concat())
}

#[tokio::test]
async fn the_subprotocol_decides_and_without_one_the_query() {
    let gateway = Gateway::start(CONFIG).await;
    let (plain, query) = ("/connection/websocket", "/connection/websocket?a=b&cf_protocol=protobuf");
    for (path, offered, announced, is_protobuf) in [
        (plain, "", None, false),
        (PATH, "", None, true),
        (query, "", None, true),
        ("/connection/websocket?format=json", "", None, false),
        (plain, "centrifuge-protobuf", Some("centrifuge-protobuf"), true),
        (plain, "Centrifuge-Protobuf", Some("Centrifuge-Protobuf"), true),
        (plain, "centrifuge-json", Some("centrifuge-json"), false),
        (plain, "centrifuge-protobuf, centrifuge-json", Some("centrifuge-protobuf"), true),
        (plain, "chat, centrifuge-json, centrifuge-protobuf", Some("centrifuge-json"), false),
        (PATH, "centrifuge-json", Some("centrifuge-json"), false),
        (PATH, "chat", None, true),
        (plain, "chat", None, false),
    ] {
        let handshake = Handshake::to(path);
        let handshake = match offered {
            "" => handshake,
            offered => handshake.with(&format!("Sec-WebSocket-Protocol: {offered}")),
        };
        let mut socket = Socket::connect(gateway.address()).await;
        socket.send(&handshake.bytes()).await;
        let answer = socket.answer().await.expect("an answer");
        let seen = (answer.status, answer.header("sec-websocket-protocol"));
        assert_eq!(seen, (101, announced), "{path} {offered}");
        let hello =
            if is_protobuf { binary(connect()) } else { Frame::text(r#"{"id":1,"connect":{}}"#).bytes() };
        socket.send(&hello).await;
        let reply = socket.frame().await.expect("a reply");
        let expected = if is_protobuf { Frame::BINARY } else { Frame::TEXT };
        assert_eq!(reply.opcode, expected, "{path} {offered}: {reply:?}");
    }
}

#[tokio::test]
async fn ping_and_pong_are_records_of_nothing() {
    let pings = "client.ping_interval = '1s'\nclient.pong_timeout = '900ms'\n";
    let gateway = Gateway::start(&[pings, CONFIG].concat()).await;
    let mut socket = connected(&gateway).await;
    for _ in 0..2 {
        let ping = socket.frame().await.expect("a ping");
        assert_eq!((ping.opcode, &ping.payload[..]), (Frame::BINARY, &[0][..]));
        socket.send(&binary([0])).await;
    }
    socket.send(&binary([0])).await;
    let closed = socket.closed().await;
    assert_eq!(closed, Closed { code: Some(3501), reason: "a pong without a ping".to_owned() });
}

#[tokio::test]
async fn commands_of_one_message_are_carried_out_in_order() {
    let gateway = Gateway::start(CONFIG).await;
    let mut socket = Socket::open(gateway.address(), PATH).await;
    let subscribes = (2..102).map(|id| command(id, SUBSCRIBE, &[field(1, format!("open:{id}").as_bytes())]));
    socket.send(&binary([connect()].into_iter().chain(subscribes).flatten().collect::<Vec<u8>>())).await;
    for id in 1..102 {
        assert_eq!(reply(&mut socket).await[..2], [ID << 3, id]);
    }
}

#[tokio::test]
async fn the_type_of_a_frame_does_not_matter() {
    let gateway = Gateway::start(CONFIG).await;
    let mut socket = Socket::open(gateway.address(), PATH).await;
    socket.send(&Frame::new(Frame::TEXT, connect()).bytes()).await;
    assert_eq!(reply(&mut socket).await[..2], [ID << 3, 1]);
    let mut socket = Socket::open(gateway.address(), "/connection/websocket").await;
    socket.send(&binary(r#"{"id":1,"connect":{}}"#)).await;
    let hello = socket.frame().await.expect("a reply");
    assert!(hello.opcode == Frame::TEXT && contains(&hello.payload, b"\"connect\":"), "{hello:?}");
}

#[tokio::test]
async fn a_large_payload_of_any_bytes_arrives_unchanged() {
    let gateway = Gateway::start(CONFIG).await;
    let mut socket = connected(&gateway).await;
    socket.send(&binary(command(2, SUBSCRIBE, &[field(1, b"open:1")]))).await;
    reply(&mut socket).await;
    let mut json = Client::connect(&gateway).await;
    json.subscribe("open:1").await;
    let mut random = Random::new(1);
    for bytes in [1_usize, 125, 126, 127, 16_000, 65_400] {
        let data: Vec<u8> = (0..bytes).map(|_| random.number() as u8 | 0x80).collect();
        let publish = command(3, PUBLISH, &[field(1, b"open:1"), field(2, &data)]);
        socket.send(&binary(publish)).await;
        let (one, other) = (reply(&mut socket).await, reply(&mut socket).await);
        let push = if one[0] == ID << 3 { other } else { one };
        assert!(contains(&push, &field(4, &data)), "{bytes} bytes");
        let text = BASE64_STANDARD.encode(&data);
        assert!(json.publication("open:1").await["data"] == text, "{bytes} bytes in Base64");
    }
}

/// What is sent after `connect`, or instead of it. All of it closes the connection with 3501.
fn hostile() -> Vec<(&'static str, Vec<u8>)> {
    let many = |bytes: &[u8], count: usize| bytes.repeat(count);
    let connect_of = |bytes: &[u8]| command(1, CONNECT, &[bytes.to_vec()]);
    let twice = |request: &[u8]| record(&[&[ID << 3, 1], request, request].concat());
    let entry = field(3, &[field(1, b"open:1"), field(2, &[3 << 3, 1])].concat());
    vec![
        ("nothing", vec![]),
        ("JSON", br#"{"id":1,"connect":{}}"#.to_vec()),
        ("a length beyond the end", vec![127, 8, 1]),
        ("the largest length", [vec![0xff; 9], vec![1]].concat()),
        ("a length that does not end", vec![0xff; 32]),
        ("an id that does not end", record(&[vec![8], vec![0xff; 11]].concat())),
        ("an id as a text", record(&[10, 1, b'1'])),
        ("an id without a request", record(&[8, 1])),
        ("a request without an id", record(&field(CONNECT, &[]))),
        ("pongs before connect", many(&[0], 60_000)),
        ("a channel that is no text", command(1, SUBSCRIBE, &[field(1, &[0xff])])),
        ("a token that is no text", command(1, CONNECT, &[field(1, &[0xff])])),
        ("a token beyond its request", connect_of(&[10, 9, b'a'])),
        ("groups in groups", record(&many(&[0x1b], 60_000))),
        ("entries as numbers", connect_of(&many(&[3 << 3, 1], 30_000))),
        ("an entry that ends too early", connect_of(&[entry, vec![3 << 3 | 2, 4]].concat())),
        ("connect twice", [connect(), connect()].concat()),
        ("two connects in one command", twice(&field(CONNECT, &[]))),
        ("two publishes in one command", twice(&field(PUBLISH, &field(1, b"open:1")))),
        (
            "two requests in one command",
            record(&[vec![ID << 3, 1], field(CONNECT, &[]), field(SUBSCRIBE, &field(1, b"open:1"))].concat()),
        ),
        ("something else first", command(1, PUBLISH, &[field(1, b"open:1"), field(2, b"1")])),
        (
            "more commands than there may be",
            [connect(), many(&command(2, SUBSCRIBE, &[field(1, b"open:1")]), 2_000)].concat(),
        ),
    ]
}

#[tokio::test]
async fn what_is_no_command_closes_with_3501_and_costs_little() {
    let gateway = Gateway::start(CONFIG).await;
    drop(connected(&gateway).await);
    let before = gateway.memory();
    for _ in 0..10 {
        for (what, bytes) in hostile() {
            let mut socket = Socket::open(gateway.address(), PATH).await;
            socket.send(&binary(bytes)).await;
            let closed = socket.closed().await;
            assert_eq!(closed.code, Some(3501), "{what}: {closed:?}");
        }
    }
    let grown = gateway.memory().saturating_sub(before);
    assert!(grown < 8 * 1024, "{grown} KiB more");
    drop(connected(&gateway).await);
}

#[tokio::test]
async fn maps_of_many_entries_are_admitted_and_cost_little() {
    let gateway = Gateway::start(CONFIG).await;
    drop(connected(&gateway).await);
    let before = gateway.memory();
    let name = |number: usize| format!("{number:04x}");
    let recover = field(2, &[3 << 3, 1]);
    let entries: Vec<u8> = (0..5_000)
        .flat_map(|number| field(3, &[field(1, name(number).as_bytes()), recover.clone()].concat()))
        .collect();
    let mut sockets = Vec::new();
    for _ in 0..20 {
        for entries in [&entries, &field(3, &[]).repeat(30_000)] {
            let mut socket = Socket::open(gateway.address(), PATH).await;
            socket.send(&binary(command(1, CONNECT, std::slice::from_ref(entries)))).await;
            assert_eq!(reply(&mut socket).await[..2], [ID << 3, 1]);
            sockets.push(socket);
        }
    }
    let grown = gateway.memory().saturating_sub(before);
    // 40 messages of 64 KiB, none of which is kept.
    assert!(grown < 8 * 1024, "{grown} KiB more");
}

#[tokio::test]
async fn the_backend_subscribes_a_client_with_data_and_what_it_missed() {
    let gateway = Gateway::start(CONFIG).await;
    let (mut socket, client) = connected_with_id(&gateway).await;
    for data in [1, 2] {
        gateway.post("/api/publish", &json!({ "channel": "open:1", "data": data })).await.ok();
    }
    let since = json!({ "offset": 1 });
    let mut request =
        json!({ "client": client, "channel": "open:1", "b64data": "eyJhIjoxfQ==", "recover_since": since });
    assert_eq!(gateway.post("/api/subscribe", &request).await.ok(), json!({ "result": {} }));
    let notice = reply(&mut socket).await;
    // The position before what follows, whether it is tracked, and the data.
    let end = [vec![5 << 3, 1, 6 << 3, 1], field(7, br#"{"a":1}"#)].concat();
    assert!(notice.ends_with(&end), "{notice:02x?}");
    let missed = [field(4, b"2"), vec![6 << 3, 2]].concat();
    assert_eq!(reply(&mut socket).await, push(b"open:1", &field(4, &missed)));
    request["channel"] = json!("unknown:1");
    assert_eq!(gateway.post("/api/subscribe", &request).await.ok()["error"]["code"], 102);
}

#[tokio::test]
async fn where_only_the_latest_counts_a_reply_has_no_other() {
    let gateway = Gateway::start(CONFIG).await;
    for data in [1, 2] {
        gateway.post("/api/publish", &json!({ "channel": "latest:1", "data": data })).await.ok();
    }
    let mut socket = connected(&gateway).await;
    let recover = vec![3 << 3, 1];
    socket.send(&binary(command(2, SUBSCRIBE, &[field(1, b"latest:1"), recover]))).await;
    let subscribed = reply(&mut socket).await;
    let publication = [field(4, b"2"), vec![6 << 3, 2]].concat();
    // The publication, and that it is recovered; the position is the one that the client did not name.
    let expected = [field(7, &publication), vec![8 << 3, 1, 10 << 3, 1, 12 << 3, 1]].concat();
    assert!(subscribed.ends_with(&expected), "{subscribed:02x?}");
    assert!(!contains(&subscribed, &field(4, b"1")), "{subscribed:02x?}");
}

#[tokio::test]
async fn random_messages_harm_nobody() {
    let gateway = Gateway::start(CONFIG).await;
    let mut good = Client::connect(&gateway).await;
    good.subscribe("open:1").await;
    let mut random = Random::new(5);
    for _ in 0..300 {
        let mut socket = connected(&gateway).await;
        let length = random.below(200);
        let bytes: Vec<u8> = (0..length).map(|_| random.number() as u8).collect();
        socket.send(&binary(record(&bytes))).await;
        // Whatever it was, the connection is either closed for it, or answers the next command.
        socket.send(&binary(command(9, SUBSCRIBE, &[field(1, b"open:2")]))).await;
        let code = loop {
            let Some(frame) = socket.frame().await else { panic!("ended without a word: {bytes:02x?}") };
            match frame.opcode {
                Frame::CLOSE => break u16::from_be_bytes([frame.payload[0], frame.payload[1]]),
                _ if contains(&frame.payload, &[ID << 3, 9]) => break 0,
                _ => (),
            }
        };
        assert!([0, 3501, 3508].contains(&code), "{code} for {bytes:02x?}");
    }
    good.publish("open:1", json!("still here")).await;
    assert_eq!(good.publication("open:1").await["data"], "still here");
}
