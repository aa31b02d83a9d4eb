//! Removes the members that a dead gateway left in channels, on all servers, and takes over its part in their
//! occupancy.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use redis::Value;
use redis::aio::MultiplexedConnection;
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout_at};

use crate::backplane::redis::commands::dispatch::Requests;
use crate::backplane::redis::commands::request::What;
use crate::backplane::redis::connection::client::call;
use crate::backplane::redis::connection::status::Cause;
use crate::backplane::redis::context::Context;
use crate::backplane::redis::format::script;
use crate::backplane::redis::membership::claim::{Claim, STEP};
use crate::backplane::redis::presence::Presence;
use crate::backplane::redis::subscriptions::Subscriptions;
use crate::backplane::redis::topology::Topology;
use crate::backplane::{Outcome, ReplyTo, Response};
use crate::protocol::channel::Channel;
use crate::protocol::push::Member;

const UNLISTING: &str = include_str!("../lua/unlist.lua");

/// Result of removing a gateway's members.
#[derive(Default)]
pub(crate) struct Left {
    /// Number of removed members.
    pub(crate) members: usize,
    /// Shards without a connection, whose channels may have more members.
    pub(crate) away: BTreeSet<usize>,
    /// Whether there may be more members for another reason.
    pub(crate) failed: bool,
}

/// The members of a dead gateway.
pub(crate) struct Members<'a> {
    pub(crate) context: &'a Context,
    pub(crate) topology: &'a Topology,
    pub(crate) requests: &'a Requests,
    pub(crate) subscriptions: &'a Subscriptions,
    pub(crate) presence: &'a Presence,
    pub(crate) claim: &'a Claim<'a>,
}

/// Time for the occupancy of some channels to be taken over: they are listed and written meanwhile.
const TAKEN_OVER_WITHIN: Duration = Duration::from_secs(2);

/// Result for one channel.
enum End {
    Done,
    /// The shard has no connection.
    Away(usize),
    Failed,
}

impl Members<'_> {
    /// Removes the members from their channels and publishes leaves. `None` if the claim is lost.
    pub(crate) async fn leave(&self, connection: &mut MultiplexedConnection) -> Result<Option<Left>, Cause> {
        let list = self.context.keys.presence_of(self.claim.node);
        let (mut left, mut cursor) = (Left::default(), 0);
        loop {
            let (next, names) = self.presence.page(connection, &list, cursor, STEP).await?;
            for names in names.chunks(STEP) {
                let mut asked = Vec::new();
                let mut done = Vec::new();
                for name in names {
                    match std::str::from_utf8(name).ok().and_then(|name| Channel::parse(name).ok()) {
                        // Concurrently: each server answers independently.
                        Some(channel) => {
                            let answer = self.ask(&channel);
                            let node = self.claim.node;
                            let occupancy =
                                answer.is_ok().then(|| self.presence.table.take_over(&channel, node));
                            asked.push((name, answer, occupancy.flatten(), channel));
                        }
                        None => done.push(name),
                    }
                }
                let until = Instant::now() + TAKEN_OVER_WITHIN;
                for (name, answer, occupancy, channel) in asked {
                    let mut end = self.end(&channel, answer, &mut left.members).await;
                    if let (End::Done, Some(occupancy)) = (&end, occupancy)
                        && !matches!(timeout_at(until, occupancy).await, Ok(Ok(())))
                    {
                        end = End::Failed;
                    }
                    match end {
                        End::Done => done.push(name),
                        End::Away(shard) => {
                            left.away.insert(shard);
                        }
                        End::Failed => left.failed = true,
                    }
                }
                if !self.unlist(connection, &list, &done).await? || !self.claim.take(connection).await? {
                    return Ok(None);
                }
            }
            if next == 0 {
                return Ok(Some(left));
            }
            cursor = next;
        }
    }

    /// Requests the removal of some members of a channel.
    fn ask(&self, channel: &Channel) -> Result<oneshot::Receiver<Response>, End> {
        let shard = self.topology.slot_map.shard_of(channel);
        if self.topology.shards[shard].status.connection().is_none() {
            return Err(End::Away(shard));
        }
        let (sender, answer) = oneshot::channel();
        let what = What::Take { channel: channel.clone(), node: self.claim.node.into() };
        let at = self.context.clock.now().at;
        match self.requests.ask::<Vec<Arc<Member>>>(what, ReplyTo::Task(sender), at) {
            Outcome::Pending => Ok(answer),
            Outcome::Ready(_) => Err(End::Failed),
        }
    }

    /// Publishes leaves for the removed members, and requests more until there are none. Counts them.
    async fn end(
        &self,
        channel: &Channel,
        mut answer: Result<oneshot::Receiver<Response>, End>,
        members: &mut usize,
    ) -> End {
        let announced =
            self.context.gateway.namespaces.of(channel).is_some_and(|namespace| namespace.join_leave);
        loop {
            let taken = match answer {
                Ok(answer) => answer.await,
                Err(end) => return end,
            };
            let Ok(Response::Present(Ok(taken))) = taken else { return End::Failed };
            *members += taken.len();
            if announced {
                taken.iter().for_each(|member| self.subscriptions.announce(channel, member, false));
            }
            if taken.len() < script::TAKEN_MAX {
                return End::Done;
            }
            answer = self.ask(channel);
        }
    }

    /// Removes finished channels from the list. False if the claim is lost.
    async fn unlist(
        &self,
        connection: &mut MultiplexedConnection,
        list: &str,
        done: &[&Vec<u8>],
    ) -> Result<bool, Cause> {
        let mut command = redis::cmd("EVAL");
        command.arg(UNLISTING).arg(2).arg(self.context.keys.dead()).arg(list);
        command.arg(self.claim.node).arg(self.context.node_name()).arg(done);
        Ok(call(connection, &command, self.context.config.timeout).await? == Value::Int(1))
    }
}
