//! What a backend is told of clients, subscriptions and publications: each event once, and at least once
//! whatever fails.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use gateway_tests::ledger::{compare, dead_events, events_of};
use gateway_tests::{
    Builder, Client, Endpoint, Gateway, Received, Redis, Reply, Tool, eventually, eventually_within,
    gateway_binary,
};
use hmac::{Hmac, Mac as _};
use serde_json::{Value, json};
use sha2::Sha256;
use tempfile::TempDir;

const SECRET: &str = "a secret of enough bytes";
const SOON: Duration = Duration::from_secs(20);

/// A gateway that tells an endpoint everything of the namespace `room`, and a folder with the dead letters.
fn telling(endpoint: &Endpoint, more: &str) -> (Builder, TempDir) {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("secret"), SECRET).unwrap();
    let path = folder.path().display();
    let config = format!(
        "client.anonymous = true\ndrain.deadline = '5s'\nevents.upstream = 'shop'\n\
         [namespaces.room]\nallow_subscribe = 'anyone'\nallow_publish = 'anyone'\n\
         events = ['subscribed', 'unsubscribed', 'published']\nhistory_size = 10\n\
         [namespaces.quiet]\nallow_subscribe = 'anyone'\nallow_publish = 'anyone'\n\
         [upstreams.shop]\nurl = '{}'\nsecret = 'file:{path}/secret'\ndead_letter = '{path}/dead.jsonl'\n\
         retry_pause_min = '10ms'\nretry_pause_max = '1s'\nbatch_wait = '200ms'\n{more}",
        endpoint.url("/events"),
    );
    (Gateway::with(&config), folder)
}

fn dead(folder: &TempDir) -> PathBuf {
    folder.path().join("dead.jsonl")
}

/// The events that the endpoint has got, each once, in the order of their first arrival.
fn told(endpoint: &Endpoint) -> Vec<Value> {
    once(&endpoint.received())
}

fn once(requests: &[Received]) -> Vec<Value> {
    let mut ids = BTreeSet::new();
    let mut events = events_of(requests);
    events.retain(|event| ids.insert(event["id"].as_str().expect("an id").to_owned()));
    events
}

/// Waits for an event of this type and returns all so far.
async fn until(endpoint: &Endpoint, what: &str, holds: impl Fn(&[Value]) -> bool) -> Vec<Value> {
    eventually_within(SOON, what, async || Some(told(endpoint)).filter(|told| holds(told))).await
}

fn types(events: &[Value]) -> Vec<&str> {
    events.iter().map(|event| event["type"].as_str().expect("a type")).collect()
}

fn is_signed(request: &Received) -> bool {
    let mut mac = Hmac::<Sha256>::new_from_slice(SECRET.as_bytes()).unwrap();
    let (id, timestamp) = (request.header("webhook-id"), request.header("webhook-timestamp"));
    mac.update([id.as_bytes(), b".", timestamp.as_bytes(), b".", &request.body].concat().as_slice());
    let signature = request.header("webhook-signature").strip_prefix("v1,").unwrap();
    mac.verify_slice(&STANDARD.decode(signature).unwrap()).is_ok()
}

/// Names a publication; no other event is in the book.
fn publication(event: &Value) -> Option<String> {
    (event["type"] == "published").then(|| event["data"].to_string())
}

