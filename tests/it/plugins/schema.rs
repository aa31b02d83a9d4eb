//! JSON Schema per channel pattern, against the real binary.

use gateway_tests::{Client, Gateway, Refused};
use serde_json::json;

const CONFIG: &str = "
    client.anonymous = true
    log.filter = 'info,plugin=debug'
    [namespaces.chat]
    allow_subscribe = 'anyone'
    allow_publish = 'anyone'
";

fn settings(length: u32) -> String {
    format!(
        "[[config.schemas]]\n\
         channels = ['chat:*']\n\
         [config.schemas.schema]\n\
         type = 'object'\n\
         required = ['text']\n\
         properties.text = {{ type = 'string', minLength = 1, maxLength = {length} }}\n"
    )
}

fn bad_request(message: &str) -> Refused {
    Refused { code: 107, message: message.into(), temporary: false }
}

#[tokio::test]
async fn payloads_follow_the_schema_of_their_channel() {
    let gateway = Gateway::with(CONFIG).plugin("40-schema", "schema", &settings(5)).start().await;
    let mut client = Client::connect(&gateway).await;
    client.subscribe("chat:1").await;
    client.publish("chat:1", json!({ "text": "hello" })).await;
    assert_eq!(client.publication("chat:1").await["data"], json!({ "text": "hello" }));

    let mark = gateway.log().mark();
    let long = json!({ "channel": "chat:1", "data": { "text": "confidential" } });
    let reason = r#"invalid payload: /text breaks "maxLength": 5"#;
    assert_eq!(client.ask("publish", long.clone()).await.unwrap_err(), bad_request(reason));
    let line = gateway.log().wait_since(mark, &["refused a publish"]).await;
    assert!(!line.text.contains("confidential"), "{}", line.text);

    // A schema that is wrong does not replace the one that works; another good one does.
    let refusal = gateway.refusal(|folder| {
        folder.settings("40-schema", "[[config.schemas]]\nschema = { properties.text.type = 'txt' }\n");
    });
    let refusal = refusal.await;
    assert!(refusal.text.contains("no schema at /properties/text/type"), "{}", refusal.text);
    assert_eq!(client.ask("publish", long.clone()).await.unwrap_err(), bad_request(reason));
    gateway.swap(|folder| folder.settings("40-schema", &settings(50))).await;
    client.ask("publish", long).await.unwrap();
}
