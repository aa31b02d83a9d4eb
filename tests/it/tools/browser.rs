//! The demo page in a real browser: two tabs talk, also after the gateway was away, and show what the plugin
//! folder holds.

use std::path::Path;
use std::time::Duration;

use gateway_tests::{Gateway, node, wasm};

/// Where Debian puts it, or wherever `CHROMIUM` says.
const CHROMIUM: &str = "/usr/bin/chromium";
const LIMIT: Duration = Duration::from_secs(60);

#[tokio::test]
async fn two_tabs_talk_across_a_restart_and_see_the_plugins_change() {
    let chromium = std::env::var("CHROMIUM").unwrap_or_else(|_| CHROMIUM.to_owned());
    assert!(Path::new(&chromium).exists(), "{chromium} is missing: `tests/run` does all the set-up");
    let mut gateway = Gateway::demo().await;
    assert_eq!(gateway.log().complaints(), Vec::<String>::new(), "a good start");
    let mut tabs =
        node("browser.mjs").env("GATEWAY", gateway.address().to_string()).env("CHROMIUM", chromium).talk();
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
