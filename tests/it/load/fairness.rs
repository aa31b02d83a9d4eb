//! What one client takes from the others of its worker: the time of a round trip while somebody floods.

use std::time::{Duration, Instant};

use gateway_tests::{Client, Flood, Flooding, Frame, Gateway, Socket, within, within_time};
use serde_json::json;

const PATH: &str = "/connection/websocket";

const CONFIG: &str = "
    listen.workers = 1
    client.anonymous = true
    [namespaces.open]
    allow_subscribe = 'anyone'
    allow_publish = 'anyone'
    allow_history = 'anyone'
    allow_presence = 'anyone'
    history_size = 300
    presence = true
    join_leave = true
";

const ROUTER: &str = "[[config.rules]]\nkind = 'rpc'\nreply = { ok = true }\n";

/// Round trips of one measurement, and how long it goes on at least.
const ROUND_TRIPS: usize = 1000;
const MEASURED: Duration = Duration::from_millis(300);

/// The round trip of others may take so many times as long at its 99th percentile, and so long.
const TIMES_MAX: f64 = 5.0;
/// A calm round trip counts as at least so long: below it the turns of the system's own scheduler are
/// measured, which gives each of two busy processes milliseconds.
const CALM_MIN: Duration = Duration::from_micros(200);
const TIME_MAX: Duration = Duration::from_millis(25);

/// The machine has other things to do as well: one quiet moment of several is enough to see what the gateway
/// does.
const ATTEMPTS: usize = 8;
const PAUSE: Duration = Duration::from_secs(1);

#[derive(Clone, Copy)]
struct RoundTrips {
    count: usize,
    median: Duration,
    p99: Duration,
    most: Duration,
}

impl std::fmt::Display for RoundTrips {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { count, median, p99, most } = self;
        write!(f, "{median:.0?} at the median, {p99:.0?} at p99, {most:.0?} at most of {count}")
    }
}

/// How long a client waits for answers.
async fn round_trips(client: &mut Client) -> RoundTrips {
    let mut times = Vec::with_capacity(ROUND_TRIPS);
    let start = Instant::now();
    while times.len() < ROUND_TRIPS || start.elapsed() < MEASURED {
        let number = times.len();
        let begun = Instant::now();
        client.ask("rpc", json!({ "method": "x", "data": number })).await.expect("an answer");
        times.push(begun.elapsed());
    }
    times.sort_unstable();
    RoundTrips {
        count: times.len(),
        median: times[times.len() / 2],
        p99: times[times.len() * 99 / 100],
        most: times[times.len() - 1],
    }
}

async fn gateway() -> Gateway {
    Gateway::with(CONFIG).plugin("90-router", "router", ROUTER).start().await
}

async fn others_wait_little(what: &str, flood: Flood) {
    let gateway = gateway().await;
    let mut client = Client::connect(&gateway).await;
    round_trips(&mut client).await;
    let mut ratios = Vec::new();
    for _ in 0..ATTEMPTS {
        let calm = round_trips(&mut client).await;
        let flooding = flood.clone().start(gateway.address());
        under_way(&flooding).await;
        let before = flooding.sent();
        let flooded = round_trips(&mut client).await;
        let sent = flooding.sent() - before;
        drop(flooding);
        println!("{what}: calm {calm}; flooded {flooded}, {} KiB of flood", sent / 1024);
        assert!(sent > 10 << 10, "it was no flood");
        let ratio = flooded.p99.as_secs_f64() / calm.p99.max(CALM_MIN).as_secs_f64();
        if ratio <= TIMES_MAX && flooded.p99 <= TIME_MAX {
            return;
        }
        ratios.push(ratio);
        tokio::time::sleep(PAUSE).await;
    }
    panic!("{what}: the round trip of others took {ratios:.1?} times as long at its 99th percentile");
}

