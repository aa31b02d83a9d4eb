//! A log that cannot be written changes nothing for anybody: not for clients, not for hot reload, not for the
//! way down. And which users it names is for the operator to say.

use std::fs::{File, OpenOptions};
use std::io::{PipeReader, Read as _, Write as _, pipe};
use std::time::Duration;

use gateway_tests::{Client, Gateway, Line, RawClient, Tool, eventually, gateway_binary, wasm};
use serde_json::json;
use tokio::task::spawn_blocking;

/// Every connection is worth some lines.
const CONFIG: &str = "
    raw.enabled = true
    client.anonymous = true
    log.filter = 'debug'
    limits.connections_per_address_max = 10000
";

const QUEUE_FULL: &str = "gateway_log_lines_lost_total{reason=\"queue_full\"}";
const WRITE_FAILED: &str = "gateway_log_lines_lost_total{reason=\"write_failed\"}";

/// Connections come and go, a plugin is exchanged, health answers, and the end is a good one.
async fn goes_on(mut gateway: Gateway) -> f64 {
    let mut kept = RawClient::connect(&gateway).await;
    gateway.folder().plugin("90-echo", &wasm("echo"), "");
    eventually("the new plugin to be live", async || {
        (gateway.metrics().await.get("gateway_plugins_live") == 1.0).then_some(())
    })
    .await;
    for _ in 0..300 {
        let mut client = RawClient::connect(&gateway).await;
        assert_eq!(client.ask("x").await, "x");
    }
    assert_eq!(kept.ask("still here").await, "still here");
    assert_eq!(gateway.get("/health/live").await.status, 200);
    assert_eq!(gateway.get("/health/ready").await.status, 200);
    // Also what is refused is worth a line.
    gateway.folder().put("95-none.wasm", b"this is no plugin");
    eventually("the file to be refused", async || {
        (gateway.metrics().await.get("gateway_plugins_refused") == 1.0).then_some(())
    })
    .await;
    gateway.folder().remove("90-echo.wasm");
    eventually("the plugin to be gone", async || {
        (gateway.metrics().await.get("gateway_plugins_live") == 0.0).then_some(())
    })
    .await;
    let metrics = gateway.metrics().await;
    let lost = metrics.get(QUEUE_FULL) + metrics.get(WRITE_FAILED);
    gateway.terminate();
    let told = async move { kept.closed().await.code };
    assert_eq!(told.await, Some(3001), "clients are told to go");
    let status = gateway.exit(Duration::from_secs(5)).await;
    assert_eq!(status.code(), Some(0), "{status}");
    lost
}

#[tokio::test]
async fn a_full_disk_costs_log_lines_and_nothing_else() {
    let full = OpenOptions::new().write(true).open("/dev/full").unwrap();
    let lost = goes_on(Gateway::with(CONFIG).log_into(full).start().await).await;
    println!("a full disk: {lost} lines lost");
    assert!(lost > 100.0, "{lost}");
}

#[tokio::test]
async fn a_closed_log_pipe_costs_log_lines_and_nothing_else() {
    let (reader, writer) = pipe().unwrap();
    let gateway = Gateway::with(CONFIG).log_into(writer).start().await;
    drop(reader);
    let lost = goes_on(gateway).await;
    println!("a closed pipe: {lost} lines lost");
    assert!(lost > 100.0, "{lost}");
}

#[tokio::test]
async fn a_log_pipe_that_nobody_reads_stops_nothing() {
    let (reader, writer) = pipe().unwrap();
    let gateway = Gateway::with(CONFIG).log_into(writer).start().await;
    goes_on(gateway).await;
    drop(reader);
}

#[tokio::test]
async fn a_reader_that_comes_back_hears_how_many_lines_were_lost() {
    let (reader, writer) = pipe().unwrap();
    let config = format!("{CONFIG}\nlog.filter = 'trace'").replacen("    log.filter = 'debug'\n", "", 1);
    let gateway = Gateway::with(&config).log_into(writer).start().await;
    let mut lost = 0.0;
    while lost == 0.0 {
        for _ in 0..100 {
            RawClient::connect(&gateway).await.close().await;
        }
        lost = gateway.metrics().await.get(QUEUE_FULL);
    }
    let line = spawn_blocking(move || line_with(reader, "log lines were lost")).await.unwrap();
    println!("{line}");
    let told = line.split("\"lines\":").nth(1).expect("how many");
    let told: f64 = told.split([',', '}']).next().unwrap().parse().expect("a number");
    assert!(told >= lost, "{told} of {lost}");
    drop(gateway);
}

/// Reads until there is a line with this text.
fn line_with(mut reader: PipeReader, text: &str) -> String {
    let (mut seen, mut buffer) = (String::new(), [0; 65536]);
    loop {
        let count = reader.read(&mut buffer).unwrap();
        assert!(count > 0, "the log has ended without {text:?}");
        seen.push_str(&String::from_utf8_lossy(&buffer[..count]));
        if let Some(line) = seen.lines().find(|line| line.contains(text) && line.ends_with('}')) {
            return line.to_owned();
        }
    }
}

