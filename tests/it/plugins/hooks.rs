//! What plugins are called for beside connects and commands, and what they do to connections other than the
//! one at hand.

use std::collections::BTreeSet;
use std::time::Duration;

use gateway_tests::{Client, Closed, Gateway, RawClient, token, within};
use serde_json::{Value, json};

const CONFIG: &str = "
    [channel]
    allow_subscribe = 'users'
";

/// A settings file of the plugin.
fn settings(config: &str) -> String {
    format!(
        "[grants]\neffects = ['publish', 'subscribe', 'unsubscribe', 'disconnect', 'refresh']\n[config]\n{config}"
    )
}

async fn gateway(config: &str) -> Gateway {
    Gateway::with(CONFIG).plugin("50-scripted", "guest-scripted", &settings(config)).start().await
}

/// Of a user: the plugin takes the token for a name.
async fn connect(gateway: &Gateway, user: &str) -> Client {
    Client::connect_with(gateway, json!({ "token": user })).await
}

/// Has the plugin do something `times` times.
async fn order(client: &mut Client, method: &str, order: Value) -> Value {
    let rpc = json!({ "method": method, "data": order });
    client.ask("rpc", rpc).await.expect("the order is obeyed")["data"].clone()
}

async fn is_served(client: &mut Client) {
    order(client, "nothing", json!({})).await;
}

#[tokio::test]
async fn a_connection_takes_orders_as_fast_as_others_give_them() {
    const ORDERS: usize = 1000;
    let config = format!("listen.workers = 1\nlimits.message_bytes_max = '256KiB'\n{CONFIG}");
    let gateway = Gateway::with(&config)
        .plugin("50-scripted", "guest-scripted", &settings("kinds = ['rpc']"))
        .start()
        .await;
    let (mut ann, mut bob) = (connect(&gateway, "ann").await, connect(&gateway, "bob").await);
    let order = |number: usize| {
        let method = if number.is_multiple_of(2) { "unsubscribe-user" } else { "subscribe-user" };
        let data = json!({ "who": "bob", "channel": "news" });
        json!({ "id": number, "rpc": { "method": method, "data": data } }).to_string()
    };
    for first in [1, ORDERS + 1, 2 * ORDERS + 1, 3 * ORDERS + 1] {
        let message: Vec<_> = (first..first + ORDERS).map(order).collect();
        ann.send_text(&message.join("\n")).await;
    }
    let mut told = 0;
    within("what became of every order", async {
        while told < 4 * ORDERS {
            let push = bob.push().await;
            let known = push["subscribe"].is_object() || push["unsubscribe"].is_object();
            assert!(known, "{push}");
            told += 1;
        }
    })
    .await;
    is_served(&mut bob).await;
}

// -------------------------------------------------------------------------------------------------------
// timers

#[tokio::test]
async fn a_timer_ticks_on_every_instance_and_one_of_them_is_the_first() {
    let gateway = gateway("timer_ms = 200\nkinds = ['rpc']").await;
    let mut client = connect(&gateway, "ann").await;
    client.subscribe("ticks").await;
    let mut seen = Vec::new();
    for _ in 0..6 {
        let tick = client.publication("ticks").await;
        seen.push((tick["data"]["instance"].as_u64().unwrap(), tick["data"]["now"].as_u64().unwrap()));
    }
    let instances: BTreeSet<_> = seen.iter().map(|(instance, _)| *instance).collect();
    assert_eq!(instances, BTreeSet::from([0, 1]), "two workers, two instances: {seen:?}");
    // A grid of 200 ms for each, and a machine that is busy: late is possible, early is not.
    let firsts: Vec<_> = seen.iter().filter(|(instance, _)| *instance == 0).map(|(_, now)| *now).collect();
    assert!(firsts.windows(2).all(|pair| pair[1] > pair[0]), "{seen:?}");
}

