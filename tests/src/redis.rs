//! Real Redis servers on loopback, each in a folder of its own, that tests hurt on purpose.
//!
//! A server keeps nothing on disk unless asked, ends with the test, and keeps its port over its restarts.

mod cluster;
mod resp;
mod sentinels;

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::process::Signal;
use tempfile::TempDir;
use tokio::time::{sleep, timeout};

pub use self::cluster::Cluster;
pub use self::resp::Reply;
pub use self::sentinels::Sentinels;
use crate::log::Log;
use crate::port::free_address;
use crate::process::Process;
use crate::wait::{eventually, within};

/// The file with the certificate of a server.
const CERTIFICATE: &str = "certificate.pem";
/// How long a group of servers may take to find each other, or another master.
const AGREEMENT: Duration = Duration::from_secs(20);
/// How long a server may take to answer a question of the harness.
const ANSWER: Duration = Duration::from_secs(2);

/// A running `redis-server`. Killed when dropped; its last log lines are shown if the test fails.
#[derive(Debug)]
pub struct Redis {
    process: Process,
    log: Log,
    folder: TempDir,
    address: SocketAddr,
    role: Role,
    password: Option<String>,
    tls: Option<SocketAddr>,
}

/// A server that is not started yet.
#[derive(Debug)]
pub struct Setup {
    settings: String,
    role: Role,
    password: Option<String>,
    tls: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    Server,
    Sentinel,
}

/// What a server that was killed finds when it is started again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Data {
    /// What it has written to disk: everything, if it is [`persistent`](Setup::persistent), and nothing
    /// otherwise.
    Kept,
    /// Nothing.
    Lost,
}

impl Redis {
    /// Starts a server that accepts everybody and keeps nothing on disk.
    pub async fn start() -> Self {
        Self::with("").start().await
    }

    /// The same, with lines of `redis.conf`.
    pub fn with(settings: &str) -> Setup {
        let settings = format!("save \"\"\nappendonly no\n{settings}\n");
        Setup { settings, role: Role::Server, password: None, tls: false }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What the gateway is given to reach it: `redis://`, with the password if there is one.
    pub fn url(&self) -> String {
        match &self.password {
            None => self.url_at(self.address),
            Some(password) => self.url_as("", password),
        }
    }

    /// The same, as this user.
    pub fn url_as(&self, user: &str, password: &str) -> String {
        format!("redis://{user}:{password}@{}", self.address)
    }

    /// The same through something else that listens, such as a [`Proxy`](crate::Proxy).
    pub fn url_at(&self, address: SocketAddr) -> String {
        match &self.password {
            None => format!("redis://{address}"),
            Some(password) => format!("redis://:{password}@{address}"),
        }
    }

    /// Where it listens for TLS, if it is [`tls`](Setup::tls): its certificate is for `localhost`.
    pub fn tls_address(&self) -> SocketAddr {
        self.tls.expect("only a server with TLS has such an address")
    }

    /// The certificate, for who is to trust it: a PEM file.
    pub fn certificate(&self) -> PathBuf {
        self.folder.path().join(CERTIFICATE)
    }

    /// What it has logged since it was started last.
    pub fn log(&self) -> &Log {
        &self.log
    }

    /// Sends a command, which has to work.
    pub async fn ask(&self, command: &[&str]) -> Reply {
        match self.try_ask(command).await {
            Ok(Reply::Error(error)) => panic!("{command:?} was refused: {error}"),
            Ok(reply) => reply,
            Err(error) => panic!("{command:?} was not answered: {error}"),
        }
    }

    /// Sends a command to a server that may be down, frozen or of another opinion.
    pub async fn try_ask(&self, command: &[&str]) -> io::Result<Reply> {
        let ask = async {
            match &self.password {
                Some(password) => resp::ask(self.address, &[&["AUTH", password], command]).await,
                None => resp::ask(self.address, &[command]).await,
            }
        };
        timeout(ANSWER, ask).await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
    }

    /// A section of `INFO`.
    pub async fn info(&self, section: &str) -> BTreeMap<String, String> {
        let text = self.ask(&["INFO", section]).await.text();
        let pairs = text.lines().filter_map(|line| line.split_once(':'));
        pairs.map(|(key, value)| (key.to_owned(), value.trim().to_owned())).collect()
    }

    /// Changes a setting while it runs.
    pub async fn set(&self, setting: &str, value: &str) {
        self.ask(&["CONFIG", "SET", setting, value]).await;
    }

    /// How many clients are connected to it, but for this question.
    pub async fn clients(&self) -> usize {
        self.ask(&["CLIENT", "LIST"]).await.text().lines().count() - 1
    }

    /// Ends it without a word: its sockets are closed by the system, its memory is gone.
    pub fn kill(&mut self) {
        self.process.end();
    }

    /// Starts it again at the same address, and waits until it answers.
    pub async fn revive(&mut self, data: Data) {
        assert!(!self.process.is_running(), "only who was killed can be revived");
        if data == Data::Lost {
            let _ = fs::remove_file(self.folder.path().join("dump.rdb"));
            let _ = fs::remove_dir_all(self.folder.path().join("appendonlydir"));
        }
        (self.process, self.log) = launch(&self.folder, self.role);
        eventually("the server that was started again to answer", async || {
            self.answers().await.then_some(())
        })
        .await;
    }

    /// Stops it where it is: its sockets stay open and say nothing, and new connections are accepted by the
    /// system.
    pub async fn freeze(&self) {
        self.process.signal(Signal::STOP);
        let status = format!("/proc/{}/stat", self.process.id());
        eventually("the server to be stopped", async || {
            fs::read_to_string(&status).expect("it is there").contains(") T ").then_some(())
        })
        .await;
    }

    /// Lets it go on.
    pub fn thaw(&self) {
        self.process.signal(Signal::CONT);
    }

    /// Whether it answers, and has loaded its data.
    async fn answers(&self) -> bool {
        self.try_ask(&["PING"]).await.is_ok_and(|reply| reply == Reply::Text("PONG".to_owned()))
    }

    /// Waits until a replica has all of its master's data and follows.
    async fn in_sync(&self) {
        within(format!("the replica {} to be in sync", self.address), async {
            while self.info("replication").await.get("master_link_status").is_none_or(|link| link != "up") {
                sleep(Duration::from_millis(20)).await;
            }
        })
        .await;
    }
}

impl Setup {
    /// With a password of the default user.
    pub fn password(mut self, password: &str) -> Self {
        self.settings += &format!("requirepass {password}\n");
        self.password = Some(password.to_owned());
        self
    }

