//! The examples of `gateway/docs/clients.md` are run, each as a user would: as a script with the published
//! library, and as a command.

use std::fs;
use std::time::Duration;

use gateway_tests::{Gateway, Talk, Tool, target_folder, token};
use serde_json::json;

use super::readme::{blocks, root};

const CONFIG: &str = "
    unidirectional.enabled = true
    channel.allow_subscribe = 'users'
";
const LIMIT: Duration = Duration::from_secs(30);

async fn gateway() -> Gateway {
    Gateway::with(CONFIG).plugin("10-auth-jwt", "auth-jwt", &token::settings()).start().await
}

/// The first example in a language.
fn example(language: &str) -> String {
    let page = fs::read_to_string(root().join("gateway/docs/clients.md")).expect("the page");
    blocks(&page, language).into_iter().next().expect("an example")
}

/// Publishes until the example has printed a line with the data.
async fn prints_publications(gateway: &Gateway, mut running: Talk, expected: &str) {
    let published = json!({ "channel": "news", "data": { "n": 1 } });
    let publishing = async {
        loop {
            gateway.post("/api/publish", &published).await.ok();
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    let printed = async { while !running.line(LIMIT).await.contains(expected) {} };
    tokio::select! {
        () = printed => (),
        () = publishing => (),
    }
}

#[tokio::test]
async fn the_example_in_javascript_prints_what_is_published() {
    let gateway = gateway().await;
    let at = gateway.address().to_string();
    let example = example("js").replace("wss://example.org", &format!("ws://{at}"));
    let example = example.replace("https://example.org", &format!("http://{at}"));
    let script = format!(
        "import {{ Centrifuge }} from 'centrifuge';\nimport WebSocket from 'ws';\n\
         globalThis.WebSocket = WebSocket;\nconst token = process.env.TOKEN;\n{example}"
    );
    let running = Tool::new("node")
        .folder(root().join("tests/clients"))
        .arg("--input-type=module")
        .arg("-e")
        .arg(script)
        .env("TOKEN", token::of("ann"))
        .talk();
    prints_publications(&gateway, running, "{ n: 1 }").await;
}

#[tokio::test]
async fn the_example_in_python_prints_what_is_published() {
    let gateway = gateway().await;
    let example = example("python").replace("127.0.0.1:8000", &gateway.address().to_string());
    let script = format!("import os\ntoken = os.environ['TOKEN']\n{example}");
    let running = Tool::new(target_folder().join("python-clients/bin/python"))
        .arg("-u")
        .arg("-c")
        .arg(script)
        .env("TOKEN", token::of("ann"))
        .talk();
    prints_publications(&gateway, running, "{'n': 1}").await;
}

#[tokio::test]
async fn the_command_prints_what_is_published() {
    let gateway = gateway().await;
    let command = example("sh").replace("127.0.0.1:8000", &gateway.address().to_string());
    let token = token::with("ann", json!({ "channels": ["news"] }));
    let running = Tool::new("bash").arg("-c").arg(format!("exec {command}")).env("TOKEN", token).talk();
    prints_publications(&gateway, running, r#"data: {"channel":"news","pub":{"data":{"n":1}}}"#).await;
}
