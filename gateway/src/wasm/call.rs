//! [`State`]: the data of a store, for the instance and for the call in progress.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use wasmtime::component::ResourceTable;
use wasmtime_wasi::filesystem::WasiFilesystemCtx;

use super::capabilities::Capabilities;
use super::deadline::Deadline;
use super::limits::MemoryLimit;
use super::output::{Level, Log, Stream};
use crate::clock::Clock;
use crate::plugin::event::{Client, ConnectEvent, DisconnectEvent, Kind, Message, Outgoing, Tick};
use crate::plugin::grants::Grants;
use crate::plugin::interests::{Hooks, Interests};
use crate::plugin::settings::Limits;
use crate::plugin::state::{Bucket, Meters, PluginState};
use crate::plugin::verdict::Effect;
use crate::protocol::Encoding;
use crate::protocol::channel::Channel;
use crate::protocol::push::Member;

/// The hook that runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Hook {
    /// Instantiation or `configure`: no event is in progress.
    Configure,
    Connect,
    Message,
    Disconnect,
    Timer,
    Deliver,
}

/// The event in progress, as far as a plugin can read it.
pub(super) struct Event {
    pub(super) hook: Hook,
    pub(super) client: Option<Arc<Client>>,
    /// The publisher of a publication in `on-deliver`.
    pub(super) publisher: Option<Arc<Member>>,
    pub(super) channel: Option<Channel>,
    /// Of a message.
    pub(super) kind: Option<Kind>,
    /// Reused between calls.
    pub(super) method: String,
    pub(super) binary: bool,
    /// Reused between calls.
    pub(super) token: String,
    /// Unix time in milliseconds.
    pub(super) now: u64,
    /// Monotonic time in milliseconds, for rate limits and expiring values.
    pub(super) at: u64,
}

impl Event {
    /// Whether payloads must be JSON.
    pub(super) fn speaks_json(&self) -> bool {
        self.client.as_ref().is_some_and(|client| client.protocol == Encoding::Json.protocol_name())
    }
}

/// The data of host functions.
pub(super) struct State {
    pub(super) event: Event,
    /// Recorded effects, those of earlier plugins first.
    effects: Vec<Effect>,
    /// Number of effects of earlier plugins.
    effects_before: usize,
    /// The new payload of the message, if the plugin set it.
    payload: Option<Bytes>,
    /// Bytes handed over in this call.
    bytes: usize,
    /// Calls from the guest in this call.
    pub(super) host_calls: u32,
    pub(super) limits: Arc<Limits>,
    pub(super) memory: MemoryLimit,
    pub(super) deadline: Deadline,
    /// Ticks of computing time left for the call, in a store that may wait.
    pub(super) ticks_left: u64,
    /// Registrations in `configure`.
    pub(super) interests: Interests,
    /// Capabilities that `configure` declared as needed by the settings.
    pub(super) asked: Grants,
    /// State that outlives the instance.
    pub(super) kept: Arc<PluginState>,
    /// Buckets declared in `configure`.
    pub(super) buckets: Vec<Bucket>,
    /// Rate limits of the connection whose message is in progress.
    pub(super) meters: Meters,
    pub(super) capabilities: Arc<Capabilities>,
    pub(super) log: Log,
    pub(super) stdout: Stream,
    pub(super) stderr: Stream,
    /// Zero of the plugin's monotonic clock.
    pub(super) begin: Instant,
    /// Contains no folder: only the types are needed, because standard libraries import them.
    pub(super) files: WasiFilesystemCtx,
    /// Stays empty, see `files`.
    pub(super) table: ResourceTable,
}

/// A budget of one call is used up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Exhausted {
    Effects,
    Bytes,
}

impl State {
    pub(super) fn new(limits: Arc<Limits>, hooks: Hooks, capabilities: Arc<Capabilities>, log: Log) -> Self {
        Self {
            event: Event {
                hook: Hook::Configure,
                client: None,
                publisher: None,
                channel: None,
                kind: None,
                method: String::new(),
                binary: false,
                token: String::new(),
                now: 0,
                at: 0,
            },
            effects: Vec::new(),
            effects_before: 0,
            payload: None,
            bytes: 0,
            host_calls: 0,
            memory: MemoryLimit::new(limits.memory),
            deadline: Deadline::default(),
            ticks_left: 0,
            limits,
            interests: Interests::everything(hooks),
            asked: Grants::default(),
            kept: log.counters.state().clone(),
            buckets: Vec::new(),
            meters: Meters::default(),
            capabilities,
            log,
            stdout: Stream::default(),
            stderr: Stream::default(),
            begin: Instant::now(),
            files: WasiFilesystemCtx::default(),
            table: ResourceTable::new(),
        }
    }

