//! Tokens of public keys, several issuers and their keys, permissions and subscription tokens, against the
//! real binary.

use std::collections::BTreeSet;
use std::time::Duration;

use gateway::testing::{Engine, PluginRunner};
use gateway_tests::{API_KEY, Client, Closed, Gateway, Tool, node, target_folder, token};
use serde_json::{Value, json};

const CONFIG: &str = "
    log.filter = 'info,plugin=debug'
    [namespaces.chat]
    allow_subscribe = 'users'
    allow_publish = 'users'
    [namespaces.inbox]
    [namespaces.outbox]
    [namespaces.private]
";

/// How the connection ends that somebody opens with this token.
async fn refused(gateway: &Gateway, token: &str) -> Closed {
    let mut client = Client::open(gateway.address()).await;
    client.command("connect", json!({ "token": token })).await;
    client.closed().await
}

// ---- Keys ----

/// Two issuers, each with two keys and a token of each: one signs with ES256, the other with EdDSA. Made with
/// OpenSSL; the tokens are good until 2100.
struct Issuers(Value);

impl Issuers {
    fn read() -> Self {
        Self(serde_json::from_str(include_str!("auth/issuers.json")).expect("JSON"))
    }

    fn token(&self, name: &str) -> &str {
        self.0["tokens"][name].as_str().unwrap_or_else(|| panic!("there is no token {name}"))
    }

    /// Settings with these keys of both: the first issuer's as PEM, the second's as a key set.
    fn settings(&self, numbers: &[u8]) -> String {
        let keys = |name: &str| -> Vec<Value> {
            numbers.iter().map(|number| self.0["keys"][format!("{name}-{number}")].clone()).collect()
        };
        let config = json!({ "config": { "issuers": [
            { "issuer": "https://shop.example", "keys": keys("es") },
            { "issuer": "https://game.example", "jwks": json!({ "keys": keys("ed") }).to_string() },
        ] } });
        serde_json::from_value::<toml::Table>(config).expect("a table").to_string()
    }
}

#[tokio::test]
async fn keys_are_exchanged_while_clients_stay() {
    let issuers = Issuers::read();
    let gateway = Gateway::with(CONFIG).plugin("10-auth-jwt", "auth-jwt", &issuers.settings(&[1]));
    let gateway = gateway.start().await;
    let connect =
        async |name: &str| Client::connect_with(&gateway, json!({ "token": issuers.token(name) })).await;
    let exchange = async |numbers: &[u8]| {
        let settings = issuers.settings(numbers);
        gateway.swap(|folder| folder.settings("10-auth-jwt", &settings)).await;
    };
    let mut ann = connect("ann-1").await;
    let mut bob = connect("bob-1").await;
    ann.subscribe("chat:1").await;

    // The new keys come beside the old ones, then the old ones go.
    let invalid = Closed { code: Some(3500), reason: "invalid token".into() };
    assert_eq!(refused(&gateway, issuers.token("ann-2")).await, invalid);
    exchange(&[1, 2]).await;
    for name in ["ann-1", "ann-2", "bob-1", "bob-2"] {
        connect(name).await;
    }
    exchange(&[2]).await;
    assert_eq!(refused(&gateway, issuers.token("ann-1")).await, invalid);
    connect("ann-2").await;

    // The key of one issuer does not speak for the other.
    let foreign = issuers.token("foreign");
    let mark = gateway.log().mark();
    assert_eq!(refused(&gateway, foreign).await, invalid);
    let line = gateway.log().wait_since(mark, &["token refused: there is no key"]).await;
    assert!(!line.text.contains(&foreign[..40]), "{}", line.text);

    // Who was admitted by the old keys is still there.
    bob.publish("chat:1", json!("still here")).await;
    assert_eq!(ann.publication("chat:1").await["data"], "still here");
}

/// How often each token is verified.
const ROUNDS: usize = 20;

/// How many millions of WebAssembly instructions a token of this algorithm may take. The README of the plugin
/// says how many each takes; a third more may come of another compiler. Times are of the machine and prove
/// nothing, so they are printed.
fn millions(name: &str) -> u64 {
    match name {
        "HS256" | "HS384" | "HS512" => 1,
        "EdDSA" => 3,
        "ES256" => 25,
        "ES384" => 60,
        "ES512" => 32,
        _ if name.ends_with("2048 bits") => 21,
        _ if name.ends_with("4096 bits") => 80,
        _ => panic!("{name} has no budget"),
    }
}

