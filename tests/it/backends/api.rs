//! The server API from the side of a backend: several commands at once, removing a history, its library for
//! Python, and its description for programs.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use gateway_tests::{
    API_KEY, Client, Closed, Cluster, Gateway, Redis, Sentinels, Stream, Tool, eventually, eventually_within,
    request, target_folder, token,
};
use serde_json::{Value, json};

use crate::tools::readme;

const RULES: &str = "
    client.anonymous = true
    [namespaces.chat]
    history_size = 100
    recovery = true
    presence = true
    join_leave = true
    allow_subscribe = 'anyone'
    [namespaces.latest]
    history_size = 9
    recovery = true
    recovery_mode = 'cache'
    allow_subscribe = 'anyone'
    [namespaces.prices]
    delta = true
    allow_subscribe = 'anyone'
";

/// The time in which a gateway has found its servers.
const FOUND: Duration = Duration::from_secs(10);

/// The offset and the epoch of a publication.
async fn publish(gateway: &Gateway, channel: &str, data: u64) -> (u64, Value) {
    let answer = gateway.post("/api/publish", &json!({ "channel": channel, "data": data })).await.ok();
    let result = &answer["result"];
    (result["offset"].as_u64().unwrap_or_else(|| panic!("{answer}")), result["epoch"].clone())
}

/// What a client gets that comes back from this position: whether it recovered, and the payloads.
async fn back(gateway: &Gateway, channel: &str, offset: u64, epoch: &Value) -> (bool, Vec<u64>) {
    let mut client = Client::connect(gateway).await;
    let position = json!({ "channel": channel, "recover": true, "offset": offset, "epoch": epoch });
    let subscribed = client.ask("subscribe", position).await.expect("a subscription");
    let publications = subscribed["publications"].as_array().cloned().unwrap_or_default();
    let payloads = publications.iter().map(|publication| publication["data"].as_u64().unwrap());
    (subscribed["recovered"] == true, payloads.collect())
}

async fn ready(gateway: &Gateway) {
    eventually_within(FOUND, "a gateway that is ready", async || {
        (gateway.get("/health/ready").await.json()["status"] == "ready").then_some(())
    })
    .await;
}

// ---- Removing a history ----

/// A history is removed at `here`, and clients come back to `there`.
async fn removed(here: &Gateway, there: &Gateway) {
    let mut stays = Client::connect(there).await;
    stays.subscribe("chat:1").await;
    let (_, epoch) = publish(here, "chat:1", 1).await;
    for data in 2..=3 {
        publish(here, "chat:1", data).await;
    }
    for data in 1..=3 {
        assert_eq!(stays.publication("chat:1").await["data"], data);
    }
    assert_eq!(back(there, "chat:1", 1, &epoch).await, (true, vec![2, 3]));

    let removed = here.post("/api/history_remove", &json!({ "channel": "chat:1" })).await.ok();
    assert_eq!(removed, json!({ "result": {} }));
    let history = there.post("/api/history", &json!({ "channel": "chat:1", "limit": 9 })).await.ok();
    let expected = json!({ "publications": [], "offset": 3, "epoch": epoch });
    assert_eq!(history["result"], expected, "the position stays");
    assert_eq!(back(there, "chat:1", 1, &epoch).await, (false, vec![]), "two are missing, and it is told");
    assert_eq!(back(there, "chat:1", 3, &epoch).await, (true, vec![]), "it had everything");

    assert_eq!(publish(here, "chat:1", 4).await, (4, epoch.clone()));
    assert_eq!(stays.publication("chat:1").await, json!({ "data": 4, "offset": 4 }), "it missed nothing");
    assert_eq!(back(there, "chat:1", 3, &epoch).await, (true, vec![4]));
    assert_eq!(back(there, "chat:1", 2, &epoch).await, (false, vec![]));

    let (_, epoch) = publish(here, "latest:1", 1).await;
    publish(here, "latest:1", 2).await;
    here.post("/api/history_remove", &json!({ "channel": "latest:1" })).await.ok();
    assert_eq!(back(there, "latest:1", 1, &epoch).await, (false, vec![]), "the latest is not kept");
    publish(here, "latest:1", 3).await;
    assert_eq!(back(there, "latest:1", 1, &epoch).await, (true, vec![3]));
}

