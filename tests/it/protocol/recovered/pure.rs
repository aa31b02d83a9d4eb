//! Schedules on the real core, session, hub and memory backplane: without a socket, and the time is fed.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use bytes::Bytes;
use gateway::backplane::inbox::{Delivery, Inbox};
use gateway::backplane::memory::Memory;
use gateway::backplane::{Backplane, NewPublication, Outcome, ReplyTo, Retention};
use gateway::clock::Now;
use gateway::config::Config;
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
use gateway::protocol::push::Push;
use gateway::protocol::{Encoding, Framing};
use gateway::telemetry::metrics::Metrics;

use super::account::{Totals, check};
use super::client::Watcher;
use super::schedule::{Possible, Step, generate, shrink};
use super::{CHANNELS, KEPT, Position, Streams};

const WORKERS: usize = 2;
const CLIENTS: usize = 3;
const STEPS: usize = 120;
/// Schedules for each encoding.
const SEEDS: u64 = 1500;
const POSSIBLE: Possible = Possible { clients: CLIENTS, workers: WORKERS, restart_one_in: 0 };
/// Enough for a reply with everything that is kept.
const OUTBOUND_BYTES_MAX: usize = 10_000;
/// How long a publication is kept.
const TTL: Duration = Duration::from_secs(20);

static CONFIG: LazyLock<Arc<Config>> = LazyLock::new(|| {
    let text = format!(
        "
        client.anonymous = true
        memory.channels_max = 64
        memory.unsubscribed_channels_max = 64
        [namespaces.short]
        history_size = {KEPT}
        history_ttl = '{}s'
        recovery = true
        allow_subscribe = 'anyone'
        ",
        TTL.as_secs()
    );
    let mut config = Config::parse(&text, "schedules").expect("valid");
    config.limits.outbound_bytes_max = OUTBOUND_BYTES_MAX;
    Arc::new(config)
});

/// A fault between the gateway and a client, to see that it is found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    None,
    /// Publications whose number is divisible by 5 do not arrive.
    Missing,
    /// They arrive twice.
    Doubled,
    /// They arrive after the message that follows.
    Late,
    /// Whoever asks to recover is told that it has.
    Claimed,
}

struct World {
    at: Duration,
    ids: ConnectionIds,
    inboxes: Arc<[Arc<Inbox>]>,
    backplane: Arc<Memory>,
    workers: Vec<Rc<WorkerState>>,
    clients: Vec<(Watcher, Option<Session>)>,
    connections: u64,
    streams: Streams,
    published: u64,
    /// When each publication expires, by channel, epoch and offset.
    expires: HashMap<(&'static str, String, u64), Duration>,
    /// What each worker has delivered.
    delivered: Vec<Vec<Arc<Push>>>,
    fault: Fault,
}

impl World {
    fn new(encoding: Encoding, fault: Fault) -> Self {
        let ids = ConnectionIds::new(1);
        let inboxes: Arc<[_]> = (0..WORKERS).map(|_| Arc::new(Inbox::new(usize::MAX))).collect();
        let backplane = Arc::new(Memory::new(inboxes.clone(), ids, &CONFIG.memory, 1));
        let metrics = Metrics::new(WORKERS);
        let worker = |worker| {
            let backplane: Arc<dyn Backplane> = backplane.clone();
            Rc::new(WorkerState::new(worker, CONFIG.clone(), Hub::new(ids), backplane, metrics.clone()))
        };
        Self {
            at: Duration::ZERO,
            ids,
            inboxes,
            workers: (0..WORKERS).map(worker).collect(),
            backplane,
            clients: (0..CLIENTS).map(|_| (Watcher::new(encoding), None)).collect(),
            connections: 0,
            streams: Streams::default(),
            published: 0,
            expires: HashMap::new(),
            delivered: vec![Vec::new(); WORKERS],
            fault,
        }
    }

    fn now(&self) -> Now {
        Now { at: self.at, unix: 1_700_000_000_000 + self.at.as_millis() as u64 }
    }

