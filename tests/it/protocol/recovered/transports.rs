//! Schedules against the real gateway, with a client for each transport.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::Bytes;
use gateway::protocol::Encoding;
use gateway_tests::{Gateway, RawClient, Stream, emulate, request};
use serde_json::{Value, json};
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Message;

use super::account::{Totals, check};
use super::client::Watcher;
use super::schedule::{Possible, Step, generate};
use super::{CHANNELS, KEPT, Position, Streams};
use crate::protocol::fuzz::targets::encode::emulation_of;

const SEEDS: u64 = 90;
const STEPS: usize = 70;
const POSSIBLE: Possible = Possible { clients: TRANSPORTS.len(), workers: 0, restart_one_in: 220 };

/// No further schedule begins after this time, on a slow machine.
const TIME_MAX: Duration = Duration::from_secs(16);

/// For what comes without being waited for.
const MOMENT: Duration = Duration::from_millis(2);

const OCTETS: &str = "Content-Type: application/octet-stream";

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Transport {
    WebSocketJson,
    WebSocketProtobuf,
    HttpStreamJson,
    HttpStreamProtobuf,
    EventStream,
}

const TRANSPORTS: [Transport; 5] = [
    Transport::WebSocketJson,
    Transport::WebSocketProtobuf,
    Transport::HttpStreamJson,
    Transport::HttpStreamProtobuf,
    Transport::EventStream,
];

impl Transport {
    fn encoding(self) -> Encoding {
        match self {
            Self::WebSocketProtobuf | Self::HttpStreamProtobuf => Encoding::Protobuf,
            _ => Encoding::Json,
        }
    }
}

/// A connection.
enum Line {
    Socket(Box<RawClient>),
    Stream(Box<Stream>),
}

impl Line {
    /// Opens one and sends the connect command.
    async fn open(transport: Transport, address: SocketAddr, connect: &Bytes) -> Self {
        let post = async |path, headers: &[&str]| {
            let stream = Stream::post(address, path, headers, connect).await;
            Self::Stream(Box::new(stream.expect("the stream is accepted")))
        };
        let socket = async |path| {
            let socket = RawClient::open(address, path, &[]).await;
            let mut line = Self::Socket(Box::new(socket.expect("the handshake is accepted")));
            line.send(transport, address, &Value::Null, connect).await;
            line
        };
        match transport {
            Transport::WebSocketJson => socket("/connection/websocket").await,
            Transport::WebSocketProtobuf => socket("/connection/websocket?format=protobuf").await,
            Transport::HttpStreamJson => post("/connection/http_stream", &[]).await,
            Transport::HttpStreamProtobuf => post("/connection/http_stream", &[OCTETS]).await,
            Transport::EventStream => {
                let connect = std::str::from_utf8(connect).expect("JSON is text");
                let stream = Stream::get(address, "/connection/sse", &[], connect).await;
                Self::Stream(Box::new(stream.expect("the stream is accepted")))
            }
        }
    }

    /// Sends a message: `hello` is the connect reply. False if the connection is known to be gone.
    async fn send(&mut self, transport: Transport, address: SocketAddr, hello: &Value, data: &Bytes) -> bool {
        let is_binary = transport.encoding() == Encoding::Protobuf;
        match self {
            Self::Socket(socket) => {
                let text = || std::str::from_utf8(data).expect("JSON is text").to_owned();
                let message = if is_binary { Message::binary(data.clone()) } else { Message::text(text()) };
                socket.send_message(message).await;
                true
            }
            Self::Stream(_) => {
                let (session, node) = (&hello["session"], &hello["node"]);
                let answer = if is_binary {
                    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
                    let body = emulation_of(&text(node), &text(session), data);
                    request(address, "POST", "/emulation", &[OCTETS], &body).await
                } else {
                    emulate(address, session, node, std::str::from_utf8(data).expect("JSON is text")).await
                };
                assert!(matches!(answer.status, 204 | 404), "{}: {}", answer.status, answer.text());
                answer.status == 204
            }
        }
    }

