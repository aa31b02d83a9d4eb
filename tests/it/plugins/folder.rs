//! The plugin folder: what is dropped there takes effect, what is bad does not, and nobody is disconnected.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::process::Command;
use std::time::{Duration, Instant};

use gateway_tests::{Folder, Gateway, RawClient, Target, wasm, wasm_for, within};
use serde_json::{Value, json};

const RAW: &str = "raw.enabled = true\nclient.anonymous = true\n";

fn version_echo(version: &str) -> String {
    format!("[config]\nversion = \"{version}\"\n")
}

fn append_name(name: &str) -> String {
    format!("[config]\nname = \"{name}\"\nversion = \"1\"\n")
}

fn answer_of(version: &str) -> String {
    json!({ "version": version, "payload": "x" }).to_string()
}

/// What the API says of one file.
async fn plugin(gateway: &Gateway, file: &str) -> Value {
    let plugins = gateway.post("/api/plugins", &json!({})).await.ok();
    let plugins = plugins["result"]["plugins"].as_array().unwrap().clone();
    plugins.into_iter().find(|plugin| plugin["file"] == file).unwrap_or(Value::Null)
}

#[tokio::test]
async fn a_dropped_plugin_is_live_within_a_second_for_clients_that_are_there() {
    let gateway = Gateway::with(RAW).plugin("90-echo", "echo", "").start().await;
    let mut client = RawClient::connect(&gateway).await;
    let mut times = Vec::new();
    for version in ["1", "2", "3", "4", "5"] {
        let dropped = Instant::now();
        gateway.folder().plugin("10-version-echo", &wasm("guest-version-echo"), &version_echo(version));
        within("the plugin to answer", async { while client.ask("x").await != answer_of(version) {} }).await;
        times.push(dropped.elapsed());
    }
    println!("from the drop to the first answer: {times:.0?}");
    times.sort();
    assert!(times[2] < Duration::from_secs(1), "{times:?}");
}

#[tokio::test]
async fn plugins_are_replaced_reconfigured_and_removed_under_an_open_connection() {
    let gateway = Gateway::with(RAW).plugin("50-a", "guest-version-echo", &version_echo("1")).start().await;
    let mut client = RawClient::connect(&gateway).await;
    assert_eq!(client.ask("x").await, answer_of("1"));
    gateway.swap(|folder| folder.settings("50-a", &version_echo("2"))).await;
    assert_eq!(client.ask("x").await, answer_of("2"));
    gateway.swap(|folder| folder.plugin("50-a", &wasm("guest-no-sdk"), "")).await;
    assert_eq!(client.ask("x").await, "no-sdk");
    gateway.swap(|folder| folder.plugin("60-echo", &wasm("echo"), "")).await;
    assert_eq!(client.ask("x").await, "no-sdk");
    gateway.swap(|folder| folder.remove("50-a.wasm")).await;
    assert_eq!(client.ask("x").await, "x");
    assert_eq!(plugin(&gateway, "50-a.wasm").await["state"], "removed");
}

#[tokio::test]
async fn names_give_the_order() {
    let gateway = Gateway::with(RAW)
        .plugin("20-b", "guest-append-name", &append_name("b"))
        .plugin("10-a", "guest-append-name", &append_name("a"))
        .plugin("90-echo", "echo", "")
        .start()
        .await;
    let mut client = RawClient::connect(&gateway).await;
    assert_eq!(client.ask("x").await, "x|a1|b1");
    gateway
        .swap(|folder| {
            folder.rename("10-a.toml", "30-a.toml");
            folder.rename("10-a.wasm", "30-a.wasm");
        })
        .await;
    assert_eq!(client.ask("x").await, "x|b1|a1");
    gateway.swap(|folder| folder.rename("90-echo.wasm", "25-echo.wasm")).await;
    assert_eq!(client.ask("x").await, "x|b1", "what stands behind an answer is not asked");
}