    fn step(&mut self, step: Step) -> Result<(), String> {
        match step {
            Step::Publish(channel, count) => (0..count).try_for_each(|_| self.publish(channel))?,
            Step::Toggle(client, channel) => self.toggle(client, channel)?,
            Step::Read(client) => self.read(client)?,
            Step::Vanish(client) => self.end(client, Ending::Transport),
            Step::Close(client) => {
                self.read(client)?;
                self.end(client, Ending::Client);
            }
            Step::Pass(seconds) => self.pass(Duration::from_secs(seconds))?,
            Step::Restart => return Err("this world does not restart".into()),
            Step::Deliver(worker) => self.deliver(worker, |_, _| ()),
            Step::Lose(worker, which) => self.deliver(worker, |batch, _| {
                if !batch.is_empty() {
                    batch.remove(which % batch.len());
                }
            }),
            Step::Repeat(worker, which) => self.deliver(worker, |batch, before| {
                let all: Vec<_> = before.iter().chain(&*batch).cloned().collect();
                if !all.is_empty() {
                    batch.push(all[which % all.len()].clone());
                }
            }),
            Step::Swap(worker, which) => self.deliver(worker, |batch, _| {
                if batch.len() > 1 {
                    let at = which % (batch.len() - 1);
                    batch.swap(at, at + 1);
                }
            }),
        }
        self.signals();
        Ok(())
    }

    fn publish(&mut self, channel: &'static str) -> Result<(), String> {
        self.published += 1;
        let name = Channel::parse(channel).expect("valid");
        let new = NewPublication {
            channel: &name,
            data: self.published.to_string().into(),
            json: true,
            info: None,
            tags: None,
            patterns: false,
            retention: Retention { size: KEPT, ttl: TTL, replicas: 0 },
            skip_history: false,
            conditions: None,
            charge: None,
        };
        let Outcome::Ready(Ok(published)) = self.backplane.publish(new, ReplyTo::Nobody, self.at) else {
            return Err("a publication was refused".into());
        };
        let position = Position { epoch: published.top.epoch.to_string(), offset: published.top.offset };
        self.expires.insert((channel, position.epoch.clone(), position.offset), self.at + TTL);
        self.streams.add(channel, &position, self.published)
    }

    fn top(&self, channel: &str) -> Option<Position> {
        let top = self.backplane.top(&Channel::parse(channel).expect("valid"))?;
        Some(Position { epoch: top.epoch.to_string(), offset: top.offset })
    }

    /// Whether everything after this place is kept.
    fn is_kept(&self, channel: &'static str, since: &Position) -> bool {
        let Some(top) = self.top(channel) else { return false };
        let mut missed = since.offset + 1..=top.offset;
        let is_kept = |offset| {
            let expires = self.expires.get(&(channel, top.epoch.clone(), offset));
            expires.is_some_and(|expires| *expires > self.at)
        };
        since.epoch == top.epoch && top.offset - since.offset <= KEPT as u64 && missed.all(is_kept)
    }

    fn connect(&mut self, client: usize) -> Result<(), String> {
        self.connections += 1;
        let worker = (self.connections % WORKERS as u64) as usize;
        let encoding = self.clients[client].0.encoding;
        let number = ConnectionIds::compose(worker, self.connections);
        let id = self.ids.id(number, self.connections);
        let worker_state = &self.workers[worker];
        let handle = Rc::new(ConnectionHandle::new(
            number,
            id.clone(),
            encoding.over(Framing::WebSocket),
            OUTBOUND_BYTES_MAX,
            &worker_state.unflushed,
        ));
        let about = Client {
            number,
            id,
            user: Arc::default(),
            protocol: encoding.protocol_name(),
            address: std::net::Ipv4Addr::LOCALHOST.into(),
            headers: Arc::new([]),
            attributes: Default::default(),
        };
        worker_state.metrics().opened("scheduled", about.address);
        let session = Session::new(worker_state.clone(), handle, about, self.now(), self.connections as u32);
        self.clients[client].1 = Some(session);
        let command = self.clients[client].0.connect();
        self.send(client, command);
        self.read(client)
    }

    fn send(&mut self, client: usize, data: Bytes) {
        let now = self.now();
        let (watcher, session) = &mut self.clients[client];
        let Some(session) = session else { return };
        let binary = watcher.encoding == Encoding::Protobuf;
        session.message(&mut Turn::at(now, 100), Inbound { data, binary });
        assert!(session.is_closed() || !session.has_rest(), "one command fits into a turn");
    }

