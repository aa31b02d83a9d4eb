//! `Waiting` calls a plugin that waits for other servers as if it did not wait: in a test the caller has
//! time.

use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread;
use std::time::Duration;

use tokio::runtime::{Builder, Handle, Runtime};

use super::lines::Lines;
use crate::plugin::Plugin;
use crate::plugin::async_pool::{AsyncInstances, AsyncVerdict, PendingVerdict};
use crate::plugin::event::{ConnectEvent, DisconnectEvent, Message, Outgoing, Tick};
use crate::plugin::failure::{Cause, Failure};
use crate::plugin::interests::Interests;
use crate::plugin::usage::Usage;
use crate::plugin::verdict::{ConnectVerdict, DeliverVerdict, Effect, Verdict};

/// Maximum time for a plugin to answer. A gateway allows three quarters of `handshake.deadline`.
const PATIENCE: Duration = Duration::from_secs(30);

/// Runs instances that may wait. One event at a time, so that log lines belong to the event.
static RUNTIME: OnceLock<Result<(Handle, Mutex<Runtime>), String>> = OnceLock::new();

/// The runtime for [`Loader::with_http`](crate::wasm::Loader::with_http).
pub(super) fn runtime() -> Result<Handle, String> {
    made().map(|(handle, _)| handle.clone())
}

fn made() -> Result<&'static (Handle, Mutex<Runtime>), String> {
    let made = RUNTIME.get_or_init(|| {
        let runtime = Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| format!("failed to start a runtime: {error}"))?;
        Ok((runtime.handle().clone(), Mutex::new(runtime)))
    });
    made.as_ref().map_err(Clone::clone)
}

/// An instance, and the asynchronous instances of the same plugin that handle its `on-connect`.
pub(super) struct Waiting<'a> {
    pub(super) instance: &'a mut dyn Plugin,
    pub(super) async_instances: &'a dyn AsyncInstances,
    pub(super) lines: Lines,
    /// The resources used by the answer.
    pub(super) usage: Option<Usage>,
}

impl Waiting<'_> {
    fn wait(&self, answering: PendingVerdict) -> Result<AsyncVerdict, Failure> {
        let failed = |why: String| Failure::new(Cause::Trap, why);
        let (_, runtime) = made().map_err(failed)?;
        let runtime = runtime.lock().unwrap_or_else(PoisonError::into_inner);
        let lines = self.lines.clone();
        // On a separate thread, because this one may belong to a runtime already.
        thread::scope(|scope| {
            let waiting = scope.spawn(|| lines.during(|| runtime.block_on(answering)));
            waiting.join().map_err(|_| failed("the gateway panicked in a host call".to_owned()))
        })
    }
}

impl Plugin for Waiting<'_> {
    fn interests(&self) -> &Interests {
        self.instance.interests()
    }

    fn on_connect(
        &mut self,
        event: &ConnectEvent,
        effects: &mut Vec<Effect>,
    ) -> Result<ConnectVerdict, Failure> {
        let ConnectEvent { client, token, data, now, at } = event;
        let (client, token, data) = (client.clone(), token.clone(), data.clone());
        let event = Arc::new(ConnectEvent { client, token, data, now: *now, at: *at });
        let answered = self.wait(self.async_instances.on_connect(event, PATIENCE))?;
        effects.extend(answered.effects);
        self.usage = Some(answered.usage);
        answered.verdict
    }

    fn on_message(&mut self, message: &mut Message, effects: &mut Vec<Effect>) -> Result<Verdict, Failure> {
        self.instance.on_message(message, effects)
    }

    fn on_deliver(&mut self, class: &str, outgoing: &Outgoing) -> Result<DeliverVerdict, Failure> {
        self.instance.on_deliver(class, outgoing)
    }

    fn on_disconnect(&mut self, event: &DisconnectEvent, effects: &mut Vec<Effect>) -> Result<(), Failure> {
        self.instance.on_disconnect(event, effects)
    }

    fn on_timer(&mut self, tick: &Tick, effects: &mut Vec<Effect>) -> Result<(), Failure> {
        self.instance.on_timer(tick, effects)
    }

    fn usage(&mut self) -> Usage {
        let usage = self.instance.usage();
        self.usage.take().unwrap_or(usage)
    }
}
