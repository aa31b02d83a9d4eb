//! What encodings, TLS and compression cost, side by side.

use std::cell::{Cell, RefCell};
use std::fs;
use std::rc::Rc;

use anyhow::{Context as _, anyhow, ensure};
use rcgen::{CertificateParams, KeyPair};
use rustls::pki_types::CertificateDer;
use tempfile::TempDir;
use tokio::runtime::Runtime;
use tokio::task::{JoinSet, LocalSet};
use tokio::time::timeout;

use crate::Scale;
use crate::bare;
use crate::client::PATIENCE;
use crate::fanout::{Hall, number};
use crate::measure::{Case, Compared, Measure, compare};
use crate::peer::{Manner, Peer, Speech, Way, Wire, trusting};
use crate::server::Server;
use crate::table::{Table, number as digits, spread};

/// Bytes of a payload.
const SIZES: [usize; 2] = [100, 1024];

/// Clients that publish at the same time, each of them the next one when it has the reply.
const PUBLISHERS: usize = 16;

const TITLE: &str = "encodings, TLS and compression over real sockets";
const HEAD: [&str; 10] = [
    "encoding",
    "socket",
    "deflate",
    "payload",
    "delivered",
    "by bare",
    "on the wire",
    "published",
    "by bare",
    "on the wire",
];

pub(crate) fn run(scale: &Scale) -> anyhow::Result<Table> {
    let site = Site::new()?;
    let compression = "compression = { enabled = true, min_bytes = '0B' }\n";
    let plain = Server::gateway_with(compression)?;
    let encrypted = Server::gateway_with(&format!("{compression}{}", site.settings()))?;
    let (fan_out, echo) = (Server::bare(bare::FAN_OUT)?, Server::bare(bare::ECHO)?);
    let clients = Clients::new(scale)?;
    let way = |server: &Server, manner| {
        let tls = trusting(site.certificate.clone())?;
        anyhow::Ok(Way { address: server.address(), manner, tls, wire: Rc::default() })
    };
    let bare_audience = RefCell::new(clients.audience(&way(&fan_out, Manner::BARE)?, "bare")?);
    let bare_publishers = RefCell::new(clients.publishers(&way(&echo, Manner::BARE)?)?);
    let mut sides = Vec::new();
    for speech in [Speech::Json, Speech::Protobuf] {
        for tls in [false, true] {
            for deflate in [false, true] {
                let manner = Manner { speech, tls, deflate };
                let server = if tls { &encrypted } else { &plain };
                let channel = format!("news-{}", sides.len());
                let audience = RefCell::new(clients.audience(&way(server, manner)?, &channel)?);
                let publishers = RefCell::new(clients.publishers(&way(server, manner)?)?);
                sides.push((manner, server, audience, publishers));
            }
        }
    }
    let (mut lines, mut cases) = (Vec::new(), Vec::new());
    for bytes in SIZES {
        for (manner, server, audience, publishers) in &sides {
            let line = Line { manner: *manner, bytes, on_wire: Rc::default() };
            let [delivered, published] = &*line.on_wire;
            let count = scale.publications / 4;
            cases.push(Case {
                name: String::new(),
                unit: "us",
                gateway: delivering(&clients, server, audience, bytes, count, delivered.clone()),
                against: "",
                baseline: delivering(&clients, &fan_out, &bare_audience, bytes, count, Rc::default()),
            });
            cases.push(Case {
                name: String::new(),
                unit: "us",
                gateway: publishing(&clients, server, publishers, bytes, count * 4, published.clone()),
                against: "",
                baseline: publishing(&clients, &echo, &bare_publishers, bytes, count * 4, Rc::default()),
            });
            lines.push(line);
        }
    }
    let compared = compare(scale.load_rounds.min(5), cases)?;
    let rows = lines.iter().zip(compared.chunks(2)).map(|(line, pair)| line.cells(pair)).collect();
    Ok(Table::of(TITLE, notes(clients.subscribers), &HEAD, rows))
}

