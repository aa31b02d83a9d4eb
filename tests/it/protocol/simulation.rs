//! Many connections, two workers and the memory backplane, without a socket and with a clock that is cranked
//! by hand.
//!
//! A seeded stream of random steps runs the real session, hub, inbox and backplane; the clients behind them
//! remember what a client library remembers and check what it relies on. A message is carried out in turns of
//! random length, between which others do something. The seed is printed when something does not hold;
//! `SIMULATION_SEED=n` runs that one again.

mod reading;
mod views;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use gateway::backplane::Backplane;
use gateway::backplane::inbox::{Delivery, Inbox};
use gateway::backplane::memory::Memory;
use gateway::clock::Now;
use gateway::config::{Config, Limits};
use gateway::connection::event::{Ending, Event};
use gateway::connection::session::Session;
use gateway::connection::turn::Turn;
use gateway::connection::worker_state::WorkerState;
use gateway::connection_id::ConnectionIds;
use gateway::hub::Hub;
use gateway::hub::connection_handle::ConnectionHandle;
use gateway::plugin::event::Client;
use gateway::protocol::channel::Channel;
use gateway::protocol::code::Close;
use gateway::protocol::codec::Inbound;
use gateway::protocol::command::Position;
use gateway::protocol::push::PushKind;
use gateway::protocol::{Encoding, Framing};
use gateway::telemetry::metrics::Metrics;
use gateway_tests::Random;
use serde_json::{Value, json};
use views::View;

const WORKERS: usize = 2;
const CLIENTS: usize = 40;
const STEPS: usize = 6_000;
const SEEDS: u64 = 40;
/// Small enough to overflow now and then.
const TIGHT_INBOX: usize = 24;
const OUTBOUND_BYTES_MAX: usize = 10_000;
const CHANNELS: [&str; 4] = ["kept:a", "kept:b", "kept:c", "short:d"];

/// What a client library remembers of a channel, also while it is disconnected.
#[derive(Debug, Clone, Default)]
struct Standing {
    epoch: String,
    offset: u64,
}

