//! Keys that issuers publish, fetched by `auth-jwt` from a server.

use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use base64::prelude::{BASE64_URL_SAFE_NO_PAD, Engine as _};
use gateway::egress::{Client as HttpClient, Fetcher};
use gateway::plugin::counters::PluginCounters;
use gateway::plugin::load::Loader as _;
use gateway::plugin::settings::Settings;
use gateway::wasm::{Loader, LoaderConfig};
use gateway_tests::{Client, Endpoint, Gateway, Refused, Reply, eventually, token};
use serde_json::{Value, json};
use tokio::runtime::Handle;
use tokio::task::JoinSet;

const CONFIG: &str = "
    log.filter = 'info,plugin=debug'
    limits = { connection_rate = 0, connection_rate_per_address = 0 }
    [namespaces.private]
";

/// Keys and tokens of two issuers, made with OpenSSL; the tokens are good until 2100.
struct Issuers(Value);

impl Issuers {
    fn read() -> Self {
        Self(serde_json::from_str(include_str!("jwks/issuers.json")).expect("JSON"))
    }

    fn set(&self, names: &[&str]) -> Value {
        json!({ "keys": names.iter().map(|name| &self.0["keys"][*name]).collect::<Vec<_>>() })
    }

    fn token(&self, name: &str) -> &str {
        self.0["tokens"][name].as_str().unwrap_or_else(|| panic!("there is no token {name}"))
    }
}

/// A token of the first issuer that names a key which there is not.
fn unknown(kid: &str) -> String {
    let part = |value: &Value| BASE64_URL_SAFE_NO_PAD.encode(value.to_string());
    let header = json!({ "alg": "EdDSA", "kid": kid });
    let claims = json!({ "iss": "https://shop.example", "sub": "eve", "exp": 4_102_444_800_u64 });
    [part(&header), part(&claims), BASE64_URL_SAFE_NO_PAD.encode([0; 64])].join(".")
}

/// A server at which the first issuer has published one key, until `now_both`.
async fn shop(now_both: Arc<AtomicBool>) -> Endpoint {
    let issuers = Issuers::read();
    Endpoint::start(move |_, _| {
        let names: &[_] = if now_both.load(Relaxed) { &["shop-1", "shop-2"] } else { &["shop-1"] };
        Reply::json(&issuers.set(names))
    })
    .await
}

/// A settings file with the grants for what it says. `issuers` are names and paths.
fn settings(endpoint: &Endpoint, issuers: &[(&str, &str)], more: &str) -> String {
    let mut file = format!("[config]\n{more}\n");
    for (name, path) in issuers {
        let url = endpoint.url(path);
        let _ = writeln!(file, "[[config.issuers]]\nissuer = '{name}'\njwks_url = '{url}'");
    }
    let _ = writeln!(file, "[grants]\nkey-value = true\nhttp-private = ['{}']", endpoint.url(""));
    file
}

const SHOP: (&str, &str) = ("https://shop.example", "/shop.json");
const GAME: (&str, &str) = ("https://game.example", "/game.json");

async fn gateway(settings: &str) -> Gateway {
    Gateway::with(CONFIG).plugin("10-auth-jwt", "auth-jwt", settings).start().await
}

/// The code with which the client is refused or closed; 0 if it is admitted.
async fn connect(gateway: &Gateway, token: &str) -> u64 {
    let mut client = Client::open(gateway.address()).await;
    let id = client.command("connect", json!({ "token": token })).await;
    match client.outcome(id, "connect").await {
        Ok(Ok(_)) => 0,
        Ok(Err(refused)) => refused.code,
        Err(closed) => closed.code.map_or(u64::MAX, u64::from),
    }
}

