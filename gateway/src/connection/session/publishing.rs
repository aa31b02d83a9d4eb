//! Publishes to one channel or several, for clients and for plugins.

use std::collections::HashMap;
use std::time::Duration;

use bytes::Bytes;
use rustc_hash::FxBuildHasher;

use super::Session;
use super::pending::Pending;
use crate::backplane::Outcome;
use crate::charge::Account;
use crate::clock::Now;
use crate::connection::event::Event;
use crate::connection::worker_state::By;
use crate::plugin::verdict::Effect as PluginEffect;
use crate::protocol::channel::{Channel, Target};
use crate::protocol::code::ReplyError;
use crate::protocol::reply::Reply;

/// Publications of a client, and of plugins in calls for its messages.
#[derive(Default)]
pub(super) struct Publisher {
    /// Its publications in flight.
    account: Account,
    /// Channels whose history exists because of it, with their expiry.
    keeps: HashMap<Channel, Duration, FxBuildHasher>,
}

const TOO_MANY_CHANNELS: &str = "nothing was published: this connection keeps the history of as many channels as `limits.channels_per_connection_max` \
     lets it; publish to fewer, or when their histories have expired";

impl Session {
    /// Whether the client, or a plugin in a call for it, may publish to this channel. Returns the account to
    /// charge, and until when the history is kept because of this publication, if it is: for
    /// [`kept`](Self::kept).
    fn publishes_to(
        &mut self,
        now: Now,
        channel: &Channel,
    ) -> Result<(Account, Option<Duration>), ReplyError> {
        let namespace = self.worker.namespace(channel)?;
        let publisher = self.publisher.get_or_insert_default();
        let keeps = namespace.history_size > 0 && !matches!(channel.target(), Target::Connection(_));
        let until = keeps.then(|| now.at + namespace.history_ttl);
        let max = self.worker.config.limits.channels_per_connection_max;
        if keeps && publisher.keeps.len() >= max && !publisher.keeps.contains_key(channel) {
            publisher.keeps.retain(|_, until| *until > now.at);
            if publisher.keeps.len() >= max {
                let error = ReplyError::LIMIT_EXCEEDED.because(TOO_MANY_CHANNELS);
                self.worker.metrics.node.publication_refused(&error);
                return Err(error);
            }
        }
        Ok((publisher.account.clone(), until))
    }

    /// Records a channel whose history is kept because of a publication.
    fn kept(&mut self, channel: &Channel, until: Option<Duration>) {
        if let Some(until) = until {
            let keeps = &mut self.publisher.get_or_insert_default().keeps;
            match keeps.get_mut(channel) {
                Some(kept) => *kept = until,
                None => drop(keeps.insert(channel.clone(), until)),
            }
        }
    }

    /// Applies an effect that a plugin recorded for this client.
    pub(super) fn carry_out_effect(&mut self, now: Now, effect: PluginEffect) {
        let json = self.handle.format.encoding.is_json();
        let (account, keeps) = match &effect {
            PluginEffect::Publish { address, .. } => match self.publishes_to(now, address) {
                Ok((account, until)) => (account, until.map(|until| (address.clone(), until))),
                Err(error) => {
                    let metrics = self.worker.metrics();
                    return metrics.effect_refused("publish", address.as_str(), &error.message);
                }
            },
            _ => (self.publisher.get_or_insert_default().account.clone(), None),
        };
        if self.worker.carry_out(now, effect, json, &account)
            && let Some((address, until)) = keeps
        {
            self.kept(&address, Some(until));
        }
    }

    pub(super) fn publish(
        &mut self,
        now: Now,
        id: u32,
        targets: &[Channel],
        payload: &Bytes,
        reply: Option<Reply>,
        skip_history: bool,
    ) -> Option<Event> {
        let json = self.handle.format.encoding.is_json();
        let (mut left, mut failed) = (0, None);
        for target in targets {
            let info = Some(self.member_in(target).clone());
            let asked = match self.publishes_to(now, target) {
                Ok((account, until)) => {
                    let by = By { info, account: &account, reply_to: self.reply_to(), skip_history };
                    let asked = self.worker.publish(now, target, payload.clone(), json, by);
                    if !matches!(asked, Outcome::Ready(Err(_))) {
                        self.kept(target, until);
                    }
                    asked
                }
                Err(error) => Outcome::Ready(Err(error)),
            };
            match asked {
                Outcome::Ready(Ok(_)) => (),
                Outcome::Ready(Err(error)) => {
                    failed = Some(error);
                    break;
                }
                Outcome::Pending => left += 1,
            }
        }
        if left > 0 {
            self.remember(Pending::Publish { id, reply, left, failed });
            return None;
        }
        let result = failed.map_or_else(|| reply.map(Ok), |error| Some(Err(error)));
        result.map(|result| Event::Answered { id, result })
    }
}
