//! Pages in a real browser. Two tabs of the demo talk, also after the gateway was away, and show what the
//! plugin folder holds; a page of another origin falls back to streams where WebSocket is blocked; many such
//! clients share one connection; and all of it works over TLS.

use std::path::Path;
use std::time::Duration;

use gateway_tests::{Authority, Client, Gateway, Issued, Redis, node, wasm};
use serde_json::json;

/// Where Debian puts it, or wherever `CHROMIUM` says.
const CHROMIUM: &str = "/usr/bin/chromium";
const LIMIT: Duration = Duration::from_secs(60);

fn chromium() -> String {
    let chromium = std::env::var("CHROMIUM").unwrap_or_else(|_| CHROMIUM.to_owned());
    assert!(Path::new(&chromium).exists(), "{chromium} is missing: `tests/run` does all the set-up");
    chromium
}

#[tokio::test]
async fn two_tabs_talk_across_a_restart_and_see_the_plugins_change() {
    let mut gateway = Gateway::demo().await;
    assert_eq!(gateway.log().complaints(), Vec::<String>::new(), "a good start");
    let mut tabs =
        node("browser.mjs").env("GATEWAY", gateway.address().to_string()).env("CHROMIUM", chromium()).talk();
    tabs.hear(LIMIT, "they talk").await;

    gateway.kill();
    tabs.say("restart is under way").await;
    tabs.hear(LIMIT, "they noticed").await;
    gateway.restart().await;
    tabs.say("it is back").await;
    tabs.hear(LIMIT, "they talk again").await;

    gateway.swap(|folder| folder.plugin("95-no-sdk", &wasm("guest-no-sdk"), "")).await;
    tabs.say("a plugin is there").await;
    tabs.hear(LIMIT, "they see it").await;
    gateway.refusal(|folder| folder.put("95-no-sdk.wasm", b"rubbish")).await;
    tabs.say("it is replaced by rubbish").await;
    tabs.hear(LIMIT, "they see that it was refused").await;
    gateway.swap(|folder| folder.remove("95-no-sdk.wasm")).await;
    tabs.say("it is gone").await;
    tabs.hear(LIMIT, "done").await;
    tabs.end(LIMIT).await;
}

/// Settings of gateways on this Redis with a channel from which nothing is lost.
fn open(redis: &Redis) -> String {
    format!(
        "
        redis.url = '{}'
        client.anonymous = true
        handshake.origins = ['*']
        [namespaces.open]
        history_size = 100
        recovery = true
        allow_subscribe = 'anyone'
        allow_publish = 'anyone'
        ",
        redis.url()
    )
}

#[tokio::test]
async fn a_page_without_websocket_falls_back_by_itself_and_misses_nothing_across_a_restart() {
    let redis = Redis::start().await;
    let config = open(&redis);
    let mut gateway = Gateway::start(&config).await;
    let other = Gateway::start(&config).await;
    let mut page =
        node("fallback.mjs").env("GATEWAY", gateway.address().to_string()).env("CHROMIUM", chromium()).talk();
    page.hear(LIMIT, "they fell back").await;
    gateway.kill();
    page.say("restart is under way").await;
    page.hear(LIMIT, "they noticed").await;
    let mut publisher = Client::connect(&other).await;
    for n in 0..5 {
        publisher.publish("open:1", json!(n)).await;
    }
    gateway.restart().await;
    page.say("it is back, and 5 were published meanwhile").await;
    page.hear(LIMIT, "done").await;
    page.end(LIMIT).await;
}

#[tokio::test]
async fn ten_clients_without_websocket_share_one_connection_of_http_2() {
    let authority = Authority::new();
    authority.write("site", &authority.issue(&["localhost"]));
    let config = format!(
        "
        client.anonymous = true
        channel.allow_subscribe = 'anyone'
        channel.allow_publish = 'anyone'
        handshake.origins = ['*']
        [listen.tls]
        {}
        ",
        authority.settings(&["site"])
    );
    let gateway = Gateway::start(&config).await;
    let output = node("http2.mjs")
        .env("GATEWAY", gateway.address().to_string())
        .env("CHROMIUM", chromium())
        .run(LIMIT)
        .await;
    assert_eq!(output.lines().last(), Some("done"));
    let metrics = gateway.metrics().await;
    // A browser may open a second one while the first is not known to speak HTTP/2.
    assert!((1.0..=3.0).contains(&metrics.get("gateway_http2_connections_total")));
    assert!(metrics.get("gateway_connections_opened_total") >= 11.0);
}

/// A certificate with this name besides that of the listener.
fn issue(authority: &Authority, name: &str) -> Issued {
    authority.issue_with(&["localhost"], |params| {
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
    })
}

#[tokio::test]
async fn a_page_over_tls_misses_nothing_across_another_certificate_and_a_restart() {
    let authority = Authority::new();
    authority.write("site", &issue(&authority, "first"));
    let redis = Redis::start().await;
    let config = open(&redis);
    let other = Gateway::start(&config).await;
    let mut gateway =
        Gateway::start(&format!("{config}[listen.tls]\n{}\n", authority.settings(&["site"]))).await;
    let mut publisher = Client::connect(&other).await;
    let mut page = node("wss.mjs")
        .env("GATEWAY", format!("localhost:{}", gateway.address().port()))
        .env("CHROMIUM", chromium())
        .talk();
    page.hear(LIMIT, "they are connected").await;

    let mark = gateway.log().mark();
    let second = issue(&authority, "second");
    authority.write("site", &second);
    gateway.log().wait_within(Duration::from_secs(15), mark, &["TLS certificates exchanged"]).await;
    let stream = authority.client().connect(gateway.address(), "localhost").await.expect("a handshake");
    let served = stream.get_ref().1.peer_certificates().expect("a certificate")[0].clone();
    assert_eq!(served, second.certificate, "new connections get the other certificate");
    for n in 0..2 {
        publisher.publish("open:1", json!(n)).await;
    }
    page.say("the certificate is another, and 2 were published").await;
    page.hear(LIMIT, "they stayed").await;

    gateway.kill();
    page.say("restart is under way").await;
    page.hear(LIMIT, "they noticed").await;
    for n in 0..5 {
        publisher.publish("open:1", json!(n)).await;
    }
    gateway.restart().await;
    page.say("it is back, and 5 were published meanwhile").await;
    page.hear(LIMIT, "done").await;
    page.end(LIMIT).await;
}
