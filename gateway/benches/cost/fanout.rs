//! One publication, many sockets.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context as _, anyhow, ensure};
use tokio::runtime::Runtime;
use tokio::sync::Notify;
use tokio::task::LocalSet;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};

use crate::Scale;
use crate::bare;
use crate::client::{CENTRIFUGE, Client, PATIENCE};
use crate::connection::{Connection, Scratch, scratch};
use crate::fixture::SMALL;
use crate::frame;
use crate::measure::{Case, Measure, compare};
use crate::server::Server;
use crate::table::Table;

/// Between two publications at the steady rate: 50 a second.
const PACE: Duration = Duration::from_millis(20);

/// Publications that are on their way at the same time, in the other case. They are sent together: what they
/// cost is then not a matter of who is faster, server or client.
const WINDOW: u64 = 4;

pub(crate) fn run(scale: &Scale) -> anyhow::Result<Table> {
    let gateway = Server::gateway(&[])?;
    let bare = Server::bare(bare::FAN_OUT)?;
    let gateway_audience = RefCell::new(Audience::gather(&[gateway.address()], &Gateway, scale.subscribers)?);
    let bare_audience = RefCell::new(Audience::gather(&[bare.address()], &Bare, scale.subscribers)?);
    let steady = |server, audience| measure(server, audience, Load::Steady(scale.load));
    let window = |server, audience| measure(server, audience, Load::Window(scale.publications));
    let case = |name: &str, gateway, baseline| Case {
        name: format!("{SMALL} B to {} subscribers, {name}", scale.subscribers),
        unit: "us",
        gateway,
        against: "bare tokio-tungstenite",
        baseline,
    };
    let cases = vec![
        case("50 a second", steady(&gateway, &gateway_audience), steady(&bare, &bare_audience)),
        case(
            &format!("{WINDOW} in flight"),
            window(&gateway, &gateway_audience),
            window(&bare, &bare_audience),
        ),
    ];
    let rows = compare(scale.load_rounds, cases)?;
    let notes = vec![
        "processor time of the whole server process for each message delivered; gateway with one worker"
            .to_owned(),
        "every subscriber checks that it gets every publication once and in order".to_owned(),
    ];
    Ok(Table::compared("fan-out over real sockets", notes, &rows))
}

/// What a round does.
#[derive(Clone, Copy)]
pub(crate) enum Load {
    /// Publishes at the steady rate for this long.
    Steady(Duration),
    /// Publishes this many, a window full as soon as everyone has heard the one before.
    Window(u64),
}

fn measure<'a>(server: &'a Server, audience: &'a RefCell<Audience>, load: Load) -> Measure<'a> {
    Box::new(move || {
        let before = server.cpu_us()?;
        let delivered = audience.borrow_mut().round(load)?;
        Ok((server.cpu_us()? - before) / delivered as f64)
    })
}

/// How servers want to be talked to.
pub(crate) trait Dialect {
    /// To be called on the runtime.
    fn join(&self, address: SocketAddr, subscribe: bool, scratch: &Scratch) -> anyhow::Result<Connection>;
    /// The bytes that publish this.
    fn publish(&self, data: &str) -> Vec<u8>;
}

pub(crate) struct Gateway;