#[derive(Default)]
struct SimulatedClient {
    session: Option<(usize, Session)>,
    /// What its socket has taken and it has not read.
    wire: Vec<u8>,
    standing: HashMap<&'static str, Standing>,
    /// Channels of which it has a live subscription.
    subscribed: HashMap<&'static str, ()>,
    /// The number of the command that was answered last.
    answered: u64,
    /// Subscribe commands without a reply yet: id to channel, and whether it asked to recover.
    asked: HashMap<u64, (&'static str, bool)>,
    id: u64,
    pings: usize,
    admitted: bool,
}

#[derive(Default, Debug)]
struct Totals {
    received: usize,
    recovered: usize,
    unrecovered: usize,
    gaps: usize,
    slow: usize,
    /// Withheld from a client by a plugin, as it found out afterwards.
    hidden: usize,
    /// Received in other words.
    veiled: usize,
    /// Turns in which a message went on that had begun in another one.
    turns: usize,
    /// Messages that went on only after the client had taken what it had asked for.
    backlogged: usize,
}

/// Somebody was told to have missed something of a stream after this place.
struct Gap {
    worker: usize,
    channel: &'static str,
    after: Standing,
}

struct World {
    random: Random,
    at: Duration,
    ids: ConnectionIds,
    inbox_max: usize,
    inboxes: Arc<[Arc<Inbox>]>,
    backplane: Arc<Memory>,
    metrics: Arc<Metrics>,
    workers: Vec<Rc<WorkerState>>,
    clients: Vec<SimulatedClient>,
    connections: u64,
    /// What was published: per channel and epoch the payloads by offset.
    ledger: BTreeMap<(String, String), BTreeMap<u64, u64>>,
    published: u64,
    /// What each worker took out of its inbox: channel, epoch and offset.
    taken: Vec<HashSet<(String, String, u64)>>,
    /// Where streams stood after a worker had lost something.
    stood: Vec<Option<Vec<(Channel, Position)>>>,
    gaps: Vec<Gap>,
    /// Whether plugins change what is delivered.
    views: bool,
    totals: Totals,
}

fn config() -> Config {
    let text = "
        [client]
        anonymous = true
        [namespaces.kept]
        history_size = 50
        history_ttl = \"1h\"
        recovery = true
        presence = true
        join_leave = true
        allow_subscribe = \"anyone\"
        allow_publish = \"anyone\"
        [namespaces.short]
        history_size = 3
        history_ttl = \"20s\"
        recovery = true
        allow_subscribe = \"anyone\"
        allow_publish = \"anyone\"
        [listen]
        workers = 2
    ";
    let config = Config::parse(text, "simulation").expect("valid");
    Config { limits: Limits { outbound_bytes_max: OUTBOUND_BYTES_MAX, ..config.limits.clone() }, ..config }
}

impl World {
    fn new(seed: u64, inbox_max: usize, views: bool) -> Self {
        let config = Arc::new(config());
        let ids = ConnectionIds::new(seed);
        let inboxes: Arc<[_]> = (0..WORKERS).map(|_| Arc::new(Inbox::new(inbox_max))).collect();
        let backplane = Arc::new(Memory::new(inboxes.clone(), ids, &config.memory, seed));
        let metrics = Metrics::new(WORKERS);
        let workers = (0..WORKERS)
            .map(|worker| {
                let backplane: Arc<dyn Backplane> = backplane.clone();
                Rc::new(WorkerState::new(worker, config.clone(), Hub::new(ids), backplane, metrics.clone()))
            })
            .collect::<Vec<_>>();
        if views {
            for (worker, worker_state) in workers.iter().enumerate() {
                let now = Now { at: Duration::ZERO, unix: 0 };
                let chain = Box::new(views::chain(worker));
                worker_state.handle(now, Delivery::Chain(chain, tokio::sync::oneshot::channel().0));
            }
        }
        Self {
            random: Random::new(seed),
            at: Duration::ZERO,
            ids,
            inbox_max,
            inboxes,
            backplane,
            metrics,
            workers,
            clients: (0..CLIENTS).map(|_| SimulatedClient::default()).collect(),
            connections: 0,
            ledger: BTreeMap::new(),
            published: 0,
            taken: vec![HashSet::new(); WORKERS],
            stood: vec![None; WORKERS],
            gaps: Vec::new(),
            views,
            totals: Totals::default(),
        }
    }

    fn now(&self) -> Now {
        Now { at: self.at, unix: 1_700_000_000_000 + self.at.as_millis() as u64 }
    }

    fn step(&mut self) {
        let index = self.random.below(CLIENTS);
        match self.random.below(100) {
            _ if self.clients[index].session.is_none() => self.connect(index),
            0..=9 => self.toggle(index),
            10..=54 => self.publish(index),
            55..=74 => self.read(index),
            75..=94 => {
                let worker = self.random.below(WORKERS);
                self.deliver_while(worker, Self::publish_any);
            }
            95..=96 => self.hang_up(index),
            _ => self.pass_time(),
        }
        self.check_bounds();
    }

    fn connect(&mut self, index: usize) {
        let worker = self.random.below(WORKERS);
        self.connections += 1;
        let number = ConnectionIds::compose(worker, self.connections);
        let id = self.ids.id(number, self.random.number());
        let worker_state = &self.workers[worker];
        let handle = Rc::new(ConnectionHandle::new(
            number,
            id.clone(),
            Encoding::Json.over(Framing::WebSocket),
            OUTBOUND_BYTES_MAX,
            &worker_state.unflushed,
        ));
        let client = Client {
            number,
            id,
            user: Arc::default(),
            protocol: Encoding::Json.protocol_name(),
            address: std::net::Ipv4Addr::LOCALHOST.into(),
            headers: Arc::new([]),
            attributes: views::attributes(index),
        };
        worker_state.metrics().opened("simulated", client.address);
        let session =
            Session::new(worker_state.clone(), handle, client, self.now(), self.random.number() as u32);
        let standing = std::mem::take(&mut self.clients[index].standing);
        self.clients[index] =
            SimulatedClient { session: Some((worker, session)), standing, ..SimulatedClient::default() };
        self.send(index, json!({"id": 0, "connect": {}}));
    }

