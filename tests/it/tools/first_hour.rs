//! From nothing to a gateway of one's own, with the program alone: `gateway init`, `token`, `plugin add`, and
//! the page that they lead to.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use gateway_tests::{Tool, eventually, gateway_binary, node, wasm};
use serde_json::{Value, json};
use tokio::process::{Child, Command};

use super::readme::{PORTS, ready, stop};

const LIMIT: Duration = Duration::from_secs(60);
/// Where Debian puts it, or wherever `CHROMIUM` says.
const CHROMIUM: &str = "/usr/bin/chromium";

/// What the gateway that serves has logged.
const LOG: &str = "log";

/// A folder outside of the clone, with a program that carries plugins and nothing else.
struct Outside {
    folder: tempfile::TempDir,
    program: PathBuf,
}

impl Outside {
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let program = folder.path().join("gateway");
        let mut tool = Tool::new(gateway_binary()).arg("pack").arg("--output").arg(&program);
        for plugin in ["auth-jwt", "rate-limit", "schema", "router", "echo"] {
            tool = tool.arg(wasm(plugin));
        }
        let printed = tool.run(LIMIT).await;
        assert!(printed.contains("carries auth-jwt, rate-limit, schema, router, echo"), "{printed}");
        Self { folder, program }
    }

    fn path(&self, path: &str) -> PathBuf {
        self.folder.path().join(path)
    }

    /// Exit code and everything printed. There is neither Rust nor anything else on the PATH.
    async fn gateway(&self, folder: &str, arguments: &[&str]) -> (i32, String) {
        let tool = Tool::new(&self.program).folder(self.path(folder)).env("PATH", "");
        let output = arguments.iter().fold(tool, |tool, argument| tool.arg(argument)).output(LIMIT).await;
        let text = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
        (output.status.code().expect("it was not killed"), text)
    }

    async fn succeeds(&self, folder: &str, arguments: &[&str]) -> String {
        let (code, text) = self.gateway(folder, arguments).await;
        assert_eq!(code, 0, "{arguments:?}: {text}");
        text
    }

    fn serve(&self, folder: &str) -> Child {
        let mut command = Command::new(&self.program);
        command
            .args(["serve", "--config", "gateway.toml", "--page", "page.html"])
            .current_dir(self.path(folder));
        command
            .env_remove("GATEWAY_ADMIN_API_KEY")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(fs::File::create(self.path(LOG)).unwrap());
        command.kill_on_drop(true).spawn().unwrap()
    }
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[tokio::test]
async fn the_program_alone_leads_to_a_connected_page_and_a_rule_of_ones_own() {
    let _ports = PORTS.lock().await;
    let outside = Outside::new().await;
    let made = outside.succeeds(".", &["init", "mine"]).await;
    for next in
        ["gateway serve --config gateway.toml --page page.html", "gateway token --user ann", "README.md"]
    {
        assert!(made.contains(next), "{next}: {made}");
    }
    assert_eq!(mode(&outside.path("mine/gateway.toml")), 0o600, "it holds a key");
    assert_eq!(mode(&outside.path("mine/plugins/10-auth-jwt.toml")), 0o600, "it holds a secret");
    let checked = outside.succeeds("mine", &["check", "--config", "gateway.toml"]).await;
    for plugin in ["10-auth-jwt.wasm", "20-rate-limit.wasm", "50-router.wasm"] {
        assert!(checked.contains(&format!("ok       {plugin}")), "{checked}");
    }

    let served = outside.serve("mine");
    ready().await;
    let log = fs::read_to_string(outside.path(LOG)).unwrap();
    assert!(log.contains(" INFO ") && !log.contains(" WARN ") && !log.contains(" ERROR "), "{log}");
    let token = outside.succeeds("mine", &["token", "--user", "ann"]).await;
    let chromium = std::env::var("CHROMIUM").unwrap_or_else(|_| CHROMIUM.to_owned());
    assert!(Path::new(&chromium).exists(), "{chromium} is missing: `tests/run` does all the set-up");
    let page = node("page.mjs").env("PAGE", "http://localhost:8000/").env("TOKEN", token.trim());
    let mut page = page.env("CHROMIUM", chromium).talk();
    page.hear(LIMIT, "it is connected").await;

    let rules = outside.path("mine/plugins/50-router.toml");
    let rule = "[[config.rules]]\nkind = \"publish\"\nchannel = \"chat:*\"\n\
                deny = { code = 403, reason = \"the chat is closed for the night\" }\n\n";
    fs::write(&rules, format!("{rule}{}", fs::read_to_string(&rules).unwrap())).unwrap();
    // The commands find the address and the key in gateway.toml.
    let live = eventually("the rule is live", async || {
        let text = outside.succeeds("mine", &["inspect", "--json"]).await;
        let answer: Value = serde_json::from_str(&text).unwrap();
        (answer["generation"].as_u64() > Some(1)).then_some(text)
    });
    assert!(live.await.contains("\"router\""));
    page.say("a rule has changed").await;
    page.hear(LIMIT, "done").await;
    page.end(LIMIT).await;

    let added = outside.succeeds("mine", &["plugin", "add", "schema"]).await;
    assert!(added.contains("40-schema.wasm") && added.contains("  live, generation "), "{added}");
    let again = outside.succeeds("mine", &["plugin", "add", "schema"]).await;
    assert!(again.contains("stay as they are") && again.contains("  live, generation "), "{again}");
    stop(served).await;
    let added = outside.succeeds("mine", &["plugin", "add", "echo"]).await;
    assert!(added.contains("no gateway with this folder answers"), "{added}");
}

