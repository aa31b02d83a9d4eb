//! Connections that do nothing, and connections that come and go.

use std::cell::OnceCell;
use std::thread::sleep;
use std::time::Duration;

use anyhow::ensure;

use crate::Scale;
use crate::bare;
use crate::client::{CENTRIFUGE, Client};
use crate::measure::{Case, Measure, compare};
use crate::server::{Server, allow_files};
use crate::table::Table;

/// Connections before the first look at the memory: the program's own pages are there then.
const WARM: usize = 200;

/// What a server may still be busy with after its last answer is over by then.
const SETTLE: Duration = Duration::from_millis(100);

pub(crate) fn run(scale: &Scale) -> anyhow::Result<Table> {
    let files = allow_files();
    let idle = scale.idle.min(files.saturating_sub(WARM + 100));
    ensure!(idle > 0, "failed to open many connections: the limit of open files is {files} (`ulimit -n`)");
    let gateway = || Server::gateway(&[]);
    let bare = || Server::bare(bare::ECHO);
    let against = "bare tokio-tungstenite";
    let bytes = Case {
        name: format!("memory of an idle connection, {idle} of them"),
        unit: "B",
        gateway: bytes(idle, gateway, Client::admitted),
        against,
        baseline: bytes(idle, bare, |address| Client::open(address, CENTRIFUGE)),
    };
    let mut rows = compare(scale.idle_rounds, vec![bytes])?;
    let cycle = Case {
        name: "connect and leave".to_owned(),
        unit: "us",
        gateway: cycle(scale.cycles, gateway, Client::admitted),
        against,
        baseline: cycle(scale.cycles, bare, |address| Client::open(address, CENTRIFUGE)),
    };
    rows.extend(compare(scale.load_rounds, vec![cycle])?);
    let notes = vec![
        "memory: growth of the process (VmRSS) per connection; the gateway's are admitted, the bare server's open"
            .to_owned(),
        "connect and leave: processor time of the server; the gateway also answers a connect command".to_owned(),
    ];
    Ok(Table::compared("connections", notes, &rows))
}

type Address = std::net::SocketAddr;

/// Bytes per connection. Every round has a new process: memory that was used before tells nothing.
fn bytes<'a>(
    count: usize,
    start: impl Fn() -> anyhow::Result<Server> + 'a,
    connect: impl Fn(Address) -> anyhow::Result<Client> + 'a,
) -> Measure<'a> {
    Box::new(move || {
        let server = start()?;
        let open = |count| (0..count).map(|_| connect(server.address())).collect::<anyhow::Result<Vec<_>>>();
        let warm = open(WARM)?;
        sleep(SETTLE);
        let before = server.resident_bytes()?;
        let idle = open(count)?;
        sleep(SETTLE);
        let grown = server.resident_bytes()? - before;
        drop((warm, idle));
        Ok(grown / count as f64)
    })
}

/// Microseconds per connection that comes and goes.
fn cycle<'a>(
    count: usize,
    start: impl Fn() -> anyhow::Result<Server> + 'a,
    connect: impl Fn(Address) -> anyhow::Result<Client> + 'a,
) -> Measure<'a> {
    let server = OnceCell::new();
    Box::new(move || {
        let server = match server.get() {
            Some(server) => server,
            None => {
                let started = start()?;
                server.get_or_init(|| started)
            }
        };
        let before = server.cpu_us()?;
        for _ in 0..count {
            connect(server.address())?.close()?;
        }
        sleep(SETTLE);
        Ok((server.cpu_us()? - before) / count as f64)
    })
}