#[tokio::test]
async fn all_kinds_of_binaries_load() {
    for (target, name, settings, answer) in [
        (Target::Wasip1, "guest-version-echo", version_echo("1"), answer_of("1")),
        (Target::Wasip2, "guest-version-echo", version_echo("1"), answer_of("1")),
        (Target::Wasip1, "guest-no-sdk", String::new(), "no-sdk".to_owned()),
        (Target::Wasip2, "guest-no-sdk", String::new(), "no-sdk".to_owned()),
    ] {
        let drop = |folder: &Folder| folder.plugin("10-x", &wasm_for(target, name), &settings);
        let gateway = Gateway::with(RAW).prepare(drop).start().await;
        let mut client = RawClient::connect(&gateway).await;
        assert_eq!(client.ask("x").await, answer, "{name} {target:?}");
    }
}

#[tokio::test]
async fn a_bad_file_leaves_the_plugin_that_was_there() {
    let good = fs::read(wasm("guest-version-echo")).unwrap();
    let without_interface = b"\0asm\x01\0\0\0".to_vec();
    let mut damaged = good.clone();
    damaged[8..200].fill(0xee);
    for (what, bytes, code) in [
        ("empty", vec![], "empty"),
        ("text", b"#!/bin/sh\necho hello\n".to_vec(), "not-wasm"),
        ("a page of somebody's web server", b"<!DOCTYPE html><title>404</title>".to_vec(), "not-wasm"),
        ("half a download", good[..good.len() / 2].to_vec(), "truncated"),
        ("damaged", damaged, "malformed"),
        ("a core module of something else", without_interface, "core-module-without-interface"),
    ] {
        let gateway =
            Gateway::with(RAW).plugin("50-a", "guest-version-echo", &version_echo("1")).start().await;
        let mut client = RawClient::connect(&gateway).await;
        let line = gateway.refusal(|folder| folder.put("50-a.wasm", &bytes)).await;
        assert_eq!(
            (&*line.field("file"), &*line.field("code"), &*line.level),
            ("50-a.wasm", code, "ERROR"),
            "{what}"
        );
        let status = plugin(&gateway, "50-a.wasm").await;
        assert_eq!(
            (&status["state"], &status["error"]["code"]),
            (&json!("live-older"), &json!(code)),
            "{what}"
        );
        assert!(line.message.contains(status["error"]["sentence"].as_str().unwrap()), "{}", line.text);
        // A good drop elsewhere reloads the folder: the bad file is known and not reported again.
        gateway.swap(|folder| folder.plugin("90-echo", &wasm("echo"), "")).await;
        assert_eq!(client.ask("x").await, answer_of("1"), "{what}");
        assert_eq!(gateway.log().matching(&["plugin refused"]).len(), 1, "{what}");
        // And the next good one takes its place.
        gateway.swap(|folder| folder.plugin("50-a", &wasm("guest-no-sdk"), "")).await;
        assert_eq!(client.ask("x").await, "no-sdk", "{what}");
        assert!(plugin(&gateway, "50-a.wasm").await.get("error").is_none());
    }
}

#[tokio::test]
async fn wrong_settings_leave_the_plugin_that_was_there() {
    for (what, settings, code, words) in [
        ("no TOML", "[config", "settings", "is not TOML"),
        ("an unknown table", "[confg]\n", "settings", "confg"),
        ("a bad limit", "[limits]\ndeadline = '1h'\nmemory = 3\n", "settings", "limits.memory"),
        ("a bad policy", "failure = 'ajar'\n", "settings", "\"closed\" or \"open\""),
        ("a missing key", "[config]\n", "configure", "version"),
        ("an unknown key", "[config]\nversion = '2'\ncolour = 'red'\n", "configure", "colour"),
        (
            "the plugin's own objection",
            "[config]\nversion = '2'\nfail = true\n",
            "configure",
            "version 2 was told to fail",
        ),
    ] {
        let gateway =
            Gateway::with(RAW).plugin("50-a", "guest-version-echo", &version_echo("1")).start().await;
        let mut client = RawClient::connect(&gateway).await;
        let line = gateway.refusal(|folder| folder.settings("50-a", settings)).await;
        assert_eq!(line.field("code"), code, "{what}: {}", line.text);
        assert!(line.message.contains(words), "{what}: {}", line.message);
        assert_eq!(client.ask("x").await, answer_of("1"), "{what}");
    }
}

