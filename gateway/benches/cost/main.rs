//! What a message costs: `cargo bench -p gateway --bench cost`.
//!
//! Each group sets something the gateway does beside the least that any program would do for the same result,
//! measured in the same run and in turns. Read the ratios; the absolute numbers belong to the machine and its
//! mood.
//!
//! ```text
//! cargo bench -p gateway --bench cost                       all groups, in some minutes
//! cargo bench -p gateway --bench cost -- plugin codec       some of them
//! cargo bench -p gateway --bench cost -- --quick            all of them, few rounds: shows that they run
//! ```
//!
//! The first four groups call the gateway's library in this process. The others start the real binary and, as
//! the baseline, this program once more as a small tokio-tungstenite server; both serve real sockets, and
//! what counts is the processor time and the memory that the kernel books to each. `wire` has a table of its
//! own: JSON and Protobuf, plain and with TLS, compressed and not, in time and in bytes. `redis` needs
//! `redis-server`. Plugins are built by cargo when they are missing or old; `GATEWAY_WASM` names a folder
//! with built ones instead.

// The ruler.
mod measure;
mod table;

// What is measured in this process.
mod plugin;
mod chain;
mod codec;
mod session;

// What is measured from outside.
mod fanout;
mod echo;
mod idle;
mod wire;
mod redis;

// What the first ones work with.
mod artifacts;
mod fixture;
mod native;

// What the others work with.
mod server;
mod bare;
mod client;
mod connection;
mod frame;
mod peer;
mod resp;

use std::process::ExitCode;
use std::time::{Duration, Instant};

use table::Table;

/// How much is done. Everything else is the same in a quick run.
pub(crate) struct Scale {
    /// Rounds of calls in this process, and how long each side of a round calls.
    pub(crate) rounds: usize,
    pub(crate) batch: Duration,
    /// Rounds over sockets, and how long each side of a round is under load.
    pub(crate) load_rounds: usize,
    pub(crate) load: Duration,
    /// Connections that listen, and publications of a round with several in flight.
    pub(crate) subscribers: usize,
    pub(crate) publications: u64,
    /// Connections that do nothing, and connections that come and go in a round.
    pub(crate) idle: usize,
    pub(crate) idle_rounds: usize,
    pub(crate) cycles: usize,
}

const FULL: Scale = Scale {
    rounds: 51,
    batch: Duration::from_millis(3),
    load_rounds: 7,
    load: Duration::from_millis(1000),
    subscribers: 1000,
    publications: 200,
    idle: 5000,
    idle_rounds: 3,
    cycles: 500,
};

const QUICK: Scale = Scale {
    rounds: 3,
    batch: Duration::from_micros(500),
    load_rounds: 1,
    load: Duration::from_millis(200),
    subscribers: 200,
    publications: 20,
    idle: 500,
    idle_rounds: 1,
    cycles: 50,
};

type Group = (&'static str, fn(&Scale) -> anyhow::Result<Table>);

const GROUPS: [Group; 9] = [
    ("plugin", plugin::run),
    ("chain", chain::run),
    ("codec", codec::run),
    ("session", session::run),
    ("fanout", fanout::run),
    ("echo", echo::run),
    ("idle", idle::run),
    ("wire", wire::run),
    ("redis", redis::run),
];

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let done = match arguments.as_slice() {
        [first, task] if first == bare::ARGUMENT => bare::serve(task),
        _ => run(&arguments),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &[String]) -> anyhow::Result<()> {
    let has = |flag: &str| arguments.iter().any(|argument| argument == flag);
    // `cargo bench` says so with a flag of its own; without it this is `cargo test`, which only wants to see
    // it run.
    let scale = if has("--quick") || !has("--bench") { &QUICK } else { &FULL };
    let wanted: Vec<&str> =
        arguments.iter().map(String::as_str).filter(|argument| !argument.starts_with('-')).collect();
    if let Some(unknown) = wanted.iter().find(|wanted| GROUPS.iter().all(|(name, _)| name != *wanted)) {
        let known = GROUPS.map(|(name, _)| name).join(", ");
        anyhow::bail!("there is no group `{unknown}`; there are {known}");
    }
    // A thousand connections have two ends, and a login starts with fewer.
    server::allow_files();
    for (name, group) in GROUPS.iter().filter(|(name, _)| wanted.is_empty() || wanted.contains(name)) {
        let start = Instant::now();
        let table = group(scale).map_err(|error| error.context(format!("failed to measure `{name}`")))?;
        println!("\n{name}: {table}  ({:.1} s)", start.elapsed().as_secs_f64());
    }
    Ok(())
}
