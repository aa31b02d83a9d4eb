//! What a gateway has left behind is settled by one of the others, which claims it for a while. If that one dies too, the
//! next goes on where it has stopped.

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use redis::Value;
use redis::aio::MultiplexedConnection;

use super::name;
use crate::backplane::redis::link::{Link, call};
use crate::backplane::redis::status::Cause;
use crate::backplane::redis::{Redis, Shared, presence};
use crate::protocol::channel::Channel;
use crate::telemetry::backplane::Trouble;

const CLAIMING: &str = include_str!("claim.lua");
const SETTLED: &str = include_str!("settled.lua");

/// How long a claim holds. It is renewed with every step.
const CLAIM: Duration = Duration::from_secs(10);

/// Channels of one step.
const STEP: usize = 64;

/// Settles what others leave until the link fails.
pub(in crate::backplane::redis) async fn settle(shared: Arc<Shared>, link: Arc<Link>) -> Cause {
    loop {
        shared.nodes.buried.notified().await;
        let dead = std::mem::take(&mut *shared.nodes.dead.lock().unwrap_or_else(PoisonError::into_inner));
        for node in dead {
            match (Estate { shared: &shared, link: &link, node: &node }).settle().await {
                Ok(()) => (),
                // The next beat names it again.
                Err(cause) if matches!(cause.trouble, Trouble::Writes | Trouble::Refused) => (),
                Err(cause) => return cause,
            }
        }
    }
}

/// What one gateway has left.
struct Estate<'a> {
    shared: &'a Arc<Shared>,
    link: &'a Link,
    node: &'a str,
}

impl Estate<'_> {
    async fn settle(&self) -> Result<(), Cause> {
        let Some(mut connection) = self.link.lanes.first().cloned() else { return Ok(()) };
        if !self.claim(&mut connection).await? {
            return Ok(());
        }
        let Some(members) = self.members_leave(&mut connection).await? else { return Ok(()) };
        let keys = &self.shared.keys;
        let mut command = redis::cmd("EVAL");
        command.arg(SETTLED).arg(2).arg(keys.dead()).arg(keys.presence_of(self.node));
        command.arg(self.node).arg(name(self.shared.node));
        call(&mut connection, &command, self.shared.config.timeout).await?;
        tracing::info!(node = self.node, members, "what a gateway left behind is settled");
        Ok(())
    }

    /// Whether this gateway is to go on with it.
    async fn claim(&self, connection: &mut MultiplexedConnection) -> Result<bool, Cause> {
        let mut command = redis::cmd("EVAL");
        command.arg(CLAIMING).arg(1).arg(self.shared.keys.dead());
        command.arg(self.node).arg(name(self.shared.node)).arg(CLAIM.as_millis() as u64);
        Ok(call(connection, &command, self.shared.config.timeout).await? == Value::Int(1))
    }

    /// Takes the members out of their channels and tells who is left there. How many there were; `None` if the claim is lost.
    async fn members_leave(&self, connection: &mut MultiplexedConnection) -> Result<Option<usize>, Cause> {
        let Self { shared, link, node } = *self;
        let (index, backplane) = (shared.keys.presence_of(node), Redis { shared: shared.clone() });
        let mut count = 0;
        loop {
            let mut some = redis::cmd("SRANDMEMBER");
            some.arg(&index).arg(STEP);
            let names = match call(connection, &some, shared.config.timeout).await? {
                Value::Array(names) | Value::Set(names) if !names.is_empty() => names,
                _ => return Ok(Some(count)),
            };
            let mut done = redis::cmd("SREM");
            done.arg(&index);
            for listed in names {
                let Value::BulkString(listed) = listed else { continue };
                done.arg(&listed);
                let text = std::str::from_utf8(&listed).ok();
                let Some(channel) = text.and_then(|text| Channel::parse(text).ok()) else { continue };
                let members = presence::take(shared, link, connection, &channel, node).await?;
                count += members.len();
                let told =
                    shared.gateway.namespaces.of(&channel).is_some_and(|namespace| namespace.join_leave);
                if told {
                    members.iter().for_each(|member| backplane.come_or_go(&channel, member, false));
                }
            }
            call(connection, &done, shared.config.timeout).await?;
            if !self.claim(connection).await? {
                return Ok(None);
            }
        }
    }
}