fn notes(subscribers: usize) -> Vec<String> {
    vec![
        format!(
            "delivered: processor time of the whole gateway, with one worker, for each message to one of \
             {subscribers} subscribers; one publication at a time"
        ),
        format!(
            "published: the same for each publish command and its reply, from {PUBLISHERS} clients at once, to \
             channels that nobody listens to"
        ),
        "by bare: as many times what bare tokio-tungstenite takes for the same payload in the clear, as text: sent \
         to all, and sent back"
            .to_owned(),
        "on the wire: bytes of TCP for each message to a subscriber, or from a publisher, with TLS and frames"
            .to_owned(),
        "deflate: whatever becomes smaller is compressed, with level 1; publishers compress as well".to_owned(),
    ]
}

/// What one row is about.
struct Line {
    manner: Manner,
    bytes: usize,
    /// Bytes of the last round for each message delivered, and for each published.
    on_wire: Rc<[Rc<Cell<f64>>; 2]>,
}

impl Line {
    fn cells(&self, pair: &[Compared]) -> Vec<String> {
        let Manner { speech, tls, deflate } = self.manner;
        let mut cells = vec![
            if speech == Speech::Json { "JSON" } else { "Protobuf" }.to_owned(),
            if tls { "TLS" } else { "plain" }.to_owned(),
            if deflate { "on" } else { "off" }.to_owned(),
            format!("{} B", self.bytes),
        ];
        for (case, bytes) in pair.iter().zip(&*self.on_wire) {
            cells.push(format!("{} {}", spread(&case.gateway), case.unit));
            cells.push(digits(case.ratio.median()));
            cells.push(format!("{:.0} B", bytes.get()));
        }
        cells
    }
}

/// Microseconds for each message delivered.
fn delivering<'a>(
    clients: &'a Clients,
    server: &'a Server,
    audience: &'a RefCell<Audience>,
    bytes: usize,
    count: u64,
    on_wire: Rc<Cell<f64>>,
) -> Measure<'a> {
    Box::new(move || {
        let mut audience = audience.borrow_mut();
        let (before, received) = (server.cpu_us()?, audience.wire.received.get());
        clients.run(audience.publish(bytes, count))?;
        let delivered = (count * clients.subscribers as u64) as f64;
        on_wire.set((audience.wire.received.get() - received) as f64 / delivered);
        Ok((server.cpu_us()? - before) / delivered)
    })
}

/// Microseconds for each message published.
fn publishing<'a>(
    clients: &'a Clients,
    server: &'a Server,
    publishers: &'a RefCell<Publishers>,
    bytes: usize,
    count: u64,
    on_wire: Rc<Cell<f64>>,
) -> Measure<'a> {
    Box::new(move || {
        let mut publishers = publishers.borrow_mut();
        let (before, sent) = (server.cpu_us()?, publishers.wire.sent.get());
        let each = count.div_ceil(PUBLISHERS as u64);
        clients.run(publishers.publish(bytes, each))?;
        let published = (each * PUBLISHERS as u64) as f64;
        on_wire.set((publishers.wire.sent.get() - sent) as f64 / published);
        Ok((server.cpu_us()? - before) / published)
    })
}

/// What runs the clients.
struct Clients {
    runtime: Runtime,
    tasks: LocalSet,
    subscribers: usize,
}

impl Clients {
    fn new(scale: &Scale) -> anyhow::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        Ok(Self { runtime, tasks: LocalSet::new(), subscribers: scale.subscribers / 4 })
    }

    fn run<T>(&self, work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
        let bounded = async { timeout(PATIENCE, work).await.context("messages got lost")? };
        self.runtime.block_on(self.tasks.run_until(bounded))
    }

    /// Subscribers to a channel, and who publishes to it.
    fn audience(&self, way: &Way, channel: &str) -> anyhow::Result<Audience> {
        let hall = Rc::new(Hall::new(self.subscribers));
        let publisher = self.run(Peer::connect(&Way { wire: Rc::default(), ..way.clone() }))?;
        for _ in 0..self.subscribers {
            let subscribed = async {
                let mut peer = Peer::connect(way).await?;
                peer.subscribe(channel).await?;
                anyhow::Ok(peer)
            };
            let (peer, hall) = (self.run(subscribed)?, hall.clone());
            self.tasks.spawn_local(async move {
                let error = listen(peer, &hall).await;
                hall.fail(error);
            });
        }
        let (wire, manner, channel) = (way.wire.clone(), way.manner, channel.to_owned());
        Ok(Audience { publisher, hall, wire, manner, channel, published: 0 })
    }

    fn publishers(&self, way: &Way) -> anyhow::Result<Publishers> {
        let peers = (0..PUBLISHERS).map(|_| self.run(Peer::connect(way))).collect::<anyhow::Result<_>>()?;
        Ok(Publishers { peers, wire: way.wire.clone(), manner: way.manner })
    }
}

