//! The README keeps its word: every command in it is run, in order, and what it promises is tried.

use std::env;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use gateway_tests::{Client, eventually, request};
use serde_json::json;
use tokio::process::{Child, Command};
use tokio::sync::Mutex;

/// A build of the plugin included.
const LONG: Duration = Duration::from_secs(300);

pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize().unwrap()
}

/// The fenced blocks of a language.
pub(crate) fn blocks(text: &str, language: &str) -> Vec<String> {
    let open = format!("```{language}\n");
    text.split(&open).skip(1).map(|rest| rest.split("```").next().unwrap().to_owned()).collect()
}

/// The commands of a README, in order. `../` is a folder of this test, and so is the folder of an example,
/// which is copied there; the clone itself stays as it is.
struct Reader {
    commands: Vec<String>,
    beside: tempfile::TempDir,
    at: PathBuf,
}

impl Reader {
    fn new(readme: &str) -> Self {
        let commands = blocks(readme, "console")
            .iter()
            .flat_map(|block| {
                block.lines().map(|line| line.strip_prefix("$ ").expect("a command").to_owned())
            })
            .collect();
        Self { commands, beside: tempfile::tempdir().unwrap(), at: root() }
    }

    /// The next command, which has to begin like this.
    fn next(&mut self, begins: &str) -> String {
        assert!(!self.commands.is_empty(), "the README has no command {begins:?} any more");
        let command = self.commands.remove(0);
        assert!(command.starts_with(begins), "{command:?} is not what this test tries here: {begins:?}");
        let beside = self.beside.path().display();
        command
            .replace("../gateway/", &format!("{}/", root().display()))
            .replace("../", &format!("{beside}/"))
            .replace("examples/", &format!("{beside}/examples/"))
    }

    /// A copy of an example that may be written to.
    fn copy(&self, example: &str) -> PathBuf {
        let (from, to) =
            (root().join("examples").join(example), self.beside.path().join("examples").join(example));
        fs::create_dir_all(to.join("plugins")).unwrap();
        fs::copy(from.join("gateway.toml"), to.join("gateway.toml")).unwrap();
        for file in fs::read_dir(from.join("plugins")).unwrap() {
            let name = file.unwrap().file_name();
            if name.as_encoded_bytes().ends_with(b".toml") {
                fs::copy(from.join("plugins").join(&name), to.join("plugins").join(&name)).unwrap();
            }
        }
        to
    }

    fn shell(&self, command: &str) -> Command {
        let mut shell = Command::new("bash");
        shell.arg("-ec").arg(format!("exec 2>&1; {command}")).current_dir(&self.at).kill_on_drop(true);
        // As it stands means that cargo builds into `target`.
        shell.env_remove("CARGO_TARGET_DIR");
        // Cargo tells a test which package it belongs to. A build script that reads this would run again, and
        // the crates above it would be built again.
        let of_cargo = |name: &str| {
            name == "CARGO" || name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_")
        };
        for (name, _) in env::vars().filter(|(name, _)| of_cargo(name)) {
            shell.env_remove(name);
        }
        shell
    }

    /// Runs the next command to its end.
    async fn run(&mut self, begins: &str) -> String {
        let command = self.next(begins);
        if let Some(folder) = command.strip_prefix("cd ") {
            self.at = folder.into();
            return String::new();
        }
        let output =
            tokio::time::timeout(LONG, self.shell(&command).output()).await.expect("it ends").unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{command}\n{text}");
        text
    }

    /// Starts the next command, which goes on until it is stopped.
    fn start(&mut self, begins: &str) -> Child {
        let command = format!("exec {}", self.next(begins));
        self.shell(&command).stdout(Stdio::null()).stdin(Stdio::null()).spawn().unwrap()
    }
}