#[tokio::test]
async fn a_removed_history_is_not_taken_for_nothing_missed() {
    let gateway = Gateway::start(RULES).await;
    removed(&gateway, &gateway).await;
    for (channel, code) in [("unknown:1", 102), ("prices:1", 108), ("a b", 107)] {
        let answer = gateway.post("/api/history_remove", &json!({ "channel": channel })).await.ok();
        assert_eq!(answer["error"]["code"], code, "{answer}");
    }
}

async fn removed_on(redis: &str) {
    let config = format!("[redis]\n{redis}\nprefix = 'gw'");
    let mut nodes = Gateway::nodes(2, |_| Gateway::with(&format!("{RULES}\n{config}"))).await;
    let (there, here) = (nodes.pop().unwrap(), nodes.pop().unwrap());
    ready(&here).await;
    ready(&there).await;
    removed(&here, &there).await;
}

#[tokio::test]
async fn a_history_is_removed_for_all_gateways_on_a_server() {
    let redis = Redis::start().await;
    removed_on(&format!("url = '{}'", redis.url())).await;
    assert_eq!(redis.ask(&["HGET", "gw:top:{chat:1}", "offset"]).await.text(), "4", "the position is kept");
}

#[tokio::test]
async fn a_history_is_removed_for_all_gateways_on_several_servers() {
    let (a, b) = (Redis::start().await, Redis::start().await);
    removed_on(&format!("urls = ['{}', '{}']", a.url(), b.url())).await;
}

#[tokio::test]
async fn a_history_is_removed_for_all_gateways_on_sentinels() {
    let group = Sentinels::start().await;
    let addresses = group.addresses().into_iter().map(|address| format!("'redis://{address}'"));
    let addresses = addresses.collect::<Vec<_>>().join(", ");
    removed_on(&format!("sentinels = [{addresses}]\nsentinel_master = '{}'", group.name())).await;
}

#[tokio::test]
async fn a_history_is_removed_for_all_gateways_on_a_cluster() {
    let cluster = Cluster::start().await;
    removed_on(&format!("cluster = ['redis://{}']", cluster.address(1))).await;
}

#[tokio::test]
async fn a_history_that_cannot_be_removed_is_said_to_be_there() {
    let mut redis = Redis::start().await;
    let gateway = Gateway::start(&format!("{RULES}\n[redis]\nurl = '{}'\nprefix = 'gw'", redis.url())).await;
    ready(&gateway).await;
    publish(&gateway, "chat:1", 1).await;
    redis.kill();
    let answer = gateway.post("/api/history_remove", &json!({ "channel": "chat:1" })).await.ok();
    assert_eq!(answer["error"]["code"], 100, "temporary: {answer}");
}

// ---- Several commands at once ----

#[tokio::test]
async fn the_commands_of_a_batch_are_carried_out_in_their_order() {
    let redis = Redis::start().await;
    let on_redis = format!("{RULES}\n[redis]\nurl = '{}'\nprefix = 'gw'", redis.url());
    for config in [RULES, &on_redis] {
        let gateway = Gateway::start(config).await;
        ready(&gateway).await;
        let mut ann = Client::connect(&gateway).await;
        ann.subscribe("chat:1").await;
        let commands: Vec<_> =
            (1..=200).map(|data| json!({ "publish": { "channel": "chat:1", "data": data } })).collect();
        let batch = json!({ "commands": commands });
        let replies = gateway.post("/api/batch", &batch).await.ok()["replies"].clone();
        for (index, reply) in replies.as_array().unwrap().iter().enumerate() {
            assert_eq!(reply["publish"]["offset"], index + 1, "{reply}");
        }
        for data in 1..=200 {
            assert_eq!(ann.publication("chat:1").await["data"], data);
        }
        let parallel = json!({ "commands": commands, "parallel": true });
        let replies = gateway.post("/api/batch", &parallel).await.ok()["replies"].clone();
        let offset = |reply: &Value| reply["publish"]["offset"].as_u64().unwrap();
        let offsets: BTreeSet<_> = replies.as_array().unwrap().iter().map(offset).collect();
        assert_eq!(offsets, (201..=400).collect(), "each is published once");
    }
}

