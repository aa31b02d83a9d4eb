//! Plugins that ask other servers while a client waits to be admitted.

use std::time::{Duration, Instant};

use gateway_tests::{Client, Endpoint, Gateway, Received, Reply, eventually};
use serde_json::{Value, json};

/// A server that knows the tokens `user-N`, and everything a test adds.
async fn server(more: impl Fn(&Received, usize) -> Option<Reply> + Send + Sync + 'static) -> Endpoint {
    Endpoint::start(move |request, before| {
        more(request, before).unwrap_or_else(|| {
            let token = request.text();
            let user = token.strip_prefix("token=user-").and_then(|rest| rest.split('&').next());
            Reply::json(&match user {
                Some(user) => json!({"active": true, "sub": user}),
                None => json!({"active": false}),
            })
        })
    })
    .await
}

/// A gateway that asks it, with more settings of the gateway and of the plugin, and a grant.
async fn gateway(endpoint: &Endpoint, config: &str, plugin: &str, grant: &str) -> Gateway {
    let origin = endpoint.url("");
    let settings = format!(
        "[config]\nendpoint = '{}'\n[grants]\n{grant} = ['{origin}']\n{plugin}",
        endpoint.url("/introspect"),
    );
    let config = format!("{config}\n[namespaces.chat]\nallow_publish = 'users'\nallow_subscribe = 'users'");
    Gateway::with(&config).plugin("10-introspection", "introspection", &settings).start().await
}

async fn connect(gateway: &Gateway, token: &str) -> (Client, Result<Value, u64>) {
    let mut client = Client::open(gateway.address()).await;
    let id = client.command("connect", json!({"token": token})).await;
    let outcome = match client.outcome(id, "connect").await {
        Ok(reply) => reply.map_err(|refused| refused.code),
        Err(closed) => Err(closed.code.map_or(0, u64::from)),
    };
    (client, outcome)
}

#[tokio::test]
async fn a_client_is_admitted_by_what_the_server_says_and_the_answer_is_used_again() {
    let endpoint = server(|_, _| None).await;
    let gateway = gateway(&endpoint, "", "", "http-private").await;
    let (_first, hello) = connect(&gateway, "user-42").await;
    assert!(hello.is_ok(), "{hello:?}");
    let (mut second, hello) = connect(&gateway, "user-42").await;
    assert!(hello.is_ok(), "{hello:?}");
    second.publish("chat:1", json!("a user may")).await;
    assert_eq!(endpoint.received().len(), 1, "the second answer came from the cache");
    let request = &endpoint.received()[0];
    assert_eq!((&*request.method, &*request.path), ("POST", "/introspect"));
    assert_eq!(request.header("content-type"), "application/x-www-form-urlencoded");
    assert_eq!(connect(&gateway, "forged").await.1, Err(3500));
}

#[tokio::test]
async fn what_comes_with_the_connect_command_waits_for_the_answer() {
    let endpoint = server(|_, _| None).await;
    let gateway = gateway(&endpoint, "", "", "http-private").await;
    let mut client = Client::open(gateway.address()).await;
    client
        .send_text("{\"id\":1,\"connect\":{\"token\":\"user-42\"}}\n{\"id\":2,\"subscribe\":{\"channel\":\"chat:1\"}}")
        .await;
    client.send_text("{\"id\":3,\"publish\":{\"channel\":\"chat:1\",\"data\":7}}").await;
    assert!(client.reply(1, "connect").await.is_ok());
    assert!(client.reply(2, "subscribe").await.is_ok());
    assert!(client.reply(3, "publish").await.is_ok());
    assert_eq!(client.publication("chat:1").await["data"], 7);
}

#[tokio::test]
async fn a_server_of_a_private_address_has_to_be_granted_as_one() {
    let endpoint = server(|_, _| None).await;
    let gateway = gateway(&endpoint, "", "", "http").await;
    assert_eq!(connect(&gateway, "user-42").await.1, Err(100));
    gateway.log().wait(&["no answer about a token", "is not a public address"]).await;
    assert!(endpoint.received().is_empty());
}

#[tokio::test]
async fn answers_that_are_too_large_or_lead_elsewhere_are_none() {
    let elsewhere = server(|_, _| None).await;
    let location = elsewhere.url("/introspect");
    let endpoint = server(move |request, _| match &*request.text() {
        "token=large&token_type_hint=access_token" => Some(Reply::body(vec![b' '; 10 << 20])),
        "token=moved&token_type_hint=access_token" => Some(Reply::status(307).header("location", &location)),
        _ => None,
    });
    let endpoint = endpoint.await;
    let gateway = gateway(&endpoint, "", "", "http-private").await;
    for (token, words) in [("large", "more than 1048576 bytes"), ("moved", "the endpoint answered 307")] {
        assert_eq!(connect(&gateway, token).await.1, Err(100), "{token}");
        gateway.log().wait(&["no answer about a token", words]).await;
    }
    assert!(elsewhere.received().is_empty());
    assert!(connect(&gateway, "user-42").await.1.is_ok(), "the instance goes on");
}

#[tokio::test]
async fn a_server_that_does_not_answer_costs_those_who_are_there_nothing() {
    let endpoint =
        server(|request, _| request.text().starts_with("token=user-slow").then(Reply::never)).await;
    let gateway =
        gateway(&endpoint, "handshake.deadline = '2s'", "[http]\ninstances = 2", "http-private").await;
    let (mut there, hello) = connect(&gateway, "user-42").await;
    assert!(hello.is_ok());
    there.subscribe("chat:1").await;
    let mut waiting = Vec::new();
    for number in 0..50 {
        let mut client = Client::open(gateway.address()).await;
        let id = client.command("connect", json!({"token": format!("user-slow{number}")})).await;
        waiting.push((client, id));
    }
    endpoint.wait_for(3).await;
    let begin = Instant::now();
    for number in 0..20 {
        there.publish("chat:1", json!(number)).await;
        assert_eq!(there.publication("chat:1").await["data"], number);
    }
    assert!(begin.elapsed() < Duration::from_secs(1), "{:?}", begin.elapsed());
    // Two are asked about; the others find no instance in time. All are told, before they would be cut off.
    for (mut client, id) in waiting {
        let answer = client.outcome(id, "connect").await.expect("an error reply and not the end");
        assert_eq!(answer.expect_err("nobody vouches for it").code, 100);
    }
    let plugin = gateway.post("/api/plugins", &json!({})).await.ok()["result"]["plugins"][0].clone();
    let failures = &plugin["counts"]["failures"];
    assert_eq!((&failures["deadline"], &failures["busy"]), (&json!(2), &json!(48)), "{failures}");
    assert_eq!(
        plugin["breaker"]["state"], "closed",
        "those who found no place are no reason to refuse others"
    );
    let again = eventually("somebody is admitted again", async || connect(&gateway, "user-7").await.1.ok());
    again.await;
}

#[tokio::test]
async fn a_client_that_goes_while_it_waits_is_asked_about_no_more() {
    let endpoint =
        server(|request, _| request.text().starts_with("token=user-slow").then(Reply::never)).await;
    let gateway = gateway(&endpoint, "", "[http]\ninstances = 1", "http-private").await;
    let mut client = Client::open(gateway.address()).await;
    client.command("connect", json!({"token": "user-slow"})).await;
    endpoint.wait_for(1).await;
    drop(client);
    let begin = Instant::now();
    assert!(connect(&gateway, "user-42").await.1.is_ok(), "the one instance is free");
    assert!(begin.elapsed() < Duration::from_secs(2), "{:?}", begin.elapsed());
}
