//! Real NATS servers with JetStream on loopback, each with a folder of its own, that tests hurt on purpose.

use std::io;
use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::process::Signal;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::log::Log;
use crate::port::free_address;
use crate::process::Process;
use crate::wait::eventually_within;

/// How long a server may take to start.
const START: Duration = Duration::from_secs(20);
/// How long a server may take to answer a question of the harness.
const ANSWER: Duration = Duration::from_secs(5);

/// A running `nats-server`. Killed when dropped; its last log lines are shown if the test fails.
#[derive(Debug)]
pub struct Nats {
    process: Process,
    log: Log,
    folder: TempDir,
    address: SocketAddr,
    token: String,
}

impl Nats {
    /// Starts a server that asks for this token, which may be empty, and waits until it answers.
    pub async fn start(token: &str) -> Self {
        let folder = tempfile::Builder::new().prefix("nats-").tempdir().expect("a folder");
        let address = free_address();
        let (process, log) = launch(&folder, address, token);
        let this = Self { process, log, folder, address, token: token.to_owned() };
        this.ready().await;
        this
    }

    /// What the gateway is given to reach it.
    pub fn url(&self) -> String {
        format!("nats://{}", self.address)
    }

    /// Makes a JetStream stream that keeps what is published to these subjects on disk.
    pub async fn make_stream(&self, name: &str, subjects: &[&str]) {
        let stream = json!({ "name": name, "subjects": subjects, "storage": "file", "num_replicas": 1 });
        let made = self.request(&format!("$JS.API.STREAM.CREATE.{name}"), &stream.to_string()).await;
        assert!(made["error"].is_null(), "{made}");
    }

    /// What a durable consumer has not acknowledged and not received yet.
    pub async fn left(&self, stream: &str, durable: &str) -> u64 {
        let info = self.request(&format!("$JS.API.CONSUMER.INFO.{stream}.{durable}"), "").await;
        let number = |key: &str| info[key].as_u64().unwrap_or(u64::MAX / 4);
        number("num_pending") + number("num_ack_pending")
    }

    /// Sends a request and waits for its answer.
    pub async fn request(&self, subject: &str, payload: &str) -> Value {
        self.put(subject, &[payload.to_owned()]).await.remove(0)
    }

    /// Publishes payloads in order. Returns what the stream answered to each.
    pub async fn put(&self, subject: &str, payloads: &[String]) -> Vec<Value> {
        match timeout(ANSWER, exchange(self.address, &self.token, subject, payloads)).await {
            Ok(answers) => answers.unwrap_or_else(|error| panic!("NATS at {}: {error}", self.address)),
            Err(_) => panic!("NATS at {} does not answer", self.address),
        }
    }

    /// Ends it without a word.
    pub fn kill(&mut self) {
        self.process.end();
    }

    /// Starts it again at the same address with what it has written, and waits until it answers.
    pub async fn revive(&mut self) {
        assert!(!self.process.is_running(), "only who was killed can be revived");
        (self.process, self.log) = launch(&self.folder, self.address, &self.token);
        self.ready().await;
    }

    /// Stops it where it is: its sockets stay open and say nothing.
    pub fn freeze(&self) {
        self.process.signal(Signal::STOP);
    }

    /// Lets it go on.
    pub fn thaw(&self) {
        self.process.signal(Signal::CONT);
    }

    async fn ready(&self) {
        eventually_within(START, "NATS to answer", async || {
            let payloads = [String::new()];
            let info = exchange(self.address, &self.token, "$JS.API.INFO", &payloads);
            timeout(ANSWER, info).await.ok()?.ok()
        })
        .await;
    }
}

impl Drop for Nats {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the last log lines of NATS at {}:\n{}", self.address, self.log.tail(15));
        }
    }
}

/// Requests on a connection of their own: the answers in the order of the requests.
async fn exchange(
    address: SocketAddr,
    token: &str,
    subject: &str,
    payloads: &[String],
) -> io::Result<Vec<Value>> {
    let socket = TcpStream::connect(address).await?;
    let (reader, mut writer) = socket.into_split();
    let mut reader = BufReader::new(reader);
    let mut line = String::new();
    reader.read_line(&mut line).await?;
    let mut connect = json!({ "verbose": false, "pedantic": false, "lang": "tests", "version": "1" });
    if !token.is_empty() {
        connect["auth_token"] = token.into();
    }
    let mut all = format!("CONNECT {connect}\r\nSUB answers.* 1\r\n");
    for (index, payload) in payloads.iter().enumerate() {
        all += &format!("PUB {subject} answers.{index} {}\r\n{payload}\r\n", payload.len());
    }
    writer.write_all(all.as_bytes()).await?;
    let mut answers = vec![None; payloads.len()];
    while answers.iter().any(Option::is_none) {
        line.clear();
        if reader.read_line(&mut line).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let words: Vec<&str> = line.split_whitespace().collect();
        match words[..] {
            ["MSG", answered, _, bytes] => {
                let mut payload = vec![0; bytes.parse::<usize>().expect("a length") + 2];
                reader.read_exact(&mut payload).await?;
                let index: usize = answered.trim_start_matches("answers.").parse().expect("a number");
                answers[index] = Some(serde_json::from_slice(&payload)?);
            }
            ["PING"] => writer.write_all(b"PONG\r\n").await?,
            ["-ERR", ..] => return Err(io::Error::other(line)),
            _ => (),
        }
    }
    Ok(answers.into_iter().flatten().collect())
}

fn launch(folder: &TempDir, address: SocketAddr, token: &str) -> (Process, Log) {
    let mut command = Command::new("nats-server");
    command.args(["-a", &address.ip().to_string(), "-p", &address.port().to_string(), "-js", "-sd"]);
    command.arg(folder.path());
    if !token.is_empty() {
        command.args(["--auth", token]);
    }
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap_or_else(|error| {
        panic!("failed to run nats-server: {error}; `tests/run` does all the set-up")
    });
    let log = Log::follow(child.stderr.take().expect("it was asked for"));
    (Process::new(child), log)
}