    /// Starts instantiation and configuration.
    pub(super) fn begin_configure(&mut self) {
        let now = Clock::start().now();
        self.event.hook = Hook::Configure;
        self.event.now = now.unix;
        self.event.at = now.at_millis();
    }

    pub(super) fn begin_connect(&mut self, event: &ConnectEvent, effects: &mut Vec<Effect>) {
        self.begin(Hook::Connect, Some(&event.client), (event.now, event.at), effects);
    }

    pub(super) fn begin_message(&mut self, message: &Message, effects: &mut Vec<Effect>) {
        self.begin(Hook::Message, Some(&message.client), (message.now, message.at), effects);
        self.event.kind = Some(message.content.kind);
        self.event.method.push_str(&message.content.method);
        self.event.binary = message.content.binary;
        self.event.token.push_str(&message.content.token);
    }

    pub(super) fn begin_disconnect(&mut self, event: &DisconnectEvent, effects: &mut Vec<Effect>) {
        self.begin(Hook::Disconnect, Some(&event.client), (event.now, event.at), effects);
    }

    pub(super) fn begin_deliver(&mut self, outgoing: &Outgoing, effects: &mut Vec<Effect>) {
        self.begin(Hook::Deliver, None, (outgoing.now, outgoing.at), effects);
        self.event.channel = Some(outgoing.channel.clone());
        self.event.publisher.clone_from(&outgoing.publisher);
    }

    pub(super) fn begin_timer(&mut self, tick: &Tick, effects: &mut Vec<Effect>) {
        self.begin(Hook::Timer, None, (tick.now, tick.at), effects);
    }

    fn begin(
        &mut self,
        hook: Hook,
        client: Option<&Arc<Client>>,
        (now, at): (u64, u64),
        effects: &mut Vec<Effect>,
    ) {
        self.event.hook = hook;
        self.event.client = client.cloned();
        self.event.now = now;
        self.event.at = at;
        self.effects = std::mem::take(effects);
        self.effects_before = self.effects.len();
        self.bytes = 0;
        self.host_calls = 0;
        self.payload = None;
    }

    /// Returns the effects and drops the client.
    pub(super) fn end(&mut self, effects: &mut Vec<Effect>) {
        *effects = std::mem::take(&mut self.effects);
        self.event.client = None;
        self.event.publisher = None;
        self.event.kind = None;
        self.event.method.clear();
        self.event.binary = false;
        self.event.token.clear();
    }

    /// Takes the channel of a message and the rate limits of its connection for the duration of a call, and
    /// returns them afterwards.
    pub(super) fn exchange(&mut self, message: &mut Message) {
        std::mem::swap(&mut self.event.channel, &mut message.content.channel);
        if !self.buckets.is_empty() {
            std::mem::swap(&mut self.meters, &mut message.meters);
        }
    }

    /// Ends `on-deliver`.
    pub(super) fn end_deliver(&mut self) {
        self.event.channel = None;
    }

    /// Gives host functions access to the data of the store. Every host call passes here, so they are counted
    /// here.
    pub(super) fn of_host_call(state: &mut Self) -> &mut Self {
        state.host_calls = state.host_calls.wrapping_add(1);
        state
    }

    /// Writes the output of the call to the log.
    pub(super) fn flush_output(&mut self) {
        self.stdout.flush(&self.log, Level::Info);
        self.stderr.flush(&self.log, Level::Warn);
    }

    /// Adds bytes to the budget of the call.
    pub(super) fn spend(&mut self, bytes: usize) -> Result<(), Exhausted> {
        let sum = self.bytes.saturating_add(bytes);
        if sum > self.limits.effect_bytes_max {
            return Err(Exhausted::Bytes);
        }
        self.bytes = sum;
        Ok(())
    }

    /// Whether another effect fits.
    pub(super) fn room_for_effect(&self) -> Result<(), Exhausted> {
        if self.effects.len() - self.effects_before < self.limits.effects_max {
            Ok(())
        } else {
            Err(Exhausted::Effects)
        }
    }

    /// Stores a new payload until the call has ended.
    pub(super) fn set_payload(&mut self, payload: Bytes) {
        self.payload = Some(payload);
    }

    /// The new payload of the message, if the plugin set it.
    pub(super) fn take_payload(&mut self) -> Option<Bytes> {
        self.payload.take()
    }

    /// Stores an effect until the call has ended.
    pub(super) fn record(&mut self, effect: Effect) {
        self.effects.push(effect);
    }
}