    /// With a user and rules of an access control list, such as `>secret ~rooms:* &rooms:* +@all`.
    pub fn user(mut self, name: &str, rules: &str) -> Self {
        self.settings += &format!("user {name} on {rules}\n");
        self
    }

    /// Listens for TLS too, at an address of its own and with a certificate of its own.
    pub fn tls(mut self) -> Self {
        self.tls = true;
        self
    }

    /// Keeps on disk what it has acknowledged: also after it was killed.
    pub fn persistent(mut self) -> Self {
        self.settings += "appendonly yes\n";
        self
    }

    /// Starts it and waits until it answers.
    pub async fn start(self) -> Redis {
        let Self { settings, role, password, tls } = self;
        // Somebody may take the port between the look and the start.
        for _ in 0..5 {
            let folder =
                tempfile::Builder::new().prefix("redis-").tempdir().expect("a folder for temporary files");
            let address = free_address();
            let tls = tls.then(free_address);
            let mut all = format!(
                "bind {}\nport {}\ndir {}\nloglevel notice\n",
                address.ip(),
                address.port(),
                folder.path().display()
            );
            if let Some(address) = tls {
                all += &secure(folder.path(), address);
            }
            fs::write(folder.path().join("redis.conf"), all + &settings).expect("a file can be written");
            let (process, log) = launch(&folder, role);
            let mut redis = Redis { process, log, folder, address, role, password: password.clone(), tls };
            let ready = within("a server to answer or to end", async {
                while redis.process.is_running() {
                    if redis.answers().await {
                        return true;
                    }
                    sleep(Duration::from_millis(5)).await;
                }
                false
            });
            if ready.await {
                return redis;
            }
            assert!(
                !redis.log.matching(&["Address already in use"]).is_empty(),
                "the server does not start:\n{}",
                redis.log.tail(20)
            );
        }
        panic!("five ports in a row were taken")
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the last log lines of Redis at {}:\n{}", self.address, self.log.tail(15));
        }
    }
}

/// Makes a key and a certificate; the lines that use them.
fn secure(folder: &Path, address: SocketAddr) -> String {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a good name");
    let (certificate, key) = (folder.join(CERTIFICATE), folder.join("key.pem"));
    fs::write(&certificate, made.cert.pem()).expect("a file can be written");
    fs::write(&key, made.signing_key.serialize_pem()).expect("a file can be written");
    let (port, certificate) = (address.port(), certificate.display());
    format!(
        "tls-port {port}\ntls-cert-file {certificate}\ntls-key-file {}\ntls-ca-cert-file {certificate}\n\
         tls-auth-clients no\n",
        key.display()
    )
}

fn launch(folder: &TempDir, role: Role) -> (Process, Log) {
    let mut command = Command::new("redis-server");
    command.arg(folder.path().join("redis.conf"));
    if role == Role::Sentinel {
        command.arg("--sentinel");
    }
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.spawn().unwrap_or_else(|error| {
        panic!("failed to run redis-server: {error}; `tests/run` does all the set-up")
    });
    let log = Log::follow(child.stdout.take().expect("it was asked for"));
    (Process::new(child), log)
}