#[tokio::test]
async fn a_timer_comes_and_goes_with_the_settings() {
    let gateway = gateway("").await;
    let mut client = connect(&gateway, "ann").await;
    gateway.swap(|folder| folder.settings("50-scripted", &settings("kinds = ['rpc']"))).await;
    client.subscribe("ticks").await;
    gateway.swap(|folder| folder.settings("50-scripted", &settings("timer_ms = 100\nkinds = ['rpc']"))).await;
    client.publication("ticks").await;
    gateway.swap(|folder| folder.settings("50-scripted", &settings("kinds = ['rpc']"))).await;
    // What was on the way when it ended comes before the marker, and nothing after.
    let marker = json!({ "channel": "ticks", "data": "marker" });
    gateway.post("/api/publish", &marker).await.ok();
    within("the marker", async { while client.publication("ticks").await["data"] != "marker" {} }).await;
    let calls = |page: gateway_tests::Metrics| page.get("gateway_plugin_calls_total{plugin=\"scripted\"}");
    let before = calls(gateway.metrics().await);
    tokio::time::sleep(std::time::Duration::from_millis(300)).await;
    assert_eq!(calls(gateway.metrics().await), before, "three intervals without a call");
}

#[tokio::test]
async fn an_interval_that_is_none_refuses_the_plugin_in_words() {
    let gateway = gateway("").await;
    let line = gateway.refusal(|folder| folder.settings("50-scripted", &settings("timer_ms = 99"))).await;
    let sentence = &line.message;
    assert!(sentence.contains("a timer of 99 milliseconds; possible are 100 to 86400000"), "{sentence}");
}

// ---------------------------------------------------------------------------------------------- other
// connections

#[tokio::test]
async fn a_plugin_closes_all_connections_of_a_user_or_one() {
    let gateway = gateway("kinds = ['rpc']").await;
    let mut ann = connect(&gateway, "ann").await;
    // More than workers, so that one lies on another worker than the order.
    let mut bobs = Vec::new();
    for _ in 0..4 {
        bobs.push(connect(&gateway, "bob").await);
    }
    let last = bobs.pop().unwrap();
    order(&mut ann, "disconnect-connection", json!({ "who": last.id })).await;
    let mut last = last;
    assert_eq!(last.closed().await.code, Some(4502));
    for bob in &mut bobs {
        is_served(bob).await;
    }
    order(&mut ann, "disconnect-user", json!({ "who": "bob" })).await;
    for bob in &mut bobs {
        let closed = bob.closed().await;
        assert_eq!((closed.code, &*closed.reason), (Some(4502), "told to"));
    }
    is_served(&mut ann).await;
    let metrics = gateway.metrics().await;
    assert_eq!(metrics.get("gateway_connections_closed_total{cause=\"plugin\"}"), 4.0);
}

#[tokio::test]
async fn a_plugin_subscribes_and_unsubscribes_others() {
    let gateway = gateway("kinds = ['rpc']").await;
    let mut ann = connect(&gateway, "ann").await;
    let (mut one, mut two) = (connect(&gateway, "bob").await, connect(&gateway, "bob").await);
    order(&mut ann, "subscribe-user", json!({ "who": "bob", "channel": "news" })).await;
    for bob in [&mut one, &mut two] {
        let push = bob.push().await;
        assert_eq!((&push["channel"], push["subscribe"].is_object()), (&json!("news"), true), "{push}");
    }
    gateway.post("/api/publish", &json!({ "channel": "news", "data": 1 })).await.ok();
    assert_eq!(one.publication("news").await["data"], 1);
    assert_eq!(two.publication("news").await["data"], 1);

    order(&mut ann, "unsubscribe-connection", json!({ "who": one.id, "channel": "news" })).await;
    let push = one.push().await;
    assert_eq!((&push["channel"], push["unsubscribe"].is_object()), (&json!("news"), true), "{push}");
    let own = ann.id.clone();
    order(&mut ann, "subscribe-connection", json!({ "who": own, "channel": "news" })).await;
    assert!(ann.push().await["subscribe"].is_object());
    gateway.post("/api/publish", &json!({ "channel": "news", "data": 2 })).await.ok();
    assert_eq!(two.publication("news").await["data"], 2);
    assert_eq!(ann.publication("news").await["data"], 2);
    gateway.post("/api/publish", &json!({ "channel": "#bob", "data": "marker" })).await.ok();
    assert_eq!(one.direct().await, "marker", "and no publication before it");
    order(&mut ann, "unsubscribe-user", json!({ "who": "bob", "channel": "news" })).await;
    assert_eq!(two.direct().await, "marker");
    assert!(two.push().await["unsubscribe"].is_object());
}

