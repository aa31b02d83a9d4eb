//! [`Authentication`]: a client that connects or refreshes, on its way through the chain. The chain stops at
//! a plugin that runs on the asynchronous pool, and resumes with its verdict.

use std::sync::Arc;
use std::time::Duration;

use super::Chain;
use crate::clock::Clock;
use crate::plugin::async_pool::{AsyncVerdict, PendingVerdict};
use crate::plugin::breaker::Pass;
use crate::plugin::event::{Client, ConnectEvent};
use crate::plugin::failure::FailurePolicy;
use crate::plugin::failure_log::Scene;
use crate::plugin::link::Link;
use crate::plugin::trace::{HookResult, Observer as _, Trace};
use crate::plugin::verdict::{Admission, ConnectVerdict, Effect, Identity};
use crate::revocation::is_reserved;

/// How often the chain restarts because it was replaced meanwhile. After that the client has to come back.
const BEGINNINGS_MAX: u32 = 3;

/// The progress of one client through the chain.
#[derive(Debug)]
pub struct Authentication {
    event: Arc<ConnectEvent>,
    /// The event for the next plugin, with the identity that an earlier one accepted.
    seen: Arc<ConnectEvent>,
    accepted: Option<Box<Identity>>,
    /// Index of the next link.
    next: usize,
    /// Generation of the chain in progress.
    generation: u64,
    /// The plugin on the asynchronous pool that is called.
    asked: Option<Arc<str>>,
    /// The plugins before it, whose verdicts count.
    passed: Vec<Arc<str>>,
    /// How often the chain has restarted.
    beginnings: u32,
    /// A plugin that fails open has failed: its verdict is unknown.
    doubtful: bool,
    /// The breaker's answer for the plugin on the asynchronous pool.
    pass: Pass,
    /// How long a plugin on the asynchronous pool may take.
    patience: Duration,
    /// Effects recorded so far.
    pub effects: Vec<Effect>,
    /// The trace, if there is one. A client connects rarely, so this check costs nothing noticeable.
    trace: Option<Box<Trace>>,
}

/// Result of a step through the chain.
#[must_use]
pub enum Authenticated {
    /// The chain has ended.
    Done(Admission),
    /// A plugin runs on the asynchronous pool: continue with [`Chain::authentication_answered`] and its
    /// verdict.
    Waits(PendingVerdict),
}

impl Authentication {
    /// At the beginning of the chain.
    pub fn new(event: ConnectEvent, patience: Duration) -> Self {
        let event = Arc::new(event);
        let (seen, effects) = (event.clone(), Vec::new());
        Self {
            event,
            seen,
            accepted: None,
            next: 0,
            generation: 0,
            asked: None,
            passed: Vec::new(),
            beginnings: 0,
            doubtful: false,
            pass: Pass::Call,
            patience,
            effects,
            trace: None,
        }
    }

    /// With a trace, of a `connect` or a `refresh`.
    #[must_use]
    pub fn explained(mut self, kind: &'static str, clock: Clock) -> Self {
        let ConnectEvent { client, now, .. } = &*self.event;
        self.trace = Some(Box::new(Trace::of_client(kind, client, *now, self.generation, clock)));
        self
    }

    /// The event, as it began.
    pub fn event(&self) -> &Arc<ConnectEvent> {
        &self.event
    }

    /// The client as the plugins left it.
    pub fn client(&self) -> &Client {
        &self.seen.client
    }

    /// The trace, if there is one and the chain has ended.
    pub fn explanation(&mut self, admission: &Admission) -> Option<Trace> {
        let mut trace = self.trace.take()?;
        trace.admitted(admission);
        Some(*trace)
    }

    /// Restarts the chain. False if it has restarted too often.
    fn begin_again(&mut self) -> bool {
        self.beginnings += 1;
        self.seen = self.event.clone();
        self.accepted = None;
        self.next = 0;
        self.doubtful = false;
        self.effects.clear();
        self.beginnings <= BEGINNINGS_MAX
    }

    /// Takes the verdict of one plugin. Returns an admission if it ends the chain.
    fn take(&mut self, verdict: Result<ConnectVerdict, FailurePolicy>) -> Option<Admission> {
        self.next += 1;
        match verdict {
            Ok(ConnectVerdict::Pass) => None,
            Err(FailurePolicy::Open) => {
                self.doubtful = true;
                None
            }
            Ok(ConnectVerdict::Accept(mut identity)) => {
                if let Some(before) = &self.accepted {
                    keep_token(&before.attributes, &mut identity.attributes);
                }
                self.seen = Arc::new(self.event.with_identity(&identity));
                self.accepted = Some(identity);
                None
            }
            Ok(ConnectVerdict::Refuse(refusal)) => Some(Admission::Refused(refusal)),
            Err(FailurePolicy::Closed) => Some(Admission::Failed),
        }
    }
}

