//! Why a message was treated as it was, for the operator and, if they allow it, for the client.

use std::time::Duration;

use gateway_tests::{API_KEY, Client, Gateway, RawClient, Talk, Tool, eventually, gateway_binary, token};
use serde_json::{Value, json};

const RAW: &str = "raw.enabled = true\nclient.anonymous = true\n";
const ROUTER: &str =
    "[[config.rules]]\nkind = 'publish'\nchannel = 'dm'\ndeny = { code = 103, reason = 'not here' }";

async fn traces(gateway: &Gateway) -> Vec<Value> {
    let answer = gateway.post("/api/explain", &json!({"limit": 10})).await.ok();
    answer["result"]["traces"].as_array().unwrap().clone()
}

#[tokio::test]
async fn nothing_is_explained_unless_it_is_asked_for() {
    let gateway = Gateway::with(RAW).plugin("90-echo", "echo", "").start().await;
    let mut client = RawClient::connect(&gateway).await;
    client.ask("hello").await;
    assert_eq!(traces(&gateway).await, Vec::<Value>::new());
}

#[tokio::test]
async fn a_sampled_message_shows_what_every_plugin_made_of_it_and_nothing_it_contains() {
    let config = format!("{RAW}explain.sample = 10000");
    let gateway = Gateway::with(&config)
        .plugin("50-router", "router", ROUTER)
        .plugin("90-echo", "echo", "")
        .start()
        .await;
    let mut client = RawClient::connect(&gateway).await;
    client.ask("the secret").await;
    let traces = traces(&gateway).await;
    let [trace] = &traces[..] else { panic!("one message: {traces:?}") };
    assert_eq!(trace["kind"], "raw");
    assert_eq!(trace["payload_bytes"], 10);
    assert_eq!(trace["decision"], "replied");
    let [router, echo] = &trace["plugins"].as_array().unwrap()[..] else { panic!("{trace}") };
    assert_eq!(router["plugin"], "router");
    assert_eq!(
        (&echo["plugin"], &echo["answer"], &echo["answer_bytes"]),
        (&json!("echo"), &json!("reply"), &json!(10))
    );
    assert!(echo["took_ns"].as_u64() > Some(0) && echo["memory_bytes"].as_u64() > Some(0), "{echo}");
    assert!(!trace.to_string().contains("secret"), "{trace}");
}

#[tokio::test]
async fn an_operator_watches_one_user() {
    let gateway = Gateway::with("")
        .plugin("10-auth-jwt", "auth-jwt", &token::settings())
        .plugin("50-router", "router", ROUTER)
        .start()
        .await;
    let mut ann = Client::connect_as(&gateway, "ann").await;
    let mut bob = Client::connect_as(&gateway, "bob").await;
    let started = gateway.post("/api/explain_start", &json!({"user": "ann", "seconds": 60})).await.ok();
    assert_eq!(started["result"]["seconds"], 60);
    for client in [&mut bob, &mut ann] {
        client.ask("publish", json!({"channel": "dm", "data": "x"})).await.unwrap_err();
    }
    let traces = traces(&gateway).await;
    let [trace] = &traces[..] else { panic!("of ann alone: {traces:?}") };
    assert_eq!(
        (&trace["user"], &trace["channel"], &trace["decision"]),
        (&json!("ann"), &json!("dm"), &json!("denied"))
    );
    let router = trace["plugins"].as_array().unwrap().last().unwrap();
    assert_eq!(
        (&router["answer"], &router["code"], &router["reason"]),
        (&json!("deny"), &json!(103), &json!("not here"))
    );

    for wrong in
        [json!({}), json!({"user": "a", "attribute": {"b": "c"}}), json!({"user": "a", "seconds": 9999})]
    {
        let answer = gateway.post("/api/explain_start", &wrong).await.ok();
        assert_eq!(answer["error"]["code"], 107, "{wrong}: {answer}");
    }
}

#[tokio::test]
async fn a_client_gets_its_explanations_only_if_it_asks_and_the_operator_allows_it() {
    let header: &[_] = &[("x-gateway-explain", "1")];
    for (allowed, headers, explained) in [(true, header, true), (true, &[], false), (false, header, false)] {
        let config =
            format!("{RAW}handshake.headers_kept = ['x-gateway-explain']\nexplain.reply = {allowed}");
        let gateway = Gateway::with(&config).plugin("90-echo", "echo", "").start().await;
        let mut client = RawClient::open(gateway.address(), "/connection/raw", headers).await.unwrap();
        assert_eq!(client.ask("one").await, "one");
        if explained {
            let text: Value = serde_json::from_str(&client.text().await).expect("after the reply");
            assert_eq!(text["explain"]["plugins"][0]["answer"], "reply");
        }
        assert_eq!(client.ask("two").await, "two", "{allowed} {headers:?}");
    }
}

/// The explanations of this kind, the newest first.
async fn of_kind(gateway: &Gateway, kind: &str) -> Vec<Value> {
    traces(gateway).await.into_iter().filter(|trace| trace["kind"] == kind).collect()
}