/// The tokens and their keys were made with OpenSSL.
#[test]
fn tokens_of_another_implementation_are_verified_within_a_budget_of_instructions() {
    let vectors: Vec<Value> = serde_json::from_str(include_str!("auth/tokens.json")).expect("JSON");
    let wasm = std::fs::read(gateway_tests::wasm("auth-jwt")).expect("it was built");
    println!("the module has {} KiB", wasm.len() >> 10);
    // What is in use is not compiled again for other settings.
    let mut in_use = Vec::new();
    for vector in vectors {
        let name = vector["name"].as_str().expect("a text").to_owned();
        // The deadline counts processor time, which on a busy machine is more than the work takes.
        let settings = json!({ "limits": { "deadline": "1s" }, "config": { "keys": [vector["key"]] } });
        let settings: toml::Table = serde_json::from_value(settings).expect("a table");
        let connect =
            json!({ "event": "connect", "token": vector["token"], "expect": { "verdict": "accept" } });
        let mut play = |engine: Engine, rounds: usize| {
            let plugin = PluginRunner::load_bytes("auth-jwt", &wasm, settings.to_string().as_bytes(), engine);
            let mut plugin = plugin.expect("a plugin");
            let played = plugin.check(&format!("{connect}\n").repeat(rounds));
            in_use.push(plugin);
            played.unwrap_or_else(|error| panic!("{name}: {error}"))
        };
        let mut times: Vec<Duration> =
            play(Engine::Production, ROUNDS).iter().map(|played| played.time).collect();
        times.sort();
        let counted = play(Engine::Metered, 1)[0].usage.instructions.expect("counted");
        println!("{name}: {counted} instructions, least {:?}, median {:?}", times[0], times[ROUNDS / 2]);
        assert!(counted <= millions(&name) * 1_000_000, "{name}: {counted} instructions");
    }
}

// ---- Permissions and subscription tokens ----

const PRIVATE: &str = "
    permissions = 'claims'
    permissions_otherwise = 'next'
    token_channels = ['private:*']
";

fn private() -> String {
    [token::settings().as_str(), PRIVATE].concat()
}

/// A token of a user for one channel.
fn pass(user: &str, channel: &str) -> String {
    token::with(user, json!({ "channel": channel }))
}

#[tokio::test]
async fn a_private_channel_takes_a_token_of_its_own() {
    let gateway = Gateway::with(CONFIG).plugin("10-auth-jwt", "auth-jwt", &private()).start().await;
    let mut ann = Client::connect_as(&gateway, "ann").await;
    let late = json!({ "channel": "private:1", "exp": token::in_time(Duration::ZERO) - 10 });
    for (token, code) in [
        (String::new(), 103),
        (token::of("ann"), 103),
        (pass("bob", "private:1"), 103),
        (pass("ann", "private:2"), 103),
        (token::with("ann", late), 109),
    ] {
        let asked = ann.ask("subscribe", json!({ "channel": "private:1", "token": token })).await;
        assert_eq!(asked.unwrap_err().code, code, "{token}");
    }
    let token = pass("ann", "private:1");
    ann.ask("subscribe", json!({ "channel": "private:1", "token": token })).await.unwrap();

    // Nor does it open anything else, and nobody logs it.
    assert_eq!(refused(&gateway, &token).await.code, Some(3500));
    let signature = token.rsplit('.').next().expect("three parts");
    assert!(gateway.log().lines().iter().all(|line| !line.text.contains(signature)));
}

/// The moment in this many seconds, for a claim.
fn in_seconds(seconds: u64) -> u64 {
    token::in_time(Duration::from_secs(seconds))
}

/// A gateway whose subscriptions end this long after their tokens.
async fn with_grace(grace: &str) -> Gateway {
    let config = format!("{CONFIG}\n[client]\nsubscription_expiry_grace = '{grace}'");
    let settings = [private().as_str(), "leeway = '0s'"].concat();
    Gateway::with(&config).plugin("10-auth-jwt", "auth-jwt", &settings).start().await
}

