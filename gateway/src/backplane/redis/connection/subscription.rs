//! `Subscription` is the connection for the subscriptions to one server. It does not wait for replies to its
//! commands: in a Cluster a server ends subscriptions unasked when their slot moves, and the client library
//! would take that message for the reply to an earlier command. The server's messages on subscriptions are
//! handled in their order among the publications.

use std::collections::HashSet;
use std::mem::take;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{self, Poll, Waker};

use bytes::Bytes;
use redis::aio::MultiplexedConnection;
use redis::{PushInfo, PushKind, Value};
use tokio::sync::{Mutex as AsyncMutex, Notify, watch};
use tokio::task::coop::poll_proceed;
use tokio::time::timeout;

use crate::backplane::redis::connection::client::{call, cause};
use crate::backplane::redis::connection::status::Cause;
use crate::backplane::redis::context::Context;
use crate::protocol::channel::Channel;
use crate::telemetry::backplane::Trouble;

/// Number of topics used as barriers, in turn.
const MARKS: u64 = 8;

/// See the module.
pub(crate) struct Subscription {
    connection: MultiplexedConnection,
    handler: Arc<PushHandler>,
    tag: String,
    verbs: Verbs,
    /// Number of the last barrier. Its user holds the lock.
    mark: AsyncMutex<u64>,
}

/// The subscription commands of a topology. Feeds are for every server, also in a Cluster: their publications
/// come from all of them.
#[derive(Debug, Clone, Copy)]
struct Verbs {
    subscribe: &'static str,
    unsubscribe: &'static str,
    /// Whether all topics of one command must be in one slot.
    one_by_one: bool,
}

impl Verbs {
    fn of(slots_are_moving: bool) -> Self {
        if slots_are_moving {
            Self { subscribe: "SSUBSCRIBE", unsubscribe: "SUNSUBSCRIBE", one_by_one: true }
        } else {
            Self { subscribe: "SUBSCRIBE", unsubscribe: "UNSUBSCRIBE", one_by_one: false }
        }
    }
}

/// Gets what a server sends over a subscription. The connection's task calls it, in the order of arrival.
pub(crate) trait Listener: Send + Sync {
    /// A message on a topic.
    fn on_message(&self, topic: &[u8], message: Bytes);

    /// The server has ended the subscription to a channel, because it does not have the slot any more.
    fn on_unsubscribed(&self, channel: &Channel);
}

/// Handles the messages of a connection; the connection's task calls it.
pub(crate) struct PushHandler {
    context: Arc<Context>,
    listener: Box<dyn Listener>,
    confirmed: Mutex<HashSet<Channel>>,
    marked: watch::Sender<u64>,
    ended: Arc<Notify>,
}

impl PushHandler {
    pub(crate) fn new(context: Arc<Context>, listener: Box<dyn Listener>, ended: Arc<Notify>) -> Self {
        Self { context, listener, confirmed: Mutex::default(), marked: watch::channel(u64::MAX).0, ended }
    }

    pub(crate) fn on_push(&self, info: PushInfo) {
        let mut parts = info.data.into_iter();
        let Some(Value::BulkString(topic)) = parts.next() else { return };
        let keys = &self.context.keys;
        match info.kind {
            PushKind::Message | PushKind::SMessage => {
                if let Some(Value::BulkString(message)) = parts.next() {
                    self.listener.on_message(&topic, message.into());
                    give_way();
                }
            }
            PushKind::Subscribe | PushKind::SSubscribe => {
                if let Some(number) = keys.marked(&topic) {
                    self.marked.send_replace(number);
                } else if let Some(channel) = keys.channel(&topic) {
                    self.confirmed().insert(channel);
                }
            }
            PushKind::SUnsubscribe => match keys.channel(&topic) {
                Some(channel) => {
                    self.confirmed().remove(&channel);
                    self.listener.on_unsubscribed(&channel);
                }
                // The gateway never unsubscribes from barriers and the topic of all nodes: their slot has
                // moved.
                None => self.ended.notify_one(),
            },
            _ => (),
        }
    }