#[tokio::test]
async fn the_replies_of_a_batch_have_bounds_and_what_was_not_done_is_said() {
    let gateway = Gateway::start(RULES).await;
    let large = json!({ "channel": "chat:1", "data": "x".repeat(100 << 10) });
    for _ in 0..50 {
        gateway.post("/api/publish", &large).await.ok();
    }
    // Each reads almost 5 MiB.
    let read = json!({ "history": { "channel": "chat:1", "limit": -1 } });
    let publish = json!({ "publish": { "channel": "chat:2", "data": 1 } });
    for parallel in [false, true] {
        let commands = json!([read, read, read, read, read, publish]);
        let answer = gateway.post("/api/batch", &json!({ "commands": commands, "parallel": parallel })).await;
        assert!(answer.body.len() < 17 << 20, "{} bytes", answer.body.len());
        let replies = answer.ok()["replies"].clone();
        let refused = |reply: &&Value| reply["error"]["code"] == 106;
        let count = replies.as_array().unwrap().iter().filter(refused).count();
        if parallel {
            assert!(count >= 2, "{count} do not fit");
            continue;
        }
        assert_eq!(count, 3, "two that read, and what comes after them");
        let why = |index: usize| replies[index]["error"]["message"].as_str().unwrap().to_owned();
        assert!(why(3).contains("does not fit"), "{}", why(3));
        assert!(why(5).contains("was not carried out"), "{}", why(5));
    }
    let history = gateway.post("/api/history", &json!({ "channel": "chat:2" })).await.ok();
    assert!(history["result"]["offset"].as_u64().unwrap() <= 1, "{history}");
}

#[tokio::test]
async fn the_older_form_of_the_api_takes_several_commands() {
    let gateway = Gateway::start(RULES).await;
    let key = format!("Authorization: apikey {API_KEY}");
    let body = "{\"method\":\"publish\",\"params\":{\"channel\":\"chat:1\",\"data\":1}}\n\
                {\"method\":\"presence_stats\",\"params\":{\"channel\":\"unknown:1\"}}\n";
    let answer = request(gateway.admin(), "POST", "/api", &[&key], body.as_bytes()).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let text = answer.text();
    let replies: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!((&replies[0]["result"]["offset"], &replies[1]["error"]["code"]), (&json!(1), &json!(102)));
    assert_eq!(request(gateway.admin(), "POST", "/api", &[], body.as_bytes()).await.status, 401);
}

// ---- Whom a request concerns ----

#[tokio::test]
async fn a_connection_is_named_by_its_user_and_its_session_too() {
    let redis = Redis::start().await;
    let config = format!("{RULES}\n[redis]\nurl = '{}'\nprefix = 'gw'", redis.url());
    let auth = |_| {
        let gateway = Gateway::with(&config);
        gateway.plugin("10-auth-jwt", "auth-jwt", &token::settings())
    };
    let nodes = Gateway::nodes(2, auth).await;
    let [a, b] = &nodes[..] else { panic!() };
    ready(a).await;
    ready(b).await;
    let connect = json!({ "token": token::of("ann") });
    let mut streaming = Stream::connect(b.address(), "/connection/http_stream", connect.clone()).await;
    let mut twin = Stream::connect(b.address(), "/connection/sse", connect).await;
    let mut ann = Client::connect_as(a, "ann").await;
    let listed = async || {
        let answer = a.post("/api/connections", &json!({ "user": "ann" })).await.ok();
        let connections = answer["result"]["connections"].as_object().unwrap().clone();
        (connections.len() == 3).then_some(connections)
    };
    let connections = eventually("three connections", listed).await;
    let transports: BTreeSet<_> =
        connections.values().map(|connection| connection["transport"].as_str().unwrap()).collect();
    assert_eq!(transports, BTreeSet::from(["websocket", "http_stream", "sse"]));
    assert!(connections.values().all(|one| one["user"] == "ann" && one["connected_at_ms"].is_u64()));

    let close = |code: u16| json!({ "code": code, "reason": "bye" });
    for nobody in [
        json!({ "user": "bob", "client": ann.id, "disconnect": close(4001) }),
        json!({ "user": "ann", "session": "none", "disconnect": close(4001) }),
        json!({ "user": "bob", "session": streaming.hello["session"], "disconnect": close(4001) }),
        json!({ "client": ann.id, "session": streaming.hello["session"], "disconnect": close(4001) }),
    ] {
        assert_eq!(b.post("/api/disconnect", &nobody).await.ok(), json!({ "result": {} }));
    }
    let one = json!({ "user": "ann", "session": streaming.hello["session"], "disconnect": close(4002) });
    a.post("/api/disconnect", &one).await.ok();
    assert_eq!(streaming.closed().await, Closed { code: Some(4002), reason: "bye".into() });
    let both = json!({ "user": "ann", "client": ann.id, "disconnect": close(4003) });
    b.post("/api/disconnect", &both).await.ok();
    assert_eq!(ann.closed().await, Closed { code: Some(4003), reason: "bye".into() });
    a.post("/api/disconnect", &json!({ "user": "ann", "disconnect": close(4004) })).await.ok();
    assert_eq!(twin.closed().await, Closed { code: Some(4004), reason: "bye".into() }, "it was left alone");
}