#[tokio::test]
async fn commands_say_in_their_exit_code_what_they_cannot_print() {
    let missing = "this-file-is-missing.toml";
    for (arguments, code) in [
        (&["serve", "--config", missing][..], 3),
        (&["check", "--config", missing], 3),
        (&["demo", "--source", "/this/folder/is/missing"], 5),
        (&["plugin", "check", "missing.wasm"], 1),
        (&["config"], 1),
    ] {
        let line =
            format!("exec {} {} >/dev/full 2>/dev/full", gateway_binary().display(), arguments.join(" "));
        let output = Tool::new("/bin/sh").arg("-c").arg(line).output(Duration::from_secs(20)).await;
        assert_ne!(output.status.code(), Some(101), "{arguments:?} panics");
        assert_eq!(output.status.code(), Some(code), "{arguments:?}");
    }
}

#[tokio::test]
async fn the_last_lines_are_written_before_the_end() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log");
    let mut gateway = Gateway::with(CONFIG).log_into(File::create(&path).unwrap()).start().await;
    gateway.terminate();
    assert!(gateway.exit(Duration::from_secs(5)).await.success());
    let log = std::fs::read_to_string(&path).unwrap();
    let last = log.lines().last().expect("there are lines");
    assert!(last.contains("stopped"), "{last}");
    // And of one that does not start.
    let mut config = File::create(folder.path().join("gateway.toml")).unwrap();
    config.write_all(b"[plugins]\nfolder = 'missing'\n").unwrap();
    let serve =
        Tool::new(gateway_binary()).arg("serve").arg("--config").arg(folder.path().join("gateway.toml"));
    let output = serve.output(Duration::from_secs(20)).await;
    assert_eq!(output.status.code(), Some(5));
    let log = String::from_utf8(output.stderr).unwrap();
    assert!(log.lines().last().is_some_and(|last| last.starts_with("gateway: ")), "{log}");
}

/// The id of a user, which is nothing else that could be in a log.
const USER: &str = "zoe-4711";

/// Has everything happen to a user that is worth a line. Returns the lines of a plugin's failure, and of an
/// effect on an address of the user that was refused.
async fn lines_about_a_user(gateway: &Gateway) -> (Line, Line) {
    let connect = json!({ "token": USER });
    let mut client = Client::connect_with(gateway, connect.clone()).await;
    let failed = eventually("the failure", async || {
        let channel = format!("chat:{USER}");
        let _ = client.ask("publish", json!({ "channel": channel, "data": "boom" })).await;
        gateway.log().matching(&["plugin failed"]).pop()
    })
    .await;
    let too_large = json!({ "channel": format!("#{USER}"), "bytes": 100_000 });
    let refused = eventually("the effect", async || {
        let _ = client.ask("rpc", json!({ "method": "publish", "data": too_large })).await;
        gateway.log().matching(&["plugin effect refused"]).pop()
    })
    .await;
    let other = Client::connect_with(gateway, connect).await;
    other.close().await;
    // It says that it is this user, and is refused.
    let mut stranger = Client::open(gateway.address()).await;
    stranger.command("connect", json!({ "token": format!("{USER}\u{1}") })).await;
    stranger.closed().await;
    client.send_text("no command").await;
    client.closed().await;
    eventually("the ends of three connections", async || {
        (gateway.log().matching(&["connection closed"]).len() == 3).then_some(())
    })
    .await;
    (failed, refused)
}

async fn gateway_that_shows_users(how: &str) -> Gateway {
    let config = format!(
        "log = {{ filter = 'debug', users = '{how}' }}\n\
         limits = {{ message_bytes_max = '16KiB', publication_bytes_max = '16KiB' }}\n\
         [namespaces.chat]\nallow_publish = 'anyone'\n"
    );
    Gateway::with(&config)
        .plugin("10-trap", "guest-trap", "failure = 'open'\nbreaker.failures = 0\n")
        .plugin(
            "50-scripted",
            "guest-scripted",
            "[grants]\neffects = ['publish', 'subscribe', 'unsubscribe', 'disconnect', 'refresh']\n",
        )
        .start()
        .await
}

#[tokio::test]
async fn user_ids_are_in_the_log_as_they_are_unless_it_is_said_otherwise() {
    let gateway = gateway_that_shows_users("plain").await;
    let (failed, refused) = lines_about_a_user(&gateway).await;
    assert_eq!((&*failed.field("user"), &*failed.field("channel")), (USER, &*format!("chat:{USER}")));
    assert_eq!(refused.field("address"), format!("#{USER}"));
}

#[tokio::test]
async fn hashed_user_ids_can_be_matched_and_not_read() {
    let gateway = gateway_that_shows_users("hashed").await;
    let (failed, refused) = lines_about_a_user(&gateway).await;
    assert!(gateway.log().matching(&[USER]).is_empty(), "{:?}", gateway.log().matching(&[USER]));
    let user = failed.field("user");
    assert!(user.starts_with('~') && user.len() == 13, "{user}");
    assert_eq!(failed.field("channel"), format!("chat:{user}"));
    assert_eq!(refused.field("address"), format!("#{user}"));
}

#[tokio::test]
async fn user_ids_can_be_left_out_of_the_log() {
    let gateway = gateway_that_shows_users("none").await;
    let (failed, refused) = lines_about_a_user(&gateway).await;
    assert!(gateway.log().matching(&[USER]).is_empty(), "{:?}", gateway.log().matching(&[USER]));
    assert_eq!((&*failed.field("user"), &*failed.field("channel")), ("", "chat:~"));
    assert_eq!(refused.field("address"), "#~");
}
