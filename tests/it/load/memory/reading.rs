//! Reading creates nothing, in memory or in Redis, and one client creates a limited number of channels. A
//! position in a channel without publications is a position like any other.

use std::time::Instant;

use gateway_tests::{Client, Gateway, Redis};
use serde_json::{Value, json};

use super::recover;

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
