//! Deltas in place of payloads: what is on the wire, when a payload is whole, and what a delta is made of.
//! The published client libraries apply them in `clients.rs`.

use base64::prelude::{BASE64_STANDARD, Engine as _};
use gateway_tests::{Client, Gateway, Redis, Stream, token};
use serde_json::{Value, json};

const CONFIG: &str = "
    client.anonymous = true
    unidirectional.enabled = true
    [namespaces.prices]
    history_size = 100
    recovery = true
    delta = true
    tag_filter = true
    allow_subscribe = 'anyone'
    allow_publish = 'anyone'
    [namespaces.ticks]
    delta = true
    allow_subscribe = 'anyone'
    allow_publish = 'anyone'
    [namespaces.plain]
    history_size = 100
    recovery = true
    allow_subscribe = 'anyone'
    allow_publish = 'anyone'
";

/// A payload that differs a little from that of every other round.
fn price(round: u64) -> Value {
    json!({ "name": "Gr\u{f6}\u{df}e \u{4e16}\u{754c} \u{1f600}", "note": "stays as it is", "n": round })
}

/// Reads a number of a delta and the character after it.
fn number(delta: &mut &[u8]) -> (usize, u8) {
    const DIGITS: &[u8] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ_abcdefghijklmnopqrstuvwxyz~";
    let mut number = 0;
    loop {
        let (first, rest) = delta.split_first().expect("a delta ends with its checksum");
        *delta = rest;
        match DIGITS.iter().position(|digit| digit == first) {
            Some(digit) => number = number * 64 + digit,
            None => return (number, *first),
        }
    }
}

/// Applies a delta as a client does, except that it trusts the checksum.
fn apply(base: &str, delta: &str) -> String {
    let (base, mut delta) = (base.as_bytes(), delta.as_bytes());
    let (size, _) = number(&mut delta);
    let mut out = Vec::new();
    loop {
        match number(&mut delta) {
            (length, b'@') => {
                let (from, _) = number(&mut delta);
                out.extend_from_slice(&base[from..from + length]);
            }
            (length, b':') => {
                let (piece, rest) = delta.split_at(length);
                out.extend_from_slice(piece);
                delta = rest;
            }
            (_, end) => {
                assert_eq!((end, delta.len(), out.len()), (b';', 0, size));
                return String::from_utf8(out).expect("text");
            }
        }
    }
}

/// What a JSON client remembers of a subscription to read its publications.
#[derive(Default)]
struct Reader {
    before: String,
    /// Bytes of the payloads as they came, and as they are.
    came: usize,
    whole: usize,
}

impl Reader {
    /// The payload of a publication, and whether it came as a delta.
    fn read(&mut self, publication: &Value) -> (Value, bool) {
        let data = publication["data"].as_str().unwrap_or_else(|| panic!("no string: {publication}"));
        let is_delta = publication["delta"] == true;
        self.before = if is_delta { apply(&self.before, data) } else { data.to_owned() };
        self.came += data.len();
        self.whole += self.before.len();
        (serde_json::from_str(&self.before).expect("JSON"), is_delta)
    }

    async fn next(&mut self, client: &mut Client, channel: &str) -> (Value, bool) {
        self.read(&client.publication(channel).await)
    }
}

async fn subscribe(client: &mut Client, channel: &str) -> Value {
    let subscribe = json!({ "channel": channel, "delta": "fossil" });
    client.ask("subscribe", subscribe).await.expect("the subscription is accepted")
}

async fn publish(gateway: &Gateway, channel: &str, data: &Value) {
    gateway.post("/api/publish", &json!({ "channel": channel, "data": data })).await.ok();
}

/// With the backplane in memory, and with Redis.
async fn on_each_backplane(test: impl AsyncFn(&Gateway)) {
    test(&Gateway::start(CONFIG).await).await;
    let redis = Redis::start().await;
    test(&Gateway::start(&format!("redis.url = '{}'\n{CONFIG}", redis.url())).await).await;
}