#[tokio::test]
async fn unknown_keys_cause_at_most_one_fetch_per_interval() {
    const INTERVAL: u64 = 2;
    let (issuers, endpoint) = (Issuers::read(), shop(Arc::default()).await);
    let gateway = gateway(&settings(&endpoint, &[SHOP], &format!("jwks_interval = {INTERVAL}"))).await;
    let begin = Instant::now();
    assert_eq!(connect(&gateway, issuers.token("shop-1")).await, 0);
    let address = gateway.address();
    let mut clients = 0;
    while begin.elapsed() < Duration::from_secs(2 * INTERVAL) {
        let mut wave = JoinSet::new();
        for _ in 0..50 {
            clients += 1;
            let token = unknown(&format!("unknown-{clients}"));
            wave.spawn(async move {
                let mut client = Client::open(address).await;
                let id = client.command("connect", json!({ "token": token })).await;
                match client.outcome(id, "connect").await {
                    // Not judged: it may come back.
                    Ok(answer) => assert_eq!(answer.expect_err("no key").code, 100),
                    // Judged by an answer of just now.
                    Err(closed) => assert_eq!(closed.code, Some(3500)),
                }
            });
        }
        wave.join_all().await;
        assert_eq!(connect(&gateway, issuers.token("shop-1")).await, 0, "known keys go on");
    }
    let (fetches, intervals) = (endpoint.received().len() as u64, begin.elapsed().as_secs() / INTERVAL);
    println!("{clients} clients with unknown keys, {fetches} fetches in {:?}", begin.elapsed());
    assert!((2..=1 + intervals).contains(&fetches), "{fetches} fetches in {intervals} intervals");
    let request = &endpoint.received()[0];
    assert_eq!((&*request.method, &*request.path), ("GET", "/shop.json"));
}

#[tokio::test]
async fn the_same_kid_of_two_issuers_stays_apart() {
    let issuers = Issuers::read();
    let endpoint = Endpoint::start(move |request, _| match &*request.path {
        "/shop.json" => Reply::json(&issuers.set(&["shop-1"])),
        _ => Reply::json(&issuers.set(&["game-1"])),
    });
    let endpoint = endpoint.await;
    let (issuers, gateway) = (Issuers::read(), gateway(&settings(&endpoint, &[SHOP, GAME], "")).await);
    for _ in 0..2 {
        assert_eq!(connect(&gateway, issuers.token("shop-1")).await, 0);
        assert_eq!(connect(&gateway, issuers.token("game-1")).await, 0);
        assert_eq!(connect(&gateway, issuers.token("shop-1-as-game")).await, 3500);
        assert_eq!(connect(&gateway, issuers.token("game-1-as-shop")).await, 3500);
    }
    gateway.log().wait(&["token refused: the signature is wrong"]).await;
    assert_eq!(endpoint.received().len(), 2, "one for each");
}

#[tokio::test]
async fn a_new_key_works_without_a_reload_and_a_reload_fetches_nothing() {
    let rotated = Arc::new(AtomicBool::new(false));
    let (issuers, endpoint) = (Issuers::read(), shop(rotated.clone()).await);
    let gateway = gateway(&settings(&endpoint, &[SHOP], "jwks_interval = 1")).await;
    assert_eq!(connect(&gateway, issuers.token("shop-1")).await, 0);
    gateway.log().wait(&["keys of https://shop.example: 1"]).await;
    rotated.store(true, Relaxed);
    let admitted = async || (connect(&gateway, issuers.token("shop-2")).await == 0).then_some(());
    eventually("the new key is known", admitted).await;
    gateway.log().wait(&["keys of https://shop.example: 2"]).await;
    assert_eq!(endpoint.received().len(), 2);

    gateway.swap(|folder| folder.settings("10-auth-jwt", &settings(&endpoint, &[SHOP], "leeway = 5"))).await;
    for name in ["shop-1", "shop-2"] {
        assert_eq!(connect(&gateway, issuers.token(name)).await, 0);
    }
    assert_eq!(endpoint.received().len(), 2);
    assert!(gateway.log().lines().iter().all(|line| !line.text.contains("eyJhbGciOi")), "no token is logged");
}

