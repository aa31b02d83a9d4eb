//! What clients make the gateway hold: reading makes nothing, answers and queues are bounded, and whoever
//! fills them pays.

use std::time::{Duration, Instant};

use gateway_tests::{
    Client, Frame, Gateway, Redis, Socket, eventually, eventually_within, token, within_time,
};
use serde_json::{Value, json};

/// Channels that exist for nobody.
const QUIET: usize = 2000;

/// Everything may be read, and little may exist.
const READING: &str = "
    client.anonymous = true
    memory = { channels_max = 100, unsubscribed_channels_max = 100 }
    [namespaces.quiet]
    history_size = 100
    recovery = true
    presence = true
    allow_subscribe = 'anyone'
    allow_publish = 'anyone'
    allow_history = 'anyone'
    allow_presence = 'anyone'
";

/// Asks everything there is to ask of channels in which nothing was ever published.
async fn read_everything(gateway: &Gateway) {
    let mut client = Client::connect(gateway).await;
    for number in 0..QUIET {
        let channel = format!("quiet:{number}");
        let recover =
            json!({ "channel": channel, "recover": true, "offset": number % 2, "epoch": "of before" });
        let questions = [
            ("history", json!({ "channel": channel })),
            ("history", json!({ "channel": channel, "limit": -1 })),
            ("history", json!({ "channel": channel, "limit": 10, "reverse": true })),
            ("presence", json!({ "channel": channel })),
            ("presence_stats", json!({ "channel": channel })),
            ("subscribe", json!({ "channel": channel })),
            ("unsubscribe", json!({ "channel": channel })),
            ("subscribe", recover),
            ("unsubscribe", json!({ "channel": channel })),
        ];
        let mut ids = Vec::new();
        for (command, parameters) in questions {
            ids.push((client.command(command, parameters).await, command));
        }
        for (id, command) in ids {
            let answer = client.reply(id, command).await;
            answer.unwrap_or_else(|refused| panic!("{command} of {channel}: {refused:?}"));
        }
        if number % 10 == 0 {
            for question in ["history", "presence", "presence_stats"] {
                gateway.post(&format!("/api/{question}"), &json!({ "channel": channel })).await.ok();
            }
        }
    }
}

#[tokio::test]
async fn reading_what_is_not_there_makes_nothing_in_memory() {
    let gateway = Gateway::start(READING).await;
    let before = gateway.memory();
    read_everything(&gateway).await;
    let grown = gateway.memory().saturating_sub(before);
    println!("{QUIET} channels read in every way: {grown} KiB more memory");
    assert!(grown < 8 << 10, "{grown} KiB");
    let mut other = Client::connect(&gateway).await;
    for number in 0..100 {
        other.subscribe(&format!("quiet:mine-{number}")).await;
        other.publish(&format!("quiet:theirs-{number}"), json!(number)).await;
    }
}

#[tokio::test]
async fn reading_what_is_not_there_makes_nothing_in_redis() {
    let redis = Redis::start().await;
    // The members of a channel are written in their time, and that they have gone: that is no reading.
    let reading = READING.replace("allow_presence = 'anyone'", "").replace("presence = true", "");
    let config = format!("redis = {{ url = '{}', prefix = 'gw' }}\n{reading}", redis.url());
    let gateway = Gateway::start(&config).await;
    let keys = async || {
        let all = redis.ask(&["KEYS", "*"]).await.list();
        let mut names: Vec<_> = all.iter().map(|key| key.text()).collect();
        names.sort();
        names
    };
    let writes =
        async || redis.info("persistence").await["rdb_changes_since_last_save"].parse::<u64>().unwrap();
    let bytes = async || redis.info("memory").await["used_memory_dataset"].parse::<u64>().unwrap();
    let (keys_before, writes_before, bytes_before) = (keys().await, writes().await, bytes().await);
    let begun = Instant::now();
    let mut client = Client::connect(&gateway).await;
    for number in 0..QUIET {
        let channel = format!("quiet:{number}");
        let recover =
            json!({ "channel": channel, "recover": true, "offset": number % 2, "epoch": "of before" });
        for (command, parameters) in [
            ("history", json!({ "channel": channel })),
            ("history", json!({ "channel": channel, "limit": -1 })),
            ("subscribe", json!({ "channel": channel })),
            ("unsubscribe", json!({ "channel": channel })),
            ("subscribe", recover),
            ("unsubscribe", json!({ "channel": channel })),
        ] {
            client.ask(command, parameters).await.unwrap();
        }
    }
    let (made, written) = (keys().await, writes().await - writes_before);
    let grown = bytes().await as i64 - bytes_before as i64;
    let made: Vec<_> = made.into_iter().filter(|key| !keys_before.contains(key)).collect();
    println!(
        "{QUIET} channels read in every way: {} keys, {written} writes, {grown} bytes in Redis",
        made.len()
    );
    assert!(made.is_empty(), "{:?}", &made[..made.len().min(5)]);
    // Leases and probes are written, a few in a second.
    let beats = begun.elapsed().as_secs() * 20 + 100;
    assert!(written < beats, "{written} writes, and {beats} would be those of any gateway");
}

