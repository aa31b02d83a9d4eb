//! Clients of different workers are clients of one gateway.

use std::time::Duration;

use gateway_tests::{Client, Gateway, token};
use serde_json::json;

const CONFIG: &str = "
    listen.workers = 2
    [namespaces.chat]
    presence = true
    allow_subscribe = 'users'
    allow_publish = 'users'
    allow_presence = 'users'
";

/// The system spreads connections over the workers; this many are never all on one.
const CLIENTS: usize = 32;

#[tokio::test]
async fn clients_of_all_workers_hear_and_see_each_other() {
    let mut gateway =
        Gateway::with(CONFIG).plugin("10-auth-jwt", "auth-jwt", &token::settings()).start().await;
    let mut clients = Vec::new();
    for n in 0..CLIENTS {
        let mut client = Client::connect_as(&gateway, &format!("user-{n}")).await;
        client.subscribe("chat:1").await;
        clients.push(client);
    }
    for from in 0..CLIENTS {
        clients[from].publish("chat:1", json!(from)).await;
        for client in &mut clients {
            assert_eq!(client.publication("chat:1").await["data"], from);
        }
    }
    let presence = clients[0].ask("presence", json!({ "channel": "chat:1" })).await.unwrap();
    assert_eq!(presence["presence"].as_object().unwrap().len(), CLIENTS);
    for (n, client) in clients.iter_mut().enumerate() {
        gateway.post("/api/publish", &json!({ "channel": format!("#user-{n}"), "data": n })).await.ok();
        assert_eq!(client.direct().await, n);
    }
    // While it stops, every worker says how many clients it had.
    gateway.terminate();
    assert!(gateway.exit(Duration::from_secs(5)).await.success());
    let mut counts: Vec<usize> = gateway
        .log()
        .lines()
        .iter()
        .filter(|line| line.message == "draining")
        .map(|line| line.field("connections").parse().unwrap())
        .collect();
    counts.sort_unstable();
    assert!(counts.len() == 2 && counts[0] > 0 && counts.iter().sum::<usize>() == CLIENTS, "{counts:?}");
}