async fn under_way(flooding: &Flooding) {
    within("the flood to begin", async {
        while flooding.sent() < 200 << 10 && flooding.connections() < 3 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}

fn connected(what: &str, block: Vec<u8>) -> (String, Flood) {
    (what.to_owned(), Flood::of(PATH, block).first(&["{\"id\":1,\"connect\":{}}".to_owned()]))
}

#[tokio::test]
async fn pings_before_the_connect_slow_nobody_else() {
    let pings = Frame::new(Frame::PING, "").bytes().repeat(5000);
    others_wait_little("pings", Flood::of(PATH, pings).again()).await;
}

#[tokio::test]
async fn fragments_of_an_endless_message_slow_nobody_else() {
    let fragments = Frame::new(0, "").bits(0).bytes().repeat(5000);
    let flood = Flood::of(PATH, fragments).begin(&Frame::text("{").bits(0).bytes());
    others_wait_little("fragments", flood).await;
}

#[tokio::test]
async fn a_flood_of_rpcs_slows_nobody_else() {
    let (what, flood) = connected("rpcs", Frame::text("{\"id\":2,\"rpc\":{\"data\":1}}").bytes().repeat(500));
    others_wait_little(&what, flood).await;
}

#[tokio::test]
async fn a_flood_of_publications_slows_nobody_else() {
    let publish = "{\"id\":2,\"publish\":{\"channel\":\"open:flood\",\"data\":1}}";
    let (what, flood) = connected("publications", Frame::text(publish).bytes().repeat(500));
    others_wait_little(&what, flood).await;
}

#[tokio::test]
async fn a_client_that_publishes_to_itself_by_the_thousand_slows_nobody_else() {
    let subscribe = "{\"id\":2,\"subscribe\":{\"channel\":\"open:flood\"}}".to_owned();
    let publish = "{\"id\":3,\"publish\":{\"channel\":\"open:flood\",\"data\":1}}\n".repeat(1000);
    let flood = Flood::of(PATH, Frame::text(&publish).bytes())
        .first(&["{\"id\":1,\"connect\":{}}".to_owned(), subscribe]);
    others_wait_little("publications to itself", flood).await;
}

#[tokio::test]
async fn subscriptions_that_come_and_go_slow_nobody_else() {
    let both = "{\"id\":2,\"subscribe\":{\"channel\":\"open:flood\"}}\n\
                {\"id\":3,\"unsubscribe\":{\"channel\":\"open:flood\"}}\n";
    let (what, flood) = connected("subscriptions", Frame::text(&both.repeat(400)).bytes());
    others_wait_little(&what, flood).await;
}

#[tokio::test]
async fn one_message_of_a_thousand_histories_is_answered_in_order_and_delays_nobody() {
    const HISTORIES: usize = 1000;
    let gateway = gateway().await;
    let mut client = Client::connect(&gateway).await;
    for _ in 0..300 {
        client.publish("open:full", json!("x".repeat(20_000))).await;
    }
    let calm = round_trips(&mut client).await;
    let mut asking = Socket::open(gateway.address(), PATH).await;
    asking.send(&Frame::text("{\"id\":1,\"connect\":{}}").bytes()).await;
    asking.frame().await.expect("a reply");
    let history = |id| json!({ "id": id, "history": { "channel": "open:full", "limit": 2 } }).to_string();
    let message: Vec<_> = (2..HISTORIES + 2).map(history).collect();
    // A client that reads late makes the gateway stop in the middle of the message.
    asking.send(&Frame::text(&message.join("\n")).bytes()).await;
    let delayed = round_trips(&mut client).await;
    println!("{HISTORIES} histories in one message: calm {calm}; meanwhile {delayed}");
    assert!(delayed.most < Duration::from_millis(250), "{:?}", delayed.most);
    within_time(Duration::from_secs(20), "every answer", async {
        for id in 2..HISTORIES + 2 {
            let frame = asking.frame().await.unwrap_or_else(|| panic!("closed before the answer to {id}"));
            let reply: serde_json::Value = serde_json::from_slice(&frame.payload).expect("JSON");
            assert_eq!(
                (&reply["id"], reply["history"]["publications"].as_array().map(Vec::len)),
                (&json!(id), Some(2))
            );
        }
    })
    .await;
}

#[tokio::test]
async fn one_message_of_large_histories_that_are_not_read_is_not_answered_for_nothing() {
    let gateway = gateway().await;
    let mut client = Client::connect(&gateway).await;
    for _ in 0..300 {
        client.publish("open:full", json!("x".repeat(60_000))).await;
    }
    let before = gateway.memory();
    let mut asking = Socket::open(gateway.address(), PATH).await;
    let history = |id| json!({ "id": id, "history": { "channel": "open:full", "limit": 10 } }).to_string();
    let message: Vec<_> = (2..900).map(history).collect();
    asking.send(&Frame::text("{\"id\":1,\"connect\":{}}").bytes()).await;
    asking.send(&Frame::text(&message.join("\n")).bytes()).await;
    let delayed = round_trips(&mut client).await;
    let (grown, closed) = (gateway.memory().saturating_sub(before), gateway.metrics().await);
    println!("large histories in one message, not read: others {delayed}; {grown} KiB more memory");
    assert!(delayed.most < Duration::from_millis(250), "{:?}", delayed.most);
    // It waits for its reader: `write_timeout` ends it if that never comes.
    assert_eq!(closed.get("gateway_connections_closed_total{cause=\"slow\"}"), 0.0);
    let sent = closed.get("gateway_messages_sent_total") - 300.0 - delayed.count as f64;
    assert!((2.0..100.0).contains(&sent), "{sent} of 900 answers were made");
}

/// While a history is read of which a plugin lets the client see nothing, others are served.
#[tokio::test]
async fn a_history_that_a_plugin_withholds_is_read_in_turns() {
    const WITHHELD: u64 = 3000;
    const SCRIPTED: &str = "
        [grants]
        effects = ['publish', 'subscribe', 'unsubscribe', 'disconnect', 'refresh']
        [config]
        kinds = []
        withhold = ['open:hidden']
    ";
    let config = CONFIG.replace("history_size = 300", "history_size = 3001");
    let gateway = Gateway::with(&config)
        .plugin("50-scripted", "guest-scripted", SCRIPTED)
        .plugin("90-router", "router", ROUTER)
        .start()
        .await;
    let mut publisher = Client::connect(&gateway).await;
    for number in 0..WITHHELD {
        publisher.publish("open:hidden", json!(number)).await;
    }
    publisher.publish("open:hidden", json!("shown")).await;
    let mut reader = Client::connect(&gateway).await;
    let read = tokio::spawn(async move {
        let start = Instant::now();
        let query = json!({ "channel": "open:hidden", "limit": 10 });
        (reader.ask("history", query).await.expect("anyone may read"), start.elapsed())
    });
    let (mut others, mut longest) = (0, Duration::ZERO);
    while !read.is_finished() {
        let begun = Instant::now();
        publisher.ask("rpc", json!({ "method": "x" })).await.expect("an answer");
        (others, longest) = (others + 1, longest.max(begun.elapsed()));
    }
    let (history, took) = read.await.expect("an answer");
    println!(
        "a history of {WITHHELD} that are withheld: {took:.0?}; others {others} answers, {longest:.0?} at most"
    );
    let publications = history["publications"].as_array().expect("a list");
    let [shown] = &publications[..] else { panic!("{publications:?}") };
    assert_eq!((&shown["data"], &shown["offset"]), (&json!("shown"), &json!(WITHHELD + 1)));
    assert!(others >= 5, "{others} answers while it was read");
}
