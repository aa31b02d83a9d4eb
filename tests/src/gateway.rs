//! The gateway as a process.

use std::fs;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::{Command, ExitStatus, Stdio};
use std::time::Duration;

use futures_util::future::join_all;
use rustix::process::{Resource, Rlimit, Signal, getrlimit, setrlimit};
use serde_json::Value;
use tempfile::TempDir;
use tokio::net::TcpStream;
use toml::{Table, Value as Toml};

use crate::artifacts::{gateway_binary, target_folder, wasm};
use crate::folder::Folder;
use crate::http::{self, Answer};
use crate::log::{Line, Log};
use crate::metrics::Metrics;
use crate::port::free_address;
use crate::process::Process;
use crate::wait::{eventually, eventually_within, within_time};

/// What the API of every gateway in the tests asks for.
pub const API_KEY: &str = "the-key-of-the-tests";

/// Plugins are compiled before a gateway is ready.
const START: Duration = Duration::from_secs(60);
/// The demo may have to build its plugins.
const START_OF_DEMO: Duration = Duration::from_secs(300);

/// A running gateway with a folder of its own. Killed when dropped; its last log lines are shown if the test
/// fails.
#[derive(Debug)]
pub struct Gateway {
    process: Process,
    log: Log,
    address: SocketAddr,
    admin: SocketAddr,
    plugins: Folder,
    setup: Setup,
}

/// A gateway that is not started yet.
#[derive(Debug)]
pub struct Builder {
    setup: Setup,
    plugins: Folder,
}

#[derive(Debug)]
struct Setup {
    folder: TempDir,
    command: Subcommand,
    /// Limits of open files, as arguments of `ulimit`.
    descriptors: Option<String>,
    /// Where the log goes, if it is not read, and the addresses that it then cannot tell.
    log: Option<(OwnedFd, SocketAddr, SocketAddr)>,
    environment: Vec<(String, String)>,
    /// What a shell does before it becomes the gateway.
    prelude: Option<String>,
    /// Whether that may mount things which nobody else sees.
    unshared: bool,
}

#[derive(Debug)]
enum Subcommand {
    /// With the configuration file in the folder.
    Serve,
    /// At these addresses.
    Demo { listen: SocketAddr, admin: SocketAddr },
}

impl Gateway {
    /// Starts with these settings; what they leave out is chosen so that tests do not meet.
    pub async fn start(config: &str) -> Self {
        Self::with(config).start().await
    }

    /// The same, with more to set before the start.
    pub fn with(config: &str) -> Builder {
        let folder =
            tempfile::Builder::new().prefix("gateway-").tempdir().expect("a folder for temporary files");
        let plugins = Folder::create(folder.path().join("plugins"));
        let mut all: Table = toml::from_str(&format!(
            "listen = {{ address = '127.0.0.1:0', workers = 2 }}\n\
             admin = {{ address = '127.0.0.1:0', api_key = '{API_KEY}' }}\n\
             log = {{ format = 'json' }}"
        ))
        .expect("valid");
        merge(&mut all, toml::from_str(config).expect("the settings of a test are TOML"));
        fs::write(folder.path().join("gateway.toml"), all.to_string()).expect("a file can be written");
        Builder {
            setup: Setup {
                folder,
                command: Subcommand::Serve,
                descriptors: None,
                log: None,
                environment: Vec::new(),
                prelude: None,
                unshared: false,
            },
            plugins,
        }
    }

    /// Starts several gateways at once; each is set up by its place.
    pub async fn nodes(count: usize, setup: impl Fn(usize) -> Builder) -> Vec<Self> {
        join_all((0..count).map(|node| setup(node).start())).await
    }

    /// Starts the demo of the source tree, with a plugin folder of its own. It builds the plugins if they are
    /// not built.
    pub async fn demo() -> Self {
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let Builder { mut setup, plugins } = Self::with("");
        setup.command = Subcommand::Demo { listen: any, admin: any };
        Builder { setup, plugins }.start().await
    }

