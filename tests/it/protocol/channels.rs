//! What is published, who gets it, who may.

use gateway_tests::{Client, Gateway, token};
use serde_json::{Value, json};

/// Everything is allowed in `open`; each of the others allows one thing to some.
const CONFIG: &str = "
    client.anonymous = true
    [namespaces.open]
    history_size = 5
    presence = true
    join_leave = true
    allow_subscribe = 'anyone'
    allow_publish = 'anyone'
    allow_history = 'anyone'
    allow_presence = 'anyone'
    [namespaces.told]
    join_leave = true
    force_push_join_leave = true
    allow_subscribe = 'anyone'
    [namespaces.closed]
    [namespaces.members]
    allow_subscribe = 'users'
    allow_publish = 'subscribers'
";

async fn gateway() -> Gateway {
    Gateway::with(CONFIG).plugin("10-auth-jwt", "auth-jwt", &token::settings()).start().await
}

#[tokio::test]
async fn what_one_publishes_all_subscribers_get() {
    let gateway = gateway().await;
    let mut ann = Client::connect_as(&gateway, "ann").await;
    let mut bob = Client::connect_as(&gateway, "bob").await;
    let mut eve = Client::connect_as(&gateway, "eve").await;
    ann.subscribe("open:1").await;
    bob.subscribe("open:1").await;
    eve.subscribe("open:2").await;
    bob.publish("open:1", json!({ "text": "hi" })).await;
    let expected = json!({
        "data": { "text": "hi" },
        "info": { "user": "bob", "client": bob.id },
        "offset": 1,
    });
    assert_eq!(ann.publication("open:1").await, expected);
    assert_eq!(bob.publication("open:1").await, expected, "the publisher is a subscriber like others");
    // Whatever eve gets first must not be what was not for her.
    bob.publish("open:2", json!("for eve")).await;
    assert_eq!(eve.publication("open:2").await["data"], "for eve");
}

#[tokio::test]
async fn a_payload_arrives_as_it_was_sent_but_on_one_line() {
    let gateway = gateway().await;
    let mut client = Client::connect(&gateway).await;
    client.subscribe("open:1").await;
    let payloads = [
        "{\"a\" : [1,  2.50, null, true],\n\t\"é\\u0000\\n\": \"\u{1F600}\"}",
        "\"\"",
        "0",
        "false",
        "[[[[]]]]",
        "12345678901234567890123.5e-3",
    ];
    for payload in payloads {
        client
            .send_text(&format!(
                "{{\"id\":77,\"publish\":{{\"channel\":\"open:1\",\"data\":{}}}}}",
                payload.replace('\n', " ")
            ))
            .await;
        let reply = client.reply(77, "publish").await;
        assert!(reply.is_ok(), "{payload}: {reply:?}");
        let got = client.publication("open:1").await;
        assert_eq!(got["data"], serde_json::from_str::<Value>(payload).unwrap(), "{payload}");
    }
}

#[tokio::test]
async fn who_leaves_gets_nothing_more() {
    let gateway = gateway().await;
    let mut client = Client::connect(&gateway).await;
    client.subscribe("open:1").await;
    client.subscribe("open:2").await;
    client.ask("unsubscribe", json!({ "channel": "open:1" })).await.unwrap();
    client.publish("open:1", json!("unheard")).await;
    client.publish("open:2", json!("heard")).await;
    assert_eq!(client.publication("open:2").await["data"], "heard");
    // Not being subscribed is what was asked for.
    client.ask("unsubscribe", json!({ "channel": "open:1" })).await.unwrap();
}

#[tokio::test]
async fn subscribers_are_told_who_comes_and_goes() {
    let gateway = gateway().await;
    let mut ann = Client::connect_as(&gateway, "ann").await;
    ann.ask("subscribe", json!({ "channel": "open:1", "join_leave": true })).await.unwrap();
    assert_eq!(ann.push().await["join"]["info"]["client"], ann.id);
    let mut bob = Client::connect_as(&gateway, "bob").await;
    bob.subscribe("open:1").await;
    let info = json!({ "info": { "user": "bob", "client": bob.id } });
    assert_eq!(ann.push().await, json!({ "channel": "open:1", "join": info }));
    let both = ann.ask("presence_stats", json!({ "channel": "open:1" })).await.unwrap();
    assert_eq!(both, json!({ "num_clients": 2, "num_users": 2 }));
    bob.close().await;
    assert_eq!(ann.push().await, json!({ "channel": "open:1", "leave": info }));
    let presence = ann.ask("presence", json!({ "channel": "open:1" })).await.unwrap();
    assert_eq!(presence, json!({ "presence": { &ann.id: { "user": "ann", "client": ann.id } } }));
}

