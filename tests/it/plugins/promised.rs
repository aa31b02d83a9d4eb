//! What lies in the plugin folder at a start is what the gateway serves with, or it serves nobody: a plugin
//! that cannot be loaded never opens what it would close.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::process::Command;

use gateway_tests::{Client, Folder, Gateway, Refused, wasm};
use serde_json::{Value, json};

const OPEN: &str = "client.anonymous = true\n[namespaces.chat]\nallow_subscribe = 'anyone'\n";

/// A router that refuses every publication.
const ROUTER: &str = "[[config.rules]]\nkind = 'publish'\ndeny = { code = 1234, reason = 'no' }\n";

/// What comes of a connect.
async fn connect(gateway: &Gateway) -> Result<Value, Refused> {
    let mut client = Client::open(gateway.address()).await;
    client.ask("connect", json!({})).await
}

async fn plugins(gateway: &Gateway) -> Value {
    gateway.post("/api/plugins", &json!({})).await.ok()["result"].clone()
}

/// The gateway refuses clients because of this file, and says so everywhere.
async fn assert_closed(gateway: &Gateway, file: &str, code: &str, what: &str) {
    let health = gateway.get("/health/ready").await;
    assert_eq!(health.status, 503, "{what}: {}", health.text());
    let health = health.json();
    assert_eq!(health["status"], "not ready", "{what}");
    let place = health["plugins"].as_array().unwrap().iter().find(|place| place["file"] == file);
    let place = place.unwrap_or_else(|| panic!("{what}: {health}"));
    assert_eq!(place["code"], code, "{what}");
    let sentence = place["sentence"].as_str().unwrap();
    assert!(health["reason"].as_str().unwrap().contains(file), "{what}: {health}");
    let said = gateway.log().matching(&[file, sentence.split('"').next().unwrap()]);
    assert!(said.iter().any(|line| line.level == "ERROR"), "{what}: {}", gateway.log().tail(20));
    assert!(gateway.metrics().await.get("gateway_plugins_closed") >= 1.0, "{what}");
    let plugins = plugins(gateway).await;
    let status = plugins["plugins"].as_array().unwrap().iter().find(|plugin| plugin["file"] == file);
    assert_eq!(status.unwrap()["state"], "closed", "{what}");
    assert_eq!(gateway.get("/health/live").await.status, 200, "{what}");
    let refused = connect(gateway).await.unwrap_err();
    assert_eq!((refused.code, refused.temporary), (100, true), "{what}: clients come back later");
}

