//! A client on its way through the chain. Plugins that may wait are asked elsewhere; the way stops there and goes on with
//! the answer.

use std::sync::Arc;
use std::time::Duration;

use super::Chain;
use crate::clock::Clock;
use crate::plugin::async_pool::{AsyncVerdict, PendingVerdict};
use crate::plugin::breaker::Pass;
use crate::plugin::event::{Client, ConnectEvent};
use crate::plugin::failure::FailurePolicy;
use crate::plugin::link::Link;
use crate::plugin::trace::{Observer as _, Told, Trace};
use crate::plugin::verdict::{Admission, ConnectVerdict, Effect, Identity};

/// How often a way begins again because the chain was exchanged under it. Who is not admitted by then comes back.
const BEGINNINGS_MAX: u32 = 3;

/// See the module.
#[derive(Debug)]
pub struct Authentication {
    hello: Arc<ConnectEvent>,
    /// What the next plugin sees: with the identity that an earlier one accepted.
    seen: Arc<ConnectEvent>,
    accepted: Option<Box<Identity>>,
    /// The link to be asked next.
    next: usize,
    /// The chain that is asked.
    generation: u64,
    /// The plugin that is asked elsewhere.
    asked: Option<Arc<str>>,
    /// The plugins before it, whose word counts.
    passed: Vec<Arc<str>>,
    /// How often the way has begun again.
    beginnings: u32,
    /// A plugin that fails open has failed: nobody knows what it would have said.
    doubtful: bool,
    /// What the breaker of the plugin that is asked elsewhere said.
    pass: Pass,
    /// How long a plugin that waits may take.
    patience: Duration,
    /// What the plugins asked for so far.
    pub effects: Vec<Effect>,
    /// The explanation, if there is to be one. A client comes once: a look here costs it nothing that counts.
    trace: Option<Box<Trace>>,
}

/// Where the way has come to.
#[must_use]
pub enum Authenticated {
    /// To its end.
    Done(Admission),
    /// To a plugin that is asked elsewhere: go on with [`Chain::authentication_answered`] when there is an answer.
    Waits(PendingVerdict),
}