// ---- Programs of others ----

/// Python with packages that `tests/run` installs.
fn python(environment: &str, program: &str) -> Tool {
    let program: PathBuf = target_folder().join(environment).join("bin").join(program);
    assert!(program.exists(), "{} is missing: `tests/run` does all the set-up", program.display());
    Tool::new(program)
}

#[tokio::test]
async fn the_library_for_python_carries_out_every_method() {
    let gateway = Gateway::with(RULES).plugin("10-auth-jwt", "auth-jwt", &token::settings()).start().await;
    let ann = Client::connect_as(&gateway, "ann").await;
    let output = python("pycent", "python")
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/clients/server_api.py"))
        .env("URL", format!("http://{}/api", gateway.admin()))
        .env("API_KEY", API_KEY)
        .env("CLIENT", &ann.id)
        .run(Duration::from_secs(60))
        .await;
    let once = [
        "publish",
        "broadcast",
        "history",
        "history_remove",
        "subscribe",
        "presence",
        "presence_stats",
        "channels",
        "connections",
        "refresh",
        "disconnect",
        "unsubscribe",
        "info",
        "batch",
        "block_user",
        "unblock_user",
        "revoke_token",
        "invalidate_user_tokens",
        "absent",
        "errors",
        "every method",
    ];
    let expected: Vec<_> = once.iter().chain(&once).chain(&["key"]).copied().collect();
    assert_eq!(output.lines().collect::<Vec<_>>(), expected);
}

/// The binding of the crate `jsonschema`: as a dependency of the tests, the crate would switch on features of
/// crates below the WebAssembly engine, which would be built twice.
#[tokio::test]
async fn every_example_of_the_page_fits_the_description() {
    let gateway = Gateway::with(RULES).plugin("10-auth-jwt", "auth-jwt", &token::settings()).start().await;
    let page = readme::root().join("gateway/API.md");
    let examples = || {
        python("schemathesis", "python")
            .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/clients/examples.py"))
            .arg(&page)
            .env("ADMIN", gateway.admin().to_string())
            .env("API_KEY", API_KEY)
            .run(Duration::from_secs(60))
    };
    examples().await;
    // An example has begun to explain what ann does.
    let mut ann = Client::connect_as(&gateway, "ann").await;
    ann.subscribe("chat:1").await;
    let explained = async || {
        let traces = gateway.post("/api/explain", &json!({})).await.ok()["result"]["traces"].clone();
        (!traces.as_array().unwrap().is_empty()).then_some(())
    };
    eventually("an explanation", explained).await;
    let output = examples().await;
    let page = fs::read_to_string(&page).unwrap();
    let described: BTreeSet<_> = page.lines().filter_map(|line| line.strip_prefix("### ")).collect();
    assert_eq!(output.lines().collect::<BTreeSet<_>>(), described);
}

/// `GATEWAY_SCHEMATHESIS_EXAMPLES` makes it longer: about 60 requests for each.
#[tokio::test]
async fn the_gateway_answers_what_the_description_says_whatever_is_asked() {
    let gateway = Gateway::start(RULES).await;
    let examples = std::env::var("GATEWAY_SCHEMATHESIS_EXAMPLES").unwrap_or_else(|_| "5".to_owned());
    let folder = tempfile::tempdir().unwrap();
    let admin = gateway.admin();
    let options = ["--max-examples", &examples, "--seed", "7", "--mode", "all", "--no-color"];
    let tool = python("schemathesis", "schemathesis")
        .folder(folder.path())
        .arg("run")
        .arg(format!("http://{admin}/api/openapi.json"))
        .arg("--url")
        .arg(format!("http://{admin}"))
        .arg("--header")
        .arg(format!("X-API-Key: {API_KEY}"))
        .arg("--checks")
        .arg(
            "not_a_server_error,status_code_conformance,content_type_conformance,\
             response_headers_conformance,response_schema_conformance,unsupported_method,allow_header_conformance,ignored_auth",
        );
    let tool = options.into_iter().fold(tool, |tool, option| tool.arg(option));
    let output = tool.run(Duration::from_secs(600)).await;
    assert!(output.contains("No issues found"), "{output}");
    assert_eq!(gateway.get("/health/live").await.status, 200);
}
