//! Plugins that are not written in Rust: each example, copied out of the clone, is built as its README says
//! and rules a running gateway. So does each folder that `gateway plugin new --lang` writes.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::Duration;

use gateway_tests::{Client, Folder, Gateway, Tool, gateway_binary, target_folder};
use serde_json::{Value, json};
use tempfile::TempDir;
use wit_bindgen_core::wit_parser::Resolve;

use crate::tools::readme::{blocks, root};

/// A build, or a language's whole engine compiled by a gateway on a busy machine.
const LONG: Duration = Duration::from_secs(300);

/// A language, and where `tests/run` has put its tools.
#[derive(Debug, Clone, Copy)]
struct Language {
    name: &'static str,
    /// The plugin of the example.
    plugin: &'static str,
    /// The environment of Python in the target folder that has the tools.
    tools: Option<&'static str>,
}

const JAVASCRIPT: Language = Language { name: "javascript", plugin: "emoji", tools: None };
const PYTHON: Language = Language { name: "python", plugin: "dice", tools: Some("componentize-py") };
const C: Language = Language { name: "c", plugin: "brief", tools: Some("zig") };
const ZIG: Language = Language { name: "zig", plugin: "calm", tools: Some("zig") };

impl Language {
    fn example(self) -> PathBuf {
        root().join(format!("examples/{}-plugin", self.name))
    }
}

/// The folder of a plugin outside of the clone, and what its README says.
struct Sources {
    language: Language,
    plugin: String,
    folder: TempDir,
    commands: Vec<String>,
    json: Vec<String>,
}

impl Sources {
    /// A copy of the example.
    fn example(language: Language) -> Self {
        let folder = tempfile::tempdir().unwrap();
        copy(&language.example(), folder.path());
        Self::read(language, language.plugin, folder)
    }

    /// A new plugin.
    async fn new(language: Language, plugin: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let new = Tool::new(gateway_binary()).arg("plugin").arg("new").arg(plugin);
        let new = new.arg("--lang").arg(language.name).arg("--path").arg(folder.path());
        let printed = new.run(LONG).await;
        let sources = Self::read(language, plugin, folder);
        for command in &sources.commands {
            assert!(printed.contains(command), "{command}: {printed}");
        }
        sources
    }

