//! The published client libraries of the Centrifuge protocol for JavaScript and Python, unchanged, against
//! the real binary, in both encodings.

use std::time::Duration;

use futures_util::future::join_all;
use gateway_tests::{API_KEY, Gateway, Tool, node, target_folder, token};

const CONFIG: &str = "
    client.expiry_grace = '3s'
    client.anonymous = true
    [namespaces.chat]
    history_size = 10
    presence = true
    join_leave = true
    allow_subscribe = 'users'
    allow_publish = 'users'
    allow_history = 'users'
    allow_presence = 'users'
    [namespaces.news]
    history_size = 100
    recovery = true
    allow_subscribe = 'users'
    [namespaces.scores]
    history_size = 10
    recovery = true
    recovery_mode = 'cache'
    allow_subscribe = 'users'
    [namespaces.open]
    presence = true
    join_leave = true
    allow_subscribe = 'anyone'
    allow_publish = 'anyone'
    allow_presence = 'anyone'
    [namespaces.goals]
    history_size = 100
    recovery = true
    tag_filter = true
    allow_subscribe = 'users'
    allow_history = 'users'
    [namespaces.prices]
    history_size = 100
    recovery = true
    delta = true
    allow_subscribe = 'users'
    allow_history = 'users'
    [namespaces.ticks]
    delta = true
    allow_subscribe = 'users'
    [namespaces.wide]
    history_size = 100
    recovery = true
    presence = true
    wildcards = true
    allow_subscribe = 'users'
    allow_publish = 'users'
    allow_history = 'users'
    allow_presence = 'users'
    [namespaces.closed]
    history_size = 1
    presence = true
";

const ROUTER: &str = r##"
    [[config.rules]]
    kind = "send"
    direct = "#{payload.to}"

    [[config.rules]]
    kind = "publish"
    field = "text"
    equals = "shame"
    deny = { code = 400, reason = "not here" }
"##;

/// Rules of which the scenario about refusals has one less.
const ANSWER: &str = "
    [[config.rules]]
    kind = 'rpc'
    reply = { you = '{user}' }
";

/// Every transport of the library that the gateway has, with each encoding. Events are text.
const TRANSPORTS: [(&str, &str); 5] = [
    ("websocket", "json"),
    ("websocket", "protobuf"),
    ("http_stream", "json"),
    ("http_stream", "protobuf"),
    ("sse", "json"),
];

/// What the scenario about deltas has done.
const DELTAS: [&str; 5] = ["the same", "fewer bytes", "recovered", "texts", "again"];

/// What a scenario says it has done: the same over every transport and in every encoding.
async fn scenario(script: &str, router: &str) -> Vec<String> {
    let all = TRANSPORTS.map(|(transport, encoding)| over(transport, script, router, encoding));
    let mut all = TRANSPORTS.iter().zip(join_all(all).await);
    let (_, first) = all.next().expect("a transport");
    for ((transport, encoding), steps) in all {
        assert_eq!(steps, first, "over {transport} in {encoding}");
    }
    first
}

async fn encoded(script: &str, router: &str, encoding: &str) -> Vec<String> {
    over("websocket", script, router, encoding).await
}

async fn over(transport: &str, script: &str, router: &str, encoding: &str) -> Vec<String> {
    let script = node(script).env("SECRET", token::SECRET).env("ENCODING", encoding);
    steps(script.env("TRANSPORT", transport), CONFIG, router).await
}

/// Runs a script against a gateway with these settings and rules. Returns its lines.
async fn steps(script: Tool, config: &str, router: &str) -> Vec<String> {
    let gateway = Gateway::with(config)
        .plugin("10-auth-jwt", "auth-jwt", &token::settings())
        .plugin("90-router", "router", router)
        .start()
        .await;
    let output = script
        .env("GATEWAY", gateway.address().to_string())
        .env("ADMIN", gateway.admin().to_string())
        .env("API_KEY", API_KEY)
        .run(Duration::from_secs(60))
        .await;
    output.lines().map(str::to_owned).collect()
}

#[tokio::test]
async fn two_users_chat() {
    let steps = scenario("chat.mjs", &[ROUTER, ANSWER].concat()).await;
    assert_eq!(steps, ["connected", "joined", "published", "present", "remembered", "called", "left"]);
}

#[tokio::test]
async fn a_broken_connection_comes_back_and_misses_nothing() {
    assert_eq!(scenario("recovery.mjs", ROUTER).await, ["subscribed", "recovered"]);
}

