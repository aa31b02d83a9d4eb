//! A client that stays subscribed as client libraries do: it comes back with its positions after every end,
//! after a random pause that grows, and writes down everything it is given and told.

use std::collections::HashMap;
use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::{WebSocketStream, client_async_with_config};

use super::Ledger;
use super::history::{Entry, Event, Position};

/// The pause before the first return is random up to this, and up to twice the last limit each time.
const PAUSE: Duration = Duration::from_millis(200);
const PAUSE_MAX: Duration = Duration::from_secs(2);
/// Time for a handshake, and for a reply.
const PATIENCE: Duration = Duration::from_secs(5);
/// A gateway that sends not even a ping for this long is gone. Longer than the default between two pings.
const SILENCE: Duration = Duration::from_secs(35);
/// Codes of unsubscribe from which on a client subscribes again.
const SUBSCRIBE_AGAIN: u64 = 2500;

/// One such client. Goes without a word when dropped.
#[derive(Debug)]
pub struct Subscriber {
    task: JoinHandle<()>,
}

impl Subscriber {
    /// Connects to the first of these gateways and subscribes to channels with recovery; where it is turned
    /// away it tries the next one.
    pub fn start(ledger: &Arc<Ledger>, gateways: &[SocketAddr], channels: &[impl AsRef<str>]) -> Self {
        let number = {
            let mut history = ledger.lock();
            history.subscribers.push(Vec::new());
            history.subscribers.len() - 1
        };
        ledger.missing.send_modify(|missing| *missing += channels.len());
        let state = State {
            ledger: ledger.clone(),
            number,
            channels: channels.iter().map(|channel| (channel.as_ref().into(), Channel::default())).collect(),
        };
        Self { task: tokio::spawn(state.stay(gateways.to_vec())) }
    }
}

impl Drop for Subscriber {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct State {
    ledger: Arc<Ledger>,
    number: usize,
    channels: HashMap<Arc<str>, Channel>,
}

#[derive(Default)]
struct Channel {
    /// What to recover from.
    position: Option<Position>,
    subscribed: bool,
}

struct Connection {
    stream: WebSocketStream<TcpStream>,
    last_command: u64,
    /// What each subscribe command that has no reply yet is for.
    asked: HashMap<u64, Arc<str>>,
}

/// How a connection ended: the code, if one was given.
type Ended = Option<u16>;

impl State {
    async fn stay(mut self, gateways: Vec<SocketAddr>) {
        let mut limit = PAUSE;
        for attempt in 0.. {
            if let Ok(connection) = Connection::open(gateways[attempt % gateways.len()]).await {
                let was_subscribed = &mut false;
                let code = self.serve(connection, was_subscribed).await;
                self.on_disconnected(code);
                if *was_subscribed {
                    limit = PAUSE;
                }
            }
            sleep(random(limit)).await;
            limit = (limit * 2).min(PAUSE_MAX);
        }
    }

    /// Until the connection ends.
    async fn serve(&mut self, mut connection: Connection, was_subscribed: &mut bool) -> Ended {
        let wanted: Vec<_> = self.channels.keys().cloned().collect();
        for channel in wanted {
            self.subscribe(&mut connection, channel).await;
        }
        loop {
            let limit = if connection.asked.is_empty() { SILENCE } else { PATIENCE };
            let Ok(next) = timeout(limit, connection.stream.next()).await else { return None };
            match next {
                Some(Ok(Message::Text(text))) => {
                    for line in text.lines() {
                        let Ok(message) = serde_json::from_str(line) else { panic!("not JSON: {line}") };
                        if let Err(ended) = self.on_message(&mut connection, message).await {
                            return ended;
                        }
                    }
                }
                Some(Ok(Message::Close(frame))) => return frame.map(|frame| frame.code.into()),
                Some(Ok(_)) => (),
                Some(Err(_)) | None => return None,
            }
            *was_subscribed |= self.channels.values().all(|channel| channel.subscribed);
        }
    }

    async fn subscribe(&mut self, connection: &mut Connection, name: Arc<str>) {
        let mut command = json!({ "channel": *name });
        if let Some(position) = &self.channels[&name].position {
            command["recover"] = true.into();
            command["offset"] = position.offset.into();
            command["epoch"] = (*position.epoch).into();
        }
        let id = connection.command("subscribe", command).await;
        connection.asked.insert(id, name);
    }

    async fn on_message(&mut self, connection: &mut Connection, message: Value) -> Result<(), Ended> {
        if message.as_object().is_some_and(serde_json::Map::is_empty) {
            connection.send("{}").await;
        } else if let Some(push) = message.get("push") {
            return self.on_push(connection, push).await;
        } else if let Some(name) = message["id"].as_u64().and_then(|id| connection.asked.remove(&id)) {
            match message.get("error") {
                None => self.on_subscribed(&name, &message["subscribe"]),
                Some(error) => {
                    if error["code"] == 112 {
                        self.channel(&name).position = None;
                    }
                    sleep(random(PAUSE)).await;
                    self.subscribe(connection, name).await;
                }
            }
        }
        Ok(())
    }

