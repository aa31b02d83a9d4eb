//! The plugins of one worker, in order.

mod authentication;

use std::fmt::Display;
use std::sync::Arc;
use std::time::Duration;

use super::deliver::Deliverers;
use super::event::{Client, ConnectEvent, DisconnectEvent, Kind, Message, Outgoing, Tick};
use super::failure::{Failure, FailurePolicy};
use super::guards::Guards;
use super::interests::Interests;
use super::link::Link;
use super::timer::Timer;
use super::trace::{HookResult, Observer, Trace};
use super::usage::Usage;
use super::verdict::{ConnectVerdict, Decision, DeliverVerdict, Effect, Identity, Verdict};
use crate::clock::Clock;
use crate::protocol::channel::Channel;

pub use authentication::{Authenticated, Authentication};

/// One instance of a plugin.
///
/// Effects are appended to the list. After an error the entries beyond its former length are invalid; the
/// chain removes them.
pub trait Plugin: Send {
    /// The hooks and messages that the plugin wants. Constant for the life of an instance.
    fn interests(&self) -> &Interests;

    /// A client connects or refreshes.
    fn on_connect(
        &mut self,
        event: &ConnectEvent,
        effects: &mut Vec<Effect>,
    ) -> Result<ConnectVerdict, Failure>;

    /// A command of an admitted client. The plugin may change its payload, unless it fails.
    fn on_message(&mut self, message: &mut Message, effects: &mut Vec<Effect>) -> Result<Verdict, Failure>;

    /// A publication is on its way to the subscribers of a class.
    fn on_deliver(&mut self, class: &str, outgoing: &Outgoing) -> Result<DeliverVerdict, Failure> {
        let _ = (class, outgoing);
        Ok(DeliverVerdict::Pass)
    }

    /// A client has disconnected.
    fn on_disconnect(&mut self, event: &DisconnectEvent, effects: &mut Vec<Effect>) -> Result<(), Failure>;

    /// A timer interval of the plugin has passed.
    fn on_timer(&mut self, tick: &Tick, effects: &mut Vec<Effect>) -> Result<(), Failure> {
        let _ = (tick, effects);
        Ok(())
    }

    /// Cost of the last call, for plugin tools and traces. Not used on the path of a message.
    fn usage(&mut self) -> Usage {
        Usage::default()
    }
}

/// The chain of one worker. A message runs through one chain from beginning to end: chains are replaced
/// between two messages.
#[derive(Debug)]
pub struct Chain {
    generation: u64,
    links: Vec<Link>,
    /// Index of the link and its timer.
    timers: Vec<(usize, Timer)>,
    deliverers: Deliverers,
    guards: Guards,
}

impl Chain {
    /// No plugins: every event is undecided. Its generation is 0.
    pub fn empty() -> Self {
        Self::new(0, Vec::new())
    }

    /// A chain of instances that are ready to be called.
    pub fn new(generation: u64, links: Vec<Link>) -> Self {
        let (deliverers, guards) = (Deliverers::of(&links), Guards::of(&links));
        Self { generation, links, timers: Vec::new(), deliverers, guards }
    }

    /// Activates the chain: orders standby instances, for which the previous chain has just freed memory.
    pub fn begin(&mut self) {
        for link in &mut self.links {
            link.begin();
        }
    }

    /// Number of the chain; increases with each chain that the registry builds.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// Whether a plugin wants messages of this kind. Cheap: a caller may skip building the message.
    pub fn wants(&self, kind: Kind) -> bool {
        self.links.iter().any(|link| link.interests().message_kinds().contains(kind))
    }

    /// Whether a plugin has `on-disconnect`.
    pub fn wants_disconnects(&self) -> bool {
        self.links.iter().any(|link| link.interests().hooks.on_disconnect)
    }