#[tokio::test]
async fn what_a_class_receives_and_how_a_client_was_admitted_is_explained() {
    let config = "client.anonymous = true\nexplain.sample = 10000\n[namespaces.chat]\nallow_publish = 'anyone'\nallow_subscribe = 'anyone'";
    let redact = "[config]\nchannels = ['chat:*']\nwords = ['darn']\nmoderator_token = 'mod'";
    let gateway = Gateway::with(config)
        .plugin("10-redact", "redact", redact)
        .plugin("50-router", "router", ROUTER)
        .start()
        .await;
    let mut moderator = Client::connect_with(&gateway, json!({"token": "mod"})).await;
    let connects = of_kind(&gateway, "connect").await;
    let [connect] = &connects[..] else { panic!("one client: {connects:?}") };
    assert_eq!(connect["decision"], "accepted");
    let [redact, router] = &connect["plugins"].as_array().unwrap()[..] else { panic!("{connect}") };
    assert_eq!((&redact["answer"], &router["answer"]), (&json!("accept"), &json!("not-called")));
    assert!(redact["took_ns"].as_u64() > Some(0) && redact["host_calls"].is_u64(), "{redact}");
    assert!(!connect.to_string().contains("mod\""), "no token: {connect}");

    moderator.subscribe("chat:1").await;
    moderator.publish("chat:1", json!("oh darn")).await;
    moderator.publication("chat:1").await;
    let deliveries = of_kind(&gateway, "deliver").await;
    let [delivery] = &deliveries[..] else { panic!("one worker has subscribers: {deliveries:?}") };
    assert_eq!((&delivery["channel"], &delivery["payload_bytes"]), (&json!("chat:1"), &json!(9)));
    let [seen] = &delivery["plugins"].as_array().unwrap()[..] else { panic!("{delivery}") };
    assert_eq!((&seen["class"], &seen["answer"]), (&json!("moderator"), &json!("pass")));
    assert!(delivery.get("decision").is_none(), "each class has its own: {delivery}");
}

#[tokio::test]
async fn a_watched_user_is_known_when_it_connects_and_when_it_has_gone() {
    let gateway = Gateway::with("").plugin("10-emit", "guest-emit", "config.upstream = 'none'").start().await;
    Client::connect(&gateway).await;
    gateway.post("/api/explain_start", &json!({"user": "42", "seconds": 60})).await.ok();
    let client = Client::connect(&gateway).await;
    let connects = of_kind(&gateway, "connect").await;
    let [connect] = &connects[..] else { panic!("after the start alone: {connects:?}") };
    assert_eq!((&connect["user"], &connect["decision"]), (&json!("42"), &json!("accepted")));
    drop(client);
    let gone = eventually("the explanation of a disconnect", async || {
        of_kind(&gateway, "disconnect").await.into_iter().find(|trace| trace["user"] == "42")
    });
    let gone = gone.await;
    assert_eq!(gone["plugins"][0]["answer"], "done");
}

#[tokio::test]
async fn a_permission_that_is_looked_up_is_explained_without_a_call() {
    let config = "explain.sample = 10000\n[namespaces.chat]\n";
    let permitting = format!("{}permissions = 'claims'\n", token::settings());
    let gateway = Gateway::with(config).plugin("10-auth-jwt", "auth-jwt", &permitting).start().await;
    let token = token::with("ann", json!({"publish": ["chat:*"]}));
    let mut ann = Client::connect_with(&gateway, json!({ "token": token })).await;
    // The first is refused by the plugin, which had to ask for the attribute; the second it is not asked
    // about.
    ann.ask("publish", json!({"channel": "news", "data": 1})).await.unwrap_err();
    ann.publish("chat:1", json!(2)).await;
    let published = of_kind(&gateway, "publish").await;
    let told = |trace: &Value| {
        let plugin = &trace["plugins"][0];
        (plugin["answer"].clone(), plugin["host_calls"].as_u64() > Some(0))
    };
    let told: Vec<_> = published.iter().map(told).collect();
    assert_eq!(told, [(json!("allow"), false), (json!("deny"), true)]);
}

const LIMIT: Duration = Duration::from_secs(10);

/// `gateway tail` with these arguments.
fn tail(gateway: &Gateway, arguments: &[&str]) -> Talk {
    let tool = Tool::new(gateway_binary()).arg("tail").env("GATEWAY_ADMIN_API_KEY", API_KEY);
    let tool = tool.arg("--address").arg(format!("http://{}", gateway.admin()));
    arguments.iter().fold(tool, |tool, argument| tool.arg(argument)).talk()
}

/// Publishes until the gateway explains it, and so until a tail that asks for it has begun.
async fn publish_until_explained(gateway: &Gateway, client: &mut Client, channel: &str) {
    eventually("an explanation", async || {
        let _ = client.ask("publish", json!({"channel": channel, "data": "x"})).await;
        traces(gateway).await.iter().any(|trace| trace["channel"] == *channel).then_some(())
    })
    .await;
}