#[tokio::test]
async fn a_backend_is_told_of_each_event_once_and_in_order() {
    let endpoint = Endpoint::start(|_, _| Reply::status(204)).await;
    let (gateway, _folder) = telling(&endpoint, "");
    let gateway = gateway.start().await;
    let mut client = Client::connect(&gateway).await;
    let id = client.id.clone();
    client.subscribe("room:1").await;
    client.subscribe("quiet:1").await;
    client.publish("room:1", json!({ "text": "hi" })).await;
    client.publish("quiet:1", json!("unheard")).await;
    gateway.post("/api/publish", &json!({ "channel": "room:1", "data": 7, "tags": { "a": "b" } })).await.ok();
    client.ask("unsubscribe", json!({ "channel": "room:1" })).await.unwrap();
    client.subscribe("room:2").await;
    gateway.post("/api/unsubscribe", &json!({ "client": id, "channel": "room:2" })).await.ok();
    while client.push().await["unsubscribe"]["code"] != 2000 {}
    client.subscribe("room:3").await;
    client.close().await;
    let events =
        until(&endpoint, "the end of the client", |told| types(told).contains(&"disconnected")).await;
    let of = |kind: &str| events.iter().filter(|event| event["type"] == kind).cloned().collect::<Vec<_>>();
    let expected = ["gateway_started", "connected", "subscribed", "published", "published", "unsubscribed"];
    assert_eq!(types(&events)[..6], expected, "{events:?}");
    assert_eq!(types(&events).last(), Some(&"disconnected"));
    let run = events[0]["run"].clone();
    assert_eq!(run.as_str().map(str::len), Some(16));
    for event in &events {
        assert_eq!(event["run"], run);
        assert!(event["time"].as_u64() > Some(1_700_000_000_000) && event["gateway"].is_string(), "{event}");
    }
    let connected = &of("connected")[0];
    assert_eq!((&connected["client"], &connected["protocol"]), (&json!(id), &json!("centrifuge-json")));
    assert_eq!(connected["address"], "127.0.0.1");
    let [by_client, by_api] = &of("published")[..] else { panic!("{events:?}") };
    assert_eq!((&by_client["client"], &by_client["data"]), (&json!(id), &json!({ "text": "hi" })));
    assert_eq!((&by_client["channel"], &by_client["offset"]), (&json!("room:1"), &json!(1)));
    assert!(by_client["epoch"].is_string() && by_api.get("client").is_none());
    assert_eq!(
        (&by_api["data"], &by_api["tags"], &by_api["offset"]),
        (&json!(7), &json!({ "a": "b" }), &json!(2))
    );
    let codes: BTreeMap<_, _> = of("unsubscribed")
        .iter()
        .map(|event| (event["channel"].as_str().unwrap().to_owned(), event["code"].as_u64().unwrap()))
        .collect();
    assert_eq!(codes["room:1"], 0, "the client asked for it");
    assert_eq!(codes["room:2"], 2000, "the operator wanted it");
    assert_eq!(codes["room:3"], 1, "its connection ended");
    let gone = &of("disconnected")[0];
    assert!(gone["code"].is_u64() && gone["reason"].is_string() && gone["duration"].is_u64(), "{gone}");
    // Everything once: no id twice, no fact twice.
    assert_eq!(events_of(&endpoint.received()).len(), events.len());
    assert_eq!(of("subscribed").len(), 3, "nothing of the quiet namespace");
    let requests = endpoint.received();
    assert!(requests.iter().all(is_signed));
    assert!(requests.len() < events.len(), "some came together: {} requests", requests.len());
    let sent = "gateway_upstream_sent_total{upstream=\"shop\"}";
    let all = events.len() as f64;
    let metrics = eventually("all of them to count as sent", async || {
        let metrics = gateway.metrics().await;
        (metrics.get(sent) == all).then_some(metrics)
    })
    .await;
    let of_type = "gateway_upstream_events_total{upstream=\"shop\",type=\"published\",outcome=\"sent\"}";
    assert_eq!(metrics.get(of_type), 2.0);
}

