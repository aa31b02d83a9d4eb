//! Several gateways on one Redis: what a Redis carries, and what a gateway does for it.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::time::Instant;

use anyhow::{Context as _, ensure};

use crate::Scale;
use crate::fanout::{Audience, Gateway, Load};
use crate::fixture::SMALL;
use crate::measure::{Case, Measure, compare};
use crate::resp::{Resp, ask};
use crate::server::Server;
use crate::table::Table;

const GATEWAYS: usize = 3;
const TITLE: &str = "three gateways on one Redis, a channel with subscribers at each of them";

pub(crate) fn run(scale: &Scale) -> anyhow::Result<Table> {
    let Some(redis) = Server::redis()? else {
        let notes = vec!["left out: redis-server is not installed".to_owned()];
        return Ok(Table::compared(TITLE, notes, &[]));
    };
    let gateways: Vec<_> =
        (0..GATEWAYS).map(|_| Server::gateway_on(redis.address())).collect::<anyhow::Result<_>>()?;
    let addresses: Vec<_> = gateways.iter().map(Server::address).collect();
    let ours =
        Side::new(scale, &redis, &gateways, Audience::gather(&addresses, &Gateway, scale.subscribers)?);
    let bare = [redis.address()];
    let theirs = Side::new(scale, &redis, &[], Audience::gather(&bare, &Resp, scale.subscribers)?);

    let listening = ask(redis.address(), &["PUBSUB", "NUMSUB", "gw:to:{news}"])?;
    ensure!(listening.ends_with(&GATEWAYS.to_string()), "not once for each gateway: {listening:?}");
    let before = Counted::read(redis.address())?;

    let subscribers = scale.subscribers;
    let case = |name: &str, unit, value: fn(&Round) -> f64| Case {
        name: format!("{SMALL} B to {subscribers} subscribers, {name}"),
        unit,
        gateway: ours.last(value),
        against: "bare publish and subscribe",
        baseline: theirs.last(value),
    };
    let cases = vec![
        Case {
            // The one that makes the rounds which the others read.
            gateway: ours.measure(|round| round.delivered / round.seconds),
            baseline: theirs.measure(|round| round.delivered / round.seconds),
            ..case("delivered a second", "/s", |_| 0.0)
        },
        case("redis for each delivered", "us", |round| round.redis_us / round.delivered),
        case("redis for each publication", "us", |round| round.redis_us / round.publications),
        case("all processes for each delivered", "us", |round| {
            (round.redis_us + round.gateways_us) / round.delivered
        }),
    ];
    let rows = compare(scale.load_rounds, cases)?;

    let after = Counted::read(redis.address())?;
    let published = ours.publications.get() + theirs.publications.get();
    let counted = after.publish - before.publish;
    // Each gateway tries twice a second whether it may publish, in a script.
    let tries = after.scripts - before.scripts;
    ensure!(
        (published..=published + tries).contains(&counted),
        "{published} publications and {tries} tries, but redis was told to publish {counted} times"
    );
    let per_gateway = ours.gateways_us.get() / (ours.publications.get() * GATEWAYS as u64) as f64;
    let per_delivered = ours.gateways_us.get() / (ours.publications.get() * subscribers as u64) as f64;
    let notes = vec![
        format!(
            "a publication costs each gateway {per_gateway:.0} us of processor time for its {} subscribers: \
                 {per_delivered:.2} us for each",
            subscribers / GATEWAYS
        ),
        format!(
            "redis publishes to {GATEWAYS} gateways instead of {subscribers} clients: its counters say so, and that \
                 each publication is published once"
        ),
        "processor time of whole processes; one worker each; clients, gateways and redis share the machine"
            .to_owned(),
    ];
    Ok(Table::compared(TITLE, notes, &rows))
}

/// What a round came to.
#[derive(Debug, Clone, Copy, Default)]
struct Round {
    delivered: f64,
    publications: f64,
    seconds: f64,
    redis_us: f64,
    gateways_us: f64,
}

/// One way to the subscribers.
struct Side<'a> {
    redis: &'a Server,
    gateways: &'a [Server],
    audience: RefCell<Audience>,
    load: Load,
    subscribers: usize,
    last: Cell<Round>,
    /// In all rounds.
    publications: Cell<u64>,
    gateways_us: Cell<f64>,
}

impl<'a> Side<'a> {
    fn new(scale: &Scale, redis: &'a Server, gateways: &'a [Server], audience: Audience) -> Self {
        Self {
            redis,
            gateways,
            audience: RefCell::new(audience),
            load: Load::Window(scale.publications),
            subscribers: scale.subscribers,
            last: Cell::default(),
            publications: Cell::default(),
            gateways_us: Cell::default(),
        }
    }

    /// A round, and something of it.
    fn measure(&'a self, value: fn(&Round) -> f64) -> Measure<'a> {
        Box::new(move || {
            let (redis, gateways) = (self.redis.cpu_us()?, self.cpu_us()?);
            let begin = Instant::now();
            let delivered = self.audience.borrow_mut().round(self.load)?;
            let seconds = begin.elapsed().as_secs_f64();
            let publications = delivered / self.subscribers as u64;
            let round = Round {
                delivered: delivered as f64,
                publications: publications as f64,
                seconds,
                redis_us: self.redis.cpu_us()? - redis,
                gateways_us: self.cpu_us()? - gateways,
            };
            self.last.set(round);
            self.publications.set(self.publications.get() + publications);
            self.gateways_us.set(self.gateways_us.get() + round.gateways_us);
            Ok(value(&round))
        })
    }

    /// Something else of the same round.
    fn last(&'a self, value: fn(&Round) -> f64) -> Measure<'a> {
        Box::new(move || Ok(value(&self.last.get())))
    }

    fn cpu_us(&self) -> anyhow::Result<f64> {
        self.gateways.iter().map(Server::cpu_us).sum()
    }
}

/// How often Redis was told to publish, and to run a script.
struct Counted {
    publish: u64,
    scripts: u64,
}

impl Counted {
    fn read(redis: SocketAddr) -> anyhow::Result<Self> {
        let statistics = ask(redis, &["INFO", "commandstats"])?;
        let calls = |command: &str| {
            let head = format!("cmdstat_{command}:calls=");
            let Some(rest) = statistics.lines().find_map(|line| line.strip_prefix(&head)) else {
                return Ok(0);
            };
            let number = rest.split(',').next().unwrap_or_default();
            number.parse().with_context(|| format!("redis counts {command} in no number"))
        };
        Ok(Self { publish: calls("publish")?, scripts: calls("evalsha")? })
    }
}
