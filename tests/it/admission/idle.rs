//! Clients that say nothing stay connected behind proxies that are configured as the page for clients shows.
//!
//! `GATEWAY_IDLE_MINUTES` lets them be silent for longer than proxies wait by default, which is a minute.

use std::time::{Duration, Instant};

use gateway_tests::{Client, Gateway, Stream, WebProxy};
use serde_json::json;

const CONFIG: &str = "
    client.anonymous = true
    channel.allow_subscribe = 'anyone'
    listen.trusted_proxies = ['127.0.0.1']
";

/// Longer than a minute, in which two pings come.
const TIME: Duration = Duration::from_secs(68);

/// How long a publication may take to six clients. Much less than until the next ping.
const AT_ONCE: Duration = Duration::from_secs(2);

fn time() -> Duration {
    std::env::var("GATEWAY_IDLE_MINUTES").map_or(TIME, |minutes| {
        let minutes: u64 = minutes.parse().expect("GATEWAY_IDLE_MINUTES is a number of minutes");
        Duration::from_secs(minutes * 60)
    })
}

/// A part of a configuration in this language, from the page for clients.
fn shown(language: &str) -> &'static str {
    let page = include_str!("../../../gateway/docs/clients.md");
    let fence = format!("```{language}\n");
    let (_, rest) = page.split_once(&*fence).unwrap_or_else(|| panic!("the page shows {language}"));
    rest.split_once("```").expect("the end of the block").0
}

/// The clients of one proxy: by WebSocket, by HTTP streaming and by server-sent events.
struct Clients {
    websocket: Client,
    streams: [Stream; 2],
}

impl Clients {
    async fn connect(proxy: &WebProxy) -> Self {
        let mut websocket = Client::open(proxy.address()).await;
        websocket.ask("connect", json!({})).await.expect("the connect command is accepted");
        websocket.subscribe("news").await;
        let stream = async |path| {
            let mut stream = Stream::connect(proxy.address(), path, json!({})).await;
            let subscribed = stream.ask(2, "subscribe", json!({ "channel": "news" })).await;
            assert!(subscribed["subscribe"].is_object(), "{subscribed}");
            stream
        };
        let streams = [stream("/connection/http_stream").await, stream("/connection/sse").await];
        Self { websocket, streams }
    }

    /// The pings that each got.
    async fn idle(&mut self, time: Duration) -> [usize; 3] {
        let [http, events] = &mut self.streams;
        let (websocket, http, events) =
            tokio::join!(self.websocket.idle(time), http.idle(time), events.idle(time));
        [websocket, http, events]
    }

    /// The next message of each, on the connection it has had from the beginning.
    async fn receive(&mut self, data: &str) {
        assert_eq!(self.websocket.publication("news").await["data"], data);
        for stream in &mut self.streams {
            let message = stream.next().await.expect("the stream goes on");
            assert_eq!(message["push"]["pub"]["data"], data, "{message}");
        }
    }
}

#[tokio::test]
async fn silent_clients_stay_connected_behind_proxies_and_hear_at_once() {
    let time = time();
    let gateway = Gateway::start(CONFIG).await;
    let nginx = WebProxy::nginx_as_shown(gateway.address(), shown("nginx")).await;
    let haproxy = WebProxy::haproxy_as_shown(gateway.address(), shown("haproxy")).await;
    let (mut first, mut second) = (Clients::connect(&nginx).await, Clients::connect(&haproxy).await);
    let pings = tokio::join!(first.idle(time), second.idle(time));
    println!("pings in {} s: behind nginx {:?}, behind HAProxy {:?}", time.as_secs(), pings.0, pings.1);
    // One in 25 seconds.
    let least = (time.as_secs() / 25).saturating_sub(1) as usize;
    let all = [pings.0, pings.1].concat();
    assert!(all.iter().all(|pings| *pings >= least), "{all:?}");
    assert_eq!(gateway.metrics().await.get("gateway_connections"), 6.0, "nobody has gone, or come again");

    let published = Instant::now();
    gateway.post("/api/publish", &json!({ "channel": "news", "data": "hello" })).await.ok();
    tokio::join!(first.receive("hello"), second.receive("hello"));
    assert!(published.elapsed() < AT_ONCE, "{:?}", published.elapsed());
}