#[tokio::test]
async fn a_user_s_events_follow_each_other_also_when_requests_fail() {
    let endpoint = Endpoint::start(|_, before| match before % 3 {
        0 => Reply::status(500),
        1 => Reply::status(503),
        _ => Reply::status(200),
    })
    .await;
    let (gateway, folder) = telling(&endpoint, "batch_events_max = 4");
    let gateway = gateway.start().await;
    let mut client = Client::connect(&gateway).await;
    for number in 0..20 {
        client.publish("room:1", json!(number)).await;
    }
    let accepted = || {
        let requests = endpoint.received().into_iter().enumerate();
        events_of(&requests.filter(|(at, _)| at % 3 == 2).map(|(_, request)| request).collect::<Vec<_>>())
    };
    let accepted = eventually_within(SOON, "twenty publications", async || {
        Some(accepted()).filter(|events| events.iter().filter_map(publication).count() == 20)
    })
    .await;
    let numbers: Vec<_> = accepted.iter().filter_map(publication).collect();
    assert_eq!(numbers, (0..20).map(|number| number.to_string()).collect::<Vec<_>>(), "in order, once");
    // The same request has the same id in every attempt.
    let ids: Vec<_> = endpoint.received().iter().map(|one| one.header("webhook-id").to_owned()).collect();
    assert!(ids.chunks_exact(3).all(|three| three[0] == three[1] && three[1] == three[2]), "{ids:?}");
    assert_eq!(dead_events(&dead(&folder)), Vec::<Value>::new());
}

#[tokio::test]
async fn nothing_is_lost_when_the_gateway_is_killed_while_the_backend_is_slow_dead_or_flapping() {
    // What each phase of the backend answers is accepted, late, refused or never.
    let endpoint = Endpoint::start(|_, before| match before % 5 {
        0 => Reply::never(),
        1 => Reply::status(500),
        2 => Reply::status(200).after(Duration::from_millis(200)),
        _ => Reply::status(200),
    })
    .await;
    let (gateway, folder) = telling(&endpoint, "timeout = '300ms'\nretries = 20");
    let mut gateway = gateway.start().await;
    let mut happened = BTreeSet::new();
    let mut number = 0;
    for _ in 0..3 {
        let mut client = Client::connect(&gateway).await;
        client.subscribe("room:1").await;
        for _ in 0..100 {
            number += 1;
            client.publish("room:1", json!(number)).await;
            // It was acknowledged: it is promised.
            happened.insert(number.to_string());
        }
        gateway.restart().await;
    }
    // What the backend refused, or never answered, it was not told.
    let told = || {
        let requests = endpoint.received().into_iter().enumerate();
        once(&requests.filter(|(at, _)| at % 5 >= 2).map(|(_, request)| request).collect::<Vec<_>>())
    };
    let report = || compare(&happened, &told(), &dead_events(&dead(&folder)), publication);
    eventually_within(SOON, "all that was acknowledged", async || {
        report().lost_silently.is_empty().then_some(())
    })
    .await;
    let (told, report) = (told(), report());
    assert_eq!((report.told, report.dead, report.doubled.len()), (300, 0, 0), "{report:?}");
    // Each run after the first says which one is over.
    let runs: Vec<_> = told.iter().filter(|event| event["type"] == "gateway_started").collect();
    assert!(runs.len() >= 4 && runs[0].get("previous_run").is_none(), "{runs:?}");
    for pair in runs.windows(2) {
        assert_eq!(pair[1]["previous_run"], pair[0]["run"]);
    }
    let ends: BTreeSet<_> = told
        .iter()
        .filter(|event| event["type"] == "connected")
        .map(|event| event["run"].to_string())
        .collect();
    assert_eq!(ends.len(), 3, "clients of three runs, and the next run says that each is over");
    eventually("the spool to be empty", async || {
        (gateway.metrics().await.get("gateway_upstream_queue_events{upstream=\"shop\"}") == 0.0).then_some(())
    })
    .await;
}

#[tokio::test]
async fn what_a_drain_cannot_deliver_is_sent_after_the_next_start() {
    let endpoint = Endpoint::start(|_, _| Reply::status(503)).await;
    let (gateway, folder) = telling(&endpoint, "retries = 100");
    let mut gateway = gateway.start().await;
    let mut client = Client::connect(&gateway).await;
    client.publish("room:1", json!("late")).await;
    let other = Endpoint::start(|_, _| Reply::status(200)).await;
    let url = format!("drain.deadline = '1s'\n[upstreams.shop]\nurl = '{}'", other.url("/events"));
    gateway.restart_with(&url).await;
    let events = until(&other, "what was left, and the next start", |told| told.len() >= 5).await;
    let expected = ["gateway_started", "connected", "published", "disconnected", "gateway_started"];
    assert_eq!(types(&events), expected);
    assert_eq!(events[3]["code"], 3001, "the gateway drained");
    assert_eq!(dead_events(&dead(&folder)), Vec::<Value>::new());
}

