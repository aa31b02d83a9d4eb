//! The tools for authors of plugins, from the first file to a plugin in a folder: `gateway plugin ...`.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use gateway_tests::{API_KEY, Client, Endpoint, Gateway, Reply, Tool, gateway_binary, target_folder, wasm};
use serde_json::{Value, json};

/// A build of the plugin and the SDK included.
pub(super) const LONG: Duration = Duration::from_secs(300);

/// Exit code and everything printed.
pub(super) async fn plugin(folder: &Path, arguments: &[&str]) -> (i32, String) {
    let tool = Tool::new(gateway_binary()).arg("plugin").folder(folder);
    // One folder for what tests build: the SDK is compiled once.
    let tool = tool.env("CARGO_TARGET_DIR", target_folder().join("authors"));
    let output = arguments.iter().fold(tool, |tool, argument| tool.arg(argument)).output(LONG).await;
    let text = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
    (output.status.code().expect("it was not killed"), text)
}

/// A folder with one plugin of this repository and what is written beside it.
struct Files(tempfile::TempDir);

impl Files {
    fn new(name: &str) -> Self {
        let files = Self(tempfile::tempdir().unwrap());
        fs::copy(wasm(name), files.path("it.wasm")).unwrap();
        files
    }

    fn with(self, name: &str, text: &str) -> Self {
        fs::write(self.path(name), text).unwrap();
        self
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    async fn plugin(&self, arguments: &[&str]) -> (i32, String) {
        plugin(self.0.path(), arguments).await
    }
}

#[tokio::test]
async fn a_new_plugin_builds_is_checked_runs_and_is_dropped() {
    let place = tempfile::tempdir().unwrap();
    let at = |path: &str| place.path().join(path);
    let (code, text) = plugin(place.path(), &["new", "be-polite"]).await;
    assert_eq!(code, 0, "{text}");
    for next in ["cargo test", "gateway plugin build", "--events events.jsonl", "--into DIR"] {
        assert!(text.contains(next), "{next}: {text}");
    }
    // Its own tests, natively.
    let tests = Tool::new("cargo").arg("test").arg("--quiet").folder(at("be-polite"));
    let printed = tests.env("CARGO_TARGET_DIR", target_folder().join("authors")).run(LONG).await;
    assert!(printed.contains("3 passed"), "{printed}");

    fs::create_dir(at("plugins")).unwrap();
    let (code, text) = plugin(place.path(), &["build", "be-polite", "--into", "plugins"]).await;
    assert_eq!(code, 0, "{text}");
    assert!(text.contains("dropped as plugins/50-be-polite.wasm"), "{text}");
    assert!(at("plugins/50-be-polite.toml").is_file(), "its settings came with it: {text}");
    let size = fs::metadata(at("plugins/50-be-polite.wasm")).unwrap().len();
    assert!(size < 300_000, "{size} bytes: the profile makes it small");

    let file = "plugins/50-be-polite.wasm";
    let (code, text) = plugin(place.path(), &["check", file]).await;
    assert_eq!(code, 0, "{text}");
    for told in [
        "be-polite 0.1.0",
        "configure on-message",
        "asks for    nothing",
        "self-test   holds: 2 events",
        "ok: the gateway accepts it",
    ] {
        assert!(text.contains(told), "no {told:?}: {text}");
    }
    let (code, text) = plugin(place.path(), &["run", file, "--events", "be-polite/events.jsonl"]).await;
    assert_eq!(code, 0, "{text}");
    assert!(text.contains("2 events, 0 with expectations"), "{text}");
}

#[tokio::test]
async fn a_plugin_that_is_watched_is_built_after_every_change() {
    let place = tempfile::tempdir().unwrap();
    let at = |path: &str| place.path().join(path);
    assert_eq!(plugin(place.path(), &["new", "watched"]).await.0, 0);
    // In the crate: what is dropped there is no change.
    fs::create_dir(at("watched/plugins")).unwrap();
    let tool = Tool::new(gateway_binary()).folder(place.path());
    let tool = tool.env("CARGO_TARGET_DIR", target_folder().join("authors"));
    let arguments = ["plugin", "build", "watched", "--into", "watched/plugins", "--watch"];
    let mut watching = arguments.iter().fold(tool, |tool, argument| tool.arg(argument)).talk();
    let waits = "  waiting for a change; Ctrl-C ends";
    watching.hear(LONG, waits).await;
    let file = at("watched/plugins/50-watched.wasm");
    let before = fs::read(&file).unwrap();

    // What the plugin's own test does not expect is not dropped, as the gateway would not take it.
    let change = |file: &str, from: &str, to: &str| {
        let text = fs::read_to_string(at(file)).unwrap();
        assert!(text.contains(from), "{file}: {text}");
        fs::write(at(file), text.replace(from, to)).unwrap();
    };
    change("watched/src/lib.rs", "please be polite", "watch your tongue");
    watching.hear(LONG, waits).await;
    assert_eq!(fs::read(&file).unwrap(), before);
    change("watched/self-test.json", "please be polite", "watch your tongue");
    watching.hear(LONG, waits).await;
    assert_ne!(fs::read(&file).unwrap(), before);
    watching.interrupt();
    watching.end(LONG).await;
}

#[tokio::test]
async fn nothing_that_exists_is_overwritten() {
    let place = tempfile::tempdir().unwrap();
    fs::create_dir(place.path().join("mine")).unwrap();
    fs::write(place.path().join("mine/notes.txt"), "mine").unwrap();
    let (code, text) = plugin(place.path(), &["new", "shout", "--path", "mine"]).await;
    assert_eq!(code, 1, "{text}");
    assert!(text.contains("mine is not empty") && text.contains("nothing was written"), "{text}");
    assert_eq!(fs::read_dir(place.path().join("mine")).unwrap().count(), 1);
    let (code, text) = plugin(place.path(), &["new", "10-shout"]).await;
    assert_eq!(code, 1, "{text}");
    assert!(text.contains("name the plugin \"shout\""), "{text}");
}

#[tokio::test]
async fn build_says_what_is_missing_before_it_spends_minutes() {
    let place = tempfile::tempdir().unwrap();
    let (code, text) = plugin(place.path(), &["build"]).await;
    assert_eq!(code, 1, "{text}");
    assert!(text.contains("has no Cargo.toml") && text.contains("gateway plugin new NAME"), "{text}");
    let (code, text) = plugin(place.path(), &["build", "--into", "nowhere"]).await;
    assert_eq!(code, 1, "{text}");
    assert!(text.contains("nowhere is not a folder"), "{text}");
    let (code, text) = plugin(place.path(), &["build", "--target", "wasm32-unknown-unknown"]).await;
    assert_eq!(code, 2, "{text}");
}

#[tokio::test]
async fn check_tells_what_a_plugin_is_and_why_it_would_be_refused() {
    let files = Files::new("router");
    let (code, text) = files.plugin(&["check", "it.wasm"]).await;
    assert_eq!(code, 4, "the router needs rules: {text}");
    for told in
        ["hooks       configure on-message", "imports     gateway:plugin/", "settings    none", "configure: "]
    {
        assert!(text.contains(told), "no {told:?}: {text}");
    }
    assert!(!text.contains("ok:"), "{text}");
    let files = files.with("it.toml", "[config]\nrules = [{ kind = 'publish', allow = true }]");
    let (code, text) = files.plugin(&["check", "it.wasm"]).await;
    assert_eq!(code, 0, "{text}");
    assert!(text.contains("settings    it.toml"), "{text}");
    let instructions = |text: &str| {
        let line = text.lines().find(|line| line.contains("configured")).unwrap().to_owned();
        line.split(", ").find(|part| part.ends_with("instructions")).unwrap().to_owned()
    };
    let again = files.plugin(&["check", "it.wasm"]).await.1;
    assert_eq!(instructions(&text), instructions(&again), "instructions are counted, not measured");
    assert!(!instructions(&text).starts_with("0 "), "{text}");

    let files = files.with("it.wasm", "(module)").with("it.toml", "");
    let (code, text) = files.plugin(&["check", "it.wasm"]).await;
    assert_eq!(code, 4, "{text}");
    assert!(text.contains("not-wasm: is WebAssembly as text"), "{text}");
    assert_eq!(files.plugin(&["check", "other.wasm"]).await.0, 1);
}

#[tokio::test]
async fn check_plays_the_test_that_a_plugin_carries_and_counts_its_instructions() {
    let settings = "config.keyless = true\n[grants]\neffects = ['publish']\nenvironment = ['SECRETS_KEY']";
    let (_, text) = Files::new("guest-secrets").with("it.toml", settings).plugin(&["check", "it.wasm"]).await;
    let line = text.lines().find(|line| line.contains("self-test")).unwrap_or_else(|| panic!("{text}"));
    assert!(line.contains("holds: ") && line.contains("instructions") && !line.contains(" 0 "), "{line}");
}

#[tokio::test]
async fn bench_compares_with_a_plugin_that_does_nothing() {
    let files = Files::new("echo").with(
        "events.jsonl",
        r#"
        {"event": "message", "kind": "raw", "text": "hello"}
        {"event": "message", "kind": "publish", "channel": "news", "payload": 1}
        "#,
    );
    let (code, text) = files.plugin(&["bench", "it.wasm", "--events", "events.jsonl", "--rounds", "3"]).await;
    assert_eq!(code, 0, "{text}");
    for told in ["line 2: raw of c1", "empty plugin  ", "instructions  ", "is noise"] {
        assert!(text.contains(told), "no {told:?}: {text}");
    }
    assert!(
        text.contains("line 3: publish to news of c1\n    not measured: the plugin does not see it"),
        "{text}"
    );
    let (code, text) = files.plugin(&["bench", "it.wasm"]).await;
    assert_eq!(code, 0, "{text}");
    assert!(text.contains("not measured"), "echo sees raw messages only: {text}");
}

#[tokio::test]
async fn inspect_shows_the_chain_of_a_running_gateway() {
    let settings = "[config]\nrules = [{ kind = 'publish', allow = true }]";
    let gateway = Gateway::with("").plugin("50-router", "router", settings).start().await;
    let inspect = |key: &'static str, more: &'static [&'static str]| {
        let address = format!("http://{}", gateway.admin());
        let tool = Tool::new(gateway_binary()).arg("inspect");
        let elsewhere = more.contains(&"--address");
        let tool = if elsewhere { tool } else { tool.arg("--address").arg(address) };
        let tool = more.iter().fold(tool, |tool, argument| tool.arg(argument));
        async move { tool.env("GATEWAY_ADMIN_API_KEY", key).output(LONG).await }
    };
    let output = inspect(API_KEY, &[]).await;
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.starts_with("chain 1\n") && text.contains("1  router  live"), "{text}");