#[tokio::test]
async fn while_an_issuer_is_away_or_hangs_known_keys_go_on() {
    let issuers = Issuers::read();
    let set = issuers.set(&["shop-1"]);
    // First it answers, then it is broken, and then it does not answer any more.
    let endpoint = Endpoint::start(move |_, before| match before {
        0 => Reply::json(&set),
        1 => Reply::status(503),
        _ => Reply::never(),
    });
    let endpoint = endpoint.await;
    let settings = settings(&endpoint, &[SHOP], "jwks_interval = 1\njwks_fresh = 1");
    let gateway = gateway(&settings).await;
    let known = async || {
        let begin = Instant::now();
        assert_eq!(connect(&gateway, issuers.token("shop-1")).await, 0);
        begin.elapsed()
    };
    let broken = async || {
        known().await;
        (endpoint.received().len() > 1).then_some(())
    };
    eventually("the keys are old", broken).await;
    gateway.log().wait(&["no keys from https://shop.example: the answer has status 503"]).await;
    // One client waits for the attempt, within the deadline of its handshake; others do not.
    let mut longest = Duration::ZERO;
    let hung = async || (endpoint.received().len() > 2).then_some(());
    let waits = async {
        eventually("another attempt is made", async || {
            longest = longest.max(known().await);
            (endpoint.received().len() > 2).then_some(())
        })
        .await;
    };
    let passes = async {
        eventually("the issuer hangs", hung).await;
        known().await
    };
    let ((), passed) = tokio::join!(waits, passes);
    println!("who asks waits for {longest:?}, others for {passed:?}");
    assert!(passed < Duration::from_secs(1), "{passed:?}");
    assert!((1..4).contains(&longest.as_secs()), "{longest:?}");
    gateway.log().wait(&["no keys from https://shop.example: no complete answer within 2s"]).await;
    assert_eq!(connect(&gateway, &unknown("2")).await, 100, "it may be good, who knows");
}

#[tokio::test]
async fn a_subscription_waits_for_no_server() {
    let rotated = Arc::new(AtomicBool::new(false));
    let (issuers, endpoint) = (Issuers::read(), shop(rotated.clone()).await);
    let more = "jwks_interval = 1\ntoken_channels = ['private:*']";
    let gateway = gateway(&settings(&endpoint, &[SHOP], more)).await;
    let mut ann = Client::connect_with(&gateway, json!({ "token": issuers.token("shop-1") })).await;
    let mut subscribe = async |name: &str| {
        ann.ask("subscribe", json!({ "channel": "private:1", "token": issuers.token(name) })).await
    };
    rotated.store(true, Relaxed);
    let refused: Refused = subscribe("pass-2").await.expect_err("the key is not known yet");
    assert!(refused.temporary, "{refused:?}");
    assert_eq!(endpoint.received().len(), 1);
    // The next client makes up for it, although its own key is known.
    let next = async || {
        assert_eq!(connect(&gateway, issuers.token("shop-1")).await, 0);
        (endpoint.received().len() > 1).then_some(())
    };
    eventually("keys are fetched again", next).await;
    subscribe("pass-2").await.expect("the key is known");
}

#[tokio::test]
async fn an_address_asks_for_its_grants_and_a_secret_for_none() {
    let endpoint = shop(Arc::default()).await;
    let gateway = gateway(&token::settings()).await;
    assert_eq!(connect(&gateway, &token::of("ann")).await, 0);
    let url = endpoint.url("/shop.json");
    let line = gateway
        .refusal(|folder| folder.settings("10-auth-jwt", &format!("[config]\njwks_url = '{url}'")))
        .await;
    let origin = endpoint.url("");
    for words in [
        format!("asks for key-value and http {origin}, which its settings file does not grant"),
        format!("add under [grants]: http = [\"{origin}\"], key-value = true"),
    ] {
        // In a field of the log, quotes are escaped.
        assert!(line.text.replace('\\', "").contains(&words), "{}\n{words}", line.text);
    }
    assert_eq!(connect(&gateway, &token::of("ann")).await, 0, "the settings before serve on");
}

/// Instances that may wait cost memory and a way to another thread.
#[tokio::test]
async fn who_may_ask_nobody_is_judged_on_the_worker() {
    let loader = Loader::new(&LoaderConfig { instances_max: 32 }).expect("an engine");
    let loader = loader.with_http(Fetcher::new(HttpClient::new()), Handle::current());
    let wasm = std::fs::read(gateway_tests::wasm("auth-jwt")).expect("it was built");
    for (grants, waits) in [("", false), ("[grants]\nhttp = ['https://login.example']", true)] {
        let settings = format!("{}{grants}", token::settings());
        let settings = Settings::parse(settings.as_bytes()).expect("settings");
        let factory = loader.load("auth-jwt", &wasm, &settings).expect("a plugin");
        assert!(factory.about().requested.is_empty(), "{:?}", factory.about().requested);
        assert_eq!(factory.async_instances(&Arc::new(PluginCounters::new(1))).is_some(), waits);
    }
}