#[tokio::test]
async fn a_queue_that_is_full_gives_up_the_newest_and_says_so() {
    let endpoint = Endpoint::start(|_, _| Reply::never()).await;
    let (gateway, folder) = telling(&endpoint, "queue_events_max = 10\ntimeout = '1m'");
    let gateway = gateway.start().await;
    let mut client = Client::connect(&gateway).await;
    for number in 0..30 {
        client.publish("room:1", json!(number)).await;
    }
    // What waits is in the spool, and the rest in the file.
    let metrics = eventually("22 events that are given up", async || {
        let metrics = gateway.metrics().await;
        (metrics.get("gateway_upstream_dead_total{upstream=\"shop\"}") == 22.0).then_some(metrics)
    })
    .await;
    assert_eq!(metrics.get("gateway_upstream_queue_events{upstream=\"shop\"}"), 10.0);
    let given_up: Vec<_> = dead_events(&dead(&folder)).iter().filter_map(publication).collect();
    assert_eq!(given_up, (8..30).map(|number| number.to_string()).collect::<Vec<_>>());
}

#[tokio::test]
async fn the_next_start_is_told_although_the_queue_is_full() {
    let endpoint = Endpoint::start(|_, _| Reply::never()).await;
    let (gateway, _folder) = telling(&endpoint, "queue_events_max = 10\ntimeout = '1m'");
    let mut gateway = gateway.start().await;
    let mut client = Client::connect(&gateway).await;
    for number in 0..30 {
        client.publish("room:1", json!(number)).await;
    }
    let other = Endpoint::start(|_, _| Reply::status(200)).await;
    let url = format!("drain.deadline = '1s'\n[upstreams.shop]\nurl = '{}'", other.url("/events"));
    gateway.restart_with(&url).await;
    let starts = |told: &[Value]| {
        told.iter().filter(|event| event["type"] == "gateway_started").cloned().collect::<Vec<_>>()
    };
    let told = until(&other, "both starts", |told| starts(told).len() == 2).await;
    let starts = starts(&told);
    assert_eq!(starts[1]["previous_run"], starts[0]["run"], "the client of that run is gone");
}

#[tokio::test]
async fn one_event_that_the_backend_cannot_take_does_not_take_others_along() {
    let poison =
        |request: &Received, _| Reply::status(if request.text().contains("poison") { 422 } else { 200 });
    let endpoint = Endpoint::start(poison).await;
    let (gateway, folder) = telling(&endpoint, "");
    let gateway = gateway.start().await;
    let mut client = Client::connect(&gateway).await;
    for data in ["a", "b", "poison", "c", "d"] {
        client.publish("room:1", json!(data)).await;
    }
    let given_up = eventually_within(SOON, "one dead letter", async || {
        Some(dead_events(&dead(&folder))).filter(|dead| !dead.is_empty())
    })
    .await;
    assert_eq!(given_up.iter().filter_map(publication).collect::<Vec<_>>(), ["\"poison\""]);
    let accepted = async || {
        let requests: Vec<_> =
            endpoint.received().into_iter().filter(|request| !request.text().contains("poison")).collect();
        let told: Vec<_> = events_of(&requests).iter().filter_map(publication).collect();
        (told == ["\"a\"", "\"b\"", "\"c\"", "\"d\""]).then_some(())
    };
    eventually_within(SOON, "the others, in order", accepted).await;
}