    gateway.refusal(|folder| folder.settings("50-router", "[config]\nrulez = []")).await;
    let text = String::from_utf8(inspect(API_KEY, &[]).await.stdout).unwrap();
    assert!(text.contains("live-older") && text.contains("50-router.wasm was refused"), "{text}");
    let answer: Value = serde_json::from_slice(&inspect(API_KEY, &["--json"]).await.stdout).unwrap();
    assert_eq!(answer["plugins"][0]["error"]["code"], "configure");

    for (key, more, why) in [
        ("wrong", &[][..], "is needed"),
        ("", &[], "GATEWAY_ADMIN_API_KEY"),
        (API_KEY, &["--key-env", "NOWHERE"], "NOWHERE"),
        (API_KEY, &["--address", "127.0.0.1:1"], "expected http:// or https://"),
        (API_KEY, &["--address", "http://127.0.0.1:1"], "is the gateway running"),
    ] {
        let output = inspect(key, more).await;
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(5), "{text}");
        assert!(text.contains(why), "{why}: {text}");
    }
}

#[tokio::test]
async fn an_operator_takes_a_version_back_and_holds_a_breaker() {
    let rules = |reason: &str| {
        format!("[[config.rules]]\nkind = 'publish'\ndeny = {{ code = 103, reason = '{reason}' }}")
    };
    let gateway =
        Gateway::with("client.anonymous = true").plugin("50-router", "router", &rules("first")).start().await;
    let reason = async || {
        let mut client = Client::connect(&gateway).await;
        client.ask("publish", json!({"channel": "news", "data": 1})).await.unwrap_err().message
    };
    gateway.swap(|folder| folder.settings("50-router", &rules("second"))).await;
    assert_eq!(reason().await, "second");
    let address = format!("http://{}", gateway.admin());
    let rollback = |name: &'static str| {
        let tool = Tool::new(gateway_binary()).arg("plugin").arg("rollback").arg(name);
        tool.arg("--address").arg(&address).env("GATEWAY_ADMIN_API_KEY", API_KEY).output(LONG)
    };
    let output = rollback("router").await;
    let text = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
    assert!(output.status.success() && text.contains("router: version 0.1.0"), "{text}");
    assert_eq!(reason().await, "first");
    let hold = |state: &'static str| {
        let tool = Tool::new(gateway_binary()).arg("plugin").arg("breaker").arg("router").arg(state);
        tool.arg("--address").arg(&address).env("GATEWAY_ADMIN_API_KEY", API_KEY).output(LONG)
    };
    let breaker = async || {
        let answer = gateway.post("/api/plugins", &json!({})).await.ok();
        answer["result"]["plugins"][0]["breaker"].clone()
    };
    let output = hold("open").await;
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(breaker().await, json!({"state": "open", "held": true}));
    assert!(hold("auto").await.status.success());
    assert_eq!(breaker().await["held"], false);
    let output = rollback("nothing").await;
    assert_eq!(output.status.code(), Some(5));
    assert!(String::from_utf8(output.stderr).unwrap().contains("refuses plugin_rollback"));
}

