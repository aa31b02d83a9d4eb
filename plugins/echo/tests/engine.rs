//! The file that is dropped, in the engine that serves.

use gateway::testing::PluginRunner;

#[test]
fn what_is_built_answers_like_the_source() -> anyhow::Result<()> {
    let mut echo = PluginRunner::build_and_load(env!("CARGO_MANIFEST_DIR"), "")?;
    let played = echo.check(
        r#"
        {"event": "message", "kind": "raw", "text": "hello", "expect": {"verdict": "reply", "text": "hello", "effects": []}}
        {"event": "message", "kind": "raw", "binary": true, "base64": "AP8K", "expect": {"verdict": "reply", "base64": "AP8K"}}
        {"event": "message", "kind": "publish", "channel": "news", "payload": 1, "expect": "not-called"}
        "#,
    )?;
    assert!(played.iter().all(|played| played.usage.host_calls == 0 && played.log.is_empty()));
    let error = PluginRunner::build_and_load(env!("CARGO_MANIFEST_DIR"), "config.prefix = '>'").map(drop);
    let error = error.expect_err("echo has no settings").to_string();
    assert!(error.contains("remove `prefix` from [config]"), "{error}");
    Ok(())
}