    fn read(language: Language, plugin: &str, folder: TempDir) -> Self {
        let readme = fs::read_to_string(folder.path().join("README.md")).unwrap();
        let commands = blocks(&readme, "console");
        let commands = commands.iter().flat_map(|block| block.lines()).map(|line| line[2..].to_owned());
        let (plugin, commands, json) = (plugin.to_owned(), commands.collect(), blocks(&readme, "json"));
        Self { language, plugin, folder, commands, json }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn file(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap()
    }

    fn change(&self, name: &str, from: &str, to: &str) {
        let text = self.file(name);
        assert!(text.contains(from), "{name} has no {from:?} any more");
        fs::write(self.path(name), text.replace(from, to)).unwrap();
    }

    /// Follows the README up to the gateway. Gives the file that was dropped.
    async fn build(&self) -> PathBuf {
        let (serve, others) = self.commands.split_last().unwrap();
        assert!(serve.ends_with(" serve --config gateway.toml"), "{serve}");
        let check = others.iter().find(|command| command.contains(" plugin check ")).unwrap();
        let wasm = self.rebuild().await;
        assert!(self.run(check).await.contains("ok: the gateway accepts it"));
        wasm
    }

    /// The same without the check.
    async fn rebuild(&self) -> PathBuf {
        let (_, others) = self.commands.split_last().unwrap();
        for command in others.iter().filter(|command| !command.contains(" plugin check ")) {
            self.run(command).await;
        }
        self.path(&format!("plugins/10-{}.wasm", self.plugin))
    }

    /// Runs a command of the README; what installs tools was done by `tests/run`.
    async fn run(&self, command: &str) -> String {
        if command == "npm ci" {
            let modules = self.language.example().join("node_modules");
            assert!(modules.is_dir(), "{} is missing: `tests/run` does all the set-up", modules.display());
            let _ = symlink(modules, self.path("node_modules"));
            return String::new();
        }
        if let Some(package) = command.strip_prefix("venv/bin/pip install ") {
            let run = fs::read_to_string(root().join("tests/run")).unwrap();
            assert!(run.contains(package), "`tests/run` installs {package}");
            return String::new();
        }
        if command == "wit-bindgen c wit --out-dir generated" {
            bindings(&self.path("wit"), &self.path("generated"));
            return String::new();
        }
        // This test has wit-bindgen as a library, and the environment of Python is there.
        if ["cargo install --locked wit-bindgen-cli@0.61.1", "python3 -m venv venv"].contains(&command) {
            return String::new();
        }
        let gateway = gateway_binary().display().to_string();
        let command = command.replace("cargo run --release --", &gateway);
        let command =
            command.strip_prefix("gateway ").map_or(command.clone(), |rest| format!("{gateway} {rest}"));
        let tools = self.language.tools.map(|tools| target_folder().join(tools));
        if let Some(python) = tools.as_ref().map(|tools| tools.join("bin/python")) {
            assert!(python.exists(), "{} is missing: `tests/run` does all the set-up", python.display());
        }
        let tools = format!("{}/", tools.unwrap_or_default().display());
        let caches = target_folder().join("zig/cache");
        let bash = Tool::new("bash").arg("-ec").arg(command.replace("venv/", &tools)).folder(&self.folder);
        bash.env("ZIG_GLOBAL_CACHE_DIR", caches).run(LONG).await
    }

    /// The gateway of the folder, without the plugin.
    async fn gateway(&self) -> Gateway {
        // A client that waits for a compiler answers no pings.
        let config = self.file("gateway.toml").replace("[client]", "[client]\nping_interval = '10m'");
        Gateway::start(&format!("plugins.compile_timeout = '{}s'\n{config}", LONG.as_secs())).await
    }

    fn settings(&self) -> String {
        self.file(&format!("plugins/10-{}.toml", self.plugin))
    }

    /// The gateway of the folder, with its plugin, and a client that has sent the lines of the README.
    async fn serve(&self, wasm: &Path) -> (Gateway, Client) {
        let gateway = self.gateway().await;
        let plugin = format!("10-{}", self.plugin);
        live(&gateway, |folder| folder.plugin(&plugin, wasm, &self.settings())).await;
        let client = self.client(&gateway).await;
        (gateway, client)
    }

    /// A client that has sent the lines of the README.
    async fn client(&self, gateway: &Gateway) -> Client {
        let mut client = Client::open(gateway.address()).await;
        for line in self.json[0].lines() {
            client.send_text(line).await;
        }
        client.reply(1, "connect").await.unwrap();
        client.reply(2, "subscribe").await.unwrap();
        client.reply(3, "publish").await.unwrap();
        client
    }
}

/// Copies what belongs to the clone.
fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
        let (path, name) = (entry.path(), entry.file_name());
        let made = ["node_modules", "venv", "generated", ".zig-cache", "__pycache__", ".plugins.state"];
        if made.iter().any(|made| name == *made) || path.extension().is_some_and(|end| end == "wasm") {
            continue;
        }
        assert!(!path.is_symlink(), "{} leads out of its folder", path.display());
        if path.is_dir() {
            copy(&path, &to.join(name));
        } else {
            fs::copy(path, to.join(name)).unwrap();
        }
    }
}

/// Changes the plugin folder and waits until all workers have a new chain.
async fn live(gateway: &Gateway, change: impl FnOnce(&Folder)) {
    let mark = gateway.log().mark();
    change(gateway.folder());
    gateway.log().wait_within(LONG, mark, &["plugin chain swapped"]).await;
}