#[tokio::test]
async fn run_tells_the_outcome_and_the_cost_of_every_event() {
    let files = Files::new("echo").with(
        "events.jsonl",
        r#"
        {"event": "message", "kind": "raw", "text": "hello", "expect": {"verdict": "reply", "text": "hello"}}
        {"event": "message", "kind": "publish", "channel": "news", "payload": 1, "expect": "not-called"}
        {"event": "message", "kind": "raw", "text": "hello", "expect": {"verdict": "next"}}
        "#,
    );
    let (code, text) = files.plugin(&["run", "it.wasm", "--events", "events.jsonl"]).await;
    assert_eq!(code, 6, "{text}");
    for told in [
        r#"line 2: raw of c1 -> reply {"text":"hello"}"#,
        "line 3: publish to news of c1 -> not-called",
        r#"NOT AS EXPECTED: `verdict` is "reply", expected "next""#,
        "3 events, 3 with expectations, 1 not as expected",
        "1 event did not come out as expected",
    ] {
        assert!(text.contains(told), "no {told:?}: {text}");
    }
    assert_eq!(text.matches("NOT AS EXPECTED").count(), 1, "{text}");

    let files = files.with("events.jsonl", r#"[{"event": "message", "kind": "raw", "text": "hello"}]"#);
    let (code, text) =
        files.plugin(&["run", "it.wasm", "--events", "events.jsonl", "--json", "--instructions"]).await;
    assert_eq!(code, 0, "{text}");
    let value: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(value["outcome"]["verdict"], "reply");
    assert!(value["time_ns"].as_u64() > Some(0) && value["instructions"].as_u64() > Some(0), "{value}");
    assert!(value["memory_bytes"].as_u64() > Some(60_000), "{value}");
    assert_eq!(value["host_calls"], 0, "echo asks for nothing: {value}");
}

#[tokio::test]
async fn run_uses_the_limits_of_the_gateway_and_goes_on_after_a_failure() {
    let files = Files::new("guest-trap")
        .with("it.toml", "limits.deadline = '20ms'")
        .with(
            "events.jsonl",
            r#"
            {"event": "message", "kind": "raw", "text": "loop", "expect": {"verdict": "failed", "cause": "deadline"}}
            {"event": "message", "kind": "raw", "text": "boom", "expect": {"verdict": "failed", "cause": "trap"}}
            {"event": "message", "kind": "raw", "text": "hello", "expect": {"verdict": "next", "effects": []}}
            "#,
        );
    let (code, text) = files.plugin(&["run", "it.wasm", "--events", "events.jsonl"]).await;
    assert_eq!(code, 0, "{text}");
    assert!(text.contains("limits.deadline"), "{text}");
}

#[tokio::test]
async fn mistakes_in_events_come_all_at_once() {
    let files = Files::new("echo").with("events.jsonl", "{\"event\": \"connekt\"}\nnonsense\n");
    let (code, text) = files.plugin(&["run", "it.wasm", "--events", "events.jsonl"]).await;
    assert_eq!(code, 3, "{text}");
    assert!(text.contains("line 1: `event` is \"connekt\"") && text.contains("line 2: is no JSON"), "{text}");
}

#[tokio::test]
async fn the_help_teaches() {
    let place = tempfile::tempdir().unwrap();
    for command in ["new", "build", "check", "run", "bench"] {
        let (code, text) = plugin(place.path(), &[command, "--help"]).await;
        assert_eq!(code, 0);
        assert!(text.contains("Example") && text.contains(&format!("gateway plugin {command}")), "{text}");
    }
    assert_eq!(plugin(place.path(), &["run", "it.wasm"]).await.0, 2, "no --events");
}

const DELIVERIES: &str = r#"
{"event": "connect", "token": "mod", "expect": {"verdict": "accept", "attributes": {"role": "moderator"}}}
{"event": "deliver", "channel": "chat:1", "class": "moderator", "payload": "oh darn", "expect": "pass"}
{"event": "deliver", "channel": "chat:1", "payload": "oh darn", "expect": {"verdict": "replace", "payload": "oh ***"}}
{"event": "deliver", "channel": "chat:1", "text": "no JSON", "expect": "drop"}
{"event": "deliver", "channel": "news", "payload": "oh darn", "expect": "not-called"}
{"event": "refresh", "token": "", "expect": "pass"}
"#;

#[tokio::test]
async fn run_plays_deliveries_and_refreshes() {
    let settings = "[config]\nchannels = ['chat:*']\nwords = ['darn']\nmoderator_token = 'mod'";
    let files = Files::new("redact").with("it.toml", settings).with("events.jsonl", DELIVERIES);
    let (code, text) = files.plugin(&["run", "it.wasm", "--events", "events.jsonl"]).await;
    assert_eq!(code, 0, "{text}");
    assert!(text.contains("deliver on chat:1 to class \"moderator\" -> pass"), "{text}");
    assert!(text.contains("6 events, 6 with expectations, 0 not as expected"), "{text}");
}

#[tokio::test]
async fn run_makes_the_requests_of_a_plugin_if_they_are_granted_and_says_if_not() {
    let endpoint = Endpoint::start(|request, _| {
        let active = request.text().starts_with("token=good");
        Reply::json(&if active { json!({"active": true, "sub": "42"}) } else { json!({"active": false}) })
    })
    .await;
    let config = format!("[config]\nendpoint = '{}'\n", endpoint.url("/introspect"));
    let granted = format!("{config}[grants]\nhttp-private = ['{}']", endpoint.url(""));
    let events = r#"{"event": "connect", "token": "good", "expect": {"verdict": "accept", "user": "42"}}
        {"event": "connect", "connection": "c2", "token": "bad", "expect": {"verdict": "refuse", "code": 3500}}"#;
    let files = Files::new("introspection").with("it.toml", &granted).with("events.jsonl", events);
    let (code, text) = files.plugin(&["run", "it.wasm", "--events", "events.jsonl", "--instructions"]).await;
    assert_eq!(code, 0, "{text}");
    let cost = text.lines().find(|line| line.trim_start().starts_with("cost")).unwrap();
    assert!(!cost.contains(" 0 host calls") && !cost.contains(" 0 B of memory"), "{cost}");
    assert!(cost.ends_with(" instructions") && !cost.contains(", 0 instructions"), "{cost}");
    assert_eq!(endpoint.received().len(), 4, "two events in two engines");

    let files = files.with("it.toml", &config);
    for arguments in [&["run", "it.wasm", "--events", "events.jsonl"][..], &["check", "it.wasm"]] {
        let (_, text) = files.plugin(arguments).await;
        assert!(text.contains("its settings grant no origin"), "{arguments:?}: {text}");
    }
    assert_eq!(endpoint.received().len(), 4, "nothing was asked");
}
