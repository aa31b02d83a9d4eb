//! A client of the Centrifuge protocol, one step at a time: what a library would do by itself, a test does on
//! purpose.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::{Instant, timeout_at};
use tokio_tungstenite::tungstenite::Message;

use crate::gateway::Gateway;
use crate::raw::RawClient;
use crate::socket::Closed;
use crate::token;

/// A connection to `/connection/websocket`.
#[derive(Debug)]
pub struct Client {
    socket: RawClient,
    /// Of the connection, from the connect reply.
    pub id: String,
    /// The connect reply.
    pub hello: Value,
    last_command: u32,
    pushes: VecDeque<Value>,
    /// Pings that came, and were answered unless [`ignore_pings`](Self::ignore_pings) was called.
    pub pings: usize,
    answers_pings: bool,
}

/// An error reply.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// Of the protocol.
    pub code: u64,
    /// In words.
    pub message: String,
    /// Whether trying again may help.
    pub temporary: bool,
}

impl Client {
    /// Connects without a token.
    pub async fn connect(gateway: &Gateway) -> Self {
        Self::connect_with(gateway, json!({})).await
    }

    /// Connects as a user, with a token for `auth-jwt`.
    pub async fn connect_as(gateway: &Gateway, user: &str) -> Self {
        Self::connect_with(gateway, json!({ "token": token::of(user) })).await
    }

    /// Connects with this connect command, which has to be accepted.
    pub async fn connect_with(gateway: &Gateway, connect: Value) -> Self {
        let mut client = Self::open(gateway.address()).await;
        client.hello = client.ask("connect", connect).await.expect("the connect command is accepted");
        client.id = client.hello["client"].as_str().expect("a connect reply has an id").to_owned();
        client
    }

    /// Shakes hands and sends no connect command yet.
    pub async fn open(address: SocketAddr) -> Self {
        let socket = RawClient::open(address, "/connection/websocket", &[]).await;
        Self {
            socket: socket.expect("the handshake is accepted"),
            id: String::new(),
            hello: Value::Null,
            last_command: 0,
            pushes: VecDeque::new(),
            pings: 0,
            answers_pings: true,
        }
    }

    /// From now on pings get no answer.
    pub fn ignore_pings(&mut self) {
        self.answers_pings = false;
    }

    /// Sends text as it is.
    pub async fn send_text(&mut self, text: &str) {
        self.socket.send_message(Message::text(text)).await;
    }

    /// Sends a command and waits for its reply: the part named like the command.
    pub async fn ask(&mut self, command: &str, parameters: Value) -> Result<Value, Refused> {
        let id = self.command(command, parameters).await;
        self.reply(id, command).await
    }

    /// Sends a command and returns its id.
    pub async fn command(&mut self, command: &str, parameters: Value) -> u32 {
        self.last_command += 1;
        let id = self.last_command;
        self.send_text(&json!({ "id": id, command: parameters }).to_string()).await;
        id
    }

    /// The reply to a command. Pushes that come before are kept.
    pub async fn reply(&mut self, id: u32, command: &str) -> Result<Value, Refused> {
        let outcome = self.outcome(id, command).await;
        outcome.unwrap_or_else(|closed| panic!("expected the reply to {command}, but was closed: {closed:?}"))
    }

    /// The reply to a command, or the end of the connection.
    pub async fn outcome(&mut self, id: u32, command: &str) -> Result<Result<Value, Refused>, Closed> {
        loop {
            let mut reply = self.next(&format!("the reply to {command}")).await?;
            if let Value::Object(push) = reply["push"].take() {
                self.pushes.push_back(push.into());
                continue;
            }
            assert_eq!(reply["id"], id, "expected the reply to {command} and not {reply}");
            if let Value::Object(error) = reply["error"].take() {
                return Ok(Err(Refused {
                    code: error["code"].as_u64().expect("an error has a code"),
                    message: error["message"].as_str().expect("an error has a message").to_owned(),
                    temporary: error.get("temporary") == Some(&Value::Bool(true)),
                }));
            }
            let result = reply[command].take();
            assert!(result.is_object(), "the reply to {command} has no such part: {reply}");
            return Ok(Ok(result));
        }
    }