#[tokio::test]
async fn what_stands_in_the_way_is_said_and_nothing_is_overwritten() {
    let outside = Outside::new().await;
    outside.succeeds(".", &["init", "mine"]).await;
    let (code, text) = outside.gateway(".", &["init", "mine"]).await;
    assert!(code == 1 && text.contains("is not empty") && text.contains("nothing was written"), "{text}");

    fs::write(outside.path("mine/plugins/50-router.wasm"), "a fork").unwrap();
    let (code, text) = outside.gateway("mine", &["plugin", "add", "router"]).await;
    assert!(code == 1 && text.contains("--replace"), "{text}");
    let settings = fs::read(outside.path("mine/plugins/50-router.toml")).unwrap();
    outside.succeeds("mine", &["plugin", "add", "router", "--replace"]).await;
    assert_eq!(
        fs::read(outside.path("mine/plugins/50-router.wasm")).unwrap(),
        fs::read(wasm("router")).unwrap()
    );
    assert_eq!(fs::read(outside.path("mine/plugins/50-router.toml")).unwrap(), settings);

    let (code, text) = outside.gateway("mine", &["plugin", "add", "auth"]).await;
    assert!(code == 1 && text.contains("auth-jwt, rate-limit, schema, router, echo"), "{text}");
    let (code, text) = outside.gateway(".", &["token", "--user", "ann"]).await;
    assert!(code == 1 && text.contains("--config FILE"), "{text}");
    let (code, text) = outside.gateway("mine", &["token", "--user", "a\u{1}b"]).await;
    assert!(code == 2 && text.contains("control"), "{text}");
    let listed = outside.succeeds(".", &["plugin", "add"]).await;
    assert!(
        listed.contains("10-auth-jwt") && listed.contains("admits clients by a signed token"),
        "{listed}"
    );
}

#[tokio::test]
async fn a_program_without_plugins_says_where_they_come_from() {
    let folder = tempfile::tempdir().unwrap();
    let alone = folder.path().join("gateway");
    fs::copy(gateway_binary(), &alone).unwrap();
    // Cargo tells the programs that it runs where their source is, this test included.
    let tool = Tool::new(&alone).arg("init").arg("mine").env("CARGO_MANIFEST_DIR", folder.path());
    let output = tool.folder(folder.path()).output(LIMIT).await;
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("carries no plugins") && text.contains("gateway pack"), "{text}");
    assert!(!folder.path().join("mine").exists(), "nothing was written");
}

#[tokio::test]
async fn a_token_has_what_the_settings_and_the_command_say() {
    let folder = tempfile::tempdir().unwrap();
    let settings = folder.path().join("auth.toml");
    fs::write(
        &settings,
        "[config]\nsecret = 'a secret of thirty-two bytes or more'\nissuer = 'shop'\naudience = 'chat'",
    )
    .unwrap();
    let tool =
        Tool::new(gateway_binary()).arg("token").arg("--settings").arg(&settings).arg("--user").arg("ann");
    let tool = tool.arg("--valid-for").arg("10m").arg("--info").arg(r#"{"name":"Ann"}"#);
    let tool = tool.arg("--claim").arg("plan=pro").arg("--channel").arg("chat:lobby");
    let printed = tool.run(LIMIT).await;
    let claims = gateway_tests::token::claims(printed.trim());
    let expires = claims["exp"].as_u64().unwrap();
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    assert!((now + 590..=now + 600).contains(&expires), "{expires} and now {now}");
    let expected = json!({
        "sub": "ann", "exp": expires, "iss": "shop", "aud": "chat", "info": {"name": "Ann"}, "plan": "pro",
        "channels": ["chat:lobby"],
    });
    assert_eq!(claims, expected);
}