#[tokio::test]
async fn a_bad_file_without_a_predecessor_is_left_out_of_the_chain() {
    let gateway = Gateway::with(RAW).plugin("90-echo", "echo", "").start().await;
    let line = gateway.refusal(|folder| folder.put("10-new.wasm", b"nonsense")).await;
    assert!(line.message.ends_with("it is not used"), "{}", line.message);
    let mut client = RawClient::connect(&gateway).await;
    assert_eq!(client.ask("x").await, "x");
    assert_eq!(plugin(&gateway, "10-new.wasm").await["state"], "refused");
    let metrics = gateway.metrics().await;
    assert_eq!((metrics.get("gateway_plugins_live"), metrics.get("gateway_plugins_refused")), (1.0, 1.0));
}

#[tokio::test]
async fn two_plugins_of_one_name_are_one_too_many() {
    let gateway = Gateway::with(RAW).plugin("10-a", "guest-no-sdk", "").start().await;
    let line = gateway.refusal(|folder| folder.plugin("20-a", &wasm("echo"), "")).await;
    assert_eq!((&*line.field("file"), &*line.field("code")), ("20-a.wasm", "duplicate-name"));
    let mut client = RawClient::connect(&gateway).await;
    assert_eq!(client.ask("x").await, "no-sdk");
    gateway.swap(|folder| folder.remove("10-a.wasm")).await;
    assert_eq!(client.ask("x").await, "x", "the second one takes over when the first has gone");
}

#[tokio::test]
async fn what_is_no_plugin_file_is_ignored_and_said_so() {
    let gateway = Gateway::with(RAW).plugin("90-echo", "echo", "").start().await;
    let folder = gateway.folder().path();
    let no_sdk = wasm("guest-no-sdk");
    let outside = tempfile::tempdir().unwrap();
    fs::copy(&no_sdk, outside.path().join("no-sdk.wasm")).unwrap();
    for name in
        [".10-a.wasm", "10-a.wasm~", "10-a.wasm.tmp", "10-a.wasm.part", "#10-a.wasm#", "10-a.wsm", "README"]
    {
        fs::copy(&no_sdk, folder.join(name)).unwrap();
        gateway.log().wait(&["file in the plugin folder not used", name]).await;
    }
    fs::create_dir(folder.join("11-folder.wasm")).unwrap();
    symlink(outside.path().join("no-sdk.wasm"), folder.join("12-link.wasm")).unwrap();
    symlink("/nowhere.wasm", folder.join("13-broken.wasm")).unwrap();
    let pipe = Command::new("mkfifo").arg(folder.join("14-pipe.wasm")).status().unwrap();
    assert!(pipe.success());
    for (name, why) in [
        ("11-folder.wasm", "it is not a regular file"),
        ("12-link.wasm", "it is a link that leaves the folder"),
        ("13-broken.wasm", "it is a link to nothing"),
        ("14-pipe.wasm", "it is not a regular file"),
    ] {
        gateway.log().wait(&["file in the plugin folder not used", name, why]).await;
    }
    // The folder still works, and only by what may be in it: a link that stays inside may.
    fs::create_dir(folder.join("versions")).unwrap();
    fs::copy(&no_sdk, folder.join("versions/1.wasm")).unwrap();
    gateway.swap(|_| symlink("versions/1.wasm", folder.join("15-inside.wasm")).unwrap()).await;
    let mut client = RawClient::connect(&gateway).await;
    assert_eq!(client.ask("x").await, "no-sdk");
    let plugins = gateway.post("/api/plugins", &json!({})).await.ok();
    assert_eq!(plugins["result"]["plugins"].as_array().unwrap().len(), 2, "{plugins}");
}