async fn say(client: &mut Client, text: &str) -> Value {
    client.publish("chat:lobby", json!({"text": text})).await;
    client.publication("chat:lobby").await["data"]["text"].take()
}

#[test]
fn the_interface_of_every_example_is_that_of_the_sdk() {
    let interface = fs::read_to_string(root().join("plugin-sdk/wit/v0.1/gateway-plugin.wit")).unwrap();
    for language in [JAVASCRIPT, PYTHON, C, ZIG] {
        let copy = language.example().join("wit/deps/gateway-plugin/gateway-plugin.wit");
        assert!(fs::read_to_string(&copy).unwrap() == interface, "{} is another version", copy.display());
    }
}

/// The language decides which tool builds the folder; the gateway is the one of the folder.
#[tokio::test]
async fn a_new_plugin_in_every_language_builds_is_accepted_and_rules_a_running_gateway() {
    for language in [JAVASCRIPT, PYTHON, C, ZIG] {
        let sources = Sources::new(language, "be-polite").await;
        let wasm = sources.build().await;
        let (gateway, mut client) = sources.serve(&wasm).await;
        let status = gateway.post("/api/plugins", &json!({})).await.ok()["result"].take();
        let plugin = &status["plugins"][0];
        assert_eq!((&plugin["name"], &plugin["state"]), (&json!("be-polite"), &json!("live")), "{status}");
        let expected: Value = serde_json::from_str(&sources.json[1]).unwrap();
        match expected.get("error") {
            Some(error) => {
                let refused = client.reply(4, "publish").await.unwrap_err();
                assert_eq!(*error, json!({"code": refused.code, "message": refused.message}), "{language:?}");
            }
            None => assert_eq!(client.publication("chat:lobby").await["data"], expected, "{language:?}"),
        }
    }
}

#[tokio::test]
async fn a_plugin_in_python_rolls_dice_and_is_replaced_while_clients_are_connected() {
    let sources = Sources::example(PYTHON);
    let wasm = sources.build().await;
    let gateway = sources.gateway().await;

    // While it is compiled, the gateway is ready and another plugin becomes live.
    let mark = gateway.log().mark();
    gateway.folder().plugin("10-dice", &wasm, &sources.settings());
    let compiling = gateway.log().wait_within(LONG, mark, &["plugin being compiled", "dice"]).await;
    assert_eq!(compiling.field("plugin"), "dice");
    live(&gateway, |folder| folder.plugin("50-echo", &gateway_tests::wasm("echo"), "")).await;
    let status = gateway.post("/api/plugins", &json!({})).await.ok()["result"].take();
    let dice = status["plugins"].as_array().unwrap().iter().find(|plugin| plugin["name"] == "dice");
    let dice = dice.unwrap_or_else(|| panic!("{status}"));
    assert_eq!(dice["state"], "compiling", "{status}");
    assert!(dice["compiling"]["seconds"].as_u64().unwrap() >= 1, "{status}");
    assert_eq!(gateway.get("/health/ready").await.status, 200);
    gateway.log().wait_within(LONG, mark, &["plugin live", "10-dice.wasm"]).await;
    live(&gateway, |folder| folder.remove("50-echo.wasm")).await;

    let mut client = sources.client(&gateway).await;
    let received: Value = serde_json::from_str(&sources.json[1]).unwrap();
    assert_eq!(client.publication("chat:lobby").await["data"], received);
    assert_eq!(say(&mut client, "roll nothing").await, "roll nothing");
    let first = say(&mut client, "/roll 1d999999").await;
    let roll = json!({"channel": "chat:lobby", "data": {"text": "/roll 11d6"}});
    let refused = client.ask("publish", roll).await.unwrap_err();
    assert_eq!((refused.code, &*refused.message), (400, "11 dice, and 10 are allowed"));

    // Other settings need no compile; some that are wrong change nothing.
    live(&gateway, |folder| folder.settings("10-dice", "config.dice_max = 11")).await;
    let sum = say(&mut client, "/roll 11d6").await;
    let sum: u64 = sum.as_str().unwrap().strip_prefix("11d6 = ").unwrap().parse().unwrap();
    assert!((11..=66).contains(&sum), "{sum}");
    let refused = gateway.refusal(|folder| folder.settings("10-dice", "config.dice_max = 0")).await;
    assert!(refused.says(&["dice_max is 0; expected a number from 1 to 1000"]), "{}", refused.text);
    let refused = gateway.refusal(|folder| folder.settings("10-dice", "limits.memory = '8MiB'")).await;
    assert!(refused.says(&["wanted more than 8 MiB of memory (limits.memory)"]), "{}", refused.text);

    // Another version, which also fails. It gets other random numbers than the instance before it.
    sources.change(
        "plugin.py",
        "if roll is None:",
        "if text == \"boom\":\n            raise ValueError(\"lost it\")\n        if roll is None:",
    );
    let wasm = sources.rebuild().await;
    live(&gateway, |folder| folder.plugin("10-dice", &wasm, &sources.settings())).await;
    let boom = json!({"channel": "chat:lobby", "data": {"text": "boom"}});
    assert!(client.ask("publish", boom).await.is_err());
    gateway.log().wait(&["plugin failed", "trap", "ValueError: lost it", "/plugin.py"]).await;
    assert_ne!(say(&mut client, "/roll 1d999999").await, first, "a new instance serves");
}