#[tokio::test]
async fn what_one_client_publishes_to_keeps_only_so_many_channels() {
    let config = format!("limits.channels_per_connection_max = 20\n{READING}");
    let redis = Redis::start().await;
    for config in [config.clone(), format!("redis = {{ url = '{}', prefix = 'gw' }}\n{config}", redis.url())]
    {
        let gateway = Gateway::start(&config).await;
        let mut greedy = Client::connect(&gateway).await;
        let mut codes = Vec::new();
        for number in 0..50 {
            let publish = json!({ "channel": format!("quiet:greedy-{number}"), "data": 1 });
            codes.extend(greedy.ask("publish", publish).await.err().map(|refused| refused.code));
        }
        assert_eq!(codes, [106; 30]);
        greedy.publish("quiet:greedy-7", json!("what it keeps it may go on to publish to")).await;
        Client::connect(&gateway).await.publish("quiet:greedy-40", json!("others are not concerned")).await;
    }
}

fn recover(channel: &str, offset: u64, epoch: &Value) -> Value {
    json!({ "channel": channel, "recover": true, "offset": offset, "epoch": epoch })
}

fn payloads(answer: &Value) -> Vec<u64> {
    let publications = answer["publications"].as_array().cloned().unwrap_or_default();
    publications.iter().map(|publication| publication["data"].as_u64().unwrap()).collect()
}

#[tokio::test]
async fn a_position_where_nothing_was_published_is_as_good_as_any_other() {
    let redis = Redis::start().await;
    let config = format!("redis = {{ url = '{}', prefix = 'gw' }}\n{READING}", redis.url());
    let (a, b) = (Gateway::start(&config).await, Gateway::start(&config).await);
    let alone = Gateway::start(READING).await;
    for (here, there) in [(&a, &b), (&alone, &alone)] {
        let mut staying = Client::connect(here).await;
        let mut leaving = Client::connect(there).await;
        let epoch = staying.subscribe("quiet:1").await["epoch"].clone();
        let left = leaving.subscribe("quiet:1").await;
        assert_eq!(left.get("offset").and_then(Value::as_u64).unwrap_or(0), 0);
        leaving.close().await;
        let mut publisher = Client::connect(there).await;
        for number in 1..=5 {
            publisher.publish("quiet:1", json!(number)).await;
        }
        // Who stayed goes on without a word.
        for number in 1..=5 {
            let publication = staying.publication("quiet:1").await;
            assert_eq!((&publication["data"], &publication["offset"]), (&json!(number), &json!(number)));
        }
        // Who left comes back and gets all of it, here or there, and so does who saw a part.
        for (gateway, offset, epoch) in
            [(here, 0, &left["epoch"]), (there, 0, &left["epoch"]), (there, 3, &epoch)]
        {
            let mut returning = Client::connect(gateway).await;
            let subscribed = returning.ask("subscribe", recover("quiet:1", offset, epoch)).await.unwrap();
            assert_eq!(subscribed["recovered"], true, "{subscribed}");
            assert_eq!(payloads(&subscribed), (offset + 1..=5).collect::<Vec<_>>());
            publisher.publish("quiet:elsewhere", json!(1)).await;
        }
    }
}

