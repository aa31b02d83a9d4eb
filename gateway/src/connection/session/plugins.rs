//! Runs the chain of plugins for a command.

use std::sync::Arc;

use super::Session;
use crate::clock::Now;
use crate::connection::effect::Ask;
use crate::connection::event::Event;
use crate::explain::Picked;
use crate::plugin::event::{Kind, Message};
use crate::plugin::trace::Trace;
use crate::plugin::verdict::{Decision, Effect as PluginEffect, Expiry};
use crate::protocol::channel::Channel;
use crate::telemetry::metrics::DecisionOutcome;

impl Session {
    pub(super) fn ask(&mut self, now: Now, ask: Ask) -> Event {
        let Ask { id, mut content, details } = ask;
        let metrics = self.worker.metrics();
        metrics.command(content.kind);
        let mut chain = self.worker.chain.borrow_mut();
        let explain = &self.worker.explain;
        let picked = match explain.is_on() {
            true => explain.pick(now.at, &self.client.borrow(), content.channel.as_ref()),
            false => None,
        };
        let mut explained = None;
        let mut expiry = None;
        let decision = if picked.is_some() || chain.wants(content.kind) {
            let mut message = Message {
                client: self.client.borrow().clone(),
                content,
                now: now.unix,
                at: now.at_millis(),
                meters: std::mem::take(&mut self.meters),
            };
            let decision = match picked {
                None => chain.on_message(&mut message, &mut self.plugin_effects),
                Some(Picked { reply }) => {
                    let (decision, trace) =
                        chain.on_message_traced(&mut message, &mut self.plugin_effects, explain.clock());
                    explained = Some((trace, reply));
                    decision
                }
            };
            (content, self.meters) = (message.content, message.meters);
            expiry = take_expiry(&mut self.plugin_effects, content.kind);
            decision
        } else {
            Decision::Undecided(std::mem::take(&mut content.payload))
        };
        drop(chain);
        metrics.decision(match &decision {
            Decision::Undecided(_) => DecisionOutcome::Undecided,
            Decision::Allowed(_) => DecisionOutcome::Allowed,
            Decision::Denied(_) => DecisionOutcome::Denied,
            Decision::Dropped => DecisionOutcome::Dropped,
            Decision::Disconnect(_) => DecisionOutcome::Disconnected,
            Decision::Reply(_) => DecisionOutcome::Replied,
            Decision::Route { .. } => DecisionOutcome::Routed,
            Decision::Failed => DecisionOutcome::Failed,
        });
        if let Some((mut trace, reply)) = explained {
            if let (Decision::Undecided(_), Some(upstream)) = (&decision, self.core.upstream_for(&content)) {
                trace.asks(upstream);
            }
            self.explain(trace, reply);
        }
        Event::Decided { ask: Ask { id, content, details }, decision, expiry }
    }

    /// Stores a trace, and sends it to the client if it requested one and is permitted to see it.
    pub(super) fn explain(&mut self, trace: Trace, reply: bool) {
        if reply {
            self.plugin_effects.extend(explanation(&self.handle.id, &trace));
        }
        self.worker.explain.keep(Arc::new(trace));
    }
}

/// Takes the expiry that plugins set for the subscription of the command: a part of their decision, and the
/// only effect that does not come after it. The last one counts.
fn take_expiry(effects: &mut Vec<PluginEffect>, kind: Kind) -> Option<Expiry> {
    if !matches!(kind, Kind::Subscribe | Kind::SubRefresh) {
        return None;
    }
    let mut last = None;
    effects.retain(|effect| match effect {
        PluginEffect::SetSubscriptionExpiry(expiry) => {
            last = Some(*expiry);
            false
        }
        _ => true,
    });
    last
}

/// A message to the connection itself. Effects come after the reply, and so does this message.
fn explanation(connection: &str, trace: &Trace) -> Option<PluginEffect> {
    let payload = format!("{{\"explain\":{}}}", trace.to_json()).into();
    Some(PluginEffect::Publish { address: Channel::parse(&format!("@{connection}")).ok()?, payload })
}