    fn toggle(&mut self, client: usize, channel: &'static str) -> Result<(), String> {
        // What is on the way belongs to the subscription as it was.
        self.read(client)?;
        if self.clients[client].1.is_none() {
            self.connect(client)?;
        }
        let watcher = &self.clients[client].0;
        if watcher.is_asking(channel) {
            return Ok(());
        }
        let command = if watcher.is_live(channel) {
            self.clients[client].0.unsubscribe(channel)
        } else {
            let possible = watcher.at(channel).is_some_and(|since| self.is_kept(channel, since));
            self.clients[client].0.subscribe(channel, possible)
        };
        self.send(client, command);
        Ok(())
    }

    /// A client reads everything that has come.
    fn read(&mut self, client: usize) -> Result<(), String> {
        let (watcher, session) = &mut self.clients[client];
        let Some(open) = session else { return Ok(()) };
        let bytes = open.handle().outbound.take();
        let (mut replies, mut is_over) = (Vec::new(), false);
        for (opcode, payload) in frames(&bytes) {
            if is_over {
                return Err("a message follows the close".into());
            }
            is_over = opcode == 8;
            if !is_over {
                replies.extend(watcher.read(payload));
            }
        }
        let mut pings = 0;
        for reply in harm(self.fault, replies) {
            pings += usize::from(watcher.on(&reply)?);
        }
        if is_over || open.is_closed() {
            *session = None;
            watcher.ended();
            return Ok(());
        }
        let pong = watcher.pong();
        (0..pings).for_each(|_| self.send(client, pong.clone()));
        Ok(())
    }

    fn end(&mut self, client: usize, ending: Ending) {
        let now = self.now();
        let (watcher, session) = &mut self.clients[client];
        if let Some(mut session) = session.take() {
            session.event(now, Event::TransportEnded { close: Close::NORMAL, ending });
            assert!(session.is_closed());
            watcher.ended();
        }
    }

    /// Time passes, a second at once: clients that do not answer pings are closed.
    fn pass(&mut self, time: Duration) -> Result<(), String> {
        let end = self.at + time;
        while self.at < end {
            self.at += Duration::from_secs(1);
            let now = self.now();
            for client in 0..CLIENTS {
                if let Some(session) = &mut self.clients[client].1
                    && session.deadline().is_some_and(|deadline| deadline <= now.at)
                {
                    session.event(now, Event::Tick);
                    self.read(client)?;
                }
            }
        }
        self.backplane.sweep(self.at);
        Ok(())
    }

    /// What a worker does with its inbox, after `change` has had its way with the publications in it. The
    /// second list is what came before.
    fn deliver(&mut self, worker: usize, change: impl FnOnce(&mut Vec<Arc<Push>>, &[Arc<Push>])) {
        let mut batch = Vec::new();
        self.inboxes[worker].take(&mut batch);
        let mut pushes = Vec::new();
        for delivery in batch {
            let Delivery::Push(push) = delivery else { panic!("nothing else is put in") };
            pushes.push(push);
        }
        change(&mut pushes, &self.delivered[worker]);
        for push in pushes {
            self.delivered[worker].push(push.clone());
            self.workers[worker].handle(self.now(), Delivery::Push(push));
        }
        self.signals();
    }

    fn signals(&mut self) {
        let now = self.now();
        for session in self.clients.iter_mut().filter_map(|(_, session)| session.as_mut()) {
            while let Some(signal) = session.handle().take_signal() {
                session.signal(now, signal);
            }
        }
    }