#[tokio::test]
async fn a_position_where_nothing_was_published_is_worth_nothing_after_a_flush() {
    let redis = Redis::start().await;
    let config = format!("redis = {{ url = '{}', prefix = 'gw' }}\n{READING}", redis.url());
    let (a, b) = (Gateway::start(&config).await, Gateway::start(&config).await);
    let mut staying = Client::connect(&a).await;
    let told = staying.subscribe("quiet:1").await["epoch"].clone();
    let mut publisher = Client::connect(&b).await;
    for number in 1..=3 {
        publisher.publish("quiet:1", json!(number)).await;
        assert_eq!(staying.publication("quiet:1").await["data"], number);
    }
    redis.ask(&["FLUSHALL"]).await;
    for number in 4..=8 {
        publisher.publish("quiet:1", json!(number)).await;
    }
    let push = staying.push().await;
    assert_eq!(push["unsubscribe"]["code"], 2500, "who stayed is told: {push}");
    for offset in [0, 3] {
        let mut returning = Client::connect(&b).await;
        let subscribed = returning.ask("subscribe", recover("quiet:1", offset, &told)).await.unwrap();
        assert_ne!(subscribed["recovered"], true, "from {offset}: {subscribed}");
    }
}

/// A namespace with large histories.
const LARGE: &str = "
    client.anonymous = true
    [namespaces.large]
    history_size = 300
    recovery = true
    presence = true
    allow_subscribe = 'anyone'
    allow_publish = 'anyone'
    allow_history = 'anyone'
    allow_presence = 'anyone'
";

/// Publishes so many to a channel, each of 60 KB, over the API.
async fn fill(gateway: &Gateway, channel: &str, count: usize) {
    let padding = "x".repeat(60_000);
    for number in 1..=count {
        let data = json!({ "n": number, "padding": padding });
        gateway.post("/api/publish", &json!({ "channel": channel, "data": data })).await.ok();
    }
}

#[tokio::test]
async fn a_client_that_asks_for_much_and_reads_nothing_costs_what_the_settings_say() {
    const DEAF: usize = 40;
    let gateway = Gateway::start(LARGE).await;
    fill(&gateway, "large:1", 300).await;
    let before = gateway.memory();
    let mut deaf = Vec::new();
    for _ in 0..DEAF {
        let mut socket = Socket::open_small(gateway.address(), "/connection/websocket").await;
        socket.send(&Frame::text("{\"id\":1,\"connect\":{}}").bytes()).await;
        socket.frame().await.expect("a reply");
        for id in 2..6 {
            let history = format!("{{\"id\":{id},\"history\":{{\"channel\":\"large:1\",\"limit\":-1}}}}");
            socket.send(&Frame::text(&history).bytes()).await;
        }
        deaf.push(socket);
    }
    // Once another client is served everything before it was carried out.
    for _ in 0..4 {
        Client::connect(&gateway).await.ask("history", json!({ "channel": "large:1" })).await.unwrap();
    }
    let each = gateway.memory().saturating_sub(before) / DEAF as u64;
    println!("{DEAF} clients that ask for 17 MiB and read nothing: {each} KiB each");
    assert!(each < 1200, "{each} KiB, and `outbound_bytes_max` is a MiB");
}

