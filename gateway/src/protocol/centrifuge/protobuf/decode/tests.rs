//! Commands are made with the structs of the decoder, and hostile messages by hand.

use prost::encoding::encode_varint;
use serde_json::{Map, Value, json};

use super::*;
use crate::mix;
use crate::protocol::centrifuge::json;
use crate::protocol::channel::Channel;
use crate::protocol::command::{Position, Request};

/// A node of a filter, by the schema.
#[derive(Clone, PartialEq, prost::Message)]
struct WireFilterNode {
    #[prost(string, tag = "1")]
    op: String,
    #[prost(string, tag = "2")]
    key: String,
    #[prost(string, tag = "3")]
    cmp: String,
    #[prost(string, tag = "4")]
    val: String,
    #[prost(string, repeated, tag = "5")]
    vals: Vec<String>,
    #[prost(bytes = "bytes", repeated, tag = "6")]
    nodes: Vec<Bytes>,
}

/// Numbers that look random and are the same in every run.
struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_add(mix::STEP);
        (mix::mix(self.0) % end as u64) as usize
    }

    fn flip(&mut self) -> bool {
        self.below(2) == 0
    }

    fn one_of<T: Copy>(&mut self, all: &[T]) -> T {
        all[self.below(all.len())]
    }

    /// Mostly the default.
    fn seldom<T: Copy + Default>(&mut self, all: &[T]) -> T {
        if self.below(4) > 0 { T::default() } else { self.one_of(all) }
    }
}

fn record(wire: &impl Message) -> Vec<u8> {
    wire.encode_length_delimited_to_vec()
}

fn commands(bytes: &[u8]) -> Result<Vec<Command>, Malformed> {
    let mut message = Bytes::copy_from_slice(bytes);
    std::iter::from_fn(|| next_command(&mut message)).collect()
}

fn request(wire: &WireCommand) -> Request {
    commands(&record(wire)).expect("valid").remove(0).request
}

/// Appends a field that holds bytes.
fn field(tag: u8, bytes: &[u8], out: &mut Vec<u8>) {
    out.push(tag << 3 | 2);
    encode_varint(bytes.len() as u64, out);
    out.extend_from_slice(bytes);
}

/// A record of these bytes.
fn within(bytes: &[u8]) -> Vec<u8> {
    let mut record = Vec::new();
    encode_varint(bytes.len() as u64, &mut record);
    [record, bytes.to_vec()].concat()
}

/// A connect command with these bytes as its request.
fn connect_of(bytes: Vec<u8>) -> WireCommand {
    WireCommand { id: 1, connect: Some(bytes.into()), ..WireCommand::default() }
}

#[test]
fn one_message_carries_several_records() {
    let mut message = record(&connect_of(Vec::new()));
    let unsubscribe = Some(WireChannel { channel: "news".into() });
    message.extend(record(&WireCommand { id: 2, unsubscribe, ..WireCommand::default() }));
    message.push(0);
    let all = commands(&message).expect("valid");
    assert_eq!(all.iter().map(|command| command.id).collect::<Vec<_>>(), [1, 2, 0]);
    assert_eq!(all[2].request, Request::Pong);
}

#[test]
fn payloads_are_slices_of_the_message_with_any_bytes() {
    let data: Vec<u8> = (0..=255).collect();
    let publish = WirePublish { channel: "a".into(), data: data.clone().into(), ..WirePublish::default() };
    let message =
        Bytes::from(record(&WireCommand { id: 1, publish: Some(publish), ..WireCommand::default() }));
    let seen = next_command(&mut message.clone()).expect("one").expect("valid").request;
    let Request::Publish { data: seen, .. } = seen else { panic!("{seen:?}") };
    assert_eq!(seen, data);
    assert!(message.as_ptr_range().contains(&seen.as_ptr()));
}

#[test]
fn positions_are_kept_of_channels_to_recover() {
    let mut connect = WireConnect { token: "t".into(), ..WireConnect::default() }.encode_to_vec();
    for (channel, recover) in [("b", true), ("d", true), ("a", true), ("c", false), ("d", false), ("", true)]
    {
        let subscribe = WireSubscribe { recover, offset: u64::MAX, epoch: "e".into(), ..Default::default() };
        let sub = WireSub { channel: channel.into(), subscribe: Some(subscribe) };
        field(SUBS_TAG as u8, &sub.encode_to_vec(), &mut connect);
    }
    let Request::Connect(connect) = request(&connect_of(connect)) else { panic!("no connect") };
    let position = Position { offset: u64::MAX, epoch: "e".into() };
    let at = |name: &str| (Channel::parse(name).expect("valid"), position.clone());
    assert_eq!((&*connect.token, connect.positions), ("t", vec![at("a"), at("b")]));
}