    /// The next replies and pushes; `None` at the end.
    async fn next(&mut self, watcher: &Watcher) -> Option<Vec<Value>> {
        match self {
            Self::Socket(socket) => match socket.next("a message").await.ok()? {
                Message::Text(text) => Some(watcher.read(text.as_bytes())),
                Message::Binary(bytes) => Some(watcher.read(&bytes)),
                other => panic!("expected replies and not {other:?}"),
            },
            Self::Stream(stream) if watcher.encoding == Encoding::Protobuf => {
                stream.record().await.map(|record| watcher.read(&record))
            }
            Self::Stream(stream) => stream.message().await.map(|message| vec![message]),
        }
    }
}

struct Guest {
    transport: Transport,
    watcher: Watcher,
    line: Option<Line>,
}

impl Guest {
    fn new(transport: Transport) -> Self {
        Self { transport, watcher: Watcher::new(transport.encoding()), line: None }
    }

    async fn send(&mut self, address: SocketAddr, data: &Bytes) {
        let Some(line) = &mut self.line else { return };
        if !line.send(self.transport, address, &self.watcher.hello, data).await {
            self.end();
        }
    }

    fn end(&mut self) {
        self.line = None;
        self.watcher.ended();
    }

    /// Takes the next message. False at the end of the connection.
    async fn take(&mut self, address: SocketAddr) -> Result<bool, String> {
        let Some(line) = &mut self.line else { return Ok(false) };
        let Some(replies) = line.next(&self.watcher).await else {
            self.end();
            return Ok(false);
        };
        for reply in replies {
            if self.watcher.on(&reply)? {
                let pong = self.watcher.pong();
                self.send(address, &pong).await;
            }
        }
        Ok(true)
    }

    /// Sends a command and takes what comes until its reply.
    async fn ask(&mut self, address: SocketAddr, command: Bytes) -> Result<(), String> {
        let id = self.watcher.last_id();
        self.send(address, &command).await;
        self.answered(address, id).await
    }

    async fn answered(&mut self, address: SocketAddr, id: u32) -> Result<(), String> {
        while self.watcher.answered < id && self.take(address).await? {}
        Ok(())
    }

    /// Takes what has come.
    async fn drain(&mut self, address: SocketAddr) -> Result<(), String> {
        while let Some(line) = &mut self.line {
            // Whoever waits takes nothing out of the connection before all of it is there.
            let Ok(replies) = timeout(MOMENT, line.next(&self.watcher)).await else { break };
            let Some(replies) = replies else {
                self.end();
                break;
            };
            for reply in replies {
                if self.watcher.on(&reply)? {
                    let pong = self.watcher.pong();
                    self.send(address, &pong).await;
                }
            }
        }
        Ok(())
    }
}

/// A gateway, and what was published to it in all schedules.
struct World {
    gateway: Gateway,
    streams: Streams,
    tops: HashMap<&'static str, Position>,
    published: u64,
    restarts: usize,
}

impl World {
    async fn step(&mut self, guests: &mut [Guest], step: Step) -> Result<(), String> {
        let address = self.gateway.address();
        match step {
            Step::Publish(channel, count) => {
                for _ in 0..count {
                    self.publish(channel).await?;
                }
            }
            Step::Toggle(guest, channel) => self.toggle(&mut guests[guest], channel).await?,
            Step::Read(guest) => guests[guest].drain(address).await?,
            Step::Vanish(guest) => guests[guest].end(),
            Step::Close(guest) => {
                let guest = &mut guests[guest];
                guest.drain(address).await?;
                let line = guest.line.take();
                guest.end();
                if let Some(Line::Socket(socket)) = line {
                    socket.close().await;
                }
            }
            Step::Restart => {
                self.gateway.restart().await;
                guests.iter_mut().for_each(Guest::end);
                self.tops.clear();
                self.restarts += 1;
            }
            other => return Err(format!("this world has no {other:?}")),
        }
        Ok(())
    }