#[tokio::test]
async fn where_a_namespace_forces_it_subscribers_are_told_unasked() {
    let gateway = gateway().await;
    let mut ann = Client::connect_as(&gateway, "ann").await;
    for ask in [json!({}), json!({ "join_leave": false })] {
        let mut subscribe = json!({ "channel": "told:1" });
        subscribe.as_object_mut().unwrap().extend(ask.as_object().unwrap().clone());
        ann.ask("subscribe", subscribe).await.unwrap();
        assert_eq!(ann.push().await["join"]["info"]["user"], "ann");
        let mut bob = Client::connect_as(&gateway, "bob").await;
        bob.subscribe("told:1").await;
        assert_eq!(ann.push().await["join"]["info"]["user"], "bob");
        bob.close().await;
        assert_eq!(ann.push().await["leave"]["info"]["user"], "bob");
        ann.ask("unsubscribe", json!({ "channel": "told:1" })).await.unwrap();
    }
    // Elsewhere they have to ask.
    ann.subscribe("open:1").await;
    ann.publish("open:1", json!("first")).await;
    assert_eq!(ann.publication("open:1").await["data"], "first");
}

#[tokio::test]
async fn history_is_read_in_parts_and_both_ways() {
    let gateway = gateway().await;
    let mut client = Client::connect(&gateway).await;
    for n in 1..=7 {
        client.publish("open:1", json!(n)).await;
    }
    let mut read = async |parameters: Value| {
        let mut all = json!({ "channel": "open:1" });
        all.as_object_mut().unwrap().extend(parameters.as_object().unwrap().clone());
        let history = client.ask("history", all).await?;
        assert_eq!(history["offset"], 7);
        let epoch = history["epoch"].as_str().unwrap().to_owned();
        let publications = history["publications"].as_array().cloned().unwrap_or_default();
        Ok((
            publications.iter().map(|publication| publication["data"].as_u64().unwrap()).collect::<Vec<_>>(),
            epoch,
        ))
    };
    let (none, epoch) = read(json!({})).await.unwrap();
    assert!(none.is_empty());
    let since = |offset: u64| json!({ "offset": offset, "epoch": epoch });
    for (parameters, expected) in [
        (json!({ "limit": -1 }), vec![3, 4, 5, 6, 7]),
        (json!({ "limit": 2 }), vec![3, 4]),
        (json!({ "limit": 2, "reverse": true }), vec![7, 6]),
        (json!({ "limit": -1, "since": since(5) }), vec![6, 7]),
        (json!({ "limit": 1, "since": since(5) }), vec![6]),
        (json!({ "limit": -1, "since": since(5), "reverse": true }), vec![4, 3]),
        (json!({ "limit": -1, "since": since(7) }), vec![]),
    ] {
        assert_eq!(read(parameters.clone()).await.unwrap().0, expected, "{parameters}");
    }
    let foreign = json!({ "limit": -1, "since": { "offset": 5, "epoch": "other" } });
    let refused: gateway_tests::Refused = read(foreign).await.unwrap_err();
    assert_eq!(refused.code, 112);
}

#[tokio::test]
async fn what_a_channel_does_not_allow_is_refused() {
    let gateway = gateway().await;
    let mut user = Client::connect_as(&gateway, "ann").await;
    let mut nobody = Client::connect(&gateway).await;
    let publish = |channel| json!({ "channel": channel, "data": 1 });
    let channel = |channel| json!({ "channel": channel });
    for (command, parameters, code_for_user, code_for_nobody) in [
        ("subscribe", channel("closed:1"), 103, 103),
        ("publish", publish("closed:1"), 103, 103),
        ("history", channel("closed:1"), 103, 103),
        ("presence", channel("closed:1"), 103, 103),
        ("presence_stats", channel("closed:1"), 103, 103),
        ("subscribe", channel("no-namespace"), 103, 103),
        ("subscribe", channel("unknown:1"), 102, 102),
        ("publish", publish("unknown:1"), 102, 102),
        ("publish", publish("members:1"), 103, 103),
        ("subscribe", channel("members:1"), 0, 103),
        ("subscribe", channel("members:1"), 105, 103),
        ("publish", publish("members:1"), 0, 103),
        ("history", channel("open:1"), 0, 0),
        ("subscribe", channel("#ann"), 103, 103),
        ("publish", publish("#ann"), 103, 103),
        ("rpc", json!({ "method": "x" }), 108, 108),
        ("sub_refresh", channel("open:1"), 103, 103),
    ] {
        for (client, expected) in [(&mut user, code_for_user), (&mut nobody, code_for_nobody)] {
            let code =
                client.ask(command, parameters.clone()).await.map_or_else(|refused| refused.code, |_| 0);
            assert_eq!(code, expected, "{command} {parameters}");
        }
    }
}

#[tokio::test]
async fn one_message_may_carry_many_commands() {
    let gateway = gateway().await;
    let mut client = Client::open(gateway.address()).await;
    let mut lines = vec![json!({ "id": 1, "connect": {} })];
    lines.extend((2..=100).map(|id| json!({ "id": id, "subscribe": { "channel": format!("open:{id}") } })));
    let message: Vec<_> = lines.iter().map(Value::to_string).collect();
    client.send_text(&message.join("\n")).await;
    client.reply(1, "connect").await.unwrap();
    for id in 2..=100 {
        client.reply(id, "subscribe").await.unwrap();
    }
}