#[tokio::test]
async fn a_subscription_ends_with_its_token_unless_it_is_refreshed() {
    let gateway = with_grace("0s").await;
    let mut ann = Client::connect_as(&gateway, "ann").await;
    for channel in ["private:lazy", "private:diligent"] {
        let token = token::with("ann", json!({ "channel": channel, "exp": in_seconds(2) }));
        let subscribed = ann.ask("subscribe", json!({ "channel": channel, "token": token })).await.unwrap();
        assert_eq!(subscribed["expires"], true);
        assert!(subscribed["ttl"].as_u64().is_some_and(|ttl| (1..=2).contains(&ttl)), "{subscribed}");
    }
    let renew = json!({ "channel": "private:diligent", "token": pass("ann", "private:diligent") });
    let refreshed = ann.ask("sub_refresh", renew).await.unwrap();
    assert!(refreshed["ttl"].as_u64().is_some_and(|ttl| ttl > 3500), "{refreshed}");
    let expired = json!({ "channel": "private:lazy", "unsubscribe": { "code": 2501, "reason": "expired" } });
    assert_eq!(ann.push().await, expired);
    let renew_late = json!({ "channel": "private:lazy", "token": pass("ann", "private:lazy") });
    assert_eq!(ann.ask("sub_refresh", renew_late.clone()).await.unwrap_err().code, 103, "it is gone");

    // The connection and the other subscription stay; the client comes back with another token.
    ann.ask("subscribe", renew_late).await.unwrap();
    let endless = token::with("ann", json!({ "channel": "private:diligent", "expire_at": 0 }));
    let endless = json!({ "channel": "private:diligent", "token": endless });
    assert_eq!(ann.ask("sub_refresh", endless).await.unwrap(), json!({}), "it does not expire any more");
    let update = json!({ "channel": "private:diligent", "data": "news" });
    gateway.post("/api/publish", &update).await.ok();
    assert_eq!(ann.publication("private:diligent").await["data"], "news");
    let commands = gateway.metrics().await.get("gateway_commands_total{kind=\"sub_refresh\"}");
    assert_eq!(commands, 2.0, "as many as reached the plugins");
}

#[tokio::test]
async fn many_subscriptions_may_end_at_once() {
    let gateway = with_grace("0s").await;
    let mut ann = Client::connect_as(&gateway, "ann").await;
    let exp = in_seconds(2);
    let mut left: BTreeSet<_> = (0..200).map(|number| format!("private:{number}")).collect();
    for channel in &left {
        let token = token::with("ann", json!({ "channel": channel, "exp": exp }));
        ann.ask("subscribe", json!({ "channel": channel, "token": token })).await.unwrap();
    }
    while !left.is_empty() {
        let push = ann.push().await;
        assert_eq!(push["unsubscribe"]["code"], 2501);
        assert!(left.remove(push["channel"].as_str().expect("a channel")), "once: {push}");
    }
    ann.ask("subscribe", json!({ "channel": "private:1", "token": pass("ann", "private:1") })).await.unwrap();
}

#[tokio::test]
async fn a_refresh_of_a_subscription_with_a_token_that_is_no_good_changes_nothing() {
    let gateway = with_grace("10m").await;
    let mut ann = Client::connect_as(&gateway, "ann").await;
    let channel = "private:1";
    let good = pass("ann", channel);
    assert_eq!(
        ann.ask("sub_refresh", json!({ "channel": channel, "token": good })).await.unwrap_err().code,
        103
    );
    let short = token::with("ann", json!({ "channel": channel, "exp": in_seconds(60) }));
    ann.ask("subscribe", json!({ "channel": channel, "token": short })).await.unwrap();
    let late = token::with("ann", json!({ "channel": channel, "exp": in_seconds(0) - 10 }));
    for (token, code) in [
        (String::new(), 107),
        ("nonsense".to_owned(), 103),
        (pass("bob", channel), 103),
        (pass("ann", "private:2"), 103),
        (token::of("ann"), 103),
        (late, 110),
    ] {
        let asked = ann.ask("sub_refresh", json!({ "channel": channel, "token": token })).await;
        assert_eq!(asked.unwrap_err().code, code, "{token}");
    }
    let refreshed = ann.ask("sub_refresh", json!({ "channel": channel, "token": good })).await.unwrap();
    assert!(refreshed["ttl"].as_u64().is_some_and(|ttl| ttl > 3500), "{refreshed}");
    let unsupported = json!({ "channel": channel, "token": good, "type": 1 });
    assert_eq!(ann.ask("sub_refresh", unsupported).await.unwrap_err().code, 108);
}

#[tokio::test]
async fn subscription_tokens_may_have_keys_of_their_own() {
    const ROOMS: &str = "another secret of thirty-two bytes..";
    let own = format!(
        "[[config.subscription_issuers]]\nissuer = 'rooms'\nkeys = [{{ algorithm = 'HS256', secret = '{ROOMS}' }}]"
    );
    let settings = [private().as_str(), &own].concat();
    let gateway = Gateway::with(CONFIG).plugin("10-auth-jwt", "auth-jwt", &settings).start().await;
    let mut ann = Client::connect_as(&gateway, "ann").await;
    let claims = json!({ "sub": "ann", "iss": "rooms", "channel": "private:1", "exp": in_seconds(60) });
    let signed = |secret: &str| token::sign(&json!({ "alg": "HS256" }), &claims, secret);
    let mut subscribe = async |token: String| {
        ann.ask("subscribe", json!({ "channel": "private:1", "token": token })).await.map(drop)
    };
    assert_eq!(subscribe(pass("ann", "private:1")).await.unwrap_err().code, 103, "the key of connections");
    assert_eq!(subscribe(signed(token::SECRET)).await.unwrap_err().code, 103);
    subscribe(signed(ROOMS)).await.unwrap();
}