    /// Starts the timers of the plugins, on one of `workers` workers. A timer that also exists in `former`,
    /// with the same interval, keeps its schedule: changing one plugin does not move the timer of another.
    pub fn start_timers(&mut self, former: &Self, worker: usize, workers: usize, at: Duration) {
        let asked = |link: &Link| link.interests().timer.filter(|_| link.interests().hooks.on_timer);
        let timers = self.links.iter().enumerate().filter_map(|(index, link)| {
            let interval = asked(link)?;
            let running = former.timers.iter().find(|(other, timer)| {
                former.links[*other].name() == link.name() && timer.interval() == interval
            });
            let timer = running.map(|(_, timer)| *timer);
            Some((index, timer.unwrap_or_else(|| Timer::start(interval, worker, workers, at))))
        });
        self.timers = timers.collect();
    }

    /// When to call [`Chain::on_timer`] next. `None` if no plugin has a timer.
    pub fn next_timer(&self) -> Option<Duration> {
        self.timers.iter().map(|(_, timer)| timer.due()).min()
    }

    /// Calls the plugins whose timers are due at `at`, each once even if it missed several intervals.
    pub fn on_timer(&mut self, at: Duration, tick: &Tick, effects: &mut Vec<Effect>) {
        for (index, timer) in &mut self.timers {
            if timer.fire(at) {
                // There is nothing to refuse, so the failure policy does not matter.
                let _ = self.links[*index].on_timer(tick, effects);
            }
        }
    }

    /// Runs the plugins for a message. Afterwards `message.content.payload` is the payload as the last plugin
    /// left it.
    ///
    /// Effects that were recorded before the chain ended stay in `effects`, those of a failed call do not.
    pub fn on_message(&mut self, message: &mut Message, effects: &mut Vec<Effect>) -> Decision {
        self.pass(message, effects, &mut ())
    }

    /// [`on_message`](Self::on_message) with a trace.
    pub fn on_message_traced(
        &mut self,
        message: &mut Message,
        effects: &mut Vec<Effect>,
        clock: Clock,
    ) -> (Decision, Trace) {
        let mut trace = Trace::of(message, self.generation, clock);
        let decision = self.pass(message, effects, &mut trace);
        trace.decided(&decision);
        (decision, trace)
    }

    fn pass(
        &mut self,
        message: &mut Message,
        effects: &mut Vec<Effect>,
        observer: &mut impl Observer,
    ) -> Decision {
        let mut allowed = false;
        for (index, link) in self.links.iter_mut().enumerate() {
            if !link.interests().wants_message(message.content.kind, message.content.channel.as_ref()) {
                observer.passed_by(link);
                continue;
            }
            let before = effects.len();
            observer.begins();
            let answer = link.on_message(message, effects);
            self.guards.effects(link, index, effects, before);
            observer.answered(link, &effects[before..], HookResult::Message(message, &answer));
            match answer {
                Ok(Verdict::Next) | Err(FailurePolicy::Open) => {}
                Ok(Verdict::Allow) => {
                    allowed |= link.interests().may_allow(message.content.channel.as_ref());
                }
                Ok(Verdict::Replace(payload)) => message.content.payload = payload,
                Ok(Verdict::Deny(refusal)) => return Decision::Denied(refusal),
                Ok(Verdict::Drop) => return Decision::Dropped,
                Ok(Verdict::Disconnect(refusal)) => return Decision::Disconnect(refusal),
                Ok(Verdict::Reply(payload)) => return Decision::Reply(payload),
                Ok(Verdict::Route(targets)) => {
                    return Decision::Route { targets, payload: message.content.payload.clone() };
                }
                Err(FailurePolicy::Closed) => return Decision::Failed,
            }
        }
        let payload = message.content.payload.clone();
        if allowed { Decision::Allowed(payload) } else { Decision::Undecided(payload) }
    }

    /// Attributes of connections by which plugins distinguish subscribers.
    pub fn class_attributes(&self) -> &Arc<[Box<str>]> {
        self.deliverers.attributes()
    }

