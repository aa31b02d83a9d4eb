//! Real PostgreSQL servers on loopback, each with a folder of its own, that tests hurt on purpose.
//!
//! PostgreSQL does not run as root: there it runs as the user `postgres`, whom its package makes.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tokio::time::timeout;

use crate::log::Log;
use crate::port::free_address;
use crate::process::Process;
use crate::wait::{eventually, eventually_within};

/// The user that tests connect as, and its password.
const USER: &str = "postgres";
const PASSWORD: &str = "the-password-of-the-tests";
/// A server that was killed reads its log before it answers.
const START: Duration = Duration::from_secs(20);
/// How long a server may take to answer a question of the harness.
const ANSWER: Duration = Duration::from_secs(5);

/// A running server. Killed when dropped; its last log lines are shown if the test fails.
#[derive(Debug)]
pub struct Postgres {
    process: Process,
    log: Log,
    folder: TempDir,
    address: SocketAddr,
}

impl Postgres {
    /// Makes a server and waits until it answers. It asks for a password and offers TLS.
    pub async fn start() -> Self {
        let folder = tempfile::Builder::new().prefix("postgres-").tempdir().expect("a folder");
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a good name");
        for (name, text) in [
            ("certificate.pem", made.cert.pem()),
            ("key.pem", made.signing_key.serialize_pem()),
            ("password", PASSWORD.to_owned()),
        ] {
            let path = folder.path().join(name);
            fs::write(&path, text).expect("a file can be written");
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("it is ours");
            give_away(&path);
        }
        give_away(folder.path());
        let data = folder.path().join("data");
        let made = as_postgres("initdb")
            .args(["--auth=scram-sha-256", "--encoding=UTF8", "--locale=C", "--no-sync", "-U", USER, "-D"])
            .arg(&data)
            .arg("--pwfile")
            .arg(folder.path().join("password"))
            .output()
            .expect("initdb can be run; `tests/run` does all the set-up");
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let address = free_address();
        let (process, log) = launch(folder.path(), address);
        let mut this = Self { process, log, folder, address };
        this.ready().await;
        this
    }

    /// What the gateway is given to reach it, without the user and the password.
    pub fn url(&self) -> String {
        format!("postgres://{}/postgres", self.address)
    }

    /// The same with TLS.
    pub fn tls_url(&self) -> String {
        format!("postgres+tls://localhost:{}/postgres", self.address.port())
    }

    /// Its user and the password, and the certificate that TLS has to trust.
    pub fn login(&self) -> (&str, &str, PathBuf) {
        (USER, PASSWORD, self.folder.path().join("certificate.pem"))
    }

    /// Runs statements, which have to work. Returns the rows, one a line.
    pub async fn ask(&self, sql: &str) -> String {
        self.try_ask(sql).await.unwrap_or_else(|why| panic!("{sql} was refused: {why}"))
    }

    /// Runs statements at a server that may be down or frozen.
    pub async fn try_ask(&self, sql: &str) -> Result<String, String> {
        let port = self.address.port().to_string();
        let mut command = tokio::process::Command::new(binary("psql"));
        command.args(["-h", "127.0.0.1", "-p", &port, "-U", USER, "-d", "postgres", "-AtqX"]);
        command.args(["-v", "ON_ERROR_STOP=1", "-c", sql]).env("PGPASSWORD", PASSWORD);
        command.stdin(Stdio::null()).kill_on_drop(true);
        let output = timeout(ANSWER, command.output()).await.map_err(|_| "no answer".to_owned())?;
        let output = output.expect("psql can be run");
        match output.status.success() {
            true => Ok(String::from_utf8_lossy(&output.stdout).trim_end().to_owned()),
            false => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
        }
    }

    /// Ends it without a word.
    pub async fn kill(&mut self) {
        let children = self.children();
        self.process.end();
        eventually("the processes of the server to end", async || {
            children.iter().all(|id| !Path::new(&format!("/proc/{id}")).exists()).then_some(())
        })
        .await;
    }

