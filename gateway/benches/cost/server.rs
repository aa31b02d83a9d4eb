//! Servers as processes of their own, and what the kernel books to them.

use std::fs;
use std::io::{self, BufRead as _, BufReader, Read};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde_json::Value;
use tempfile::TempDir;

use crate::artifacts::wasm;
use crate::bare;
use crate::client::PATIENCE;

/// What the gateway under test differs in from its defaults: one worker, nobody is kept out, and no ping
/// disturbs.
const CONFIG: &str = "
listen.address = '127.0.0.1:0'
listen.workers = 1
admin = { address = '' }
limits = { connections_per_address_max = 1000000 }
client = { anonymous = true, ping_interval = '10m' }
raw = { enabled = true }
channel = { allow_subscribe = 'anyone', allow_publish = 'anyone' }
log = { format = 'json' }
";

/// A server that runs until this is dropped.
pub(crate) struct Server {
    child: Child,
    address: SocketAddr,
    /// What the gateway runs in.
    _folder: Option<TempDir>,
}

impl Server {
    /// The real binary, with one worker and these plugins.
    pub(crate) fn gateway(plugins: &[&str]) -> anyhow::Result<Self> {
        Self::configured(CONFIG, plugins)
    }

    /// The same without plugins, and with these settings in addition.
    pub(crate) fn gateway_with(settings: &str) -> anyhow::Result<Self> {
        Self::configured(&format!("{CONFIG}{settings}"), &[])
    }

    /// One of several gateways on this Redis.
    pub(crate) fn gateway_on(redis: SocketAddr) -> anyhow::Result<Self> {
        Self::gateway_with(&format!("redis = {{ url = 'redis://{redis}', prefix = 'gw' }}\n"))
    }

    /// `redis-server`, if it is installed: keeps nothing on disk.
    pub(crate) fn redis() -> anyhow::Result<Option<Self>> {
        let folder = tempfile::Builder::new().prefix("redis-bench-").tempdir()?;
        let address = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        let started = Command::new("redis-server")
            .args(["--bind", "127.0.0.1", "--save", "", "--port", &address.port().to_string(), "--dir"])
            .arg(folder.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn();
        let child = match started {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            started => started.context("failed to start redis-server")?,
        };
        let server = Self { child, address, _folder: Some(folder) };
        let until = Instant::now() + PATIENCE;
        while TcpStream::connect(address).is_err() {
            ensure!(Instant::now() < until, "redis-server does not listen");
            thread::sleep(Duration::from_millis(5));
        }
        Ok(Some(server))
    }

    fn configured(text: &str, plugins: &[&str]) -> anyhow::Result<Self> {
        let folder = tempfile::Builder::new().prefix("gateway-bench-").tempdir()?;
        let config = folder.path().join("gateway.toml");
        fs::write(&config, text)?;
        fs::create_dir(folder.path().join("plugins"))?;
        for plugin in plugins {
            fs::write(folder.path().join("plugins").join(format!("{plugin}.wasm")), wasm(plugin)?)?;
        }
        let mut child = Command::new(env!("CARGO_BIN_EXE_gateway"))
            .args(["serve", "--config"])
            .arg(config)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .context("failed to start the gateway")?;
        let lines = child.stderr.take().expect("it was asked for");
        let address = first(lines, |line| {
            let line: Value = serde_json::from_str(line).ok()?;
            (line["message"] == "ready").then(|| line["address"].as_str()?.parse().ok()).flatten()
        });
        let mut server = Self { child, address: SocketAddr::from(([0; 4], 0)), _folder: Some(folder) };
        server.address = address.recv_timeout(PATIENCE).context("the gateway does not get ready")?;
        Ok(server)
    }

    /// This program once more, as the least that serves the same.
    pub(crate) fn bare(task: &str) -> anyhow::Result<Self> {
        let mut child = Command::new(std::env::current_exe()?)
            .args([bare::ARGUMENT, task])
            // Its end tells the server that this program is gone.
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("failed to start the bare server")?;
        let lines = child.stdout.take().expect("it was asked for");
        let address = first(lines, |line| line.parse().ok());
        let mut server = Self { child, address: SocketAddr::from(([0; 4], 0)), _folder: None };
        server.address = address.recv_timeout(PATIENCE).context("the bare server does not get ready")?;
        Ok(server)
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Microseconds that its threads were on a processor so far, in user code and in the kernel.
    pub(crate) fn cpu_us(&self) -> anyhow::Result<f64> {
        let mut sum = 0.0;
        for thread in fs::read_dir(format!("/proc/{}/task", self.child.id()))? {
            let text = fs::read_to_string(thread?.path().join("schedstat"))?;
            let nanoseconds = text.split(' ').next().unwrap_or_default();
            sum += nanoseconds.parse::<f64>().context("schedstat has no number")? / 1000.0;
        }
        Ok(sum)
    }

    /// Bytes of memory in use.
    pub(crate) fn resident_bytes(&self) -> anyhow::Result<f64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let Some(line) = status.lines().find_map(|line| line.strip_prefix("VmRSS:")) else {
            bail!("the kernel does not say how much memory is in use");
        };
        Ok(line.trim().trim_end_matches(" kB").parse::<f64>()? * 1024.0)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The first thing that `find` finds in a line. Lines are read to the end, so that the writer never waits.
fn first<T: Send + 'static>(
    lines: impl Read + Send + 'static,
    find: impl Fn(&str) -> Option<T> + Send + 'static,
) -> Receiver<T> {
    let (found, receiver) = sync_channel(1);
    thread::spawn(move || {
        for line in BufReader::new(lines).lines().map_while(Result::ok) {
            if let Some(thing) = find(&line) {
                let _ = found.try_send(thing);
            }
        }
    });
    receiver
}

/// Takes as many open files as this program, and those it starts, may have. Returns how many that are.
pub(crate) fn allow_files() -> usize {
    let limit = getrlimit(Resource::Nofile);
    let raised = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit });
    let limit = if raised.is_ok() { limit.maximum } else { limit.current };
    limit.map_or(usize::MAX, |limit| usize::try_from(limit).unwrap_or(usize::MAX))
}