impl Authentication {
    /// At the beginning of a chain.
    pub fn new(hello: ConnectEvent, patience: Duration) -> Self {
        let hello = Arc::new(hello);
        let (seen, effects) = (hello.clone(), Vec::new());
        Self {
            hello,
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

    /// With an explanation, of a `connect` or a `refresh`.
    #[must_use]
    pub fn explained(mut self, kind: &'static str, clock: Clock) -> Self {
        let ConnectEvent { client, now, .. } = &*self.hello;
        self.trace = Some(Box::new(Trace::of_client(kind, client, *now, self.generation, clock)));
        self
    }

    /// The client as the plugins left it.
    pub fn client(&self) -> &Client {
        &self.seen.client
    }

    /// The explanation, if the way is at its end and was to be explained.
    pub fn explanation(&mut self, admission: &Admission) -> Option<Trace> {
        let mut trace = self.trace.take()?;
        trace.admitted(admission);
        Some(*trace)
    }

    /// False if that has been often enough.
    fn begin_again(&mut self) -> bool {
        self.beginnings += 1;
        self.seen = self.hello.clone();
        self.accepted = None;
        self.next = 0;
        self.doubtful = false;
        self.effects.clear();
        self.beginnings <= BEGINNINGS_MAX
    }

    /// Takes what one plugin said. Some if that ends the way.
    fn take(&mut self, verdict: Result<ConnectVerdict, FailurePolicy>) -> Option<Admission> {
        self.next += 1;
        match verdict {
            Ok(ConnectVerdict::Pass) => None,
            Err(FailurePolicy::Open) => {
                self.doubtful = true;
                None
            }
            Ok(ConnectVerdict::Accept(identity)) => {
                self.seen = Arc::new(self.hello.with_identity(&identity));
                self.accepted = Some(identity);
                None
            }
            Ok(ConnectVerdict::Refuse(refusal)) => Some(Admission::Refused(refusal)),
            Err(FailurePolicy::Closed) => Some(Admission::Failed),
        }
    }
}

impl Chain {
    /// Asks the plugins about a client that wants to be admitted, from where `judging` has come to.
    ///
    /// A plugin sees the identity that an earlier one accepted: the last accept wins, and a refusal ends the chain.
    /// Effects that were recorded before a refusal stay in `judging`.
    pub fn authenticate(&mut self, judging: &mut Authentication) -> Authenticated {
        if judging.generation != self.generation {
            judging.generation = self.generation;
            judging.trace.iter_mut().for_each(|trace| trace.begin_again(self.generation));
        }
        while let Some(link) = self.links.get_mut(judging.next) {
            if !link.interests().hooks.on_connect {
                judging.trace.iter_mut().for_each(|trace| trace.passed_by(link));
                judging.next += 1;
                continue;
            }
            judging.trace.iter_mut().for_each(|trace| trace.begins());
            let before = judging.effects.len();
            let verdict = match link.ask_elsewhere(&judging.seen, judging.patience) {
                Some(Ok((question, pass))) => {
                    judging.pass = pass;
                    judging.asked = Some(link.shared_name());
                    judging.passed = self.links[..judging.next].iter().map(Link::shared_name).collect();
                    return Authenticated::Waits(question);
                }
                Some(Err(policy)) => Err(policy),
                None => link.on_connect(&judging.seen, &mut judging.effects),
            };
            let verdict = self.guards.connect(link, judging.next, verdict, &mut judging.effects, before);
            if let Some(trace) = &mut judging.trace {
                trace.answered(link, &judging.effects[before..], Told::Connect(&verdict, None));
            }
            if let Some(end) = judging.take(verdict) {
                return Authenticated::Done(end);
            }
        }
        Authenticated::Done(match judging.accepted.take() {
            Some(identity) => Admission::Accepted(identity),
            None if judging.doubtful => Admission::Doubtful,
            None => Admission::Undecided,
        })
    }

    /// Goes on, at this Unix time in milliseconds, with the answer of the plugin that was asked elsewhere.
    ///
    /// If the chain was exchanged meanwhile, the version that was asked has answered all the same, and the way goes on behind
    /// that plugin in the new chain: whoever waits is not asked about again each time something is dropped. If the plugin
    /// is not there any more, its answer is of no use; and if one stands before it now that has not been asked, the way would
    /// pass that one by. Then the new chain is asked from its beginning, a few times; after that the client is to come back.
    pub fn authentication_answered(
        &mut self,
        now: u64,
        judging: &mut Authentication,
        answered: AsyncVerdict,
    ) -> Authenticated {
        if judging.generation != self.generation {
            let asked = judging.asked.take();
            let place = self.links.iter().position(|link| Some(link.name()) == asked.as_deref());
            let was_passed = |link: &Link| judging.passed.iter().any(|name| **name == *link.name());
            let is_left_out = |link: &Link| link.interests().hooks.on_connect && !was_passed(link);
            let Some(place) = place.filter(|place| !self.links[..*place].iter().any(is_left_out)) else {
                return if judging.begin_again() {
                    self.authenticate(judging)
                } else {
                    Authenticated::Done(Admission::Failed)
                };
            };
            judging.next = place;
            judging.generation = self.generation;
        }
        if let Some(link) = self.links.get_mut(judging.next) {
            let (before, usage) = (judging.effects.len(), answered.usage);
            let verdict = link.answered(now, judging.pass, answered, &mut judging.effects);
            let verdict = self.guards.connect(link, judging.next, verdict, &mut judging.effects, before);
            if let Some(trace) = &mut judging.trace {
                trace.answered(link, &judging.effects[before..], Told::Connect(&verdict, Some(usage)));
            }
            if let Some(end) = judging.take(verdict) {
                return Authenticated::Done(end);
            }
        }
        self.authenticate(judging)
    }
}
