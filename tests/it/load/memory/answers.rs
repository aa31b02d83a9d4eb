//! Answers are bounded: large histories are read in pages, recoveries share one reply, and members that do
//! not fit are only counted.

use gateway_tests::{Client, Frame, Gateway, Redis, Socket, eventually, token};
use serde_json::json;

use super::recover;

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
