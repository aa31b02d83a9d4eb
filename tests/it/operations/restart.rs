//! What a gateway remembers of its plugins when it is started again.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

use gateway_tests::{Gateway, RawClient, Tool, gateway_binary, wasm};
use serde_json::{Value, json};

const RAW: &str = "raw.enabled = true\nclient.anonymous = true\n";

#[tokio::test]
async fn a_restart_compiles_nothing() {
    let mut gateway = Gateway::with(RAW).plugin("90-echo", "echo", "").start().await;
    let first = gateway.log().wait(&["plugin live", "90-echo.wasm"]).await;
    assert_eq!(first.field("compiled"), "true");
    gateway.restart().await;
    let second = gateway.log().wait(&["plugin live", "90-echo.wasm"]).await;
    assert_eq!(second.field("compiled"), "false", "{}", second.text);
    let took = |line: &gateway_tests::Line| line.field("took_ms").parse::<u64>().unwrap();
    println!("loaded in {} ms, after the restart in {} ms", took(&first), took(&second));
    assert!(took(&second) < took(&first));
    let mut client = RawClient::connect(&gateway).await;
    assert_eq!(client.ask("x").await, "x");
}

fn version_echo(version: &str) -> String {
    format!("[config]\nversion = \"{version}\"\n")
}

fn answer_of(version: &str) -> String {
    json!({ "version": version, "payload": "x" }).to_string()
}

/// What the API says of one plugin.
async fn plugin(gateway: &Gateway, name: &str) -> Value {
    let plugins = gateway.post("/api/plugins", &json!({})).await.ok();
    let plugins = plugins["result"]["plugins"].as_array().unwrap().clone();
    plugins.into_iter().find(|plugin| plugin["name"] == name).unwrap_or(Value::Null)
}

async fn ask(gateway: &Gateway) -> String {
    RawClient::connect(gateway).await.ask("x").await
}

#[tokio::test]
async fn half_a_file_that_meets_a_restart_does_not_take_the_rules_away() {
    let mut gateway = Gateway::with(RAW)
        .plugin("10-version-echo", "guest-version-echo", &version_echo("1"))
        .plugin("90-echo", "echo", "")
        .start()
        .await;
    let good = fs::read(wasm("guest-version-echo")).unwrap();
    gateway.refusal(|folder| folder.put("10-version-echo.wasm", &good[..good.len() / 2])).await;
    gateway.restart().await;
    assert_eq!(ask(&gateway).await, answer_of("1"));
    let refused = gateway.log().wait(&["plugin refused", "10-version-echo.wasm"]).await;
    assert!(refused.message.ends_with("its last good version keeps running"), "{}", refused.message);
    let status = plugin(&gateway, "version-echo").await;
    assert_eq!((&status["state"], &status["error"]["code"]), (&json!("live-older"), &json!("truncated")));
}

#[tokio::test]
async fn a_rollback_is_instant_and_outlives_a_restart_and_ends_with_the_next_file() {
    let mut gateway =
        Gateway::with(RAW).plugin("10-version-echo", "guest-version-echo", &version_echo("1")).start().await;
    let mut client = RawClient::connect(&gateway).await;
    gateway.swap(|folder| folder.plugin("10-version-echo", &wasm("guest-no-sdk"), "")).await;
    gateway
        .swap(|folder| folder.plugin("10-version-echo", &wasm("guest-version-echo"), &version_echo("3")))
        .await;
    assert_eq!(client.ask("x").await, answer_of("3"));
    let kept = plugin(&gateway, "version-echo").await["versions"].as_array().unwrap().clone();
    assert!(kept.len() >= 3, "{kept:?}");

    let begin = Instant::now();
    let body = json!({"name": "version-echo", "to": kept.last().unwrap()["digest"]});
    let answer = gateway.post("/api/plugin_rollback", &body).await.ok();
    println!("rolled back in {:.0?}", begin.elapsed());
    assert_eq!(
        (&answer["result"]["name"], &answer["result"]["state"]),
        (&json!("version-echo"), &json!("rolled-back"))
    );
    assert_ne!(client.ask("x").await, answer_of("3"), "the same client, without a new connection");
    gateway.log().wait(&["plugin rolled back", "version-echo"]).await;
    assert_eq!(plugin(&gateway, "version-echo").await["state"], "rolled-back");
    let before = ask(&gateway).await;

    gateway.restart().await;
    assert_eq!(ask(&gateway).await, before);
    assert_eq!(plugin(&gateway, "version-echo").await["state"], "rolled-back");
    assert_eq!(gateway.metrics().await.get("gateway_plugin_compiles_total"), 0.0);

    gateway
        .swap(|folder| folder.plugin("10-version-echo", &wasm("guest-version-echo"), &version_echo("4")))
        .await;
    assert_eq!(ask(&gateway).await, answer_of("4"));
    assert_eq!(plugin(&gateway, "version-echo").await["state"], "live");
}

#[tokio::test]
async fn a_plugin_whose_file_is_gone_stays_if_the_operator_wants_it() {
    let config = format!("{RAW}plugins.on_removal = 'keep'\n");
    let mut gateway = Gateway::with(&config).plugin("10-no-sdk", "guest-no-sdk", "").start().await;
    gateway.folder().remove("10-no-sdk.wasm");
    gateway.log().wait(&["plugin file removed", "plugins.on_removal"]).await;
    assert_eq!(plugin(&gateway, "no-sdk").await["state"], "removed-kept");
    gateway.restart().await;
    assert_eq!(ask(&gateway).await, "no-sdk");
}

#[tokio::test]
async fn a_plugin_removed_between_two_runs_is_taken_out_and_said_so() {
    let mut gateway = Gateway::with(RAW)
        .plugin("10-no-sdk", "guest-no-sdk", "")
        .plugin("90-echo", "echo", "")
        .start()
        .await;
    assert_eq!(ask(&gateway).await, "no-sdk");
    gateway.kill();
    gateway.folder().remove("10-no-sdk.wasm");
    gateway.restart().await;
    gateway.log().wait(&["plugin left the chain: its file was removed", "10-no-sdk.wasm"]).await;
    assert_eq!(ask(&gateway).await, "x");
}

#[tokio::test]
async fn a_second_gateway_on_the_same_state_folder_does_not_start() {
    let gateway = Gateway::start(RAW).await;
    let state = gateway.folder().path().with_file_name(".plugins.state");
    let site = tempfile::tempdir().unwrap();
    fs::create_dir(site.path().join("plugins")).unwrap();
    let config = site.path().join("gateway.toml");
    let text =
        format!("listen.address = '127.0.0.1:0'\nadmin.address = ''\nplugins.state_folder = {state:?}\n");
    fs::write(&config, text).unwrap();
    let second = Tool::new(gateway_binary()).arg("serve").arg("--config").arg(config.to_str().unwrap());
    let output = second.output(Duration::from_secs(20)).await;
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(5), "{said}");
    assert!(said.contains("another gateway uses it"), "{said}");
    assert_eq!(fs::metadata(state).unwrap().permissions().mode() & 0o777, 0o700);
}