#[tokio::test]
async fn a_large_history_is_read_in_pages_and_nothing_of_it_is_left_out() {
    let redis = Redis::start().await;
    let shared = format!("redis = {{ url = '{}', prefix = 'gw' }}\n{LARGE}", redis.url());
    let mut pages_of = Vec::new();
    for config in [LARGE, &shared] {
        let gateway = Gateway::start(config).await;
        let mut client = Client::connect(&gateway).await;
        let epoch = client.subscribe("large:1").await["epoch"].clone();
        client.ask("unsubscribe", json!({ "channel": "large:1" })).await.unwrap();
        fill(&gateway, "large:1", 100).await;
        for reverse in [false, true] {
            let (mut read, mut pages, mut since) = (Vec::new(), 0, None);
            loop {
                let mut query = json!({ "channel": "large:1", "limit": 1000, "reverse": reverse });
                if let Some(offset) = since {
                    query["since"] = json!({ "offset": offset, "epoch": epoch });
                }
                let page = client.ask("history", query).await.unwrap();
                assert_eq!(page["offset"], 100);
                assert!(page.to_string().len() < 600_000, "{} bytes", page.to_string().len());
                let publications = page["publications"].as_array().cloned().unwrap_or_default();
                let Some(last) = publications.last() else { break };
                since = last["offset"].as_u64();
                read.extend(publications.iter().map(|one| one["data"]["n"].as_u64().unwrap()));
                pages += 1;
                if since == Some(1) && reverse {
                    break;
                }
            }
            if reverse {
                read.reverse();
            }
            assert_eq!(read, (1..=100).collect::<Vec<_>>(), "reverse: {reverse}");
            pages_of.push(pages);
        }
        // What does not fit into one answer is no recovery, and said so; what fits is one.
        for (offset, recovered) in [(0, false), (50, false), (95, true)] {
            let subscribed = client.ask("subscribe", recover("large:1", offset, &epoch)).await.unwrap();
            assert_eq!(subscribed["recovered"] == true, recovered, "from {offset}");
            assert_eq!(
                subscribed["publications"].as_array().map_or(0, Vec::len),
                if recovered { 5 } else { 0 }
            );
            client.ask("unsubscribe", json!({ "channel": "large:1" })).await.unwrap();
        }
    }
    println!(
        "100 publications of 60 KB: pages forwards and backwards, in memory and with Redis {pages_of:?}"
    );
    assert!(pages_of.iter().all(|pages| *pages == pages_of[0]), "{pages_of:?}");
}

#[tokio::test]
async fn recoveries_that_come_with_the_connect_reply_share_its_room() {
    const CHANNELS: [&str; 4] = ["large:1", "large:2", "large:3", "large:4"];
    let redis = Redis::start().await;
    let shared = format!("redis = {{ url = '{}', prefix = 'gw' }}\n{LARGE}", redis.url());
    for config in [LARGE, &shared] {
        let gateway =
            Gateway::with(config).plugin("10-auth-jwt", "auth-jwt", &token::settings()).start().await;
        let token = token::with("ann", json!({ "channels": CHANNELS }));
        let client = Client::connect_with(&gateway, json!({ "token": token })).await;
        let subs: serde_json::Map<_, _> = CHANNELS
            .map(|channel| (channel.to_owned(), recover(channel, 0, &client.hello["subs"][channel]["epoch"])))
            .into_iter()
            .collect();
        client.close().await;
        for channel in CHANNELS {
            fill(&gateway, channel, 5).await;
        }
        let client = Client::connect_with(&gateway, json!({ "token": token, "subs": subs })).await;
        let bytes = client.hello.to_string().len();
        assert!(bytes < 560 << 10, "{bytes} bytes");
        let mut recovered = 0;
        for channel in CHANNELS {
            let subscribed = &client.hello["subs"][channel];
            let publications = subscribed["publications"].as_array().map_or(0, Vec::len);
            if subscribed["recovered"] == true {
                assert_eq!(publications, 5, "{channel}");
                recovered += 1;
            } else {
                assert_eq!((publications, &subscribed["offset"]), (0, &json!(5)), "{channel}");
            }
        }
        assert_eq!(recovered, 1, "half a MiB has room for one of 300 KB");
    }
}

#[tokio::test]
async fn members_that_are_too_many_for_an_answer_are_counted_only() {
    const MEMBERS: usize = 400;
    let redis = Redis::start().await;
    let shared = format!("redis = {{ url = '{}', prefix = 'gw' }}\n{LARGE}", redis.url());
    for config in [LARGE, &shared] {
        let gateway = Gateway::start(&format!(
            "limits = {{ message_bytes_max = '1KiB', outbound_bytes_max = '64KiB' }}\n{config}"
        ))
        .await;
        let mut members = Vec::new();
        for _ in 0..MEMBERS {
            let mut client = Client::connect(&gateway).await;
            client.subscribe("large:1").await;
            members.push(client);
        }
        let refused = members[0].ask("presence", json!({ "channel": "large:1" })).await.unwrap_err();
        assert_eq!((refused.code, refused.temporary), (106, false), "{}", refused.message);
        assert!(refused.message.contains("presence_stats"), "{}", refused.message);
        let count = members[0].ask("presence_stats", json!({ "channel": "large:1" })).await.unwrap();
        assert_eq!(count["num_clients"], MEMBERS);
        for client in members.drain(100..) {
            client.close().await;
        }
        eventually("the others to have gone", async || {
            let count = gateway.post("/api/presence_stats", &json!({ "channel": "large:1" })).await.ok();
            (count["result"]["num_clients"] == 100).then_some(())
        })
        .await;
        let listed = members[0].ask("presence", json!({ "channel": "large:1" })).await.unwrap();
        assert_eq!(listed["presence"].as_object().unwrap().len(), 100);
    }
}