    /// Where clients connect.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where health, metrics and the API are.
    pub fn admin(&self) -> SocketAddr {
        self.admin
    }

    /// What it has logged.
    pub fn log(&self) -> &Log {
        &self.log
    }

    /// Its plugin folder.
    pub fn folder(&self) -> &Folder {
        &self.plugins
    }

    /// Changes the plugin folder and waits until the gateway has made a new chain of it, on all workers.
    pub async fn swap(&self, change: impl FnOnce(&Folder)) -> Line {
        let mark = self.log.mark();
        change(&self.plugins);
        self.log.wait_since(mark, &["plugin chain swapped"]).await
    }

    /// Changes the plugin folder and waits until the gateway has refused a file of it.
    pub async fn refusal(&self, change: impl FnOnce(&Folder)) -> Line {
        let mark = self.log.mark();
        change(&self.plugins);
        self.log.wait_since(mark, &["plugin refused"]).await
    }

    /// Its configuration file.
    pub fn config(&self) -> PathBuf {
        self.setup.config()
    }

    /// A GET to the admin listener.
    pub async fn get(&self, path: &str) -> Answer {
        http::request(self.admin, "GET", path, &[&format!("X-API-Key: {API_KEY}")], b"").await
    }

    /// A POST to the API.
    pub async fn post(&self, path: &str, body: &Value) -> Answer {
        let headers = [&*format!("X-API-Key: {API_KEY}"), "Content-Type: application/json"];
        http::request(self.admin, "POST", path, &headers, body.to_string().as_bytes()).await
    }

    /// One scrape.
    pub async fn metrics(&self) -> Metrics {
        let answer = self.get("/metrics").await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        Metrics::parse(&answer.text())
            .unwrap_or_else(|why| panic!("a scraper would reject the metrics: {why}"))
    }

    /// Memory of the process that is in use, in KiB.
    pub fn memory(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.process.id())).expect("it runs");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("Linux says how much");
        line.trim().trim_end_matches(" kB").parse().expect("a number")
    }

    /// Of the process.
    pub fn id(&self) -> u32 {
        self.process.id()
    }

    /// How many files and sockets it has open.
    pub fn descriptors(&self) -> usize {
        fs::read_dir(format!("/proc/{}/fd", self.process.id())).expect("it runs").count()
    }

    /// Whether the process is there.
    pub fn is_running(&mut self) -> bool {
        self.process.is_running()
    }

    /// Asks it to end, as a service manager does.
    pub fn terminate(&self) {
        self.signal(Signal::TERM);
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        self.process.signal(signal);
    }

    /// Waits for the end of the process.
    pub async fn exit(&mut self, limit: Duration) -> ExitStatus {
        within_time(limit, "the end of the gateway", self.process.exit()).await
    }

    /// Ends it without a word.
    pub fn kill(&mut self) {
        self.process.end();
    }

    /// Has it drain, and starts it again at the same addresses with these settings over those it had.
    pub async fn restart_with(&mut self, config: &str) {
        self.terminate();
        self.exit(START).await;
        let file = self.setup.config();
        let mut all: Table =
            toml::from_str(&fs::read_to_string(&file).expect("it was written")).expect("valid");
        merge(&mut all, toml::from_str(config).expect("the settings of a test are TOML"));
        fs::write(file, all.to_string()).expect("a file can be written");
        self.setup.keep(self.address, self.admin);
        (self.process, self.log, self.address, self.admin) = self.setup.launch().await;
    }

    /// Kills it and starts it again at the same addresses.
    pub async fn restart(&mut self) {
        self.process.end();
        self.setup.keep(self.address, self.admin);
        (self.process, self.log, self.address, self.admin) = self.setup.launch().await;
    }
}

impl Builder {
    /// With a plugin in the folder before the start, `NAME.wasm`, and its settings, which may be empty.
    pub fn plugin(self, name: &str, plugin: &str, settings: &str) -> Self {
        self.plugins.plugin(name, &wasm(plugin), settings);
        self
    }