    /// Everything is delivered and read, and the workers compare positions, as they do after a loss.
    fn settle(&mut self) -> Result<Totals, String> {
        for worker in 0..WORKERS {
            self.deliver(worker, |_, _| ());
            let tops = self.workers[worker].tops(&self.workers[worker].tracked());
            self.workers[worker].find_gaps(&tops);
        }
        self.signals();
        (0..CLIENTS).try_for_each(|client| self.read(client))?;
        let mut totals = Totals::default();
        for (number, (watcher, _)) in self.clients.iter().enumerate() {
            for channel in CHANNELS {
                let heard = watcher.heard.get(channel).map_or(&[][..], Vec::as_slice);
                let top = self.top(channel);
                if watcher.is_live(channel) && top.is_none() {
                    return Err(format!("{channel}: a stream with a subscriber is gone"));
                }
                let checked = check(&self.streams, channel, heard, top.as_ref());
                totals.add(checked.map_err(|why| format!("client {number}, {why}"))?);
            }
        }
        Ok(totals)
    }
}

/// What arrives of these replies.
fn harm(fault: Fault, replies: Vec<serde_json::Value>) -> Vec<serde_json::Value> {
    if fault == Fault::None {
        return replies;
    }
    let mut harmed: Vec<serde_json::Value> = Vec::new();
    let mut late = None;
    for mut reply in replies {
        let number = reply.pointer("/push/pub/data").and_then(serde_json::Value::as_u64);
        let is_chosen = number.is_some_and(|number| number % 5 == 0);
        match fault {
            Fault::Missing if is_chosen => (),
            Fault::Doubled if is_chosen => harmed.extend([reply.clone(), reply]),
            Fault::Late if is_chosen && late.is_none() => late = Some(reply),
            _ => {
                if fault == Fault::Claimed && reply.pointer("/subscribe/was_recovering").is_some() {
                    reply["subscribe"]["recovered"] = true.into();
                }
                harmed.push(reply);
                harmed.extend(late.take());
            }
        }
    }
    harmed.extend(late);
    harmed
}

/// The frames a server writes: not masked.
fn frames(mut bytes: &[u8]) -> Vec<(u8, &[u8])> {
    let mut frames = Vec::new();
    while let [first, second, rest @ ..] = bytes {
        let (length, rest) = match second {
            126 => (usize::from(u16::from_be_bytes([rest[0], rest[1]])), &rest[2..]),
            127 => panic!("no message is that large"),
            length => (usize::from(*length), rest),
        };
        let (payload, after) = rest.split_at(length);
        frames.push((first & 0x0f, payload));
        bytes = after;
    }
    frames
}

fn run(encoding: Encoding, fault: Fault, steps: &[Step]) -> Result<Totals, String> {
    let run = || {
        let mut world = World::new(encoding, fault);
        for (number, step) in steps.iter().enumerate() {
            world.step(*step).map_err(|why| format!("step {number}, {step:?}: {why}"))?;
        }
        world.settle()
    };
    catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|_| Err("a panic, see above".into()))
}

/// The seed, the least steps that show the fault, and what they show.
fn found(encoding: Encoding, fault: Fault, seed: u64, why: &str) -> (Vec<Step>, String) {
    let least = shrink(generate(seed, STEPS, POSSIBLE), |steps| run(encoding, fault, steps).is_err());
    let shown = run(encoding, fault, &least).expect_err("it still fails");
    let text = format!("{encoding:?}, seed {seed}: {why}\nthe least steps: {least:#?}\nshow: {shown}");
    (least, text)
}

fn all(encoding: Encoding) {
    let mut totals = Totals::default();
    for seed in 0..SEEDS {
        match run(encoding, Fault::None, &generate(seed, STEPS, POSSIBLE)) {
            Ok(one) => totals.add(one),
            Err(why) => panic!("{}", found(encoding, Fault::None, seed, &why).1),
        }
    }
    println!("{encoding:?}: {SEEDS} schedules, {totals:?}");
    // A run in which the interesting things never happened would prove nothing.
    assert!(totals.publications > 5_000 && totals.recovered > 500, "{totals:?}");
    assert!(totals.recovered_nothing > 100 && totals.unrecovered > 500, "{totals:?}");
    assert!(totals.other_stream > 50 && totals.gaps > 100 && totals.disconnects > 1_000, "{totals:?}");
}

#[test]
fn whoever_is_told_that_it_recovered_has_everything_and_others_are_told_in_json() {
    all(Encoding::Json);
}

#[test]
fn whoever_is_told_that_it_recovered_has_everything_and_others_are_told_in_protobuf() {
    all(Encoding::Protobuf);
}

#[test]
fn a_planted_fault_is_found_and_shown_by_few_steps() {
    for fault in [Fault::Missing, Fault::Doubled, Fault::Late, Fault::Claimed] {
        let mut seeds = 0..100;
        let first = seeds.find_map(|seed| {
            let steps = generate(seed, STEPS, POSSIBLE);
            run(Encoding::Json, fault, &steps).err().map(|why| (seed, why))
        });
        let (seed, why) = first.unwrap_or_else(|| panic!("{fault:?} was not found"));
        let (least, text) = found(Encoding::Json, fault, seed, &why);
        println!("{fault:?}: {text}");
        assert!(least.len() <= 20, "{fault:?}: {} steps\n{text}", least.len());
    }
}
