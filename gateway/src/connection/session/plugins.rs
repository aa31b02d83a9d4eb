//! Runs the chain of plugins for a command.

use std::sync::Arc;

use super::Session;
use crate::clock::Now;
use crate::connection::effect::Ask;
use crate::connection::event::Event;
use crate::explain::Picked;
use crate::plugin::event::Message;
use crate::plugin::trace::Trace;
use crate::plugin::verdict::{Decision, Effect as PluginEffect};
use crate::protocol::channel::Channel;
use crate::telemetry::metrics::DecisionOutcome;

impl Session {
    pub(super) fn ask(&mut self, now: Now, mut ask: Ask) -> Event {
        let metrics = self.worker.metrics();
        metrics.command(ask.kind);
        let mut chain = self.worker.chain.borrow_mut();
        let payload = std::mem::take(&mut ask.payload);
        let explain = &self.worker.explain;
        let picked = if explain.is_on() { explain.pick(now.at, &self.client.borrow(), ask.channel.as_ref()) } else { None };
        let mut explained = None;
        let decision = if picked.is_some() || chain.wants(ask.kind) {
            let mut message = Message {
                client: self.client.borrow().clone(),
                kind: ask.kind,
                channel: ask.channel.clone(),
                method: ask.method.clone(),
                payload,
                binary: ask.binary,
                token: std::mem::take(&mut ask.token),
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
            self.meters = message.meters;
            decision
        } else {
            Decision::Undecided(payload)
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
        if let Some((trace, reply)) = explained {
            self.explain(trace, reply);
        }
        Event::Decided { ask, decision }
    }

    /// Stores a trace, and sends it to the client if it requested one and is permitted to see it.
    pub(super) fn explain(&mut self, trace: Trace, reply: bool) {
        if reply {
            self.plugin_effects.extend(explanation(&self.handle.id, &trace));
        }
        self.worker.explain.keep(Arc::new(trace));
    }
}

/// A message to the connection itself. Effects come after the reply, and so does this message.
fn explanation(connection: &str, trace: &Trace) -> Option<PluginEffect> {
    let payload = format!("{{\"explain\":{}}}", trace.to_json()).into();
    Some(PluginEffect::Publish { address: Channel::parse(&format!("@{connection}")).ok()?, payload })
}