/// A subscriber with little room that reads nothing after the reply.
async fn deaf_subscriber(gateway: &Gateway, channel: &str) -> Socket {
    let mut socket = Socket::open_small(gateway.address(), "/connection/websocket").await;
    let subscribe = format!("{{\"id\":2,\"subscribe\":{{\"channel\":\"{channel}\"}}}}");
    for command in ["{\"id\":1,\"connect\":{}}", &subscribe] {
        socket.send(&Frame::text(command).bytes()).await;
        socket.frame().await.expect("a reply");
    }
    socket
}

async fn backlog(gateway: &Gateway) -> f64 {
    // It is looked at twenty times a second.
    tokio::time::sleep(Duration::from_millis(120)).await;
    gateway.metrics().await.get("gateway_outbound_backlog_bytes")
}

/// Publishes to a channel until that much more waits for clients.
async fn back_up(gateway: &Gateway, channel: &str, bytes: f64) {
    let before = backlog(gateway).await;
    let padding = "x".repeat(20_000);
    within_time(Duration::from_secs(60), "a backlog", async {
        loop {
            let waits = backlog(gateway).await - before;
            if waits >= bytes {
                break;
            }
            // The system takes much before anything waits.
            for _ in 0..if bytes - waits < 100_000.0 { 1 } else { 4 } {
                gateway.post("/api/publish", &json!({ "channel": channel, "data": padding })).await.ok();
            }
        }
    })
    .await;
}

const LIVE: &str = "
    client.anonymous = true
    [namespaces.live]
    allow_subscribe = 'anyone'
    allow_publish = 'anyone'
";

#[tokio::test]
async fn a_reader_that_takes_a_little_now_and_then_is_closed() {
    let gateway = Gateway::start(&format!("limits.write_timeout = '5s'\n{LIVE}")).await;
    let mut sipping = deaf_subscriber(&gateway, "live:1").await;
    back_up(&gateway, "live:1", 150_000.0).await;
    let begun = Instant::now();
    let mut taken = 0;
    // 10 KB in a second at most, for as long as it takes; there is always more.
    while begun.elapsed() < Duration::from_secs(20) {
        tokio::time::sleep(Duration::from_millis(100)).await;
        let Some(count) = sipping.sip(1000).await else { break };
        taken += count;
        let slow = gateway.metrics().await.get("gateway_connections_closed_total{cause=\"slow\"}");
        if slow > 0.0 {
            break;
        }
    }
    println!("closed after {} ms in which it took {taken} bytes", begun.elapsed().as_millis());
    assert!(begun.elapsed() < Duration::from_secs(15), "it goes on for ever");
}

#[tokio::test]
async fn when_all_together_is_too_much_those_go_for_whom_most_waits() {
    let config = format!(
        "listen.workers = 1\nmemory.outbound_bytes_max = '2MiB'\nlimits.write_timeout = '5m'\n{LIVE}"
    );
    let gateway = Gateway::start(&config).await;
    let mut clients = Vec::new();
    for channel in ["live:most", "live:second", "live:third", "live:least"] {
        clients.push(deaf_subscriber(&gateway, channel).await);
    }
    for (channel, kib) in
        [("live:least", 100.0), ("live:most", 850.0), ("live:second", 550.0), ("live:third", 400.0)]
    {
        back_up(&gateway, channel, kib * 1024.0).await;
    }
    let closed = "gateway_connections_closed_total{cause=\"slow\"}";
    assert_eq!(gateway.metrics().await.get(closed), 0.0, "so far it fits");
    let padding = "x".repeat(20_000);
    eventually_within(Duration::from_secs(30), "somebody to go", async || {
        gateway.post("/api/publish", &json!({ "channel": "live:third", "data": padding })).await.ok();
        (gateway.metrics().await.get(closed) > 0.0).then_some(())
    })
    .await;
    assert_eq!(clients[0].closed().await.code, Some(3008), "the one for whom most waited");
    let metrics = gateway.metrics().await;
    assert_eq!((metrics.get(closed), metrics.get("gateway_outbound_evictions_total")), (1.0, 1.0));
    let left = backlog(&gateway).await;
    println!("what waits after the largest has gone: {left} bytes of 2 MiB");
    assert!((600.0 * 1024.0..2_097_152.0).contains(&left), "{left}");
}