    /// Starts it again at the same address with what it has written, and waits until it answers.
    pub async fn revive(&mut self) {
        assert!(!self.process.is_running(), "only who was killed can be revived");
        (self.process, self.log) = launch(self.folder.path(), self.address);
        self.ready().await;
    }

    /// Stops it where it is: its sockets stay open and say nothing.
    pub fn freeze(&self) {
        self.process.signal(Signal::STOP);
        for id in self.children() {
            signal(id, Signal::STOP);
        }
    }

    /// Lets it go on.
    pub fn thaw(&self) {
        for id in self.children() {
            signal(id, Signal::CONT);
        }
        self.process.signal(Signal::CONT);
    }

    async fn ready(&mut self) {
        eventually_within(START, "PostgreSQL to answer", async || self.try_ask("SELECT 1").await.ok()).await;
    }

    /// A process for each connection, and some more.
    fn children(&self) -> Vec<i32> {
        let id = self.process.id();
        let path = format!("/proc/{id}/task/{id}/children");
        let children = fs::read_to_string(path).unwrap_or_default();
        children.split_whitespace().filter_map(|id| id.parse().ok()).collect()
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the last log lines of PostgreSQL at {}:\n{}", self.address, self.log.tail(15));
        }
        // Those of a server that is killed while they are stopped would stay.
        for id in self.children() {
            signal(id, Signal::KILL);
        }
    }
}

/// It may have ended.
fn signal(id: i32, signal: Signal) {
    let _ = Pid::from_raw(id).map(|id| kill_process(id, signal));
}

/// Debian keeps the programs of each version in a folder of their own.
fn binary(name: &str) -> PathBuf {
    let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let found = versions.map(|version| version.path().join("bin").join(name)).find(|path| path.exists());
    found.unwrap_or_else(|| name.into())
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// The ids of the user and the group that the server runs as, if not as we do.
fn ids() -> Option<(u32, u32)> {
    if !is_root() {
        return None;
    }
    let users = fs::read_to_string("/etc/passwd").expect("a list of users");
    let user = users.lines().find_map(|line| line.strip_prefix("postgres:x:"));
    let user = user.expect("the package postgresql makes the user postgres; `tests/run` does all the set-up");
    let mut ids = user.split(':').map(|id| id.parse().expect("a number"));
    Some((ids.next().expect("a user"), ids.next().expect("a group")))
}

fn give_away(path: &Path) {
    if let Some((user, group)) = ids() {
        chown(path, Some(user), Some(group)).expect("root may");
    }
}

fn as_postgres(name: &str) -> Command {
    let Some((user, group)) = ids() else { return Command::new(binary(name)) };
    let mut command = Command::new("setpriv");
    command.args([&format!("--reuid={user}"), &format!("--regid={group}"), "--clear-groups"]);
    command.arg(binary(name));
    command
}

fn launch(folder: &Path, address: SocketAddr) -> (Process, Log) {
    let set = |name: &str, value: &dyn std::fmt::Display| format!("{name}={value}");
    let settings = [
        set("listen_addresses", &address.ip()),
        set("port", &address.port()),
        set("unix_socket_directories", &folder.display()),
        set("ssl", &"on"),
        set("ssl_cert_file", &folder.join("certificate.pem").display()),
        set("ssl_key_file", &folder.join("key.pem").display()),
        // What a killed process wrote is safe: only the machine must not end.
        set("fsync", &"off"),
        set("max_connections", &"40"),
    ];
    let mut command = as_postgres("postgres");
    command.arg("-D").arg(folder.join("data"));
    for setting in settings {
        command.args(["-c", &setting]);
    }
    command.current_dir(folder).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("postgres can be run");
    let log = Log::follow(child.stderr.take().expect("it was asked for"));
    (Process::new(child), log)
}