#[tokio::test]
async fn the_published_client_refreshes_subscriptions() {
    for encoding in ["json", "protobuf"] {
        let gateway = with_grace("2s").await;
        let output = node("expiring.mjs")
            .env("GATEWAY", gateway.address().to_string())
            .env("ADMIN", gateway.admin().to_string())
            .env("API_KEY", API_KEY)
            .env("SECRET", token::SECRET)
            .env("ENCODING", encoding)
            .run(Duration::from_secs(60))
            .await;
        let steps: Vec<_> = output.lines().collect();
        assert_eq!(steps, ["refreshed", "refused", "subscribed again"], "{encoding}");
    }
}

#[tokio::test]
async fn the_client_for_python_refreshes_subscriptions() {
    let python = target_folder().join("python-clients/bin/python");
    assert!(python.exists(), "{} is missing: `tests/run` does all the set-up", python.display());
    let gateway = with_grace("2s").await;
    let output = Tool::new(python)
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/clients/expiring.py"))
        .env("GATEWAY", gateway.address().to_string())
        .env("SECRET", token::SECRET)
        .env("TOKEN", token::of("ann"))
        .run(Duration::from_secs(60))
        .await;
    assert_eq!(output.lines().collect::<Vec<_>>(), ["json", "protobuf"]);
}

#[tokio::test]
async fn a_token_says_what_its_bearer_may_do() {
    let gateway = Gateway::with(CONFIG).plugin("10-auth-jwt", "auth-jwt", &private()).start().await;
    let token = token::with("ann", json!({ "subscribe": ["inbox:{user}"], "publish": ["inbox:*"] }));
    let mut ann = Client::connect_with(&gateway, json!({ "token": token })).await;
    ann.subscribe("inbox:ann").await;
    assert_eq!(ann.ask("subscribe", json!({ "channel": "inbox:bob" })).await.unwrap_err().code, 103);
    ann.publish("inbox:ann", json!("mine")).await;
    assert_eq!(ann.publication("inbox:ann").await["data"], "mine");

    let foreign = json!({ "channel": "outbox:ann", "data": 1 });
    assert_eq!(ann.ask("publish", foreign).await.unwrap_err().code, 103);
}

#[tokio::test]
async fn a_star_in_a_token_means_channels_and_not_what_is_said_to_users() {
    let gateway = Gateway::with(CONFIG).plugin("10-auth-jwt", "auth-jwt", &private()).start().await;
    let mut ann = Client::connect_as(&gateway, "ann").await;
    let of_bob = async |patterns: Value| {
        let token = token::with("bob", json!({ "subscribe": patterns, "publish": patterns }));
        Client::connect_with(&gateway, json!({ "token": token })).await
    };
    let mut everything = of_bob(json!(["*"])).await;
    for (command, parameters) in [
        ("subscribe", json!({ "channel": "#ann" })),
        ("publish", json!({ "channel": "#ann", "data": "forged" })),
        ("publish", json!({ "channel": format!("@{}", ann.id), "data": "forged" })),
    ] {
        let refused = everything.ask(command, parameters.clone()).await.expect_err("it is an address");
        assert_eq!(refused.code, 103, "{parameters}");
    }
    everything.subscribe("inbox:ann").await;

    let mut named = of_bob(json!(["#an*"])).await;
    named.subscribe("#ann").await;
    named.publish("#ann", json!("hello")).await;
    assert_eq!(ann.direct().await, "hello", "and nothing before");
    assert_eq!(named.publication("#ann").await["data"], "hello");
    assert_eq!(named.ask("subscribe", json!({ "channel": "#bob2" })).await.expect_err("another").code, 103);
}

#[tokio::test]
async fn the_published_client_fetches_subscription_tokens() {
    let gateway = Gateway::with(CONFIG).plugin("10-auth-jwt", "auth-jwt", &private()).start().await;
    let output = node("private.mjs")
        .env("GATEWAY", gateway.address().to_string())
        .env("SECRET", token::SECRET)
        .run(Duration::from_secs(60))
        .await;
    assert_eq!(output.lines().collect::<Vec<_>>(), ["fetched", "fetched again", "refused"]);
}
