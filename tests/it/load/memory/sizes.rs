//! Publications, and what others learn about a client, have a size limit.

use gateway_tests::{Client, Gateway, Redis, token};
use serde_json::json;

use super::{LIVE, SCRIPTED};

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
            .plugin("50-scripted", "guest-scripted", &format!("{SCRIPTED}[config]\nkinds = ['rpc']\n"))
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