    async fn on_push(&mut self, connection: &mut Connection, push: &Value) -> Result<(), Ended> {
        if let Some(disconnect) = push.get("disconnect") {
            return Err(disconnect["code"].as_u64().and_then(|code| code.try_into().ok()));
        }
        let name = push["channel"].as_str().unwrap_or_default();
        if let Some(publication) = push.get("pub") {
            self.on_publication(name, publication);
        } else if let Some(unsubscribe) = push.get("unsubscribe") {
            let code = unsubscribe["code"].as_u64().unwrap_or_default();
            if std::mem::take(&mut self.channel(name).subscribed) {
                self.ledger.missing.send_modify(|missing| *missing += 1);
            }
            self.write(name, Event::Unsubscribed { code });
            if code >= SUBSCRIBE_AGAIN {
                self.subscribe(connection, name.into()).await;
            }
        }
        Ok(())
    }

    fn on_subscribed(&mut self, name: &str, reply: &Value) {
        let position = Position {
            epoch: reply["epoch"].as_str().unwrap_or_default().into(),
            offset: reply["offset"].as_u64().unwrap_or_default(),
        };
        let recovered = reply["recovered"] == true;
        let channel = self.channel(name);
        channel.position = Some(position.clone()).filter(Position::is_somewhere);
        if !std::mem::replace(&mut channel.subscribed, true) {
            self.ledger.missing.send_modify(|missing| *missing -= 1);
        }
        self.write(name, Event::Subscribed { recovered, position });
        for publication in reply["publications"].as_array().into_iter().flatten() {
            self.on_publication(name, publication);
        }
    }

    fn on_publication(&mut self, name: &str, publication: &Value) {
        let offset = publication["offset"].as_u64().unwrap_or_default();
        let number = publication["data"]["n"].as_u64().unwrap_or_default();
        if let Some(position) = &mut self.channel(name).position {
            position.offset = offset;
        }
        self.write(name, Event::Publication { number, offset });
    }

    fn on_disconnected(&mut self, code: Ended) {
        let names: Vec<_> = self.channels.keys().cloned().collect();
        for name in names {
            if std::mem::take(&mut self.channel(&name).subscribed) {
                self.ledger.missing.send_modify(|missing| *missing += 1);
                self.write(&name, Event::Disconnected { code });
            }
        }
    }

    fn channel(&mut self, name: &str) -> &mut Channel {
        self.channels.get_mut(name).unwrap_or_else(|| panic!("a push for {name:?}, which was not asked for"))
    }

    fn write(&self, name: &str, event: Event) {
        let (channel, _) = self.channels.get_key_value(name).expect("only what was asked for is written");
        let entry = Entry { at: self.ledger.now(), channel: channel.clone(), event };
        self.ledger.lock().subscribers[self.number].push(entry);
    }
}

impl Connection {
    /// Shakes hands and is accepted by the gateway; `Err` if that fails in any way.
    async fn open(gateway: SocketAddr) -> Result<Self, ()> {
        let open = async {
            let socket = TcpStream::connect(gateway).await.map_err(drop)?;
            socket.set_nodelay(true).map_err(drop)?;
            // Thousands of clients live in one test.
            let config = WebSocketConfig::default().read_buffer_size(4096);
            let url = format!("ws://{gateway}/connection/websocket");
            let (stream, _) = client_async_with_config(url, socket, Some(config)).await.map_err(drop)?;
            let mut connection = Self { stream, last_command: 0, asked: HashMap::new() };
            connection.command("connect", json!({})).await;
            match connection.stream.next().await {
                Some(Ok(Message::Text(text))) if text.contains("\"connect\"") => Ok(connection),
                _ => Err(()),
            }
        };
        timeout(PATIENCE, open).await.map_err(drop)?
    }

    async fn command(&mut self, command: &str, parameters: Value) -> u64 {
        self.last_command += 1;
        self.send(&json!({ "id": self.last_command, command: parameters }).to_string()).await;
        self.last_command
    }

    /// What can not go out any more is no mistake: the end of the connection is read next.
    async fn send(&mut self, text: &str) {
        let _ = timeout(PATIENCE, self.stream.send(Message::text(text))).await;
    }
}

/// A time below this one.
fn random(limit: Duration) -> Duration {
    let random = RandomState::new().build_hasher().finish() % 1024;
    limit * u32::try_from(random).expect("less than 1024") / 1024
}