/// One subscriber. Returns why it cannot go on.
async fn listen(mut peer: Peer, hall: &Hall) -> anyhow::Error {
    let mut last = 0;
    loop {
        let received = peer.receive(|message| {
            let number = number(message).ok_or_else(|| anyhow!("not a publication"))?;
            ensure!(number == last + 1, "publication {number} came after {last}");
            last = number;
            hall.one_heard(number);
            Ok(())
        });
        if let Err(error) = received.await {
            return error;
        }
    }
}

struct Audience {
    publisher: Peer,
    hall: Rc<Hall>,
    /// What the subscribers receive.
    wire: Rc<Wire>,
    manner: Manner,
    channel: String,
    published: u64,
}

impl Audience {
    /// Publishes so many, each when everybody has heard the one before.
    async fn publish(&mut self, bytes: usize, count: u64) -> anyhow::Result<()> {
        for _ in 0..count {
            self.published += 1;
            let frame = self.manner.publish(&self.channel, &document(self.published, bytes));
            self.publisher.ask(&frame).await?;
            self.hall.heard(self.published).await?;
        }
        Ok(())
    }
}

struct Publishers {
    peers: Vec<Peer>,
    wire: Rc<Wire>,
    manner: Manner,
}

impl Publishers {
    /// Each publishes so many, to a channel of its own.
    async fn publish(&mut self, bytes: usize, each: u64) -> anyhow::Result<()> {
        let mut tasks = JoinSet::new();
        for (index, mut peer) in self.peers.drain(..).enumerate() {
            let frame = self.manner.publish(&format!("quiet-{index}"), &document(index as u64, bytes));
            tasks.spawn_local(async move {
                for _ in 0..each {
                    peer.ask(&frame).await?;
                }
                anyhow::Ok(peer)
            });
        }
        while let Some(done) = tasks.join_next().await {
            self.peers.push(done??);
        }
        Ok(())
    }
}

/// A JSON document of this many bytes, as an application might send it: with names that repeat, values that
/// do not, and its number.
fn document(number: u64, bytes: usize) -> String {
    const SIDES: [&str; 2] = ["buy", "sell"];
    const BACK: [&str; 2] = [r#"],"note":""#, r#""}"#];
    let mut state = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut random = move |below: u64| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % below
    };
    let mut text = format!(r#"{{"n":"{number:08}","ticks":["#);
    let room = bytes - BACK.concat().len();
    let mut separator = "";
    loop {
        let (id, price, cents) = (random(100_000), random(1000), random(100));
        let side = SIDES[random(2) as usize];
        let tick = format!(r#"{separator}{{"id":{id},"price":{price}.{cents:02},"side":"{side}"}}"#);
        if text.len() + tick.len() > room {
            break;
        }
        text += &tick;
        separator = ",";
    }
    text += BACK[0];
    while text.len() + BACK[1].len() < bytes {
        text.push(char::from(b'a' + random(26) as u8));
    }
    text + BACK[1]
}

/// A certificate for TLS, and the files with it.
struct Site {
    certificate: CertificateDer<'static>,
    folder: TempDir,
}

impl Site {
    fn new() -> anyhow::Result<Self> {
        let folder = tempfile::Builder::new().prefix("gateway-bench-").tempdir()?;
        let key = KeyPair::generate()?;
        let certificate = CertificateParams::new(["localhost".to_owned()])?.self_signed(&key)?;
        fs::write(folder.path().join("site.pem"), certificate.pem())?;
        fs::write(folder.path().join("site.key"), key.serialize_pem())?;
        Ok(Self { certificate: certificate.der().clone(), folder })
    }

    /// A listener with this certificate.
    fn settings(&self) -> String {
        let file = |name: &str| self.folder.path().join(name).display().to_string();
        let (certificate, key) = (file("site.pem"), file("site.key"));
        format!("[listen.tls]\ncertificates = [{{ certificate = '{certificate}', key = '{key}' }}]\n")
    }
}