    fn send(&mut self, index: usize, command: Value) {
        self.send_all(index, vec![command]);
    }

    /// Sends commands in one message.
    fn send_all(&mut self, index: usize, commands: Vec<Value>) {
        let client = &mut self.clients[index];
        let mut lines = Vec::new();
        for mut command in commands {
            client.id += 1;
            command["id"] = json!(client.id);
            lines.push(command.to_string());
        }
        self.message(index, lines.join("\n"));
    }

    /// What the driver makes of a message: as much as fits into a turn, then it is the turn of others, until
    /// it is done.
    fn message(&mut self, index: usize, text: String) {
        let mut turn = self.turn();
        let (_, session) = self.clients[index].session.as_mut().expect("connected");
        session.message(&mut turn, Inbound { data: Bytes::from(text), binary: false });
        loop {
            let (_, session) = self.clients[index].session.as_mut().expect("connected");
            if !session.has_rest() {
                break;
            }
            if self.random.one_in(3) {
                let worker = self.random.below(WORKERS);
                self.deliver(worker);
            }
            let mut turn = self.turn();
            let client = &mut self.clients[index];
            let (_, session) = client.session.as_mut().expect("connected");
            if !session.is_closed() && !session.has_more() {
                assert!(session.is_backlogged(), "nothing else is in the way");
                client.wire.append(&mut session.handle().outbound.take());
                self.totals.backlogged += 1;
            }
            session.go_on(&mut turn);
            self.totals.turns += 1;
        }
    }

    fn turn(&mut self) -> Turn {
        Turn::at(self.now(), 1 + self.random.below(3) as u32)
    }

    /// Subscribes, with recovery if the client knows where it stands, or unsubscribes.
    fn toggle(&mut self, index: usize) {
        let channel = CHANNELS[self.random.below(CHANNELS.len())];
        let client = &self.clients[index];
        if client.asked.values().any(|(asked, _)| *asked == channel) || !client.admitted {
            return self.read(index);
        }
        if client.subscribed.contains_key(channel) {
            // What is on the way still belongs to the subscription: a library reads it before the reply.
            self.read(index);
            if self.clients[index].subscribed.remove(channel).is_some()
                && self.clients[index].session.is_some()
            {
                self.send(index, json!({"unsubscribe": {"channel": channel}}));
            }
            return;
        }
        let standing = client.standing.get(channel).cloned();
        let command = match &standing {
            Some(Standing { epoch, offset }) => {
                json!({"subscribe": {"channel": channel, "recover": true, "epoch": epoch, "offset": offset, "join_leave": true}})
            }
            None => json!({"subscribe": {"channel": channel}}),
        };
        let id = self.clients[index].id + 1;
        self.clients[index].asked.insert(id, (channel, standing.is_some()));
        self.send(index, command);
    }

    fn publish(&mut self, index: usize) {
        let over = self.clients[index].session.as_ref().is_none_or(|(_, session)| session.is_closed());
        if !self.clients[index].admitted || over {
            return self.read(index);
        }
        let channel = CHANNELS[self.random.below(CHANNELS.len())];
        let name = Channel::parse(channel).expect("valid");
        let count = if self.random.one_in(4) { 1 + self.random.below(8) } else { 1 };
        let numbers: Vec<u64> = (1..).take(count).map(|number| self.published + number).collect();
        self.published += count as u64;
        let mut commands = Vec::new();
        for number in &numbers {
            let padding = "x".repeat(self.random.below(120));
            commands.push(json!({"publish": {"channel": channel, "data": {"n": number, "p": padding}}}));
        }
        let before = self.backplane.top(&name).unwrap_or_default();
        self.send_all(index, commands);
        let Some(top) = self.backplane.top(&name) else {
            assert!(self.clients[index].session.as_ref().is_none_or(|(_, session)| session.is_closed()));
            return;
        };
        let stream = self.ledger.entry((channel.into(), top.epoch.to_string())).or_default();
        let first = if before.epoch == top.epoch { before.offset + 1 } else { 1 };
        for (offset, number) in (first..=top.offset).zip(&numbers) {
            assert_eq!(stream.insert(offset, *number), None, "an offset is used once in an epoch");
        }
        assert_eq!(stream.len() as u64, top.offset, "offsets rise by one from one");
        let session = self.clients[index].session.as_ref();
        let closed = session.is_none_or(|(_, session)| session.is_closed());
        assert!(closed || first + count as u64 == top.offset + 1, "every command is carried out once");
    }