const PUPPET: &str = "[grants]\neffects = ['publish', 'subscribe', 'unsubscribe', 'disconnect', 'refresh']\n[limits]\ndeadline = '1s'\n";

#[tokio::test]
async fn what_a_plugin_makes_of_a_little_is_refused_before_it_fills_the_memory() {
    const ATTACKERS: usize = 12;
    let puppet = format!("{PUPPET}[config]\nkinds = ['rpc']\n");
    let gateway = Gateway::with(LIVE).plugin("50-puppet", "guest-puppet", &puppet).start().await;
    let mut subscribers = Vec::new();
    for _ in 0..4 {
        subscribers.push(deaf_subscriber(&gateway, "live:1").await);
    }
    let mut attackers = Vec::new();
    for _ in 0..ATTACKERS {
        attackers.push(Client::connect(&gateway).await);
    }
    let mut other = Client::connect(&gateway).await;
    let before = gateway.memory();
    let order = "{\"method\":\"publish\",\"data\":{\"channel\":\"live:1\",\"bytes\":250000}}";
    let message =
        (2..700).map(|id| format!("{{\"id\":{id},\"rpc\":{order}}}")).collect::<Vec<_>>().join("\n");
    assert!(message.len() < 64 << 10, "{}", message.len());
    for attacker in &mut attackers {
        attacker.send_text(&message).await;
    }
    let (mut most, mut slowest) = (before, Duration::ZERO);
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(5) {
        let asked = Instant::now();
        other.publish("live:2", json!(1)).await;
        slowest = slowest.max(asked.elapsed());
        most = most.max(gateway.memory());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    for attacker in &mut attackers {
        for id in 2..700 {
            attacker.reply(id, "rpc").await.unwrap();
        }
    }
    let after = eventually_within(Duration::from_secs(20), "memory to come back", async || {
        let after = gateway.memory();
        (after < before + (64 << 10)).then_some(after)
    })
    .await;
    let refused = gateway.metrics().await.get("gateway_publications_refused_total{reason=\"queue\"}");
    println!(
        "{} messages of 80 bytes, each made 250,000: {} MiB at most, {} MiB before and {} after; {refused} refused; \
         others waited {} ms at most",
        ATTACKERS * 698,
        most >> 10,
        before >> 10,
        after >> 10,
        slowest.as_millis()
    );
    assert!(most - before < 192 << 10, "{} MiB", (most - before) >> 10);
}

#[tokio::test]
async fn publications_have_one_size_limit_whoever_makes_them_and_wherever_they_go() {
    const MAX: usize = 16 << 10;
    let padding = |bytes: usize| "x".repeat(bytes - "{\"pad\":\"\"}".len());
    let rule = |name: &str, bytes| {
        format!(
            "[[config.rules]]\nchannel = 'live:{name}'\nkind = 'publish'\nrewrite = {{ pad = '{}' }}\n",
            padding(bytes)
        )
    };
    let rules = format!(
        "[limits]\neffect_bytes_max = '1MiB'\n{}{}{}",
        rule("fits", MAX),
        rule("large", MAX + 1),
        rule("huge", 200_000)
    );
    let redis = Redis::start().await;
    let limits = "limits = { message_bytes_max = '16KiB', publication_bytes_max = '16KiB' }";
    let alone = format!(
        "{limits}\n{LIVE}[namespaces.kept]\nhistory_size = 10\nallow_subscribe = 'anyone'\nallow_publish = 'anyone'\n"
    );
    let shared = format!("redis = {{ url = '{}', prefix = 'gw' }}\n{alone}", redis.url());
    let mut seen = Vec::new();
    for config in [&alone, &shared] {
        let gateway = Gateway::with(config)
            .plugin("50-puppet", "guest-puppet", &format!("{PUPPET}[config]\nkinds = ['rpc']\n"))
            .plugin("60-router", "router", &rules)
            .start()
            .await;
        let mut subscriber = Client::connect(&gateway).await;
        let mut publisher = Client::connect(&gateway).await;
        let mut outcomes = Vec::new();
        for channel in ["live:fits", "live:large", "live:huge"] {
            subscriber.subscribe(channel).await;
            // What a plugin makes of a message: its sender is told.
            let published = publisher.ask("publish", json!({ "channel": channel, "data": {} })).await;
            if published.is_ok() {
                assert_eq!(subscriber.publication(channel).await["data"].to_string().len(), MAX, "{channel}");
            }
            outcomes.push(published.err().map(|refused| (refused.code, refused.message)));
        }
        assert_eq!(outcomes[0], None);
        assert!(
            outcomes[1].as_ref().is_some_and(|(code, message)| *code == 106 && message.contains("16385")),
            "{outcomes:?}"
        );
        // What a plugin publishes beside it, to channels and to a client: those that are too large come
        // nowhere.
        let me = format!("@{}", subscriber.id);
        for channel in ["live:fits", "kept:1", &me] {
            if channel.starts_with("kept") {
                subscriber.subscribe(channel).await;
            }
            for bytes in [MAX + 1, 100_000, MAX] {
                let order = json!({ "channel": channel, "bytes": bytes - 2 });
                publisher.ask("rpc", json!({ "method": "publish", "data": order })).await.unwrap();
            }
            let data = match channel {
                channel if channel == me => subscriber.direct().await,
                channel => subscriber.publication(channel).await["data"].clone(),
            };
            assert_eq!(data.to_string().len(), MAX, "{channel}");
        }
        // And what comes over the API.
        for (bytes, status) in [(MAX, 200), (MAX + 1, 400)] {
            let data = "x".repeat(bytes - 2);
            let answer = gateway.post("/api/publish", &json!({ "channel": "kept:1", "data": data })).await;
            outcomes.push((answer.text().contains("error")).then(|| (bytes as u64, String::new())));
            assert!(answer.status == 200 || answer.status == status, "{}", answer.text());
        }
        assert_eq!(subscriber.publication("kept:1").await["data"].to_string().len(), MAX);
        let refused = gateway.metrics().await.get("gateway_publications_refused_total{reason=\"limit\"}");
        assert_eq!(refused, 9.0);
        seen.push(outcomes);
    }
    println!("refused alone and with Redis: {:?}", seen[0]);
    assert_eq!(seen[0], seen[1]);
}

#[tokio::test]
async fn what_is_said_of_a_client_has_a_size_limit_within_which_everybody_gets_it() {
    let redis = Redis::start().await;
    let shared = format!("redis = {{ url = '{}', prefix = 'gw' }}\n{LIVE}", redis.url());
    let settings = format!("{}token_bytes_max = '64KiB'\n", token::settings());
    for config in [LIVE, &shared] {
        let gateway = Gateway::with(config).plugin("10-auth-jwt", "auth-jwt", &settings).start().await;
        let token = |bytes: usize| json!({ "token": token::with("ann", json!({ "info": { "said": "x".repeat(bytes) } })) });
        let mut ann = Client::connect_with(&gateway, token(30_000)).await;
        let mut reader = Client::connect_as(&gateway, "bob").await;
        reader.subscribe("live:1").await;
        ann.publish("live:1", json!(1)).await;
        let said = reader.publication("live:1").await["info"]["conn_info"]["said"].as_str().unwrap().len();
        assert_eq!(said, 30_000);
        let mut large = Client::open(gateway.address()).await;
        assert_eq!(large.ask("connect", token(35_000)).await.unwrap_err().code, 100);
        gateway.log().wait(&["the limit is 32768"]).await;
    }
}