    /// Subscribes, which has to work.
    pub async fn subscribe(&mut self, channel: &str) -> Value {
        self.ask("subscribe", json!({ "channel": channel })).await.expect("the subscription is accepted")
    }

    /// Publishes, which has to work.
    pub async fn publish(&mut self, channel: &str, data: Value) {
        self.ask("publish", json!({ "channel": channel, "data": data }))
            .await
            .expect("the publication is accepted");
    }

    /// The next push of any kind: what stands under `push`.
    pub async fn push(&mut self) -> Value {
        self.push_of("any kind").await
    }

    /// The next push, which has to be a publication in this channel.
    pub async fn publication(&mut self, channel: &str) -> Value {
        let mut push = self.push_of(&format!("a publication in {channel}")).await;
        assert!(
            push["channel"] == channel && push["pub"].is_object(),
            "expected a publication in {channel}: {push}"
        );
        push["pub"].take()
    }

    /// The next push, which has to be a message to this client.
    pub async fn direct(&mut self) -> Value {
        let mut push = self.push_of("a direct message").await;
        assert!(push["message"].is_object(), "expected a direct message and not {push}");
        push["message"]["data"].take()
    }

    async fn push_of(&mut self, what: &str) -> Value {
        if let Some(push) = self.pushes.pop_front() {
            return push;
        }
        let what = format!("a push: {what}");
        let next = self.next(&what).await;
        let mut message = next.unwrap_or_else(|closed| panic!("expected {what}, but was closed: {closed:?}"));
        assert!(message["push"].is_object(), "expected {what}, and not {message}");
        message["push"].take()
    }

    /// How the connection ends. Pushes and replies that come before are skipped.
    pub async fn closed(&mut self) -> Closed {
        loop {
            if let Err(closed) = self.next("the end of the connection").await {
                return closed;
            }
        }
    }

    /// Whether a publication with this data comes before the connection ends. Other pushes are skipped.
    pub async fn heard(&mut self, data: &str) -> bool {
        while let Ok(message) = self.next(&format!("{data:?}, or the end of the connection")).await {
            if message["push"]["pub"]["data"] == data {
                return true;
            }
        }
        false
    }

    /// Waits for the next ping.
    pub async fn ping(&mut self) {
        loop {
            match self.socket.next("a ping").await {
                Ok(Message::Text(text)) if text.as_str() == "{}" => return self.on_ping().await,
                Ok(Message::Text(text)) => self.keep(&text),
                other => panic!("expected a ping and not {other:?}"),
            }
        }
    }

    /// Does nothing for this long but answer pings. Returns how many came; nothing else may come.
    pub async fn idle(&mut self, time: Duration) -> usize {
        let (end, before) = (Instant::now() + time, self.pings);
        while let Ok(next) = timeout_at(end, self.socket.receive()).await {
            match next {
                Ok(Message::Text(text)) if text.as_str() == "{}" => self.on_ping().await,
                other => panic!("expected nothing but pings and not {other:?}"),
            }
        }
        self.pings - before
    }

    /// Closes and waits until the gateway has.
    pub async fn close(self) {
        self.socket.close().await;
    }

    async fn next(&mut self, what: &str) -> Result<Value, Closed> {
        loop {
            match self.socket.next(what).await? {
                Message::Text(text) if text.as_str() == "{}" => self.on_ping().await,
                Message::Text(text) => {
                    return Ok(serde_json::from_str(&text)
                        .unwrap_or_else(|error| panic!("not JSON ({error}): {text}")));
                }
                other => panic!("the gateway speaks text in this protocol and not {other:?}"),
            }
        }
    }

    async fn on_ping(&mut self) {
        self.pings += 1;
        if self.answers_pings {
            self.send_text("{}").await;
        }
    }

    fn keep(&mut self, text: &str) {
        let mut message: Value = serde_json::from_str(text).expect("the gateway speaks JSON");
        assert!(message["push"].is_object(), "expected a push and not {message}");
        self.pushes.push_back(message["push"].take());
    }
}