    fn publish_any(&mut self) {
        let index = self.random.below(CLIENTS);
        self.publish(index);
    }

    /// What a worker does with its inbox.
    fn deliver(&mut self, worker: usize) {
        self.deliver_while(worker, |_| ());
    }

    /// The same, while something else comes in.
    fn deliver_while(&mut self, worker: usize, meanwhile: impl FnOnce(&mut Self)) {
        let mut batch = Vec::new();
        let lost = self.inboxes[worker].take(&mut batch);
        assert!(batch.len() <= self.inbox_max, "the inbox is bounded");
        for delivery in batch {
            let Delivery::Push(push) = &delivery else { panic!("nothing else is put in") };
            if let PushKind::Publication { publication, epoch } = &push.kind {
                let taken = (push.channel.as_str().to_owned(), epoch.to_string(), publication.offset);
                self.taken[worker].insert(taken);
            }
            self.workers[worker].handle(self.now(), delivery);
        }
        if let Some(stood) = self.stood[worker].take() {
            self.workers[worker].find_gaps(&stood);
        }
        if lost {
            meanwhile(self);
            let worker_state = &self.workers[worker];
            self.stood[worker] = Some(worker_state.tops(&worker_state.tracked()));
        }
        self.signals();
    }

    /// What the driver does when it is woken.
    fn signals(&mut self) {
        let now = self.now();
        for client in &mut self.clients {
            if let Some((_, session)) = &mut client.session {
                while let Some(signal) = session.handle().take_signal() {
                    session.signal(now, signal);
                }
            }
        }
    }

    fn hang_up(&mut self, index: usize) {
        let now = self.now();
        // What lies in the queue never arrives.
        if let Some((_, mut session)) = self.clients[index].session.take() {
            session.event(now, Event::TransportEnded { close: Close::NORMAL, ending: Ending::Transport });
            assert!(session.is_closed());
        }
    }

    fn pass_time(&mut self) {
        self.at += Duration::from_millis(self.random.number() % 4_000);
        let now = self.now();
        for index in 0..CLIENTS {
            if let Some((_, session)) = &mut self.clients[index].session
                && session.deadline().is_some_and(|deadline| deadline <= now.at)
            {
                session.event(now, Event::Tick);
                self.read(index);
            }
        }
        if self.random.one_in(4) {
            self.backplane.sweep(self.at);
        }
    }

    fn check_bounds(&self) {
        for client in &self.clients {
            if let Some((_, session)) = &client.session {
                let pending = session.handle().outbound.pending();
                // Pushes have the bound, replies have it and may overshoot by one.
                let longest_reply = 50 * 250;
                assert!(pending <= 2 * OUTBOUND_BYTES_MAX + longest_reply, "{pending} bytes wait");
            }
        }
    }

    /// Everybody reads, everything is delivered: then whoever believes to be subscribed has everything.
    fn settle(&mut self) {
        for _ in 0..4 {
            (0..WORKERS).for_each(|worker| self.deliver(worker));
            (0..CLIENTS).for_each(|index| self.read(index));
        }
        self.check_gaps();
        for index in 0..CLIENTS {
            let client = &self.clients[index];
            if client.session.is_none() {
                continue;
            }
            let channels: Vec<_> = client.subscribed.keys().copied().collect();
            for channel in channels {
                let name = gateway::protocol::channel::Channel::parse(channel).expect("valid");
                let top = self.backplane.top(&name).expect("a subscriber keeps the stream");
                let Standing { epoch, offset } = self.clients[index].standing[channel].clone();
                assert_eq!(epoch, &*top.epoch, "{channel}: lost without a signal");
                if self.views && offset < top.offset {
                    let after = Standing { epoch, offset: top.offset + 1 };
                    self.only_hidden_before(index, channel, &after);
                } else {
                    assert_eq!(offset, top.offset, "{channel}: lost without a signal");
                }
            }
        }
    }

