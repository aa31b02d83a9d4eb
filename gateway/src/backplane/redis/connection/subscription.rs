//! The connection for subscriptions to one server. What is sent over it waits for no replies: in a Cluster a server takes
//! subscriptions away unasked when their slot moves, and the client library would take that for the reply to whatever was
//! asked before. What the server says of a subscription is heard in the order in which it comes, among the publications.

use std::collections::HashSet;
use std::mem::take;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use redis::aio::MultiplexedConnection;
use redis::{PushInfo, PushKind, Value};
use tokio::sync::{Mutex as AsyncMutex, Notify, watch};
use tokio::task::coop::poll_proceed;
use tokio::time::timeout;

use crate::backplane::redis::Shared;
use crate::backplane::redis::connection::server_connection::{call, cause};
use crate::backplane::redis::connection::status::Cause;
use crate::protocol::channel::Channel;
use crate::telemetry::backplane::Trouble;

/// So many topics are used as marks, in turn.
const MARKS: u64 = 8;

/// See the module.
pub(crate) struct Subscription {
    connection: MultiplexedConnection,
    handler: Arc<PushHandler>,
    tag: String,
    verbs: Verbs,
    /// The last mark. Whoever sets one holds it.
    mark: AsyncMutex<u64>,
}

/// The commands of a topology.
#[derive(Debug, Clone, Copy)]
struct Verbs {
    subscribe: &'static str,
    unsubscribe: &'static str,
    /// Topics of one command have to be in one slot.
    one_by_one: bool,
}

impl Verbs {
    fn of(shared: &Shared) -> Self {
        if shared.slot_map.are_moving() {
            Self { subscribe: "SSUBSCRIBE", unsubscribe: "SUNSUBSCRIBE", one_by_one: true }
        } else {
            Self { subscribe: "SUBSCRIBE", unsubscribe: "UNSUBSCRIBE", one_by_one: false }
        }
    }
}

/// Hears what comes over a connection, called by the connection's own task.
pub(crate) struct PushHandler {
    shared: Arc<Shared>,
    /// The place of the server, and the number of the link.
    shard: usize,
    link: u64,
    confirmed: Mutex<HashSet<Channel>>,
    marked: watch::Sender<u64>,
    ended: Arc<Notify>,
}

impl PushHandler {
    pub(crate) fn new(shared: Arc<Shared>, shard: usize, link: u64, ended: Arc<Notify>) -> Self {
        let marked = watch::channel(u64::MAX).0;
        Self { shared, shard, link, confirmed: Mutex::default(), marked, ended }
    }

    pub(crate) fn on_push(&self, info: PushInfo) {
        let mut parts = info.data.into_iter();
        let Some(Value::BulkString(topic)) = parts.next() else { return };
        let shared = &self.shared;
        match info.kind {
            // A link that was given up may go on for a moment.
            PushKind::Message | PushKind::SMessage
                if shared.shards[self.shard].status.link() == Some(self.link) =>
            {
                if let Some(Value::BulkString(message)) = parts.next() {
                    shared.received(&topic, &message.into());
                    give_way();
                }
            }
            PushKind::Subscribe | PushKind::SSubscribe => {
                if let Some(number) = shared.keys.marked(&topic) {
                    self.marked.send_replace(number);
                } else if let Some(channel) = shared.keys.channel(&topic) {
                    self.confirmed().insert(channel);
                }
            }
            PushKind::SUnsubscribe => match shared.keys.channel(&topic) {
                Some(channel) => {
                    self.confirmed().remove(&channel);
                    if shared.interest.lost(&channel, self.link) {
                        shared.moved.notify_one();
                    }
                }
                // Marks and the topic of all nodes are never left: their slot has moved.
                None => self.ended.notify_one(),
            },
            _ => (),
        }
    }

    fn confirmed(&self) -> MutexGuard<'_, HashSet<Channel>> {
        self.confirmed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Lets a message count as a step of the task that reads the connection: when its budget is used up it reads no more until
/// others had their turn, however much the server sends.
fn give_way() {
    if let Poll::Ready(step) = poll_proceed(&mut Context::from_waker(Waker::noop())) {
        step.made_progress();
    }
}

impl Subscription {
    /// Subscribes to what every link listens to, and at home to what is for every node. `tag` is a hash tag of this server.
    pub(crate) async fn begin(
        mut connection: MultiplexedConnection,
        handler: Arc<PushHandler>,
        tag: String,
        home: bool,
    ) -> Result<Self, Cause> {
        let shared = &handler.shared;
        let verbs = Verbs::of(shared);
        // Nothing can be taken away yet: these replies are what they seem.
        let first =
            [shared.keys.mark(&tag, 0)].into_iter().chain(home.then(|| shared.keys.nodes().to_owned()));
        for topic in first {
            let mut command = redis::cmd(verbs.subscribe);
            command.arg(topic);
            call(&mut connection, &command, shared.config.timeout).await?;
        }
        Ok(Self { connection, handler, tag, verbs, mark: AsyncMutex::new(0) })
    }

    /// Subscribes to these channels and leaves those. Returns which of `come` the server has confirmed; the others are
    /// somewhere else by now.
    pub(crate) async fn change(
        &self,
        come: &[Channel],
        leave: &[Channel],
    ) -> Result<HashSet<Channel>, Cause> {
        take(&mut *self.handler.confirmed());
        let all = async {
            self.send(self.verbs.unsubscribe, leave).await?;
            self.send(self.verbs.subscribe, come).await
        };
        self.within(all).await?;
        self.barrier().await?;
        Ok(take(&mut *self.handler.confirmed()))
    }

    /// Ends when everything has been heard that the server sent before this.
    pub(crate) async fn barrier(&self) -> Result<(), Cause> {
        let marked = async {
            let mut last = self.mark.lock().await;
            let mut marked = self.handler.marked.subscribe();
            let number = (*last + 1) % MARKS;
            *last = number;
            self.subscribe_topics(self.verbs.subscribe, &[self.handler.shared.keys.mark(&self.tag, number)])
                .await?;
            let _ = marked.wait_for(|heard| *heard == number).await;
            Ok(())
        };
        self.within(marked).await
    }

    async fn send(&self, verb: &str, channels: &[Channel]) -> Result<(), Cause> {
        let topics: Vec<_> = channels.iter().map(|channel| self.handler.shared.keys.topic(channel)).collect();
        let size = if self.verbs.one_by_one { 1 } else { topics.len().max(1) };
        for topics in topics.chunks(size) {
            self.subscribe_topics(verb, topics).await?;
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
        match timeout(self.handler.shared.config.timeout, done).await {
            Ok(done) => done,
            Err(_) => Err(Cause::new(Trouble::Silent, "no answer to a subscription")),
        }
    }
}