    /// Whether a plugin wants publications in `channel` on their way out. Costs one branch if no plugin wants
    /// any.
    pub fn wants_deliveries(&self, channel: &Channel) -> bool {
        self.deliverers.want(channel)
    }

    /// The first plugin after `after` that wants publications in `channel` on their way out, and the class in
    /// which it sees a subscriber with these values of [`Chain::class_attributes`].
    pub fn next_deliverer<'a>(
        &self,
        after: Option<usize>,
        channel: &Channel,
        values: &'a [Box<str>],
    ) -> Option<(usize, &'a str)> {
        self.deliverers.next(after, channel, values)
    }

    /// Calls one plugin, found with [`Chain::next_deliverer`], for the subscribers of a class. If it fails
    /// closed, they receive nothing.
    pub fn on_deliver(&mut self, plugin: usize, class: &str, outgoing: &Outgoing) -> DeliverVerdict {
        self.deliver(plugin, class, outgoing, &mut ())
    }

    /// [`on_deliver`](Self::on_deliver) with a trace.
    pub fn on_deliver_traced(
        &mut self,
        plugin: usize,
        class: &str,
        outgoing: &Outgoing,
        trace: &mut Trace,
    ) -> DeliverVerdict {
        self.deliver(plugin, class, outgoing, trace)
    }

    fn deliver(
        &mut self,
        plugin: usize,
        class: &str,
        outgoing: &Outgoing,
        observer: &mut impl Observer,
    ) -> DeliverVerdict {
        let link = &mut self.links[plugin];
        observer.begins();
        let answer = link.on_deliver(class, outgoing);
        observer.answered(link, &[], HookResult::Deliver(class, outgoing, &answer));
        link.delivery(answer)
    }

    /// The verdict for further subscribers when there are more classes than a plugin may see: it follows the
    /// failure policy.
    pub fn too_many_classes(&mut self, plugin: usize, outgoing: &Outgoing) -> DeliverVerdict {
        self.links[plugin].too_many_classes(outgoing)
    }

    /// The replacement of a plugin cannot be delivered: its subscribers receive nothing.
    pub fn unfit_delivery(&self, plugin: usize, channel: &Channel, why: &dyn Display) {
        self.links[plugin].unfit_delivery(channel, why);
    }

    /// Runs `on-disconnect` of all plugins. A failure does not stop later ones.
    pub fn on_disconnect(&mut self, event: &DisconnectEvent, effects: &mut Vec<Effect>) {
        self.run_disconnect(event, effects, &mut ());
    }

    /// [`on_disconnect`](Self::on_disconnect) with a trace.
    pub fn on_disconnect_traced(
        &mut self,
        event: &DisconnectEvent,
        effects: &mut Vec<Effect>,
        clock: Clock,
    ) -> Trace {
        let mut trace = Trace::of_disconnect(event, self.generation, clock);
        self.run_disconnect(event, effects, &mut trace);
        trace
    }

    fn run_disconnect(
        &mut self,
        event: &DisconnectEvent,
        effects: &mut Vec<Effect>,
        observer: &mut impl Observer,
    ) {
        for link in &mut self.links {
            if !link.interests().hooks.on_disconnect {
                observer.passed_by(link);
                continue;
            }
            let before = effects.len();
            observer.begins();
            // There is nothing to refuse, so the failure policy does not matter.
            let answer = link.on_disconnect(event, effects);
            observer.answered(link, &effects[before..], HookResult::NoVerdict(&answer));
        }
    }
}

impl ConnectEvent {
    /// The event with the accepted identity, for later plugins.
    fn with_identity(&self, identity: &Identity) -> Self {
        let mut client = Client::clone(&self.client);
        client.user = identity.user.as_ref().into();
        client.attributes.extend(identity.attributes.iter().cloned());
        let (token, data) = (self.token.clone(), self.data.clone());
        Self { client: Arc::new(client), token, data, now: self.now, at: self.at }
    }
}

#[cfg(test)]
mod tests;