    async fn publish(&mut self, channel: &'static str) -> Result<(), String> {
        self.published += 1;
        let body = json!({ "channel": channel, "data": self.published });
        let answer = self.gateway.post("/api/publish", &body).await.ok();
        let result = &answer["result"];
        let (Some(offset), Some(epoch)) = (result["offset"].as_u64(), result["epoch"].as_str()) else {
            return Err(format!("{body} was not published: {answer}"));
        };
        let position = Position { epoch: epoch.to_owned(), offset };
        self.streams.add(channel, &position, self.published)?;
        self.tops.insert(channel, position);
        Ok(())
    }

    async fn toggle(&mut self, guest: &mut Guest, channel: &'static str) -> Result<(), String> {
        let address = self.gateway.address();
        if guest.line.is_none() {
            let connect = guest.watcher.connect();
            guest.line = Some(Line::open(guest.transport, address, &connect).await);
            guest.answered(address, 1).await?;
        }
        let command = if guest.watcher.is_live(channel) {
            guest.watcher.unsubscribe(channel)
        } else {
            let (at, top) = (guest.watcher.at(channel), self.tops.get(channel));
            let is_kept = |(at, top): (&Position, &Position)| {
                at.epoch == top.epoch && top.offset - at.offset <= KEPT as u64
            };
            let possible = at.zip(top).is_some_and(is_kept);
            guest.watcher.subscribe(channel, possible)
        };
        guest.ask(address, command).await
    }

    /// Everybody takes what there is, and has everything.
    async fn settle(
        &self,
        guests: &mut [Guest],
        totals: &mut HashMap<Transport, Totals>,
    ) -> Result<(), String> {
        let address = self.gateway.address();
        for guest in guests {
            for channel in CHANNELS {
                let top = self.tops.get(channel);
                while guest.watcher.is_live(channel)
                    && top.is_some_and(|top| guest.watcher.at(channel) != Some(top))
                {
                    // A publication that never comes fails here, after a while.
                    guest.take(address).await?;
                }
                let heard = guest.watcher.heard.get(channel).map_or(&[][..], Vec::as_slice);
                let checked = check(&self.streams, channel, heard, top);
                let one = checked.map_err(|why| format!("{:?}, {why}", guest.transport))?;
                totals.entry(guest.transport).or_default().add(one);
            }
        }
        Ok(())
    }
}

/// Names the schedule when a check fails, or something that was waited for does not come.
struct Schedule<'a>(u64, &'a [Step]);

impl Drop for Schedule<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the schedule of seed {}: {:#?}", self.0, self.1);
        }
    }
}

#[tokio::test]
async fn over_every_transport_whoever_is_told_that_it_recovered_has_everything() {
    let config = format!(
        "
        client.anonymous = true
        fallbacks.enabled = true
        [namespaces.short]
        history_size = {KEPT}
        history_ttl = '1h'
        recovery = true
        allow_subscribe = 'anyone'
        "
    );
    let gateway = Gateway::start(&config).await;
    let mut world =
        World { gateway, streams: Streams::default(), tops: HashMap::new(), published: 0, restarts: 0 };
    let (mut totals, start, mut schedules) = (HashMap::new(), Instant::now(), 0);
    for seed in (0..SEEDS).take_while(|_| start.elapsed() < TIME_MAX) {
        let steps = generate(seed, STEPS, POSSIBLE);
        let _named = Schedule(seed, &steps);
        let mut guests = TRANSPORTS.map(Guest::new);
        for (number, step) in steps.iter().enumerate() {
            let done = world.step(&mut guests, *step).await;
            done.unwrap_or_else(|why| panic!("step {number}, {step:?}: {why}"));
        }
        let settled = world.settle(&mut guests, &mut totals).await;
        settled.unwrap_or_else(|why| panic!("at the end: {why}"));
        schedules += 1;
    }
    println!("{schedules} schedules in {:?}, {} restarts", start.elapsed(), world.restarts);
    for transport in TRANSPORTS {
        let totals = totals[&transport];
        println!("{transport:?}: {totals:?}");
        // A run in which the interesting things never happened would prove nothing.
        assert!(totals.publications > 20 && totals.recovered > 0 && totals.unrecovered > 0, "{totals:?}");
        assert!(totals.disconnects > 3, "{totals:?}");
    }
    assert!(world.restarts > 0 && schedules >= 20, "{schedules} schedules, {} restarts", world.restarts);
}