#[tokio::test]
async fn a_file_that_is_still_being_written_is_not_loaded() {
    let gateway = Gateway::with(RAW).plugin("90-echo", "echo", "").start().await;
    let mut client = RawClient::connect(&gateway).await;
    let bytes = fs::read(wasm("guest-no-sdk")).unwrap();
    // Copied in place, with pauses shorter than a file has to be quiet for: what a slow upload looks like.
    let swapped = gateway
        .swap(|folder| {
            let mut file = fs::File::create(folder.path().join("10-no-sdk.wasm")).unwrap();
            for part in bytes.chunks(bytes.len() / 8 + 1) {
                std::io::Write::write_all(&mut file, part).unwrap();
                std::thread::sleep(Duration::from_millis(20));
            }
        })
        .await;
    assert_eq!(swapped.field("generation"), "2");
    assert_eq!(client.ask("x").await, "no-sdk");
    assert!(gateway.log().matching(&["plugin refused"]).is_empty());
}

#[tokio::test]
async fn a_slow_copy_with_long_pauses_is_no_error_and_a_broken_one_is_told() {
    let gateway = Gateway::with(RAW).plugin("10-a", "guest-version-echo", &version_echo("1")).start().await;
    let mut client = RawClient::connect(&gateway).await;
    let bytes = fs::read(wasm("guest-no-sdk")).unwrap();
    // In place, over the plugin that runs, and with pauses in which every part is taken for the whole.
    gateway
        .swap(|folder| {
            fs::remove_file(folder.path().join("10-a.toml")).unwrap();
            let mut file = fs::File::create(folder.path().join("10-a.wasm")).unwrap();
            for part in bytes.chunks(bytes.len() / 5 + 1) {
                std::io::Write::write_all(&mut file, part).unwrap();
                std::thread::sleep(Duration::from_millis(300));
            }
        })
        .await;
    within("the whole plugin", async { while client.ask("x").await != "no-sdk" {} }).await;
    assert!(gateway.log().matching(&["plugin refused"]).is_empty(), "{}", gateway.log().tail(20));
    // Whoever stops in the middle learns of it soon.
    let begin = Instant::now();
    let line = gateway
        .refusal(|folder| fs::write(folder.path().join("10-a.wasm"), &bytes[..bytes.len() / 2]).unwrap())
        .await;
    assert_eq!(line.field("code"), "truncated");
    assert!(begin.elapsed() < Duration::from_secs(2), "{:?}", begin.elapsed());
    assert_eq!(client.ask("x").await, "no-sdk");
}

#[tokio::test]
async fn what_every_user_may_write_to_is_refused_with_the_command_that_helps() {
    let gateway = Gateway::with(RAW).plugin("90-echo", "echo", "").start().await;
    let open = Permissions::from_mode(0o666);
    let line = gateway
        .refusal(|folder| {
            folder.plugin("10-a", &wasm("guest-no-sdk"), "");
            fs::set_permissions(folder.path().join("10-a.wasm"), open).unwrap();
        })
        .await;
    assert_eq!(line.field("code"), "untrusted");
    let path = gateway.folder().path().join("10-a.wasm");
    assert!(line.message.contains(&format!("run: chmod o-w {}", path.display())), "{}", line.message);
    gateway.swap(|_| fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap()).await;
    assert_eq!(RawClient::connect(&gateway).await.ask("x").await, "no-sdk");
}

#[tokio::test]
async fn a_folder_that_is_only_looked_at_is_followed_too() {
    let gateway = Gateway::with(&format!("{RAW}plugins.watch = 'poll'\n")).start().await;
    gateway.log().wait(&["polling the plugin folder"]).await;
    gateway.swap(|folder| folder.plugin("10-a", &wasm("guest-no-sdk"), "")).await;
    assert_eq!(RawClient::connect(&gateway).await.ask("x").await, "no-sdk");
}