/// The first line with these words.
async fn line_with(tail: &mut Talk, words: &[&str]) -> String {
    loop {
        let line = tail.line(LIMIT).await;
        if words.iter().all(|word| line.contains(word)) {
            return line;
        }
    }
}

#[tokio::test]
async fn a_tail_shows_what_the_plugins_decide_as_it_happens() {
    let gateway = Gateway::with("")
        .plugin("10-auth-jwt", "auth-jwt", &token::settings())
        .plugin("50-router", "router", ROUTER)
        .start()
        .await;
    let mut ann = Client::connect_as(&gateway, "ann").await;
    let mut bob = Client::connect_as(&gateway, "bob").await;
    let mut of_ann = tail(&gateway, &["--json", "--user", "ann", "--verdict", "denied"]);
    publish_until_explained(&gateway, &mut ann, "first").await;
    let mut of_channels = tail(&gateway, &["--channel", "d*", "--plugin", "router"]);
    publish_until_explained(&gateway, &mut bob, "d1").await;

    for client in [&mut bob, &mut ann] {
        client.ask("publish", json!({"channel": "dm", "data": "the secret"})).await.unwrap_err();
    }
    let line = line_with(&mut of_ann, &["\"dm\""]).await;
    let trace: Value = serde_json::from_str(&line).unwrap();
    let [user, decision] = ["user", "decision"].map(|key| trace[key].as_str().unwrap());
    assert_eq!((user, decision), ("ann", "denied"));
    for user in ["bob", "ann"] {
        let event = line_with(&mut of_channels, &[&format!("publish  dm  user {user}")]).await;
        assert!(event.ends_with("denied") && !event.contains("secret"), "{event}");
        let [auth, router] = [of_channels.line(LIMIT).await, of_channels.line(LIMIT).await];
        assert!(auth.contains("auth-jwt  not called"), "{auth}");
        assert!(router.contains("router    deny 103 \"not here\", "), "{router}");
    }
    for tail in [of_ann, of_channels] {
        tail.interrupt();
        tail.end(LIMIT).await;
    }
}

#[tokio::test]
async fn explanations_go_on_after_a_number_and_say_what_was_dropped() {
    let gateway =
        Gateway::with(&format!("{RAW}explain.kept = 3")).plugin("90-echo", "echo", "").start().await;
    let start = gateway.post("/api/explain", &json!({"after": u64::MAX})).await.ok();
    assert_eq!((&start["result"]["next"], &start["result"]["traces"]), (&json!(0), &json!([])));
    gateway.post("/api/explain_start", &json!({"everything": true})).await.ok();
    let mut client = RawClient::connect(&gateway).await;
    for text in ["a", "bb", "ccc", "dddd", "eeeee"] {
        client.ask(text).await;
    }
    let answer = gateway.post("/api/explain", &json!({"after": 0, "limit": 2})).await.ok();
    let result = &answer["result"];
    let sizes = |traces: &Value| -> Vec<u64> {
        traces.as_array().unwrap().iter().map(|trace| trace["payload_bytes"].as_u64().unwrap()).collect()
    };
    // The first ones gave way; so did the connect, if a plugin saw it.
    let dropped = result["dropped"].as_u64().unwrap();
    assert_eq!((sizes(&result["traces"]), result["next"].as_u64().unwrap()), (vec![3, 4], dropped + 2));
    let rest = gateway.post("/api/explain", &json!({"after": result["next"]})).await.ok();
    assert_eq!((sizes(&rest["result"]["traces"]), &rest["result"]["dropped"]), (vec![5], &json!(0)));
    for wrong in [json!({}), json!({"user": "a", "everything": true}), json!({"channels": "a b"})] {
        let answer = gateway.post("/api/explain_start", &wrong).await.ok();
        assert_eq!(answer["error"]["code"], 107, "{wrong}: {answer}");
    }
}

#[tokio::test]
async fn whoever_watches_everything_does_not_slow_a_busy_gateway_down() {
    let gateway = Gateway::with(&format!("{RAW}explain.kept = 10000\nlisten.workers = 1"))
        .plugin("90-echo", "echo", "")
        .start()
        .await;
    gateway.post("/api/explain_start", &json!({"everything": true})).await.ok();
    let mut client = RawClient::connect(&gateway).await;
    for _ in 0..1_000 {
        client.ask("x").await;
    }
    let answer = gateway.post("/api/explain", &json!({"after": 0, "limit": 10_000})).await.ok();
    let result = &answer["result"];
    let explained = result["traces"].as_array().unwrap().len() as u64;
    let skipped = result["skipped"].as_u64().unwrap();
    // A hundred a second; the connect, which no plugin saw, may be one of them.
    assert!((99..900).contains(&explained), "{explained} explained, {skipped} skipped");
    assert!((999..1_010).contains(&(explained + skipped)), "each message is one of the two");
}