#[tokio::test]
async fn a_plugin_in_javascript_rewrites_messages_and_is_replaced_while_clients_are_connected() {
    let sources = Sources::example(JAVASCRIPT);
    let wasm = sources.build().await;

    let (gateway, mut client) = sources.serve(&wasm).await;
    let received: Value = serde_json::from_str(&sources.json[1]).unwrap();
    assert_eq!(client.publication("chat:lobby").await["data"], received);
    client.publish("chat:lobby", json!(["no", "text"])).await;
    assert_eq!(client.publication("chat:lobby").await["data"], json!(["no", "text"]));
    let long = "ä:".repeat(10_000);
    assert_eq!(say(&mut client, &format!("{long}tada:")).await, format!("{}🎉", &long[..long.len() - 1]));

    // Other settings; then some that are wrong, which change nothing.
    live(&gateway, |folder| folder.settings("10-emoji", "config.names.tada = '*'")).await;
    assert_eq!(say(&mut client, ":tada: :wave:").await, "* :wave:");
    let wrong = |folder: &Folder| folder.settings("10-emoji", "config.names.tada = 7");
    let refused = gateway.refusal(wrong).await;
    assert!(refused.says(&["names.tada is 7; expected a text"]), "{}", refused.text);
    assert_eq!(say(&mut client, ":tada:").await, "*");

    // Another version, which also fails.
    sources.change("plugin.js", "/:([a-z0-9_+-]+):/g", "/%([a-z]+)%/g");
    let fails = "if (message.text === 'boom') throw new Error('lost it');\n    const text =";
    sources.change("plugin.js", "const text =", fails);
    let wasm = sources.rebuild().await;
    live(&gateway, |folder| folder.settings("10-emoji", "config.names.tada = '!'")).await;
    let wasm = fs::read(wasm).unwrap();
    live(&gateway, |folder| folder.put("10-emoji.wasm", &wasm)).await;
    assert_eq!(say(&mut client, ":tada: %tada%").await, ":tada: !");
    let failed = client.ask("publish", json!({"channel": "chat:lobby", "data": {"text": "boom"}})).await;
    assert!(failed.is_err(), "{failed:?}");
    gateway.log().wait(&["plugin failed", "trap", "lost it", "/plugin.js:"]).await;
    assert_eq!(say(&mut client, "%tada%").await, "!", "a new instance serves");
}