    /// Whoever was told to have missed something has: it never came out of the inbox of the worker.
    fn check_gaps(&mut self) {
        for Gap { worker, channel, after } in self.gaps.drain(..) {
            let stream = &self.ledger[&(channel.to_owned(), after.epoch.clone())];
            let came =
                |offset: u64| self.taken[worker].contains(&(channel.to_owned(), after.epoch.clone(), offset));
            let replaced = self.ledger.keys().filter(|(name, _)| name == channel).count() > 1;
            let lost = stream.range(after.offset + 1..).any(|(offset, _)| !came(*offset));
            assert!(lost || replaced, "{channel}: nothing after {} was lost", after.offset);
        }
    }

    /// Everybody goes, time passes: then nothing is left.
    fn empty(&mut self) {
        (0..CLIENTS).for_each(|index| self.hang_up(index));
        (0..WORKERS).for_each(|worker| self.deliver(worker));
        self.backplane.sweep(self.at + Duration::from_secs(7200));
        assert_eq!(self.backplane.channels(), 0, "channels are forgotten");
        for worker in &self.workers {
            assert_eq!(worker.hub.borrow().subscriptions(), 0);
        }
        assert_eq!((self.metrics.connections(), self.metrics.subscriptions()), (0, 0));
    }
}

fn run(seed: u64, inbox_max: usize, views: bool) -> Totals {
    let _named = Seed(seed);
    let mut world = World::new(seed, inbox_max, views);
    for step in 0..STEPS {
        world.step();
        if step % 500 == 499 {
            world.settle();
        }
    }
    world.settle();
    world.empty();
    world.totals
}

/// Names the seed when a check fails.
struct Seed(u64);

impl Drop for Seed {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the simulation failed with SIMULATION_SEED={}", self.0);
        }
    }
}

#[test]
fn nothing_is_lost_doubled_or_reordered_without_a_signal() {
    let seeds = match std::env::var("SIMULATION_SEED") {
        Ok(seed) => vec![seed.parse().expect("a number")],
        Err(_) => (0..SEEDS).collect(),
    };
    let mut all = Totals::default();
    for seed in seeds {
        let totals = run(seed, TIGHT_INBOX, false);
        all.received += totals.received;
        all.recovered += totals.recovered;
        all.unrecovered += totals.unrecovered;
        all.gaps += totals.gaps;
        all.slow += totals.slow;
        all.turns += totals.turns;
        all.backlogged += totals.backlogged;
    }
    println!("{all:?}");
    // A run in which the interesting things never happened would prove nothing.
    assert!(all.received > 10_000 && all.recovered > 100 && all.unrecovered > 100, "{all:?}");
    assert!(all.gaps > 100 && all.slow > 10, "{all:?}");
    assert!(all.turns > 1_000 && all.backlogged > 10, "{all:?}");
}

#[test]
fn nobody_is_told_of_a_gap_when_nothing_was_lost() {
    for seed in 0..4 {
        assert_eq!(run(seed, usize::MAX, false).gaps, 0, "seed {seed}");
    }
}

#[test]
fn what_plugins_withhold_or_change_is_no_gap_and_every_class_sees_its_own() {
    let mut all = Totals::default();
    for seed in 0..8 {
        let totals = run(seed, usize::MAX, true);
        assert_eq!(totals.gaps, 0, "seed {seed}");
        all.received += totals.received;
        all.recovered += totals.recovered;
        all.hidden += totals.hidden;
        all.veiled += totals.veiled;
    }
    println!("{all:?}");
    assert!(all.received > 3_000 && all.recovered > 30 && all.hidden > 500 && all.veiled > 500, "{all:?}");
    // Where something is lost as well, whoever lost what it should have received hears of it.
    let lossy: usize = (0..4).map(|seed| run(seed, TIGHT_INBOX, true).gaps).sum();
    assert!(lossy > 20, "{lossy}");
}