#[test]
fn fields_of_a_later_protocol_are_ignored() {
    let mut rpc = WireRpc { method: "m".into(), data: "x".into() }.encode_to_vec();
    field(15, b"later", &mut rpc);
    // A number, eight bytes, four bytes, and a group with a number in it.
    rpc.extend([20 << 3 & 0x7f | 0x80, 1, 7]);
    rpc.extend([9 << 3 | 1, 1, 2, 3, 4, 5, 6, 7, 8, 10 << 3 | 5, 1, 2, 3, 4]);
    rpc.extend([11 << 3 | 3, 8, 1, 11 << 3 | 4]);
    let mut command = vec![8, 1];
    field(13, &rpc, &mut command);
    let mut message = Vec::new();
    encode_varint(command.len() as u64, &mut message);
    message.extend(command);
    let rpc = Request::Rpc { method: "m".into(), data: Bytes::from_static(b"x") };
    assert_eq!(commands(&message).expect("valid")[0].request, rpc);
}

#[test]
fn what_is_no_command_is_refused() {
    let nested = |depth: usize| [vec![0x1b; depth], vec![0x1c; depth]].concat();
    for (what, bytes, why) in [
        ("a length without its message", vec![5], Malformed::Syntax),
        ("a length beyond the end", vec![3, 8, 1], Malformed::Syntax),
        ("the longest length", [vec![0xff; 9], vec![1]].concat(), Malformed::Syntax),
        ("a length that does not end", vec![0x80, 0x80], Malformed::Syntax),
        ("a length of eleven bytes", [vec![0x80; 10], vec![0]].concat(), Malformed::Syntax),
        ("JSON", br#"{"id":1,"connect":{}}"#.to_vec(), Malformed::Syntax),
        ("an id without a request", within(&[8, 1]), Malformed::NoRequest),
        ("connect and rpc", within(&[8, 1, 4 << 3 | 2, 0, 13 << 3 | 2, 0]), Malformed::SeveralRequests),
        ("send and publish", within(&[12 << 3 | 2, 0, 7 << 3 | 2, 0]), Malformed::SeveralRequests),
        ("an id without its number", within(&[8]), Malformed::Syntax),
        ("an id of eleven bytes", within(&[vec![8], vec![0xff; 10], vec![1]].concat()), Malformed::Syntax),
        ("an id that is a text", within(&[10, 1, b'1']), Malformed::Syntax),
        ("a request that is a number", within(&[4 << 3, 1]), Malformed::Syntax),
        ("a request beyond its record", within(&[8, 1, 7 << 3 | 2, 9]), Malformed::Syntax),
        ("a channel beyond its request", within(&[8, 1, 6 << 3 | 2, 2, 10, 9]), Malformed::Syntax),
        ("a channel that is no text", within(&[8, 1, 6 << 3 | 2, 3, 10, 1, 0xff]), Malformed::Syntax),
        ("a token that is no text", within(&[8, 1, 4 << 3 | 2, 3, 10, 1, 0xff]), Malformed::Syntax),
        ("an entry that is a number", within(&[8, 1, 4 << 3 | 2, 2, 3 << 3, 1]), Malformed::Syntax),
        ("an entry beyond its map", within(&[8, 1, 4 << 3 | 2, 2, 3 << 3 | 2, 9]), Malformed::Syntax),
        ("a field with the number 0", within(&[2, 0]), Malformed::Syntax),
        ("a wire type that does not exist", within(&[0x0f]), Malformed::Syntax),
        ("a group without an end", within(&[0x1b, 8, 1]), Malformed::Syntax),
        ("a group without a beginning", within(&[0x1c]), Malformed::Syntax),
        ("a group in a group, and so on", within(&nested(20_000)), Malformed::Syntax),
    ] {
        assert_eq!(commands(&bytes).expect_err(what), why, "{what}");
    }
    for tag in REQUEST_TAGS {
        let request = [(tag << 3 | 2) as u8, 0];
        let bytes = within(&[&[8, 1], &request[..], &request[..]].concat());
        assert_eq!(commands(&bytes), Err(Malformed::SeveralRequests), "{tag} twice");
    }
}

#[test]
fn what_is_not_offered_is_refused_even_if_it_is_empty_inside() {
    // A filter that contains filters, deeper than any library would follow.
    let filter = (0..2_000).fold(Vec::new(), |inner, _| {
        let mut filter = Vec::new();
        field(6, &inner, &mut filter);
        filter
    });
    let subscribe = |filters: &[&[u8]]| {
        let mut subscribe = WireSubscribe { channel: "a".into(), ..WireSubscribe::default() }.encode_to_vec();
        for filter in filters {
            field(13, filter, &mut subscribe);
        }
        let mut command = vec![8, 1];
        field(5, &subscribe, &mut command);
        within(&command)
    };
    let headers = |entry: &[u8]| {
        let mut connect = Vec::new();
        field(6, entry, &mut connect);
        record(&connect_of(connect))
    };
    for (command, name) in [
        (subscribe(&[&filter]), "`tf` of `subscribe` has more than 4096 bytes"),
        (subscribe(&[&[], &filter]), "`tf` of `subscribe` has more than 4096 bytes"),
        (headers(&[10, 1, b'a', 18, 1, b'b']), "`headers` of `connect` is not offered here"),
        (headers(&[]), "`headers` of `connect` is not offered here"),
    ] {
        let Request::Refused { why, .. } = commands(&command).expect("valid").remove(0).request else {
            panic!("{name}")
        };
        assert_eq!((why.code, &*why.message), (107, name));
    }
    assert!(matches!(commands(&subscribe(&[&[]])).expect("valid")[0].request, Request::Subscribe(_)));
}

#[test]
fn a_filter_that_is_none_is_refused_before_it_costs_anything() {
    let filter = |tf: Vec<u8>| {
        let subscribe = WireSubscribe { channel: "a".into(), tf: tf.into(), ..WireSubscribe::default() };
        record(&WireCommand { id: 1, subscribe: Some(subscribe), ..WireCommand::default() })
    };
    let many = |tag: u8| {
        let mut all = Vec::new();
        (0..2_000).for_each(|_| field(tag, &[], &mut all));
        all
    };
    let with = |tag: u8, bytes: &[u8]| {
        let mut all = Vec::new();
        field(tag, bytes, &mut all);
        all
    };
    for (what, tf, why) in [
        ("many values", many(5), InvalidFilter::TooMany),
        ("many nodes", many(6), InvalidFilter::TooMany),
        ("many nodes in one", [with(1, b"not"), with(6, &many(6))].concat(), InvalidFilter::TooMany),
        ("a number for a text", vec![8, 1], InvalidFilter::Type),
        ("no text", with(2, b"\xff"), InvalidFilter::Type),
        ("a length beyond the end", vec![0x12, 9], InvalidFilter::Type),
        ("a field of tomorrow", vec![0x38, 1], InvalidFilter::Key),
    ] {
        let message = filter(tf);
        let bytes = message.len();
        let (memory, commands) = memory_of(message);
        assert!(memory <= 4096 + 16 * bytes as u64, "{what}: {memory} bytes of memory for {bytes}");
        let [Command { request: Request::Refused { why: error, .. }, .. }] = &commands.expect(what)[..]
        else {
            panic!("{what}")
        };
        assert_eq!((error.code, &*error.message), (107, format!("`tf` of `subscribe` {why}").as_str()));
    }
}

/// The same filter in both encodings, right or wrong.
fn filter_in_both(random: &mut Random, levels: usize) -> (Value, WireFilterNode) {
    let mut wire = WireFilterNode::default();
    let mut nodes = Vec::new();
    if levels > 0 && random.flip() {
        wire.op = random.one_of(&["and", "or", "not", "xor"]).into();
        for _ in 0..1 + random.below(2) {
            let (text, node) = filter_in_both(random, levels - 1);
            wire.nodes.push(node.encode_to_vec().into());
            nodes.push(text);
        }
    } else {
        wire.key = random.one_of(&["a", "a", "b", "h\u{e9}\n", ""]).into();
        wire.cmp = random.one_of(&["eq", "eq", "in", "ex", "lt", "like"]).into();
        match &*wire.cmp {
            "in" => wire.vals = vec!["x".into(), "\"".into()],
            "ex" => (),
            _ => wire.val = random.one_of(&["1", "-2.5", "x"]).into(),
        }
    }
    let WireFilterNode { op, key, cmp, val, vals, .. } = &wire;
    let text = json!({ "op": op, "key": key, "cmp": cmp, "val": val, "vals": vals, "nodes": nodes });
    (text, wire)
}

/// The same subscribe request in both encodings.
fn subscribe_in_both(random: &mut Random) -> (Value, WireSubscribe) {
    let filter = (random.below(4) == 0).then(|| filter_in_both(random, 2));
    let (filter_text, filter) = filter.unzip();
    let wire = WireSubscribe {
        channel: random.one_of(&["a", "open:1", "", "#ann", "white space", "\u{e9}"]).into(),
        token: random.seldom(&["t", "a.b.c"]).into(),
        recover: random.flip(),
        epoch: random.seldom(&["e", "\"quoted\""]).into(),
        offset: random.seldom(&[1, 1 << 53, u64::MAX]),
        data: random.seldom(&["7", "{\"a\":[1, 2]}"]).into(),
        join_leave: random.flip(),
        flag: random.seldom(&[1, 2, 3, -1]),
        delta: random.seldom(&["fossil", "x"]).into(),
        kind: i32::from(random.below(40) == 0),
        phase: i32::from(random.below(40) == 0),
        limit: i32::from(random.below(40) == 0),
        cursor: if random.below(40) == 0 { "c".into() } else { String::new() },
        asc: random.below(40) == 0,
        tf: filter.map(|filter| filter.encode_to_vec().into()).unwrap_or_default(),
    };
    let mut text = json!({
        "channel": wire.channel, "token": wire.token, "recover": wire.recover, "epoch": wire.epoch,
        "offset": wire.offset, "join_leave": wire.join_leave, "flag": wire.flag, "delta": wire.delta,
        "type": wire.kind, "phase": wire.phase, "limit": wire.limit, "cursor": wire.cursor, "asc": wire.asc,
    });
    text["tf"] = filter_text.into();
    with_data(&mut text, &wire.data);
    (text, wire)
}

/// Adds a marker for the payload: it must stand in the text byte for byte.
fn with_data(text: &mut Value, data: &[u8]) {
    if !data.is_empty() {
        text["data"] = json!(format!("PAYLOAD{}", String::from_utf8_lossy(data)));
    }
}

/// The text of a command, with its payloads in place of their markers.
fn line(command: &Value) -> String {
    let mut text = command.to_string();
    for data in ["7", "{\"a\":[1, 2]}", "\"x\""] {
        text = text.replace(&json!(format!("PAYLOAD{data}")).to_string(), data);
    }
    text
}

/// The same command in both encodings. Sometimes it has two requests.
fn command_in_both(random: &mut Random) -> (Value, WireCommand) {
    let mut text = json!({ "id": random.one_of(&[0_u32, 1, u32::MAX]) });
    let mut wire = WireCommand { id: text["id"].as_u64().unwrap_or_default() as u32, ..Default::default() };
    for _ in 0..1 + random.below(2) {
        let channel = random.one_of(&["a", "open:1", "", "@c"]);
        let of_channel = || Some(WireChannel { channel: channel.into() });
        let data = random.seldom(&["7", "{\"a\":[1, 2]}", "\"x\""]);
        match random.below(13) {
            0 => {
                let mut connect = WireConnect {
                    token: random.seldom(&["t"]).into(),
                    data: data.into(),
                    name: "js".into(),
                    ..WireConnect::default()
                };
                let mut of_text = json!({ "token": connect.token, "name": "js", "version": null });
                with_data(&mut of_text, data.as_bytes());
                if random.below(20) == 0 {
                    connect.headers = Some(Bytes::from_static(&[10, 1, b'a', 18, 1, b'b']));
                    of_text["headers"] = json!({ "a": "b" });
                }
                let mut bytes = connect.encode_to_vec();
                let mut subs = Map::new();
                for name in ["", "a", "b", "open:1"].into_iter().take(random.below(5)) {
                    let (text, subscribe) = subscribe_in_both(random);
                    let sub = WireSub { channel: name.into(), subscribe: Some(subscribe) };
                    field(SUBS_TAG as u8, &sub.encode_to_vec(), &mut bytes);
                    subs.insert(name.to_owned(), text);
                }
                of_text["subs"] = subs.into();
                text["connect"] = of_text;
                wire.connect = Some(bytes.into());
            }
            1 => {
                let (of_text, subscribe) = subscribe_in_both(random);
                text["subscribe"] = of_text;
                wire.subscribe = Some(subscribe);
            }
            2 => {
                let (kind, removed) = (random.seldom(&[1]), random.below(20) == 0);
                let key = random.seldom(&["", "k"]);
                let mut of_text = json!({ "channel": channel, "type": kind, "key": key, "removed": removed });
                with_data(&mut of_text, data.as_bytes());
                text["publish"] = of_text;
                let (channel, data) = (channel.into(), data.into());
                wire.publish = Some(WirePublish { channel, data, kind, key: key.into(), removed });
            }
            3 => {
                let (limit, reverse) = (random.seldom(&[-1, 10, i32::MAX, i32::MIN]), random.flip());
                let since = random.flip().then(|| WirePosition { offset: 7, epoch: "e".into() });
                let of_text =
                    since.as_ref().map(|since| json!({ "offset": since.offset, "epoch": since.epoch }));
                text["history"] =
                    json!({ "channel": channel, "limit": limit, "reverse": reverse, "since": of_text });
                wire.history = Some(WireHistory { channel: channel.into(), limit, since, reverse });
            }
            4 => {
                let mut of_text = json!({ "method": "m" });
                with_data(&mut of_text, data.as_bytes());
                text["rpc"] = of_text;
                wire.rpc = Some(WireRpc { data: data.into(), method: "m".into() });
            }
            5 => {
                let mut of_text = json!({});
                with_data(&mut of_text, data.as_bytes());
                text["send"] = of_text;
                wire.send = Some(WireData { data: data.into() });
            }
            6 => {
                text["refresh"] = json!({ "token": "t" });
                wire.refresh = Some(WireToken { token: "t".into() });
            }
            7 => {
                text["ping"] = json!({});
                wire.ping = Some(WirePing {});
            }
            8 => {
                text["unsubscribe"] = json!({ "channel": channel });
                wire.unsubscribe = of_channel();
            }
            9 => {
                text["presence"] = json!({ "channel": channel });
                wire.presence = of_channel();
            }
            10 => {
                text["presence_stats"] = json!({ "channel": channel });
                wire.presence_stats = of_channel();
            }
            11 => {
                let (kind, track) = (random.seldom(&[1]), random.below(20) == 0);
                let mut of_text = json!({ "channel": channel, "token": "t", "type": kind });
                let mut sub_refresh = WireSubRefresh { channel: channel.into(), kind, ..Default::default() };
                sub_refresh.token = "t".into();
                if track {
                    of_text["track"] = json!(["a"]);
                    sub_refresh.track = Some(Bytes::from_static(b"a"));
                }
                text["sub_refresh"] = of_text;
                wire.sub_refresh = Some(sub_refresh);
            }
            _ => (),
        }
    }
    (text, wire)
}

#[test]
fn a_command_means_the_same_in_both_encodings() {
    let mut random = Random(7);
    let (mut carried_out, mut refused, mut malformed) = (0, 0, 0);
    for _ in 0..20_000 {
        let (text, wire) = command_in_both(&mut random);
        let line = line(&text);
        let in_json = json::next_command(&mut Bytes::from(line.clone())).expect("one");
        let in_protobuf = next_command(&mut record(&wire).into()).expect("one");
        assert_eq!(in_json, in_protobuf, "{line}");
        *match in_json {
            Ok(Command { request: Request::Refused { .. }, .. }) => &mut refused,
            Ok(_) => &mut carried_out,
            Err(_) => &mut malformed,
        } += 1;
    }
    assert!(carried_out > 5_000 && refused > 500 && malformed > 100, "{carried_out} {refused} {malformed}");
}

/// Decodes a whole message and returns the most memory that was in use, and the commands.
fn memory_of(message: Vec<u8>) -> (u64, Result<Vec<Command>, Malformed>) {
    let mut message = Bytes::from(message);
    let mut all = Ok(Vec::new());
    // One command at a time, as a session does.
    let mut most = 0;
    while let (Ok(commands), false) = (&mut all, message.is_empty()) {
        let mut next = None;
        let used = allocation_counter::measure(|| next = next_command(&mut message));
        most = most.max(used.bytes_max);
        match next.expect("bytes are left") {
            Ok(command) => {
                commands.clear();
                commands.push(command);
            }
            Err(malformed) => all = Err(malformed),
        }
    }
    (most, all)
}

/// The largest message of a client.
const LARGEST: usize = 64 * 1024;

/// As many copies of an item as a message has room for.
fn full_of(item: impl Fn(usize) -> Vec<u8>) -> Vec<u8> {
    let mut all = Vec::new();
    for number in 0.. {
        let item = item(number);
        if all.len() + item.len() > LARGEST - 32 {
            break;
        }
        all.extend(item);
    }
    all
}

#[test]
fn a_message_costs_at_most_sixteen_times_its_size() {
    let entry = |channel: &str, wire: WireSubscribe| {
        let mut bytes = Vec::new();
        let sub = WireSub { channel: channel.into(), subscribe: Some(wire) };
        field(SUBS_TAG as u8, &sub.encode_to_vec(), &mut bytes);
        bytes
    };
    let recovering = || WireSubscribe { recover: true, ..WireSubscribe::default() };
    // The shortest names that are all different.
    let name = |number: usize| {
        let digit = |number: usize| char::from(b'0' + (number % 75) as u8);
        [number, number / 75, number / 75 / 75].map(digit).iter().collect::<String>()
    };
    let with = |tag: u8, bytes: &[u8]| {
        let mut all = Vec::new();
        field(tag, bytes, &mut all);
        all
    };
    let in_subscribe = |bytes: &[u8]| {
        let mut command = vec![8, 1];
        field(5, bytes, &mut command);
        command
    };
    let messages = [
        ("entries of nothing", record(&connect_of(full_of(|_| with(3, &[]))))),
        ("entries with a name", record(&connect_of(full_of(|n| entry(&name(n), WireSubscribe::default()))))),
        ("entries to recover", record(&connect_of(full_of(|n| entry(&name(n), recovering()))))),
        (
            "entries to recover with an epoch",
            record(&connect_of(full_of(|n| {
                entry(&name(n), WireSubscribe { epoch: "e".into(), ..recovering() })
            }))),
        ),
        ("one entry again and again", record(&connect_of(full_of(|_| entry("a", recovering()))))),
        ("headers of nothing", record(&connect_of(full_of(|_| with(6, &[]))))),
        ("tokens", record(&connect_of(full_of(|n| with(1, &[b'a'; 3][..n % 4]))))),
        ("one token", record(&connect_of(with(1, &vec![b'a'; LARGEST - 64])))),
        ("commands of nothing", full_of(|_| vec![0])),
        ("subscribes of nothing", full_of(|_| vec![4, 8, 1, 0x2a, 0])),
        ("filters of nothing", {
            let command = in_subscribe(&full_of(|_| with(13, &[])));
            let mut message = Vec::new();
            encode_varint(command.len() as u64, &mut message);
            [message, command].concat()
        }),
        ("requests of nothing", {
            let command = full_of(|n| with(4 + (n % 12) as u8, &[]));
            let mut message = Vec::new();
            encode_varint(command.len() as u64, &mut message);
            [message, command].concat()
        }),
    ];
    for (what, message) in messages {
        let bytes = message.len();
        assert!((LARGEST / 2..=LARGEST).contains(&bytes), "{what} is {bytes} bytes");
        let (memory, _) = memory_of(message);
        let factor = memory as f64 / bytes as f64;
        assert!(factor <= 16.0, "{what}: {memory} bytes of memory for {bytes}, {factor:.1} times");
    }
}

#[test]
fn no_bytes_make_the_decoder_panic_or_cost_much() {
    let mut random = Random(3);
    for round in 0..30_000_usize {
        let mut message = match round % 3 {
            // Anything at all.
            0 => (0..random.below(64)).map(|_| random.below(256) as u8).collect(),
            // Keys and lengths that often mean something.
            1 => (0..random.below(96))
                .map(|_| random.one_of(b"\x08\x0a\x12\x1a\x22\x2a\x3a\x01\x02\x04\x80\xff\x00"))
                .collect(),
            // A good message with a few wrong bytes.
            _ => {
                let (_, wire) = command_in_both(&mut random);
                let mut good = record(&wire);
                for _ in 0..random.below(4) {
                    let at = random.below(good.len());
                    good[at] = random.below(256) as u8;
                }
                good
            }
        };
        if random.below(8) == 0 {
            message.truncate(random.below(message.len() + 1));
        }
        let (memory, _) = memory_of(message.clone());
        // A short message may need a buffer for an error, whatever its size.
        assert!(memory <= 4096 + 16 * message.len() as u64, "{memory} bytes for {message:02x?}");
    }
}