    fn confirmed(&self) -> MutexGuard<'_, HashSet<Channel>> {
        self.confirmed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Counts a message as a step of the task that reads the connection: when its budget is used up, the task
/// yields to others, however much the server sends.
fn give_way() {
    if let Poll::Ready(step) = poll_proceed(&mut task::Context::from_waker(Waker::noop())) {
        step.made_progress();
    }
}

impl Subscription {
    /// Subscribes to the topics of every connection and, on the shared server, to the topic of all nodes.
    /// `tag` is a hash tag of this server.
    pub(crate) async fn begin(
        mut connection: MultiplexedConnection,
        handler: Arc<PushHandler>,
        tag: String,
        slots_are_moving: bool,
        is_shared: bool,
    ) -> Result<Self, Cause> {
        let Context { keys, config, .. } = &*handler.context;
        let verbs = Verbs::of(slots_are_moving);
        // The server cannot end a subscription yet: these replies belong to their commands.
        let first = [keys.mark(&tag, 0)].into_iter().chain(is_shared.then(|| keys.nodes().to_owned()));
        for topic in first {
            let mut command = redis::cmd(verbs.subscribe);
            command.arg(topic);
            call(&mut connection, &command, config.timeout).await?;
        }
        Ok(Self { connection, handler, tag, verbs, mark: AsyncMutex::new(0) })
    }

    /// Subscribes to the channels in `come` and unsubscribes from those in `leave`. Returns those of `come`
    /// that the server has confirmed; the others are at another server by now.
    pub(crate) async fn change(
        &self,
        come: &[Channel],
        leave: &[Channel],
    ) -> Result<HashSet<Channel>, Cause> {
        take(&mut *self.handler.confirmed());
        let all = async {
            self.send(|verbs| verbs.unsubscribe, leave).await?;
            self.send(|verbs| verbs.subscribe, come).await
        };
        self.within(all).await?;
        self.barrier().await?;
        Ok(take(&mut *self.handler.confirmed()))
    }

    /// Waits until every message that the server sent before this call was handled.
    pub(crate) async fn barrier(&self) -> Result<(), Cause> {
        let marked = async {
            let mut last = self.mark.lock().await;
            let mut marked = self.handler.marked.subscribe();
            let number = (*last + 1) % MARKS;
            *last = number;
            self.subscribe_topics(self.verbs.subscribe, &[self.handler.context.keys.mark(&self.tag, number)])
                .await?;
            let _ = marked.wait_for(|heard| *heard == number).await;
            Ok(())
        };
        self.within(marked).await
    }

    async fn send(&self, verb: fn(&Verbs) -> &'static str, channels: &[Channel]) -> Result<(), Cause> {
        let is_feed = |channel: &&Channel| self.verbs.one_by_one && channel.is_pattern();
        let (feeds, channels): (Vec<&Channel>, Vec<&Channel>) = channels.iter().partition(is_feed);
        let everywhere = Verbs::of(false);
        for (verbs, channels) in [(&self.verbs, channels), (&everywhere, feeds)] {
            let topics = channels.into_iter().map(|channel| self.handler.context.keys.topic(channel));
            let topics: Vec<_> = topics.collect();
            let size = if verbs.one_by_one { 1 } else { topics.len().max(1) };
            for topics in topics.chunks(size) {
                self.subscribe_topics(verb(verbs), topics).await?;
            }
        }
        Ok(())
    }

    async fn subscribe_topics(&self, verb: &str, topics: &[String]) -> Result<(), Cause> {
        let mut command = redis::cmd(verb);
        command.arg(topics).set_no_response(true);
        let sent = self.connection.clone().send_packed_command(&command).await;
        sent.map(drop).map_err(|error| cause(&error))
    }

    async fn within(&self, done: impl Future<Output = Result<(), Cause>>) -> Result<(), Cause> {
        match timeout(self.handler.context.config.timeout, done).await {
            Ok(done) => done,
            Err(_) => Err(Cause::new(Trouble::Silent, "no answer to a subscription")),
        }
    }
}