#[tokio::test]
async fn payloads_are_strings_and_all_but_the_first_are_deltas() {
    on_each_backplane(async |gateway| {
        for channel in ["prices:1", "ticks:1"] {
            let mut clients = Vec::new();
            for _ in 0..10 {
                let mut client = Client::connect(gateway).await;
                assert_eq!(subscribe(&mut client, channel).await["delta"], true);
                clients.push((client, Reader::default()));
            }
            let mut plain = Client::connect(gateway).await;
            assert!(plain.subscribe(channel).await.get("delta").is_none());
            for round in 1..=20 {
                publish(gateway, channel, &price(round)).await;
                for (client, reader) in &mut clients {
                    assert_eq!(reader.next(client, channel).await, (price(round), round > 1), "{round}");
                }
                let publication = plain.publication(channel).await;
                assert_eq!(publication["data"], price(round));
                assert!(publication.get("delta").is_none(), "{publication}");
            }
            for (_, reader) in &clients {
                assert!(reader.came < reader.whole / 2, "{} of {} bytes", reader.came, reader.whole);
            }
        }
        let deltas = gateway.metrics().await;
        let [made, before, after] = ["deltas", "delta_input_bytes", "delta_output_bytes"]
            .map(|name| deltas.get(&format!("gateway_{name}_total")));
        // Once for each worker, of which there are at most two here.
        assert!((38.0..=76.0).contains(&made), "{made} deltas for 380 deliveries");
        assert!(after < before / 2.0, "{after} of {before} bytes");
    })
    .await;
}

#[tokio::test]
async fn what_was_recovered_is_whole_and_so_is_the_next_publication() {
    on_each_backplane(async |gateway| {
        for round in 1..=2 {
            publish(gateway, "prices:1", &price(round)).await;
        }
        let mut client = Client::connect(gateway).await;
        let mut recover = subscribe(&mut client, "prices:1").await;
        assert_eq!(recover["offset"], 2, "{recover}");
        client.close().await;
        for round in 3..=5 {
            publish(gateway, "prices:1", &price(round)).await;
        }
        let at = (recover["epoch"].take(), recover["offset"].take());
        let recover = json!({
            "channel": "prices:1", "delta": "fossil", "recover": true, "epoch": at.0, "offset": at.1,
        });
        let mut client = Client::connect(gateway).await;
        let subscribed = client.ask("subscribe", recover).await.unwrap();
        assert_eq!((&subscribed["recovered"], &subscribed["delta"]), (&json!(true), &json!(true)));
        let mut reader = Reader::default();
        let missed = subscribed["publications"].as_array().unwrap();
        let missed: Vec<_> = missed.iter().map(|publication| reader.read(publication)).collect();
        assert_eq!(missed, [(price(3), false), (price(4), false), (price(5), false)]);
        for (round, is_delta) in [(6, false), (7, true), (8, true)] {
            publish(gateway, "prices:1", &price(round)).await;
            assert_eq!(reader.next(&mut client, "prices:1").await, (price(round), is_delta), "{round}");
        }
        client.ask("unsubscribe", json!({ "channel": "prices:1" })).await.unwrap();
        subscribe(&mut client, "prices:1").await;
        for (round, is_delta) in [(9, false), (10, true)] {
            publish(gateway, "prices:1", &price(round)).await;
            assert_eq!(reader.next(&mut client, "prices:1").await, (price(round), is_delta), "{round}");
        }
    })
    .await;
}

#[tokio::test]
async fn a_subscription_of_the_server_has_deltas_if_the_connect_request_names_them() {
    let gateway = Gateway::with(CONFIG).plugin("10-auth-jwt", "auth-jwt", &token::settings()).start().await;
    let token = token::with("ann", json!({ "channels": ["prices:1", "plain:1"] }));
    let asks = json!({ "delta": "fossil" });
    let subs = json!({ "prices:1": asks, "plain:1": asks, "prices:2": asks });
    let connect = json!({ "token": token, "subs": subs });
    let mut client = Client::connect_with(&gateway, connect.clone()).await;
    assert_eq!(client.hello["subs"]["prices:1"]["delta"], true, "{}", client.hello);
    assert!(client.hello["subs"]["plain:1"].get("delta").is_none(), "{}", client.hello);
    let mut silent = Client::connect_with(&gateway, json!({ "token": token })).await;
    assert!(silent.hello["subs"]["prices:1"].get("delta").is_none(), "{}", silent.hello);
    let (address, connect) = (gateway.address(), connect.to_string());
    let mut stream = Stream::get(address, "/connection/uni_sse", &[], &connect).await.expect("a stream");
    let hello = stream.message().await.expect("the connect event");
    assert_eq!(hello["connect"]["subs"]["prices:1"]["delta"], true, "{hello}");
    let (mut reader, mut of_stream) = (Reader::default(), Reader::default());
    for round in 1..=3 {
        publish(&gateway, "prices:1", &price(round)).await;
        assert_eq!(reader.next(&mut client, "prices:1").await, (price(round), round > 1));
        assert_eq!(silent.publication("prices:1").await["data"], price(round));
        let event = stream.next().await.expect("a publication");
        assert_eq!(of_stream.read(&event["pub"]), (price(round), round > 1), "{event}");
    }
}

