//! Plugins that are not written in Rust: each example is built as its README says and rules a running
//! gateway.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use gateway_tests::{Client, Folder, Gateway, Tool, target_folder};
use serde_json::{Value, json};
use tempfile::TempDir;
use wit_bindgen_core::wit_parser::Resolve;

use crate::tools::readme::{blocks, root};

/// A build, or a language's whole engine compiled by a gateway that was built without optimisation.
const LONG: Duration = Duration::from_secs(180);

/// An example and what its README says.
struct Example {
    name: &'static str,
    commands: Vec<String>,
    json: Vec<String>,
}

impl Example {
    fn read(name: &'static str) -> Self {
        let readme = fs::read_to_string(root().join("examples").join(name).join("README.md")).unwrap();
        let commands = blocks(&readme, "console");
        let commands = commands.iter().flat_map(|block| block.lines()).map(|line| &line[2..]);
        Self { name, commands: commands.map(str::to_owned).collect(), json: blocks(&readme, "json") }
    }

    fn file(&self, name: &str) -> String {
        fs::read_to_string(root().join("examples").join(self.name).join(name)).unwrap()
    }

    /// Runs a command of the README.
    async fn run(&self, command: &str) {
        // The README has the folder that cargo builds into by default.
        let target = format!("{}/", target_folder().display());
        let command = format!("cd '{}' && {}", root().display(), command.replace("target/", &target));
        let caches = target_folder().join("zig/cache");
        Tool::new("bash").arg("-ec").arg(command).env("ZIG_GLOBAL_CACHE_DIR", caches).run(LONG).await;
    }

    /// The gateway of the example, with its plugin, and a client that has sent the lines of the README.
    async fn serve(&self, plugin: &str, wasm: &Path) -> (Gateway, Client) {
        let serve = format!("cargo run --release -- serve --config examples/{}/gateway.toml", self.name);
        assert_eq!(self.commands.last(), Some(&serve));
        // A client that waits for a compiler answers no pings.
        let config = self.file("gateway.toml").replace("[client]", "[client]\nping_interval = '10m'");
        let gateway = Gateway::start(&config).await;
        let settings = self.file(&format!("plugins/{plugin}.toml"));
        live(&gateway, |folder| folder.plugin(plugin, wasm, &settings)).await;
        let mut client = Client::open(gateway.address()).await;
        for line in self.json[0].lines() {
            client.send_text(line).await;
        }
        client.reply(1, "connect").await.unwrap();
        client.reply(2, "subscribe").await.unwrap();
        client.reply(3, "publish").await.unwrap();
        (gateway, client)
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

#[tokio::test]
async fn a_plugin_in_javascript_rewrites_messages_and_is_replaced_while_clients_are_connected() {
    let example = Example::read("javascript-plugin");
    let [install, build, drop, _] = &example.commands[..] else { panic!("{:?}", example.commands) };
    assert_eq!(install, "npm --prefix examples/javascript-plugin ci", "`tests/run` does it");
    example.run(build).await;
    let wasm = root().join(drop.split(' ').nth(1).unwrap());
    assert!(drop.ends_with(" examples/javascript-plugin/plugins/10-emoji.wasm"), "{drop}");

    let (gateway, mut client) = example.serve("10-emoji", &wasm).await;
    let received: Value = serde_json::from_str(&example.json[1]).unwrap();
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
    let next = Version::of(&example);
    next.change("/:([a-z0-9_+-]+):/g", "/%([a-z]+)%/g");
    next.change("const text =", "if (message.text === 'boom') throw new Error('lost it');\n    const text =");
    let wasm = next.build().await;
    live(&gateway, |folder| folder.settings("10-emoji", "config.names.tada = '!'")).await;
    let wasm = fs::read(wasm).unwrap();
    live(&gateway, |folder| folder.put("10-emoji.wasm", &wasm)).await;
    assert_eq!(say(&mut client, ":tada: %tada%").await, ":tada: !");
    let failed = client.ask("publish", json!({"channel": "chat:lobby", "data": {"text": "boom"}})).await;
    assert!(failed.is_err(), "{failed:?}");
    gateway.log().wait(&["plugin failed", "trap", "lost it", "/plugin.js:"]).await;
    assert_eq!(say(&mut client, "%tada%").await, "!", "a new instance serves");
}

/// The JavaScript example with changes.
struct Version(TempDir);

impl Version {
    fn of(example: &Example) -> Self {
        let folder = tempfile::tempdir().unwrap();
        for file in ["plugin.js", "utf8.js"] {
            fs::write(folder.path().join(file), example.file(file)).unwrap();
        }
        Self(folder)
    }

    fn change(&self, from: &str, to: &str) {
        let path = self.0.path().join("plugin.js");
        let source = fs::read_to_string(&path).unwrap();
        assert!(source.contains(from), "plugin.js has no {from:?} any more");
        fs::write(path, source.replace(from, to)).unwrap();
    }

    async fn build(&self) -> PathBuf {
        let example = root().join("examples/javascript-plugin");
        let output = self.0.path().join("emoji.wasm");
        Tool::new(example.join("node_modules/.bin/componentize-qjs"))
            .arg("--sync")
            .arg("--wit")
            .arg(example.join("wit"))
            .arg("--js")
            .arg(self.0.path().join("plugin.js"))
            .arg("--output")
            .arg(&output)
            .run(LONG)
            .await;
        output
    }
}

#[tokio::test]
async fn a_plugin_in_c_refuses_messages_and_gets_other_settings_while_clients_are_connected() {
    let example = Example::read("c-plugin");
    let [install, venv, pip, generate, compile, drop, _] = &example.commands[..] else {
        panic!("{:?}", example.commands)
    };
    assert_eq!(install, "cargo install --locked wit-bindgen-cli@0.61.1", "this test has it as a library");
    assert_eq!(
        generate, "wit-bindgen c examples/c-plugin/wit --out-dir target/brief",
        "this test has it as a library"
    );
    let run = fs::read_to_string(root().join("tests/run")).unwrap();
    let package = pip.strip_prefix("target/zig/bin/pip install ").unwrap();
    assert!(venv == "python3 -m venv target/zig" && run.contains(package), "`tests/run` does both");
    let zig = target_folder().join("zig/bin/python");
    assert!(zig.exists(), "{} is missing: `tests/run` does all the set-up", zig.display());
    bindings(&root().join("examples/c-plugin/wit"), &target_folder().join("brief"));
    example.run(compile).await;
    assert_eq!(drop, "cp target/brief/brief.wasm examples/c-plugin/plugins/10-brief.wasm");
    let wasm = target_folder().join("brief/brief.wasm");

    let (gateway, mut client) = example.serve("10-brief", &wasm).await;
    let refused = client.reply(4, "publish").await.unwrap_err();
    assert_eq!(client.publication("chat:lobby").await["data"]["text"], "hello");
    let expected: Value = serde_json::from_str(&example.json[1]).unwrap();
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