#[tokio::test]
async fn a_plugin_in_c_refuses_messages_and_gets_other_settings_while_clients_are_connected() {
    let sources = Sources::example(C);
    let wasm = sources.build().await;

    let (gateway, mut client) = sources.serve(&wasm).await;
    let refused = client.reply(4, "publish").await.unwrap_err();
    assert_eq!(client.publication("chat:lobby").await["data"]["text"], "hello");
    let expected: Value = serde_json::from_str(&sources.json[1]).unwrap();
    assert_eq!(expected["error"], json!({"code": refused.code, "message": refused.message}));

    // Other settings; then some that are wrong, which change nothing.
    let fits = format!("{{\"text\":\"{}\"}}", "x".repeat(100)).len();
    live(&gateway, |folder| folder.settings("10-brief", &format!("config.bytes_max = {fits}"))).await;
    assert_eq!(say(&mut client, &"x".repeat(100)).await, "x".repeat(100));
    let longer = json!({"channel": "chat:lobby", "data": {"text": "x".repeat(101)}});
    assert_eq!(client.ask("publish", longer).await.unwrap_err().code, 413);
    for wrong in
        ["", "config.bytes_max = 0", "config.bytes_max = -1", "config.bytes_max = '9'", "config.x = 1"]
    {
        let refused = gateway.refusal(|folder| folder.put("10-brief.toml", wrong.as_bytes())).await;
        assert!(refused.says(&["expected one setting, bytes_max, from 1 to 65536"]), "{}", refused.text);
    }
    assert_eq!(say(&mut client, &"x".repeat(100)).await, "x".repeat(100));

    // Out of the folder, and the channel alone decides.
    live(&gateway, |folder| folder.remove("10-brief.wasm")).await;
    assert_eq!(say(&mut client, &"x".repeat(101)).await, "x".repeat(101));
}

#[tokio::test]
async fn a_plugin_in_zig_calms_messages_and_gets_other_settings_while_clients_are_connected() {
    let sources = Sources::example(ZIG);
    let wasm = sources.build().await;

    let (gateway, mut client) = sources.serve(&wasm).await;
    let received: Value = serde_json::from_str(&sources.json[1]).unwrap();
    assert_eq!(client.publication("chat:lobby").await["data"], received);
    for unchanged in
        [json!({"text": "Hello, ABC"}), json!({"text": 7}), json!(["SHOUTING"]), json!("SHOUTING")]
    {
        client.publish("chat:lobby", unchanged.clone()).await;
        assert_eq!(client.publication("chat:lobby").await["data"], unchanged);
    }
    let long = "ÄX\"\n".repeat(4_000);
    assert_eq!(say(&mut client, &long).await, "Äx\"\n".repeat(4_000));

    // Other settings; then some that are wrong, which change nothing.
    live(&gateway, |folder| folder.settings("10-calm", "config.capitals_max = 10")).await;
    assert_eq!(say(&mut client, "HELLO out THERE").await, "HELLO out THERE");
    for wrong in ["", "config.capitals_max = -1", "config.capitals_max = 'ten'", "config.x = 1"] {
        let refused = gateway.refusal(|folder| folder.put("10-calm.toml", wrong.as_bytes())).await;
        let words = ["expected one setting, capitals_max, a number from 0"];
        assert!(refused.says(&words), "{}", refused.text);
    }
    assert_eq!(say(&mut client, "HELLO out THERE").await, "HELLO out THERE");
    assert_eq!(say(&mut client, "HELLO OUT THERE").await, "hello out there");
}

/// What `wit-bindgen c WIT --out-dir FOLDER` does.
fn bindings(wit: &Path, folder: &Path) {
    let mut resolve = Resolve::default();
    let (package, _) = resolve.push_path(wit).unwrap();
    let world = resolve.select_world(&[package], None).unwrap();
    let mut files = wit_bindgen_core::Files::default();
    wit_bindgen_c::Opts::default().build().generate(&mut resolve, world, &mut files).unwrap();
    fs::create_dir_all(folder).unwrap();
    for (name, content) in files.iter() {
        fs::write(folder.join(name), content).unwrap();
    }
}