#[tokio::test]
async fn who_is_not_permitted_deltas_or_names_another_format_gets_none() {
    let gateway = Gateway::start(CONFIG).await;
    let mut client = Client::connect(&gateway).await;
    for (channel, delta) in [("plain:1", "fossil"), ("prices:1", "xdelta3"), ("prices:2", "")] {
        let subscribed =
            client.ask("subscribe", json!({ "channel": channel, "delta": delta })).await.unwrap();
        assert!(subscribed.get("delta").is_none(), "{subscribed}");
        for round in 1..=2 {
            publish(&gateway, channel, &price(round)).await;
            assert_eq!(client.publication(channel).await["data"], price(round));
        }
    }
    let tf = json!({ "key": "kind", "cmp": "ex" });
    let both = json!({ "channel": "prices:3", "delta": "fossil", "tf": tf });
    let refused = client.ask("subscribe", both).await.unwrap_err();
    assert_eq!(refused.code, 107);
    assert!(refused.message.contains("`delta` and `tf` exclude each other"), "{refused:?}");
    let filtered = json!({ "channel": "prices:3", "delta": "xdelta3", "tf": tf });
    client.ask("subscribe", filtered).await.expect("without deltas there is nothing to exclude");
    assert_eq!(gateway.metrics().await.get("gateway_deltas_total"), 0.0, "nobody needed one");
}

/// The plugin of the example lets moderators see everything. For others it masks words, and drops what is not
/// JSON.
#[tokio::test]
async fn whoever_a_plugin_shows_something_else_gets_the_next_payload_whole() {
    let config = CONFIG.replace("[namespaces.prices]", "[namespaces.chat]");
    let settings = "config = { channels = ['chat:*'], words = ['darn'], moderator_token = 'let me see' }";
    let gateway = Gateway::with(&config).plugin("10-redact", "redact", settings).start().await;
    let mut moderator = Client::connect_with(&gateway, json!({ "token": "let me see" })).await;
    let mut member = Client::connect(&gateway).await;
    let (mut all, mut masked) = (Reader::default(), Reader::default());
    for client in [&mut moderator, &mut member] {
        subscribe(client, "chat:1").await;
    }
    let say =
        |word: &str, round: u64| json!({ "text": format!("what the others say is {word}"), "n": round });
    for (round, word, deltas) in [
        (1, "fine", (false, false)),
        (2, "fine", (true, true)),
        (3, "darn", (true, false)),
        (4, "fine", (true, false)),
        (5, "fine", (true, true)),
    ] {
        publish(&gateway, "chat:1", &say(word, round)).await;
        assert_eq!(all.next(&mut moderator, "chat:1").await, (say(word, round), deltas.0), "{round}");
        let seen = say(&word.replace("darn", "***"), round);
        assert_eq!(masked.next(&mut member, "chat:1").await, (seen, deltas.1), "{round}");
    }
    let text = "what the others say is no JSON, and long enough";
    let request = json!({ "channel": "chat:1", "b64data": BASE64_STANDARD.encode(text) });
    gateway.post("/api/publish", &request).await.ok();
    let publication = moderator.publication("chat:1").await;
    assert_eq!(all.read(&publication).0, text);
    for (round, deltas) in [(7, false), (8, true)] {
        publish(&gateway, "chat:1", &say("fine", round)).await;
        assert_eq!(all.next(&mut moderator, "chat:1").await.0, say("fine", round));
        let seen = masked.next(&mut member, "chat:1").await;
        assert_eq!(seen, (say("fine", round), deltas), "6 was dropped for this subscriber");
    }
}