    /// With other things in the plugin folder before the start.
    pub fn prepare(self, change: impl FnOnce(&Folder)) -> Self {
        change(&self.plugins);
        self
    }

    /// With this many open files at most.
    pub fn descriptors(mut self, max: u64) -> Self {
        self.setup.descriptors = Some(format!("-n {max}"));
        self
    }

    /// With this many open files at most, unless it asks for more.
    pub fn soft_descriptors(mut self, max: u64) -> Self {
        self.setup.descriptors = Some(format!("-S -n {max}"));
        self
    }

    /// With its log in this file or pipe, which nobody reads here.
    pub fn log_into(mut self, log: impl Into<OwnedFd>) -> Self {
        let (address, admin) = (free_address(), free_address());
        self.setup.keep(address, admin);
        self.setup.log = Some((log.into(), address, admin));
        self
    }

    /// With an environment variable; there is no other.
    pub fn environment(mut self, name: &str, value: &str) -> Self {
        self.setup.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// After these commands of a shell, such as `ulimit`.
    pub fn after(mut self, prelude: &str) -> Self {
        self.setup.prelude = Some(prelude.to_owned());
        self
    }

    /// After these commands of a shell, which may mount what only the gateway sees. For root.
    pub fn after_mounts(mut self, prelude: &str) -> Self {
        self.setup.unshared = true;
        self.after(prelude)
    }

    /// The settings file.
    pub fn config(&self) -> PathBuf {
        self.setup.config()
    }

    /// Where its plugin folder is.
    pub fn folder(&self) -> &Folder {
        &self.plugins
    }

    /// Runs it to its end, which it is expected to come to by itself: what it said, and with which code it
    /// ended.
    pub fn run(self) -> (String, Option<i32>) {
        let output = self.setup.command().output().expect("it can be run");
        (String::from_utf8_lossy(&output.stderr).into_owned(), output.status.code())
    }

    /// Starts it and waits until it listens, ready or not; if it ends instead, what it said.
    pub async fn start_or_end(self, limit: Duration) -> Result<Gateway, String> {
        let mut child = self.setup.command().spawn().expect("it can be run");
        let log = Log::follow(child.stderr.take().expect("it was asked for"));
        let mut process = Process::new(child);
        let listens = |message: &str| log.lines().into_iter().find(|line| line.message == message);
        let begun = std::time::Instant::now();
        loop {
            if let (Some(clients), Some(admin)) = (listens("ready"), listens("admin listener ready")) {
                let address = |line: &Line| line.field("address").parse().expect("an address");
                let (address, admin) = (address(&clients), address(&admin));
                let Self { setup, plugins } = self;
                return Ok(Gateway { process, log, address, admin, plugins, setup });
            }
            if !process.is_running() {
                // What it said last is on its way to us.
                tokio::time::sleep(Duration::from_millis(200)).await;
                return Err(log.tail(40));
            }
            assert!(begun.elapsed() < limit, "neither ready nor ended: {}", log.tail(40));
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Starts it and waits until it listens, ready or not.
    pub async fn start_unready(self) -> Gateway {
        let Self { setup, plugins } = self;
        let (process, log, address, admin) = setup.launch().await;
        Gateway { process, log, address, admin, plugins, setup }
    }

    /// Starts and waits until it is ready.
    pub async fn start(self) -> Gateway {
        let Self { setup, plugins } = self;
        let (process, log, address, admin) = setup.launch().await;
        let gateway = Gateway { process, log, address, admin, plugins, setup };
        // What is behind it may have to be reached first. Without it a gateway serves all the same.
        eventually("a gateway that is ready, or knows why it is not", async || {
            let health = gateway.get("/health/ready").await;
            let known = health.text().contains("degraded") && !health.text().contains("not connected yet");
            (health.status == 200 || known).then_some(())
        })
        .await;
        gateway
    }
}

impl Setup {
    fn config(&self) -> PathBuf {
        self.folder.path().join("gateway.toml")
    }

    /// From now on it is to be found at these addresses.
    fn keep(&mut self, address: SocketAddr, admin: SocketAddr) {
        if let Subcommand::Demo { .. } = self.command {
            self.command = Subcommand::Demo { listen: address, admin };
            return;
        }
        let text = fs::read_to_string(self.config()).expect("it was written");
        let mut config: Table = toml::from_str(&text).expect("it was valid");
        merge(&mut config, table("listen", "address", address));
        merge(&mut config, table("admin", "address", admin));
        fs::write(self.config(), config.to_string()).expect("a file can be written");
    }

    fn command(&self) -> Command {
        let limit = self.descriptors.as_ref().map(|limits| format!("ulimit {limits}"));
        let prelude: Vec<String> = limit.into_iter().chain(self.prelude.clone()).collect();
        let mut command = if prelude.is_empty() {
            Command::new(gateway_binary())
        } else {
            let mut shell = Command::new(if self.unshared { "/usr/bin/unshare" } else { "/bin/sh" });
            if self.unshared {
                shell.args(["--mount", "--propagation", "private", "/bin/sh"]);
            }
            shell.args(["-c", &format!("{}; exec \"$0\" \"$@\"", prelude.join("; "))]).arg(gateway_binary());
            shell
        };
        match self.command {
            Subcommand::Serve => command.args(["serve", "--config"]).arg(self.config()).env_clear(),
            Subcommand::Demo { listen, admin } => command
                .args(["demo", "--listen", &listen.to_string(), "--admin", &admin.to_string(), "--source"])
                .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
                .arg("--dir")
                .arg(self.folder.path().join("plugins"))
                .env("CARGO_TARGET_DIR", target_folder()),
        };
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        let log = match &self.log {
            Some((log, ..)) => log.try_clone().expect("a descriptor is free").into(),
            None => Stdio::piped(),
        };
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        command
    }

    /// Starts the process and waits until it says where it listens.
    async fn launch(&self) -> (Process, Log, SocketAddr, SocketAddr) {
        allow_many_files();
        let mut child = self
            .command()
            .spawn()
            .unwrap_or_else(|error| panic!("failed to run {}: {error}", gateway_binary().display()));
        if let Some((_, address, admin)) = &self.log {
            let process = Process::new(child);
            eventually_within(START, "the admin listener", async || TcpStream::connect(admin).await.ok())
                .await;
            return (process, Log::follow(std::io::empty()), *address, *admin);
        }
        let log = Log::follow(child.stderr.take().expect("it was asked for"));
        let process = Process::new(child);
        let address = async |message: &str| {
            let what = format!("the line `{message}`");
            let limit = if matches!(self.command, Subcommand::Serve) { START } else { START_OF_DEMO };
            let line = log.find(0, limit, &what, |line| line.message == message).await;
            line.field("address").parse().unwrap_or_else(|_| panic!("no address: {}", line.text))
        };
        let clients = address("ready").await;
        let admin = address("admin listener ready").await;
        (process, log, clients, admin)
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the last log lines of the gateway:\n{}", self.log.tail(40));
        }
    }
}

/// Thousands of connections have two ends, and tests start with the limits of a login.
fn allow_many_files() {
    let limit = getrlimit(Resource::Nofile);
    if limit.current < limit.maximum {
        let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit });
    }
}

fn table(name: &str, key: &str, value: SocketAddr) -> Table {
    let inner = Table::from_iter([(key.to_owned(), Toml::String(value.to_string()))]);
    Table::from_iter([(name.to_owned(), Toml::Table(inner))])
}

/// Puts `from` over `into`, table by table.
fn merge(into: &mut Table, from: Table) {
    for (key, value) in from {
        match (into.get_mut(&key), value) {
            (Some(Toml::Table(into)), Toml::Table(from)) => merge(into, from),
            (_, value) => {
                into.insert(key, value);
            }
        }
    }
}
