//! Every message comes back.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use tokio::runtime::Runtime;
use tokio::task::{JoinSet, LocalSet};
use tokio::time::{Instant, timeout};

use crate::Scale;
use crate::bare;
use crate::client::{Client, PATIENCE, RAW};
use crate::connection::{Connection, scratch};
use crate::fixture::{SMALL, payload};
use crate::frame;
use crate::measure::{Case, Measure, compare};
use crate::server::Server;
use crate::table::Table;

const CONNECTIONS: usize = 100;

pub(crate) fn run(scale: &Scale) -> anyhow::Result<Table> {
    let gateway = Server::gateway(&["echo"])?;
    let bare = Server::bare(bare::ECHO)?;
    let gateway_clients = RefCell::new(Clients::connect(gateway.address())?);
    let bare_clients = RefCell::new(Clients::connect(bare.address())?);
    let case = |in_flight| Case {
        name: format!("{SMALL} B, {CONNECTIONS} connections, {in_flight} in flight on each"),
        unit: "us",
        gateway: measure(scale, &gateway, &gateway_clients, in_flight),
        against: "bare tokio-tungstenite",
        baseline: measure(scale, &bare, &bare_clients, in_flight),
    };
    let rows = compare(scale.load_rounds, vec![case(1), case(16)])?;
    let notes = vec![
        "processor time of the whole server process for each message; gateway with one worker".to_owned(),
        "gateway: raw mode, answered by the plugin `echo`; bare: no plugin, each message answered by itself"
            .to_owned(),
    ];
    Ok(Table::compared("echo over real sockets", notes, &rows))
}

fn measure<'a>(
    scale: &Scale,
    server: &'a Server,
    clients: &'a RefCell<Clients>,
    in_flight: usize,
) -> Measure<'a> {
    let duration = scale.load;
    Box::new(move || {
        let before = server.cpu_us()?;
        let answered = clients.borrow_mut().round(in_flight, duration)?;
        Ok((server.cpu_us()? - before) / answered as f64)
    })
}

/// The clients of one server.
struct Clients {
    runtime: Runtime,
    connections: Vec<Connection>,
}

impl Clients {
    fn connect(address: SocketAddr) -> anyhow::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let scratch = scratch();
        let connections = {
            let _on_runtime = runtime.enter();
            let connect = |_| Connection::new(Client::open(address, RAW)?, &scratch);
            (0..CONNECTIONS).map(connect).collect::<anyhow::Result<_>>()?
        };
        Ok(Self { runtime, connections })
    }

    /// Keeps this many messages in flight on each connection. Returns how many came back.
    fn round(&mut self, in_flight: usize, duration: Duration) -> anyhow::Result<u64> {
        let round = async {
            let end = Instant::now() + duration;
            let mut clients = JoinSet::new();
            for connection in self.connections.drain(..) {
                clients.spawn_local(exchange(connection, in_flight, end));
            }
            let mut answered = 0;
            while let Some(done) = clients.join_next().await {
                let (connection, count) = done??;
                self.connections.push(connection);
                answered += count;
            }
            anyhow::Ok(answered)
        };
        let round = async { timeout(duration + PATIENCE, round).await.context("answers got lost")? };
        self.runtime.block_on(LocalSet::new().run_until(round))
    }
}

/// Sends one message for each that comes back, until the end; returns when all have come back.
async fn exchange(
    mut connection: Connection,
    in_flight: usize,
    end: Instant,
) -> anyhow::Result<(Connection, u64)> {
    let message = payload(SMALL);
    let frame = frame::text(&message);
    let frames = frame.repeat(in_flight);
    connection.send(&frames).await?;
    let (mut waiting, mut answered) = (in_flight, 0);
    while waiting > 0 {
        let mut came = 0;
        let count = |answer: &[u8]| {
            ensure!(answer == message.as_bytes(), "it came back changed");
            came += 1;
            Ok(())
        };
        connection.receive(count).await?;
        answered += came as u64;
        if Instant::now() < end {
            connection.send(&frames[..came * frame.len()]).await?;
        } else {
            waiting -= came;
        }
    }
    Ok((connection, answered))
}