#[tokio::test]
async fn a_user_who_connects_can_send_the_others_away_and_stay() {
    let gateway = gateway("one_per_user = true\nkinds = ['rpc']").await;
    let mut eve = connect(&gateway, "eve").await;
    let mut first = connect(&gateway, "ann").await;
    let mut second = connect(&gateway, "ann").await;
    assert_eq!(first.closed().await.code, Some(4501));
    let mut third = connect(&gateway, "ann").await;
    assert_eq!(second.closed().await.code, Some(4501));
    is_served(&mut third).await;
    is_served(&mut eve).await;
}

#[tokio::test]
async fn an_address_has_to_be_one_of_connections() {
    let gateway = gateway("kinds = ['rpc']").await;
    let mut ann = connect(&gateway, "ann").await;
    let mut refused = async |method: &str, order: Value| {
        let rpc = json!({ "method": method, "data": order });
        ann.ask("rpc", rpc).await.expect_err("it is refused").code
    };
    assert_eq!(refused("disconnect-user", json!({ "who": "" })).await, 1003);
    assert_eq!(refused("subscribe-user", json!({ "who": "bob", "channel": "a b" })).await, 1003);
    let nobody = "00000000-0000-4000-8000-000000000000";
    assert_eq!(order(&mut ann, "disconnect-connection", json!({ "who": nobody })).await["refused"], 0);
    is_served(&mut ann).await;
}

// ----------------------------------------------------------------------------------------------------------
// budgets

#[tokio::test]
async fn a_plugin_sees_that_a_budget_is_used_up_and_what_fits_is_done() {
    let gateway = gateway("kinds = ['rpc']\n[limits]\neffects_max = 3\neffect_bytes_max = '1KiB'").await;
    let mut ann = connect(&gateway, "ann").await;
    ann.subscribe("news").await;
    for (times, bytes, code) in [(4, 0, 1001), (2, 600, 1002)] {
        let heeds = json!({ "channel": "news", "times": times, "bytes": bytes });
        let refused = ann.ask("rpc", json!({ "method": "publish", "data": heeds })).await.unwrap_err();
        assert_eq!(refused.code, code, "{}", refused.message);
        let ignores = json!({ "channel": "news", "times": times, "bytes": bytes, "heed": false });
        assert_eq!(order(&mut ann, "publish", ignores).await["refused"], 1);
        // Both plugins' effects that had room before the refusal.
        for _ in 0..2 * (times - 1) {
            assert_eq!(ann.publication("news").await["data"].as_str().unwrap().len(), bytes);
        }
    }
    gateway.post("/api/publish", &json!({ "channel": "news", "data": "marker" })).await.ok();
    assert_eq!(ann.publication("news").await["data"], "marker", "and nothing else was done");
}

// ------------------------------------------------------------------------------------------ every kind of
// command