/// The first plugin that says which token a client has is the one that verified it: a later one may change
/// who the client is, but not that.
fn keep_token(before: &[(Box<str>, Box<str>)], attributes: &mut Vec<(Box<str>, Box<str>)>) {
    let is_of_token = |(name, _): &&(Box<str>, Box<str>)| is_reserved(name);
    if before.iter().any(|attribute| is_of_token(&attribute)) {
        attributes.retain(|(name, _)| !is_reserved(name));
        attributes.extend(before.iter().filter(is_of_token).cloned());
    }
}

impl Chain {
    /// Runs the chain for a client that connects or refreshes, from the next link of `authentication` on.
    ///
    /// A plugin sees the identity that an earlier one accepted: the last accept wins, and a refusal ends the
    /// chain. Effects that were recorded before a refusal stay in `authentication`.
    pub fn authenticate(&mut self, authentication: &mut Authentication) -> Authenticated {
        if authentication.generation != self.generation {
            authentication.generation = self.generation;
            authentication.trace.iter_mut().for_each(|trace| trace.begin_again(self.generation));
        }
        while let Some(link) = self.links.get_mut(authentication.next) {
            if !link.interests().hooks.on_connect {
                authentication.trace.iter_mut().for_each(|trace| trace.passed_by(link));
                authentication.next += 1;
                continue;
            }
            authentication.trace.iter_mut().for_each(|trace| trace.begins());
            let before = authentication.effects.len();
            let verdict = match link.start_async(&authentication.seen, authentication.patience) {
                Some(Ok((question, pass))) => {
                    authentication.pass = pass;
                    authentication.asked = Some(link.shared_name());
                    authentication.passed =
                        self.links[..authentication.next].iter().map(Link::shared_name).collect();
                    return Authenticated::Waits(question);
                }
                Some(Err(policy)) => Err(policy),
                None => link.on_connect(&authentication.seen, &mut authentication.effects),
            };
            let verdict =
                self.guards.connect(link, authentication.next, verdict, &mut authentication.effects, before);
            if let Some(trace) = &mut authentication.trace {
                trace.answered(link, &authentication.effects[before..], HookResult::Connect(&verdict, None));
            }
            if let Some(end) = authentication.take(verdict) {
                return Authenticated::Done(end);
            }
        }
        Authenticated::Done(match authentication.accepted.take() {
            Some(identity) => Admission::Accepted(identity),
            None if authentication.doubtful => Admission::Doubtful,
            None => Admission::Undecided,
        })
    }

    /// Continues with the verdict of the plugin on the asynchronous pool, at this Unix time in milliseconds.
    ///
    /// If the chain was replaced meanwhile, the verdict of the old version still counts, and the new chain
    /// continues after that plugin: waiting clients are not authenticated again each time that a plugin file
    /// changes. The new chain starts from the beginning if the plugin no longer exists, so that its verdict
    /// is void, or if the new chain has a plugin before it that was not called and would be skipped. After a
    /// few restarts the client has to come back.
    pub fn authentication_answered(
        &mut self,
        now: u64,
        authentication: &mut Authentication,
        answered: AsyncVerdict,
    ) -> Authenticated {
        if authentication.generation != self.generation {
            let asked = authentication.asked.take();
            let index = self.links.iter().position(|link| Some(link.name()) == asked.as_deref());
            let was_passed = |link: &Link| authentication.passed.iter().any(|name| **name == *link.name());
            let is_left_out = |link: &Link| link.interests().hooks.on_connect && !was_passed(link);
            let Some(index) = index.filter(|index| !self.links[..*index].iter().any(is_left_out)) else {
                return if authentication.begin_again() {
                    self.authenticate(authentication)
                } else {
                    Authenticated::Done(Admission::Failed)
                };
            };
            authentication.next = index;
            authentication.generation = self.generation;
        }
        if let Some(link) = self.links.get_mut(authentication.next) {
            let (before, usage) = (authentication.effects.len(), answered.usage);
            let (pass, scene) = (authentication.pass, Scene::connect(&authentication.seen));
            let verdict = link.answered(now, pass, answered, &mut authentication.effects, scene);
            let verdict =
                self.guards.connect(link, authentication.next, verdict, &mut authentication.effects, before);
            if let Some(trace) = &mut authentication.trace {
                trace.answered(
                    link,
                    &authentication.effects[before..],
                    HookResult::Connect(&verdict, Some(usage)),
                );
            }
            if let Some(end) = authentication.take(verdict) {
                return Authenticated::Done(end);
            }
        }
        self.authenticate(authentication)
    }
}
