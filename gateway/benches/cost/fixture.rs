//! Clients, messages and plugins for the groups that call the library.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use bytes::Bytes;
use gateway::clock::Now;
use gateway::plugin::Link;
use gateway::plugin::chain::Plugin;
use gateway::plugin::counters::PluginCounters;
use gateway::plugin::event::{Client, Kind, Message, MessageContent};
use gateway::plugin::failure::FailurePolicy;
use gateway::plugin::load::{Factory, Loader as _};
use gateway::plugin::settings::Settings;
use gateway::plugin::state::Meters;
use gateway::protocol::Encoding;
use gateway::protocol::channel::Channel;
use gateway::wasm::{Loader, LoaderConfig};

use crate::artifacts::wasm;
use crate::native::PERMITTED;

/// The sizes of a payload: a chat message, and a document.
pub(crate) const SMALL: usize = 128;
pub(crate) const LARGE: usize = 1024;

/// The moment of every event: no measurement here is about clocks.
pub(crate) const NOW: Now = Now { at: Duration::from_secs(1), unix: 1_700_000_000_000 };

/// A channel name.
pub(crate) fn channel(name: &str) -> Channel {
    Channel::parse(name).expect("the names in here are valid")
}

/// A JSON object of this many bytes, as a chat might send it.
pub(crate) fn payload(bytes: usize) -> String {
    let (front, back) = (r#"{"type":"chat","room":"r42","seq":17,"text":""#, r#""}"#);
    format!("{front}{}{back}", "x".repeat(bytes - front.len() - back.len()))
}

/// A client with a user.
pub(crate) fn client(number: u64, id: Arc<str>, encoding: Encoding) -> Client {
    Client {
        number,
        id,
        user: "user-000042".into(),
        protocol: encoding.protocol_name(),
        address: Ipv4Addr::LOCALHOST.into(),
        headers: [].into(),
        attributes: BTreeMap::from([(PERMITTED.into(), "chat:*".into())]),
    }
}

/// What a plugin is told when a client publishes, or sends a raw message.
pub(crate) fn message(kind: Kind, bytes: usize) -> Message {
    let (encoding, channel) = match kind {
        Kind::Raw => (Encoding::Raw, None),
        _ => (Encoding::Json, Some(channel("chat:room-7"))),
    };
    Message {
        client: Arc::new(client(7, "8c6bdd5a-0b13-8c57-9f3a-6f1e0d2b4a77".into(), encoding)),
        content: MessageContent::new(kind, channel, Bytes::from(payload(bytes))),
        now: NOW.unix,
        at: NOW.at_millis(),
        meters: Meters::default(),
    }
}

/// Loads plugins the way the gateway does.
pub(crate) struct Plugins {
    loader: Loader,
    counters: Arc<PluginCounters>,
}

impl Plugins {
    pub(crate) fn new() -> anyhow::Result<Self> {
        let loader = Loader::new(&LoaderConfig { instances_max: 32 })?;
        Ok(Self { loader, counters: Arc::new(PluginCounters::new(1)) })
    }

    /// An instance of a plugin without settings.
    pub(crate) fn instance(&self, name: &str) -> anyhow::Result<Box<dyn Plugin>> {
        Ok(self.load(name, "")?.instantiate(&self.counters)?)
    }

    /// A plugin in a chain, with the content of its settings file.
    pub(crate) fn link(&self, name: &str, settings: &str) -> anyhow::Result<Link> {
        self.in_chain(name, self.load(name, settings)?)
    }

    /// Anything that can be in a chain.
    pub(crate) fn in_chain(&self, name: &str, factory: Arc<dyn Factory>) -> anyhow::Result<Link> {
        Ok(Link::new(name.into(), 0, FailurePolicy::Closed, factory, self.counters.clone())?)
    }

    fn load(&self, name: &str, settings: &str) -> anyhow::Result<Arc<dyn Factory>> {
        let settings = Settings::parse(settings.as_bytes())?;
        let loaded = self.loader.load(name, &wasm(name)?, &settings);
        loaded.with_context(|| format!("failed to load {name}"))
    }
}