#[tokio::test]
async fn every_kind_of_command_meets_the_plugins_with_channel_and_payload() {
    let gateway = gateway("").await;
    let mut ann = connect(&gateway, "ann").await;
    for (command, parameters, code, seen) in [
        ("publish", json!({ "channel": "a", "data": 7 }), 1001, "publish a 7"),
        ("subscribe", json!({ "channel": "a", "data": 8 }), 1002, "subscribe a 8"),
        ("unsubscribe", json!({ "channel": "a" }), 1003, "unsubscribe a "),
        ("presence", json!({ "channel": "a" }), 1006, "presence a "),
        ("presence_stats", json!({ "channel": "a" }), 1007, "presence-stats a "),
        ("history", json!({ "channel": "a" }), 1008, "history a "),
    ] {
        let refused = ann.ask(command, parameters).await.expect_err(command);
        assert_eq!((refused.code, &*refused.message), (code, seen));
    }
    ann.send_text(r#"{"send":{"data":9}}"#).await;
    assert_eq!(ann.direct().await, "send  9");
    assert_eq!(order(&mut ann, "nothing", json!({})).await["refused"], 0, "rpc");
    // A refresh goes where a connect goes; what is not subscribed to has nothing to refresh.
    let refreshed = ann.ask("refresh", json!({ "token": "ann" })).await.expect("the token is accepted");
    assert_eq!(refreshed["client"], ann.id);
    let code = ann.ask("sub_refresh", json!({ "channel": "a", "token": "t" })).await.unwrap_err().code;
    assert_eq!(code, 103, "not subscribed");
}

#[tokio::test]
async fn the_refresh_of_a_subscription_meets_the_plugins() {
    let gateway = gateway("kinds = ['rpc', 'sub-refresh']").await;
    let mut ann = connect(&gateway, "ann").await;
    ann.subscribe("news").await;
    let refused = ann.ask("sub_refresh", json!({ "channel": "news", "token": "t" })).await.unwrap_err();
    assert_eq!((refused.code, &*refused.message), (1010, "sub-refresh news "));
    // Where no plugin extends subscriptions, there is nothing to ask for.
    gateway.swap(|folder| folder.settings("50-scripted", &settings("kinds = ['rpc']"))).await;
    let refused = ann.ask("sub_refresh", json!({ "channel": "news", "token": "t" })).await.unwrap_err();
    assert_eq!(refused.code, 108);
}

/// The Unix time in this many seconds.
fn in_seconds(seconds: u64) -> u64 {
    token::in_time(Duration::from_secs(seconds))
}

#[tokio::test]
async fn a_plugin_sets_when_subscriptions_end() {
    let config = format!("client.subscription_expiry_grace = '0s'\n{CONFIG}");
    let gateway = Gateway::with(&config)
        .plugin("50-scripted", "guest-scripted", &settings("kinds = ['rpc']"))
        .start()
        .await;
    let mut ann = connect(&gateway, "ann").await;
    let until = |channel: &str, expires_at: u64| json!({ "channel": channel, "expires_at": expires_at });
    // What a client subscribes to it can have again.
    ann.subscribe("mine").await;
    order(&mut ann, "refresh-subscription", until("mine", in_seconds(1))).await;
    let expired = json!({ "channel": "mine", "unsubscribe": { "code": 2501, "reason": "expired" } });
    assert_eq!(ann.push().await, expired);
    ann.subscribe("mine").await;
    order(&mut ann, "refresh-subscription", until("mine", in_seconds(0) - 10)).await;
    assert_eq!(ann.push().await, expired, "at once");

    // What the server subscribes it to ends the connection, unless the server extends it.
    order(&mut ann, "subscribe-user", json!({ "who": "ann", "channel": "theirs" })).await;
    assert_eq!(ann.push().await, json!({ "channel": "theirs", "subscribe": {} }));
    order(&mut ann, "refresh-subscription", until("theirs", in_seconds(1))).await;
    order(&mut ann, "refresh-subscription", json!({ "channel": "theirs" })).await;
    tokio::time::sleep(Duration::from_millis(2100)).await;
    is_served(&mut ann).await;
    order(&mut ann, "refresh-subscription", until("theirs", in_seconds(1))).await;
    let end = Closed { code: Some(3006), reason: "subscription expired".into() };
    assert_eq!(ann.closed().await, end);
}

#[tokio::test]
async fn only_a_subscribe_or_its_refresh_sets_its_own_expiry() {
    let gateway = gateway("kinds = ['rpc']").await;
    let mut ann = connect(&gateway, "ann").await;
    let rpc = json!({ "method": "set-subscription-expiry", "data": { "expires_at": in_seconds(60) } });
    assert_eq!(
        ann.ask("rpc", rpc).await.unwrap_err().code,
        1005,
        "not possible here, and the plugin says so"
    );
}

#[tokio::test]
async fn a_raw_message_meets_the_plugins() {
    let config = "raw.enabled = true";
    let gateway = Gateway::with(config).plugin("50-scripted", "guest-scripted", &settings("")).start().await;
    assert_eq!(RawClient::connect(&gateway).await.ask("10").await, "\"raw  10\"");
}

#[tokio::test]
async fn what_a_plugin_did_not_ask_for_passes_it() {
    let gateway =
        gateway("kinds = ['publish', 'presence']\nchannels = ['chat:*']\nwithout_payload = true").await;
    let mut ann = connect(&gateway, "ann").await;
    let mut ask = async |command: &str, channel: &str| {
        let parameters = json!({ "channel": channel, "data": 7 });
        ann.ask(command, parameters).await.map_err(|refused| (refused.code, refused.message)).map(drop)
    };
    assert_eq!(ask("publish", "chat:1").await, Err((1001, "publish chat:1 ".into())), "without its payload");
    assert_eq!(ask("presence", "chat:1").await, Err((1006, "presence chat:1 ".into())));
    assert_eq!(ask("publish", "news").await.unwrap_err().0, 103, "the channel's own policy");
    assert_eq!(ask("subscribe", "news").await, Ok(()));
    assert_eq!(ask("subscribe", "chat:1").await.unwrap_err().0, 102, "no such namespace, says the policy");
}