#[tokio::test]
async fn the_clients_of_a_gateway_that_died_are_told_by_another_one() {
    let redis = Redis::start().await;
    let endpoint = Endpoint::start(|_, _| Reply::status(200)).await;
    let settings = format!("[redis]\nurl = '{}'", redis.url());
    let folders: Vec<_> = (0..2).map(|_| telling(&endpoint, &settings)).collect();
    let mut nodes = Vec::new();
    let mut kept = Vec::new();
    for (builder, folder) in folders {
        nodes.push(builder.start().await);
        kept.push(folder);
    }
    for node in &nodes {
        eventually_within(SOON, "gateways that know each other", async || {
            (node.metrics().await.get("gateway_nodes") >= 2.0).then_some(())
        })
        .await;
    }
    let mut clients = Vec::new();
    for _ in 0..20 {
        let mut client = Client::connect(&nodes[0]).await;
        client.subscribe("room:1").await;
        clients.push(client);
    }
    clients[0].publish("room:1", json!("over redis")).await;
    let published = until(&endpoint, "the publication", |told| types(told).contains(&"published")).await;
    let published: Vec<_> = published.iter().filter_map(publication).collect();
    assert_eq!(published, ["\"over redis\""], "told once, by the gateway that published");
    let registered = "local n = 0 for _, key in ipairs(redis.call('KEYS', 'gateway:clients:*')) do \
        n = n + redis.call('HLEN', key) end return n";
    eventually("clients that are written", async || {
        (redis.ask(&["EVAL", registered, "0"]).await.number() == 20).then_some(())
    })
    .await;
    nodes[0].kill();
    let gone = |told: &[Value]| {
        told.iter()
            .filter(|event| event["type"] == "disconnected")
            .map(|event| event["client"].to_string())
            .collect::<BTreeSet<_>>()
    };
    let ids: BTreeSet<_> = clients.iter().map(|client| json!(client.id).to_string()).collect();
    let events = until(&endpoint, "the end of all of them", |told| gone(told) == ids).await;
    let codes: BTreeSet<_> = events
        .iter()
        .filter(|event| event["type"] == "disconnected")
        .map(|event| event["code"].as_u64().unwrap())
        .collect();
    assert_eq!(codes, BTreeSet::from([3002]), "their gateway died");
}

#[tokio::test]
async fn dead_letters_are_sent_again_with_their_ids_and_the_rest_is_kept() {
    let endpoint = Endpoint::start(|_, _| Reply::status(410)).await;
    let (gateway, folder) = telling(&endpoint, "");
    let gateway = gateway.start().await;
    let mut client = Client::connect(&gateway).await;
    for data in ["a", "poison", "b"] {
        client.publish("room:1", json!(data)).await;
    }
    let given_up = eventually_within(SOON, "all of them in the file", async || {
        Some(dead_events(&dead(&folder))).filter(|dead| dead.iter().filter_map(publication).count() == 3)
    })
    .await;
    let again = Endpoint::start(|request, _| {
        Reply::status(if request.text().contains("poison") { 500 } else { 200 })
    })
    .await;
    let tool = Tool::new(gateway_binary()).arg("upstream").arg("replay").arg(dead(&folder));
    let tool = tool.arg("--config").arg(gateway.config()).arg("--url").arg(again.url("/again"));
    let output = tool.arg("--per-second").arg("1000").output(SOON).await;
    let printed = String::from_utf8_lossy(&output.stdout);
    let summary = format!("{} of {} events were accepted", given_up.len() - 1, given_up.len());
    assert!(printed.contains(&summary) && printed.contains("answered 500"), "{printed}");
    assert_eq!(output.status.code(), Some(1));
    assert!(again.received().iter().all(is_signed));
    let ids = |events: &[Value]| events.iter().map(|event| event["id"].to_string()).collect::<Vec<_>>();
    assert_eq!(ids(&events_of(&again.received())), ids(&given_up), "all of them, in order");
    let left: Vec<_> = dead_events(&dead(&folder)).iter().filter_map(publication).collect();
    assert_eq!(left, ["\"poison\""]);
}
