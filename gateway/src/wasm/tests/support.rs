//! Builds real plugins as their authors do, and makes events to call them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;

use crate::plugin::counters::PluginCounters;
use crate::plugin::event::{Client, ConnectEvent, DisconnectEvent, Kind, Message, MessageContent};
use crate::plugin::failure::{Failure, FailurePolicy};
use crate::plugin::load::{Factory, LoadError, Loader as _};
use crate::plugin::settings::Settings;
use crate::plugin::state::Meters;
use crate::plugin::verdict::{Decision, Effect, Verdict};
use crate::plugin::{Chain, Link, Plugin};
use crate::protocol::Encoding;
use crate::protocol::channel::Channel;
use crate::wasm::{Loader, LoaderConfig};

const PACKAGES: [&str; 6] =
    ["echo", "guest-version-echo", "guest-trap", "guest-no-sdk", "guest-scripted", "guest-frozen-0-1"];

/// One engine for all tests, with room for few instances, so that a test that leaks instances fails.
pub(super) fn loader() -> &'static Loader {
    static LOADER: OnceLock<Loader> = OnceLock::new();
    LOADER.get_or_init(|| Loader::new(&LoaderConfig { instances_max: 100 }).unwrap())
}

/// A plugin of this repository as a core module for wasip1.
pub(super) fn module(name: &str) -> Vec<u8> {
    std::fs::read(built().join("wasm32-wasip1/plugin").join(name)).unwrap()
}

/// A plugin of this repository as a component for wasip2.
pub(super) fn component(name: &str) -> Vec<u8> {
    std::fs::read(built().join("wasm32-wasip2/plugin").join(name)).unwrap()
}

/// Cargo's target folder, after the plugins were built.
fn built() -> &'static Path {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| {
        // The test binary is in target/PROFILE/deps.
        let folder = std::env::current_exe().unwrap().ancestors().nth(3).unwrap().to_owned();
        let cargo = |what: &[&str]| {
            let mut cargo = Command::new(env!("CARGO"));
            cargo.args(["build", "--quiet", "--profile", "plugin", "--target", "wasm32-wasip1"]);
            cargo.args(["--target", "wasm32-wasip2"]).args(what);
            cargo.current_dir(env!("CARGO_MANIFEST_DIR")).env("CARGO_TARGET_DIR", &folder);
            assert!(cargo.status().unwrap().success(), "failed to build the plugins for the tests");
        };
        cargo(&PACKAGES.map(|package| ["--package", package]).concat());
        cargo(&["--package", "gateway-plugin-sdk", "--example", "lobby"]);
        folder
    })
}

/// An instance with the given settings file, and the inputs to call it.
pub(super) struct Running {
    pub(super) plugin: Box<dyn Plugin>,
    pub(super) counters: Arc<PluginCounters>,
    pub(super) encoding: Encoding,
    pub(super) effects: Vec<Effect>,
}

pub(super) fn load(wasm: &[u8], settings: &str) -> Result<Arc<dyn Factory>, LoadError> {
    loader().load("test", wasm, &Settings::parse(settings.as_bytes()).unwrap())
}

pub(super) fn start(wasm: &[u8], settings: &str) -> Result<Running, LoadError> {
    let counters = Arc::new(PluginCounters::new(1));
    let plugin = load(wasm, settings)?.instantiate(&counters)?;
    Ok(Running { plugin, counters, encoding: Encoding::Raw, effects: Vec::new() })
}

pub(super) fn chain(wasm: &[u8], settings: &str, policy: FailurePolicy) -> (Chain, Arc<PluginCounters>) {
    let counters = Arc::new(PluginCounters::new(1));
    let factory = load(wasm, settings).unwrap();
    let link = Link::new("test".into(), 0, policy, factory, counters.clone()).unwrap();
    (Chain::new(1, vec![link]), counters)
}

impl Running {
    /// Makes the client one that uses JSON.
    pub(super) fn json(mut self) -> Self {
        self.encoding = Encoding::Json;
        self
    }

    pub(super) fn message(&mut self, kind: Kind, name: &str, payload: &[u8]) -> Result<Verdict, Failure> {
        let mut message = message(self.encoding, kind, payload);
        message.content.channel = (!name.is_empty()).then(|| channel(name));
        self.plugin.on_message(&mut message, &mut self.effects)
    }

    pub(super) fn raw(&mut self, payload: &str) -> Result<Verdict, Failure> {
        self.message(Kind::Raw, "", payload.as_bytes())
    }
}

pub(super) fn client(encoding: Encoding) -> Arc<Client> {
    Arc::new(Client {
        number: 7,
        id: "c-7".into(),
        user: "ann".into(),
        protocol: encoding.protocol_name(),
        address: [127, 0, 0, 1].into(),
        headers: [("x-a".into(), "1".into())].into(),
        attributes: BTreeMap::from([("b".into(), "2".into())]),
    })
}

pub(super) fn message(encoding: Encoding, kind: Kind, payload: &[u8]) -> Message {
    Message {
        client: client(encoding),
        content: MessageContent::new(kind, None, Bytes::copy_from_slice(payload)),
        now: 1_000_000,
        at: 1_000_000,
        meters: Meters::default(),
    }
}

pub(super) fn connect_event(encoding: Encoding, token: &str) -> ConnectEvent {
    let (now, at) = (1_000_000, 1_000_000);
    ConnectEvent { client: client(encoding), token: token.into(), data: Bytes::new(), now, at }
}

pub(super) fn disconnect_event(duration: u64) -> DisconnectEvent {
    DisconnectEvent {
        client: client(Encoding::Json),
        code: 3000,
        reason: "bye".into(),
        duration,
        now: 1_000_000,
        at: 1_000_000,
    }
}

pub(super) fn decide(chain: &mut Chain, payload: &str) -> Decision {
    chain.on_message(&mut message(Encoding::Raw, Kind::Raw, payload.as_bytes()), &mut Vec::new())
}

pub(super) fn channel(name: &str) -> Channel {
    Channel::parse(name).unwrap()
}
