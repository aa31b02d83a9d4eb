//! Brings the subscriptions in Redis in line with `Interest`, and compares positions with Redis: at once
//! after an interruption, and periodically.

use std::time::Duration;

use redis::{Value, pipe};
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};

use crate::backplane::inbox::Delivery;
use crate::backplane::redis::commands::request::{What, millis, position_kept, top};
use crate::backplane::redis::connection::client::{cause, is_elsewhere};
use crate::backplane::redis::connection::server_connection::ServerConnection;
use crate::backplane::redis::connection::status::Cause;
use crate::backplane::redis::subscriptions::Subscriptions;
use crate::backplane::redis::subscriptions::delivery::spread;
use crate::backplane::redis::subscriptions::interest::{Interest, Waiter};
use crate::backplane::{Most, Response};
use crate::protocol::channel::Channel;
use crate::telemetry::backplane::Trouble;

/// Maximum number of channels in one command: a burst of changes takes several, with publications in between.
const BATCH_MAX: usize = 256;

/// Pause before a channel is tried again that the server does not have any more.
const MOVING: Duration = Duration::from_millis(20);

/// Time until the positions of every channel were compared once.
const ROUND: Duration = Duration::from_secs(30);

impl Subscriptions {
    /// Synchronizes subscriptions until the connection fails.
    pub(crate) async fn synchronize(&self, server: &ServerConnection) -> Cause {
        let mut rounds = interval(ROUND / Interest::SHARDS as u32);
        rounds.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut shard = 0;
        loop {
            let done = tokio::select! {
                biased;
                // Comparisons first: constant changes must not prevent them.
                _ = rounds.tick() => {
                    shard += 1;
                    let channels = self.interest.confirmed_in(shard, server.number);
                    self.compare(server, &channels).await
                }
                () = self.topology.shards[server.shard].recheck.notified() => self.recheck(server).await,
                () = self.interest.changed(server.shard) => {
                    let (come, leave) = self.interest.take_changes(server.shard, server.number, BATCH_MAX);
                    self.change(server, &come, &leave).await
                }
            };
            if let Err(cause) = done {
                return cause;
            }
        }
    }

    async fn change(
        &self,
        server: &ServerConnection,
        come: &[Channel],
        leave: &[Channel],
    ) -> Result<(), Cause> {
        if come.is_empty() && leave.is_empty() {
            return Ok(());
        }
        let confirmed = server.subscriber.change(come, leave).await?;
        leave.iter().for_each(|channel| self.interest.left(channel));
        let (mut doubtful, mut elsewhere) = (Vec::new(), false);
        for channel in come {
            if !confirmed.contains(channel) {
                elsewhere |= self.interest.lost(channel, server.number);
                continue;
            }
            let (waiters, again) = self.interest.confirm(channel, server.number);
            if again {
                doubtful.push(channel.clone());
            }
            for waiter in waiters {
                match waiter {
                    Waiter::Announced(reply_to, _) => {
                        self.requests.answer(reply_to, Response::Announced(Ok(())))
                    }
                    Waiter::Recover(request) => self.recover(request),
                }
            }
        }
        self.compare(server, &doubtful).await?;
        if elsewhere {
            self.topology.moved.notify_one();
            sleep(MOVING).await;
        }
        Ok(())
    }

    /// Compares the positions of all channels.
    async fn recheck(&self, server: &ServerConnection) -> Result<(), Cause> {
        for shard in 0..Interest::SHARDS {
            let channels = self.interest.confirmed_in(shard, server.number);
            self.compare(server, &channels).await?;
        }
        Ok(())
    }

    /// Reads the tops of the streams, and then waits until everything published before has arrived. Also
    /// renews the expiry of positions with subscribers.
    async fn compare(&self, server: &ServerConnection, channels: &[Channel]) -> Result<(), Cause> {
        let Some(mut connection) = server.connections.first().cloned() else { return Ok(()) };
        let (mut checked, mut behind) = (0, 0);
        let (identity, anchor) = (self.topology.identity(server), server.anchor());
        let rules = self.agreement.rules.now();
        for channels in channels.chunks(BATCH_MAX) {
            let mut pipeline = pipe();
            let mut asked = Vec::new();
            for channel in channels {
                let Some(retention) = self.agreement.recoverable(channel) else { continue };
                let kept = millis(position_kept(&retention));
                let most = Most { publications: 0, bytes: 0 };
                let what =
                    What::Recover { channel: channel.clone(), since: None, latest: false, most, retention };
                pipeline.add_command(what.command(
                    &self.context.keys,
                    &server.scripts,
                    &identity.counting_since(rules.as_ref().map_or(0, |rules| rules.since(channel))),
                    &anchor,
                    &self.context.fresh_epoch(),
                ));
                pipeline.cmd("PEXPIRE").arg(self.context.keys.top(channel)).arg(kept);
                asked.push(channel);
            }
            if asked.is_empty() {
                continue;
            }
            checked += asked.len() as u64;
            let sent = connection.send_packed_commands(&pipeline, 0, asked.len() * 2);
            let replies = match timeout(self.context.config.timeout, sent).await {
                Ok(replies) => replies.map_err(|error| cause(&error))?,
                Err(_) => return Err(Cause::new(Trouble::Silent, "no answer to a request for positions")),
            };
            server.subscriber.barrier().await?;
            let mut elsewhere = false;
            for (channel, reply) in asked.into_iter().zip(replies.into_iter().step_by(2)) {
                if matches!(&reply, Value::ServerError(error) if is_elsewhere(error.code())) {
                    // Compared after the next subscription, on this server or another one.
                    elsewhere |= self.interest.lost(channel, server.number);
                } else {
                    behind += u64::from(self.follow(channel, reply));
                }
            }
            if elsewhere {
                self.topology.moved.notify_one();
                sleep(MOVING).await;
            }
        }
        self.context.metrics.checked(checked, behind);
        Ok(())
    }

    /// Whether a stream has advanced without this node noticing; its subscribers are notified then.
    fn follow(&self, channel: &Channel, reply: Value) -> bool {
        let Some(top) = top(reply) else { return false };
        let Some(workers) = self.interest.compare(channel, &top) else { return false };
        spread(&self.context.inboxes, workers, || Delivery::StreamTop(channel.clone(), top.clone()));
        true
    }
}