async fn wait_ready(gateway: &Gateway) {
    gateway_tests::eventually("a gateway that is ready", async || {
        (gateway.get("/health/ready").await.status == 200).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_plugin_that_cannot_be_loaded_at_a_first_start_closes_what_it_would_close() {
    let good = fs::read(wasm("router")).unwrap();
    type Spoil = Box<dyn Fn(&Folder)>;
    let cases: Vec<(&str, &str, &str, Spoil)> = vec![
        (
            "a mistake in its settings",
            "50-router.wasm",
            "settings",
            Box::new(|folder| folder.settings("50-router", "[[config.rules]\n")),
        ),
        (
            "settings that it refuses",
            "50-router.wasm",
            "configure",
            Box::new(|folder| folder.settings("50-router", "[config]\nrulez = 1\n")),
        ),
        (
            "half a file",
            "50-router.wasm",
            "truncated",
            Box::new(move |folder| folder.put("50-router.wasm", &good[..good.len() / 2])),
        ),
        ("an empty file", "50-router.wasm", "empty", Box::new(|folder| folder.put("50-router.wasm", b""))),
        (
            "a file that anybody may write",
            "50-router.wasm",
            "untrusted",
            Box::new(|folder| {
                fs::set_permissions(folder.path().join("50-router.wasm"), Permissions::from_mode(0o666))
                    .unwrap();
            }),
        ),
        (
            "settings that anybody may write",
            "50-router.wasm",
            "untrusted",
            Box::new(|folder| {
                fs::set_permissions(folder.path().join("50-router.toml"), Permissions::from_mode(0o666))
                    .unwrap();
            }),
        ),
        (
            "a missing grant",
            "50-router.wasm",
            "not-granted",
            Box::new(|folder| folder.plugin("50-router", &wasm("guest-scripted"), "")),
        ),
        (
            "a link to nothing",
            "50-router.wasm",
            "not-a-file",
            Box::new(|folder| {
                folder.remove("50-router.wasm");
                symlink("nothing", folder.path().join("50-router.wasm")).unwrap();
            }),
        ),
        (
            "settings that are a link to nothing",
            "50-router.wasm",
            "not-a-file",
            Box::new(|folder| {
                folder.remove("50-router.toml");
                symlink("nothing", folder.path().join("50-router.toml")).unwrap();
            }),
        ),
        (
            "a pipe",
            "50-router.wasm",
            "not-a-file",
            Box::new(|folder| {
                folder.remove("50-router.wasm");
                assert!(
                    Command::new("mkfifo")
                        .arg(folder.path().join("50-router.wasm"))
                        .status()
                        .unwrap()
                        .success()
                );
            }),
        ),
        (
            "a folder of that name",
            "50-router.wasm",
            "not-a-file",
            Box::new(|folder| {
                folder.remove("50-router.wasm");
                fs::create_dir(folder.path().join("50-router.wasm")).unwrap();
            }),
        ),
        (
            "capital letters",
            "50-router.WASM",
            "misnamed",
            Box::new(|folder| folder.rename("50-router.wasm", "50-router.WASM")),
        ),
        (
            "settings with capital letters",
            "50-router.wasm",
            "misnamed",
            Box::new(|folder| folder.rename("50-router.toml", "50-router.Toml")),
        ),
        (
            "settings without their plugin",
            "50-router.toml",
            "no-module",
            Box::new(|folder| folder.remove("50-router.wasm")),
        ),
        (
            "a second file of the same name",
            "60-router.wasm",
            "duplicate-name",
            Box::new(|folder| folder.plugin("60-router", &wasm("echo"), "")),
        ),
        (
            "a name that is none",
            "50-router.v2.wasm",
            "invalid-name",
            Box::new(|folder| {
                folder.rename("50-router.toml", "50-router.v2.toml");
                folder.rename("50-router.wasm", "50-router.v2.wasm");
            }),
        ),
        (
            "a folder too deep",
            "rules/",
            "sub-folder",
            Box::new(|folder| {
                fs::create_dir(folder.path().join("rules")).unwrap();
                folder.rename("50-router.wasm", "rules/50-router.wasm");
                folder.remove("50-router.toml");
            }),
        ),
    ];
    for (what, file, code, spoil) in cases {
        let gateway =
            Gateway::with(OPEN).plugin("50-router", "router", ROUTER).prepare(|folder| spoil(folder));
        let gateway = gateway.start_unready().await;
        assert_closed(&gateway, file, code, what).await;
        // Once it is mended everything goes on without a restart.
        for entry in fs::read_dir(gateway.folder().path()).unwrap() {
            let path = entry.unwrap().path();
            let _ = fs::remove_file(&path).or_else(|_| fs::remove_dir_all(&path));
        }
        gateway.folder().plugin("50-router", &wasm("router"), ROUTER);
        wait_ready(&gateway).await;
        assert!(connect(&gateway).await.is_ok(), "{what}");
        assert_eq!(gateway.metrics().await.get("gateway_plugins_closed"), 0.0);
    }
}

#[tokio::test]
async fn one_plugin_more_than_there_may_be_closes_too() {
    let config = format!("plugins.max = 1\n{OPEN}");
    let gateway = Gateway::with(&config).plugin("50-router", "router", ROUTER).plugin("90-echo", "echo", "");
    assert_closed(&gateway.start_unready().await, "90-echo.wasm", "too-many", "plugins.max").await;
}

#[tokio::test]
async fn a_plugin_that_fails_open_is_left_out_and_taken_out_is_gone() {
    let gateway = Gateway::with(OPEN)
        .prepare(|folder| {
            folder.settings("50-router", "failure = 'open'\n");
            folder.put("50-router.wasm", b"nonsense");
        })
        .start()
        .await;
    assert!(connect(&gateway).await.is_ok());
    let gateway =
        Gateway::with(OPEN).prepare(|folder| folder.put("50-router.wasm", b"nonsense")).start_unready().await;
    assert_closed(&gateway, "50-router.wasm", "not-wasm", "before it is taken out").await;
    gateway.folder().remove("50-router.wasm");
    wait_ready(&gateway).await;
    assert!(connect(&gateway).await.is_ok(), "an operator has taken the plugin out");
}

#[tokio::test]
async fn later_drops_leave_the_chain_as_it_is_and_a_new_node_refuses_to_serve_with_them() {
    let mut gateway = Gateway::with(OPEN).plugin("50-router", "router", ROUTER).start().await;
    gateway.refusal(|folder| folder.put("60-new.wasm", b"nonsense")).await;
    gateway.refusal(|folder| folder.settings("50-router", "[[config.rules]\n")).await;
    wait_ready(&gateway).await;
    assert!(connect(&gateway).await.is_ok(), "nothing was promised of the new one, and the old one goes on");
    gateway.folder().remove("60-new.wasm");
    gateway.restart().await;
    wait_ready(&gateway).await;
    assert!(connect(&gateway).await.is_ok(), "its last good version is in the state folder");
    gateway.kill();
    fs::remove_dir_all(gateway.folder().path().with_file_name(".plugins.state")).unwrap();
    gateway.restart().await;
    assert_closed(&gateway, "50-router.wasm", "settings", "a new node has no earlier version").await;
}

#[tokio::test]
async fn what_is_no_plugin_and_looks_like_one_is_said_while_the_gateway_runs() {
    let gateway = Gateway::with(OPEN).plugin("50-router", "router", ROUTER).start().await;
    let folder = gateway.folder();
    let echo = fs::read(wasm("echo")).unwrap();
    folder.put("60-other.Wasm", &echo);
    folder.settings("70-lost", "[config]\n");
    fs::create_dir(folder.path().join("deep")).unwrap();
    folder.put("80-deep.wasm", &echo);
    folder.rename("80-deep.wasm", "deep/80-deep.wasm");
    symlink("nothing", folder.path().join("50-router.new")).unwrap();
    fs::rename(folder.path().join("50-router.new"), folder.path().join("50-router.wasm")).unwrap();
    for (file, code) in [
        ("60-other.Wasm", "misnamed"),
        ("70-lost.toml", "no-module"),
        ("deep/", "sub-folder"),
        ("50-router.wasm", "not-a-file"),
    ] {
        let line = gateway.log().wait(&["file in the plugin folder not used", file]).await;
        assert_eq!(line.level, "WARN", "{}", line.text);
        gateway_tests::eventually(format!("{file} in the API"), async || {
            let plugins = plugins(&gateway).await;
            let left =
                plugins["left_out"].as_array().unwrap().iter().find(|left| left["file"] == file)?.clone();
            assert_eq!((&left["code"], &left["closes"]), (&json!(code), &json!(false)));
            Some(())
        })
        .await;
    }
    wait_ready(&gateway).await;
    let plugins = plugins(&gateway).await;
    assert_eq!(
        plugins["plugins"][0]["state"], "live-older",
        "the router whose name is there goes on: {plugins}"
    );
}

#[tokio::test]
async fn required_plugins_are_there_or_the_gateway_does_not_start() {
    let config = format!("plugins.required = ['router', 'auth-jwt']\n{OPEN}");
    let gateway = || Gateway::with(&config).plugin("50-router", "router", ROUTER);
    let (said, code) = gateway().run();
    assert_eq!(code, Some(4), "{said}");
    assert!(said.contains("plugins.required") && said.contains("`auth-jwt`: there is no file"), "{said}");
    let (said, code) = gateway().prepare(|folder| folder.put("10-auth-jwt.wasm", b"nonsense")).run();
    assert_eq!(code, Some(4), "{said}");
    assert!(said.contains("`auth-jwt`: the file 10-auth-jwt.wasm is "), "{said}");

    let config = format!("plugins.required = ['router']\n{OPEN}");
    let mut gateway = Gateway::with(&config).plugin("50-router", "router", ROUTER).start().await;
    gateway.folder().remove("50-router.wasm");
    gateway.log().wait(&["plugin file removed", "plugins.required"]).await;
    assert_eq!(plugins(&gateway).await["plugins"][0]["state"], "removed-kept");
    gateway.restart().await;
    assert_eq!(plugins(&gateway).await["plugins"][0]["state"], "removed-kept", "a version of it is there");
}

#[tokio::test]
async fn a_full_folder_takes_nothing_out() {
    let mut gateway = Gateway::with(OPEN).plugin("50-router", "router", ROUTER).start().await;
    let folder = gateway.folder().path().to_owned();
    let rules = async |gateway: &Gateway| {
        let mut client = Client::connect(gateway).await;
        client.ask("publish", json!({"channel": "chat:1", "data": 1})).await.unwrap_err().code
    };
    let before = rules(&gateway).await;
    for number in 0..1500 {
        for extension in ["wasm", "toml", "txt"] {
            fs::write(folder.join(format!("{number:04}-junk.{extension}")), "").unwrap();
        }
    }
    gateway.log().wait(&["file in the plugin folder not used", "more than 1000 plugin files"]).await;
    tokio::time::sleep(std::time::Duration::from_secs(2)).await;
    let taken_out = gateway.log().matching(&["plugin left the chain"]);
    assert!(taken_out.is_empty(), "{}", taken_out[0].text);
    assert_eq!(rules(&gateway).await, before);
    assert_eq!(plugins(&gateway).await["plugins"][0]["state"], "live");
    // After a restart nobody is let through whom the router refused.
    gateway.restart().await;
    assert_eq!(gateway.get("/health/ready").await.status, 503);
    assert_eq!(connect(&gateway).await.unwrap_err().code, 100);
}

#[tokio::test]
async fn settings_that_are_too_large_are_named() {
    let gateway = Gateway::with(OPEN).plugin("50-router", "router", ROUTER).start().await;
    let line = gateway
        .refusal(|folder| {
            let huge = fs::File::create(folder.path().join("50-router.toml")).unwrap();
            huge.set_len(2 << 30).unwrap();
        })
        .await;
    assert!(
        line.message.contains("has settings in 50-router.toml, which has 2147483648 bytes"),
        "{}",
        line.text
    );
}

#[tokio::test]
async fn lines_that_a_client_causes_through_a_plugin_are_limited_and_counted() {
    let scripted = "[grants]\neffects = ['publish', 'subscribe', 'unsubscribe', 'disconnect', 'refresh']\n";
    let gateway = Gateway::with(OPEN).plugin("50-scripted", "guest-scripted", scripted).start().await;
    let mut client = Client::connect_with(&gateway, json!({"token": "42"})).await;
    for _ in 0..100 {
        let order = json!({"method": "publish", "data": {"channel": "nosuch:1", "times": 60}});
        client.ask("rpc", order).await.unwrap();
    }
    let order = json!({"method": "subscribe-user", "data": {"who": "42", "channel": "nosuch:1"}});
    client.ask("rpc", order).await.unwrap();
    let refused = gateway_tests::eventually("every refusal counted", async || {
        let refused = gateway.metrics().await.get("gateway_effects_refused_total");
        (refused >= 6001.0).then_some(refused)
    })
    .await;
    let lines = gateway.log().matching(&["plugin effect refused"]).len();
    println!("{refused} refusals, {lines} lines");
    assert!((1..30).contains(&lines), "{lines} lines");
    assert!(gateway.metrics().await.get("gateway_log_lines_held_back_total") >= 5900.0);
}

#[tokio::test]
async fn lines_that_nobody_wants_to_see_take_nothing_from_a_plugins_budget() {
    let gateway =
        Gateway::with("").plugin("10-auth-jwt", "auth-jwt", &gateway_tests::token::settings()).start().await;
    for _ in 0..60 {
        let mut client = Client::open(gateway.address()).await;
        client.command("connect", json!({"token": "a.b.c"})).await;
        client.closed().await;
    }
    let metrics = gateway.metrics().await;
    assert_eq!(metrics.get("gateway_plugin_log_lines_dropped_total{plugin=\"auth-jwt\"}"), 0.0);
}