#[tokio::test]
async fn the_latest_is_enough_where_only_it_counts() {
    assert_eq!(scenario("latest.mjs", ROUTER).await, ["nothing", "latest", "recovered"]);
}

#[tokio::test]
async fn the_channel_of_a_user_comes_by_itself() {
    let rules = "history_size = 10\nrecovery = true\n";
    let namespace = "personal_channel_namespace = 'inbox'\n";
    let (address, inbox) = (format!("[channel]\n{rules}"), format!("{namespace}[namespaces.inbox]\n{rules}"));
    for (channel, rules) in [("#ann", address), ("inbox:#ann", inbox)] {
        let config = format!("[client]\npersonal_channel = true\n{rules}");
        let all = TRANSPORTS.map(async |(transport, encoding)| {
            let script = node("personal.mjs").env("SECRET", token::SECRET).env("ENCODING", encoding);
            let script = script.env("TRANSPORT", transport).env("CHANNEL", channel);
            let done = steps(script, &config, ROUTER).await;
            assert_eq!(done, ["subscribed", "recovered"], "{channel} over {transport} in {encoding}");
        });
        join_all(all).await;
    }
}

#[tokio::test]
async fn tokens_are_replaced_refreshed_and_rejected() {
    assert_eq!(scenario("tokens.mjs", ROUTER).await, ["replaced", "refreshed", "rejected"]);
}

#[tokio::test]
async fn patterns_are_subscribed_to() {
    let steps = scenario("wildcards.mjs", ROUTER).await;
    assert_eq!(steps, ["matched", "refused", "back", "ended"]);
}

#[tokio::test]
async fn tags_are_seen_and_filtered() {
    let steps = scenario("tags.mjs", ROUTER).await;
    let expected = ["filtered", "remembered", "recovered", "passed by", "bytes", "refused", "stayed"];
    assert_eq!(steps, expected);
}

#[tokio::test]
async fn deltas_are_applied_and_every_payload_comes_back() {
    assert_eq!(scenario("deltas.mjs", ROUTER).await, DELTAS);
}

#[tokio::test]
async fn nothing_is_told_as_zero_and_what_is_not_offered_is_left_out() {
    assert_eq!(scenario("zeros.mjs", ROUTER).await, ["zeros", "anonymous", "without"]);
}

#[tokio::test]
async fn refusals_reach_the_place_that_asked() {
    let steps = scenario("refusals.mjs", ROUTER).await;
    assert_eq!(steps, ["not subscribed", "not done", "still connected", "gone for good"]);
}

#[tokio::test]
async fn clients_of_both_encodings_share_channels() {
    let steps = encoded("encodings.mjs", &[ROUTER, ANSWER].concat(), "both").await;
    let expected = ["json for both", "bytes for both", "members", "history", "recovered", "direct", "called"];
    assert_eq!(steps, [&expected[..], &["closed"]].concat());
}

#[tokio::test]
async fn clients_in_python_use_both_encodings() {
    in_python(CONFIG).await;
}

async fn in_python(config: &str) {
    let python = target_folder().join("python-clients/bin/python");
    assert!(python.exists(), "{} is missing: `tests/run` does all the set-up", python.display());
    let script = Tool::new(python)
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/clients/encodings.py"))
        .env("TOKEN_JSON", token::of("json"))
        .env("TOKEN_PROTOBUF", token::of("protobuf"));
    let steps = steps(script, config, &[ROUTER, ANSWER].concat()).await;
    assert_eq!(steps, ["joined", "published", "remembered", "called", "deltas", "closed"]);
}

/// Every library here offers compression, unasked.
#[tokio::test]
async fn the_libraries_do_the_same_in_compressed_messages() {
    let config = format!("compression = {{ enabled = true, min_bytes = '0B' }}\n{CONFIG}");
    in_python(&config).await;
    let script = node("chat.mjs").env("SECRET", token::SECRET).env("ENCODING", "protobuf");
    let steps = steps(script, &config, &[ROUTER, ANSWER].concat()).await;
    assert_eq!(steps, ["connected", "joined", "published", "present", "remembered", "called", "left"]);
    for encoding in ["json", "protobuf"] {
        let script = node("deltas.mjs").env("SECRET", token::SECRET).env("ENCODING", encoding);
        assert_eq!(self::steps(script, &config, ROUTER).await, DELTAS, "{encoding}");
    }
}