impl Dialect for Gateway {
    fn join(&self, address: SocketAddr, subscribe: bool, scratch: &Scratch) -> anyhow::Result<Connection> {
        let mut client = Client::admitted(address)?;
        if subscribe {
            client.ask(r#"{"id":2,"subscribe":{"channel":"news"}}"#)?;
        }
        Connection::new(client, scratch)
    }

    fn publish(&self, data: &str) -> Vec<u8> {
        frame::text(&format!(r#"{{"id":3,"publish":{{"channel":"news","data":{data}}}}}"#))
    }
}

struct Bare;

impl Dialect for Bare {
    fn join(&self, address: SocketAddr, _: bool, scratch: &Scratch) -> anyhow::Result<Connection> {
        Connection::new(Client::open(address, CENTRIFUGE)?, scratch)
    }

    fn publish(&self, data: &str) -> Vec<u8> {
        frame::text(data)
    }
}

/// The payload of a publication: [`SMALL`] bytes with its number in them.
fn publication(number: u64) -> String {
    let (front, back) = (format!(r#"{{"n":"{number:08}","text":""#), r#""}"#);
    format!("{front}{}{back}", "x".repeat(SMALL - front.len() - back.len()))
}

/// The number in what a subscriber gets.
pub(crate) fn number(message: &[u8]) -> Option<u64> {
    const KEY: &[u8] = br#""n":""#;
    let start = memchr::memmem::find(message, KEY)? + KEY.len();
    std::str::from_utf8(message.get(start..start + 8)?).ok()?.parse().ok()
}

/// A publisher at the first of some servers, and many subscribers spread over all of them.
pub(crate) struct Audience {
    runtime: Runtime,
    tasks: LocalSet,
    publisher: Connection,
    dialect: &'static dyn Dialect,
    hall: Rc<Hall>,
    published: u64,
}

impl Audience {
    pub(crate) fn gather(
        addresses: &[SocketAddr],
        dialect: &'static dyn Dialect,
        subscribers: usize,
    ) -> anyhow::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let tasks = LocalSet::new();
        let hall = Rc::new(Hall::new(subscribers));
        let scratch = scratch();
        let _on_runtime = runtime.enter();
        for address in addresses.iter().cycle().take(subscribers) {
            let connection = dialect.join(*address, true, &scratch)?;
            let hall = hall.clone();
            tasks.spawn_local(async move {
                let error = hall.listen(connection).await;
                hall.fail(error);
            });
        }
        let publisher = dialect.join(addresses[0], false, &scratch)?;
        drop(_on_runtime);
        Ok(Self { runtime, tasks, publisher, dialect, hall, published: 0 })
    }

    /// Returns how many messages were delivered.
    pub(crate) fn round(&mut self, load: Load) -> anyhow::Result<u64> {
        let Self { runtime, tasks, publisher, dialect, hall, published } = self;
        let first = *published;
        let round = async {
            let mut publish = async |count: u64| {
                let numbers = *published + 1..=*published + count;
                let frames = numbers.flat_map(|number| dialect.publish(&publication(number)));
                publisher.send(&frames.collect::<Vec<_>>()).await?;
                *published += count;
                anyhow::Ok(*published)
            };
            match load {
                Load::Steady(duration) => {
                    let mut pace = interval(PACE);
                    pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
                    let end = Instant::now() + duration;
                    while pace.tick().await < end {
                        publish(1).await?;
                    }
                }
                Load::Window(count) => {
                    for _ in 0..count / WINDOW {
                        hall.heard(publish(WINDOW).await?).await?;
                    }
                }
            }
            let (last, mut answers) = (*published, first);
            hall.heard(last).await?;
            // The publisher is answered as well: its socket must not fill up.
            while answers < last {
                let count = |_: &[u8]| {
                    answers += 1;
                    Ok(())
                };
                publisher.receive(count).await?;
            }
            Ok((last - first) * hall.subscribers as u64)
        };
        let round = async { timeout(PATIENCE, round).await.context("publications got lost")? };
        runtime.block_on(tasks.run_until(round))
    }
}

/// What the subscribers have heard.
pub(crate) struct Hall {
    subscribers: usize,
    /// Every subscriber has heard this many publications.
    complete: Cell<u64>,
    /// How many subscribers have heard each of the next ones.
    partly: RefCell<VecDeque<usize>>,
    failure: RefCell<Option<anyhow::Error>>,
    progress: Notify,
}

impl Hall {
    pub(crate) fn new(subscribers: usize) -> Self {
        Self {
            subscribers,
            complete: Cell::new(0),
            partly: RefCell::default(),
            failure: RefCell::default(),
            progress: Notify::new(),
        }
    }

    /// One subscriber. Returns why it cannot go on.
    async fn listen(&self, mut connection: Connection) -> anyhow::Error {
        let mut last = 0;
        loop {
            let received = connection.receive(|message| {
                let number = number(message).ok_or_else(|| anyhow!("not a publication"))?;
                ensure!(number == last + 1, "publication {number} came after {last}");
                last = number;
                self.one_heard(number);
                Ok(())
            });
            if let Err(error) = received.await {
                return error;
            }
        }
    }

    /// A subscriber has heard the next publication.
    pub(crate) fn one_heard(&self, number: u64) {
        let mut partly = self.partly.borrow_mut();
        let index = (number - self.complete.get() - 1) as usize;
        if index >= partly.len() {
            partly.resize(index + 1, 0);
        }
        partly[index] += 1;
        while partly.front() == Some(&self.subscribers) {
            partly.pop_front();
            self.complete.set(self.complete.get() + 1);
            self.progress.notify_one();
        }
    }

    /// A subscriber cannot go on.
    pub(crate) fn fail(&self, error: anyhow::Error) {
        self.failure.borrow_mut().get_or_insert(error);
        self.progress.notify_one();
    }

    /// Waits until every subscriber has heard a publication and all before it.
    pub(crate) async fn heard(&self, number: u64) -> anyhow::Result<()> {
        while self.complete.get() < number {
            if let Some(error) = self.failure.take() {
                return Err(error.context("a subscriber failed"));
            }
            self.progress.notified().await;
        }
        Ok(())
    }
}