pub(crate) async fn ready() {
    let admin: SocketAddr = "127.0.0.1:8001".parse().unwrap();
    let asked = async {
        loop {
            if tokio::net::TcpStream::connect(admin).await.is_ok()
                && request(admin, "GET", "/health/ready", &[], b"").await.status == 200
            {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(LONG, asked).await.expect("the gateway is ready");
}

pub(crate) async fn stop(mut child: Child) {
    let pid = child.id().expect("it runs");
    assert!(Command::new("kill").arg(pid.to_string()).status().await.unwrap().success());
    let status = tokio::time::timeout(LONG, child.wait()).await.expect("it ends").unwrap();
    assert!(status.success(), "{status}");
}

/// Waits for a command that may take longer than a client may keep silent: it goes on answering pings.
async fn meanwhile<T>(client: &mut Client, command: impl Future<Output = T>) -> T {
    let mut command = std::pin::pin!(command);
    loop {
        tokio::select! {
            done = &mut command => return done,
            () = tokio::time::sleep(Duration::from_secs(5)) => {
                let _ = client.ask("presence_stats", json!({"channel": "chat:lobby"})).await;
            }
        }
    }
}

/// The README's ports are one gateway's at a time.
pub(crate) static PORTS: Mutex<()> = Mutex::const_new(());

#[tokio::test]
async fn every_command_works_as_it_stands() {
    let _ports = PORTS.lock().await;
    let readme = fs::read_to_string(root().join("README.md")).unwrap();
    let mut reader = Reader::new(&readme);

    // Run it. What an earlier run may have left in the demo's folder is not part of it.
    let dropped = root().join("target/demo/plugins/60-polite.wasm");
    for file in [&dropped, &dropped.with_extension("toml")] {
        let _ = fs::remove_file(file);
    }
    let demo = reader.start("cargo run --release -- demo");
    ready().await;
    let public: SocketAddr = "127.0.0.1:8000".parse().unwrap();
    let page = request(public, "GET", "/", &[], b"").await;
    assert_eq!(page.status, 200);
    assert!(page.text().contains("<html"), "a page");

    // A gateway of one's own: this needs the port of the demo, so it comes later here.
    let real: Vec<_> = reader.commands.drain(..4).collect();

    // Write a plugin.
    reader.run("cargo run --release -- plugin new polite").await;
    let written = fs::read_to_string(reader.beside.path().join("polite/src/lib.rs")).unwrap();
    assert!(written.contains(&blocks(&readme, "rust")[0]), "the README shows what the crate has");
    let tested = reader.run("cargo test --manifest-path").await;
    assert!(tested.contains("3 passed"), "{tested}");
    let token = request(public, "GET", "/demo/token?user=ann", &[], b"").await.json();
    let mut ann = Client::open(public).await;
    ann.ask("connect", json!({"token": token["token"]})).await.unwrap();
    ann.subscribe("chat:lobby").await;
    let rude = || json!({"channel": "chat:lobby", "data": {"text": "oh darn"}});
    ann.ask("publish", rude()).await.expect("there is no such rule yet");

    let built = meanwhile(&mut ann, reader.run("cargo run --release -- plugin build ../polite --into")).await;
    assert!(built.contains("  live, generation "), "{built}");
    // The client that was connected before meets the new rule.
    let refused = eventually("the word is refused", async || ann.ask("publish", rude()).await.err()).await;
    assert_eq!((refused.code, &*refused.message), (103, "please be polite"));
    let settings = dropped.with_extension("toml");
    fs::write(&settings, fs::read_to_string(&settings).unwrap().replace("\"darn\", ", "")).unwrap();
    eventually("other words", async || ann.ask("publish", rude()).await.ok()).await;
    let checked = meanwhile(&mut ann, reader.run("cargo run --release -- plugin check")).await;
    assert!(checked.contains("ok: the gateway accepts it"), "{checked}");
    fs::write(&settings, "config.words = ['darn']").unwrap();
    meanwhile(&mut ann, reader.run("cargo run --release -- plugin run")).await;
    let measured = meanwhile(&mut ann, reader.run("cargo run --release -- plugin bench")).await;
    assert!(measured.contains("instructions"), "{measured}");
    eventually("the word is refused again", async || ann.ask("publish", rude()).await.err()).await;
    fs::remove_file(&dropped).unwrap();
    eventually("the rule is gone", async || ann.ask("publish", rude()).await.ok()).await;
    stop(demo).await;

    // A gateway of one's own.
    assert!(reader.commands.is_empty(), "these commands are not tried: {:?}", reader.commands);
    (reader.commands, reader.at) = (real, root());
    reader.run("cargo run --release -- init").await;
    reader.run("cargo run --release -- check").await;
    let served = reader.start("cargo run --release -- serve");
    ready().await;
    let token = reader.run("cargo run --release -- token").await;
    let token = token.lines().last().expect("a token").trim();
    let mut ann = Client::open(public).await;
    ann.ask("connect", json!({"token": token})).await.unwrap();
    ann.subscribe("chat:lobby").await;
    stop(served).await;
}

#[tokio::test]
async fn the_first_plugin_is_polite_and_changes_while_clients_are_connected() {
    let _ports = PORTS.lock().await;
    let readme = fs::read_to_string(root().join("examples/first-plugin/README.md")).unwrap();
    let mut reader = Reader::new(&readme);
    let example = reader.copy("first-plugin");
    reader.run("cargo test -p polite").await;
    reader.run("cargo build --profile plugin --target wasm32-wasip1 -p polite").await;
    reader.run("cp target/wasm32-wasip1/plugin/polite.wasm").await;
    let served = reader.start("cargo run --release -- serve");
    assert!(reader.commands.is_empty(), "these commands are not tried: {:?}", reader.commands);
    ready().await;

    let mut client = Client::open("127.0.0.1:8000".parse().unwrap()).await;
    let [lines, refused] = &blocks(&readme, "json")[..] else { panic!("what is sent, and what is refused") };
    for line in lines.lines() {
        client.send_text(line).await;
    }
    client.reply(1, "connect").await.unwrap();
    client.reply(2, "subscribe").await.unwrap();
    client.reply(3, "publish").await.unwrap();
    let refused: serde_json::Value = serde_json::from_str(refused).unwrap();
    let error = client.reply(4, "publish").await.unwrap_err();
    assert_eq!(client.publication("news").await["data"], "hello");
    assert_eq!(refused["error"], json!({"code": error.code, "message": error.message}));

    // Other settings, the same connection.
    let settings = example.join("plugins/10-polite.toml");
    let before = fs::read_to_string(&settings).unwrap();
    fs::write(&settings, before.replace("\"darn\", ", "")).unwrap();
    eventually("the word is allowed", async || {
        client.ask("publish", json!({"channel": "news", "data": "oh darn"})).await.ok()
    })
    .await;
    stop(served).await;
}

#[tokio::test]
async fn a_moderator_sees_what_others_see_masked() {
    let _ports = PORTS.lock().await;
    let readme = fs::read_to_string(root().join("examples/redact/README.md")).unwrap();
    let mut reader = Reader::new(&readme);
    reader.copy("redact");
    reader.run("cargo test -p redact").await;
    reader.run("cargo build --profile plugin --target wasm32-wasip1 -p redact").await;
    reader.run("cp target/wasm32-wasip1/plugin/redact.wasm").await;
    let served = reader.start("cargo run --release -- serve");
    assert!(reader.commands.is_empty(), "these commands are not tried: {:?}", reader.commands);
    ready().await;

    let [of_moderator, of_member] = &blocks(&readme, "json")[..] else { panic!("what the two send") };
    let mut moderator = Client::open("127.0.0.1:8000".parse().unwrap()).await;
    let mut member = Client::open("127.0.0.1:8000".parse().unwrap()).await;
    for line in of_moderator.lines() {
        moderator.send_text(line).await;
    }
    moderator.reply(1, "connect").await.unwrap();
    moderator.reply(2, "subscribe").await.unwrap();
    for line in of_member.lines() {
        member.send_text(line).await;
    }
    for (id, command) in [(1, "connect"), (2, "subscribe"), (3, "publish")] {
        member.reply(id, command).await.unwrap();
    }
    let history = member.reply(4, "history").await.unwrap();
    assert_eq!(history["publications"][0]["data"], "oh ***");
    assert_eq!(member.publication("chat:lobby").await["data"], "oh ***");
    assert_eq!(moderator.publication("chat:lobby").await["data"], "oh darn");
    stop(served).await;
}

#[test]
fn every_file_it_points_to_is_there() {
    for page in ["README.md", "gateway/ARCHITECTURE.md", "CHANGELOG.md", "examples/README.md"] {
        let text = fs::read_to_string(root().join(page)).unwrap();
        let folder = root().join(page).parent().unwrap().to_owned();
        for link in text.split("](").skip(1).map(|rest| rest.split(')').next().unwrap()) {
            let file = link.split('#').next().unwrap();
            assert!(link.starts_with("http") || folder.join(file).exists(), "{page} points to {link}");
        }
    }
}

/// Names of files and functions in ARCHITECTURE.md that the source does not have would mislead.
#[test]
fn the_files_that_the_architecture_names_exist() {
    let text = fs::read_to_string(root().join("gateway/ARCHITECTURE.md")).unwrap();
    let mut checked = 0;
    for name in text.split('`').skip(1).step_by(2).filter(|name| name.ends_with(".rs") && !name.contains('*'))
    {
        let known = [root().join("gateway/src").join(name), root().join(name)];
        let beside =
            ["plugin", "wasm", "connection"].map(|folder| root().join("gateway/src").join(folder).join(name));
        assert!(known.iter().chain(&beside).any(|path| path.exists()), "{name}");
        checked += 1;
    }
    assert!(checked > 15, "{checked}");
}
