//! Runs the hooks of a plugin in `cargo test`, without a gateway and without WebAssembly.
//!
//! The kit plays the gateway's part: it reads the settings the same way, honours the plugin's [`Interests`],
//! keeps connections with their users and attributes, records effects and log lines, keeps rate limits and
//! values with the gateway's own code, and has a clock that stands still until the test moves it.
//!
//! ```
//! use gateway_plugin_sdk::kit::{Effect, Kit};
//! use gateway_plugin_sdk::prelude::*;
//!
//! struct Greeter;
//!
//! #[plugin]
//! impl Plugin for Greeter {
//!     type Config = ();
//!
//!     fn configure(_: (), _: &mut Interests) -> Result<Self, String> {
//!         Ok(Self)
//!     }
//!
//!     fn on_message(&mut self, event: &Message<'_>) -> Verdict {
//!         if event.kind() == Kind::Subscribe {
//!             if let Err(error) = event.publish_json(event.channel(), &json!({"joined": event.user()})) {
//!                 log::warn!("no greeting: {error}");
//!             }
//!         }
//!         Verdict::next()
//!     }
//! }
//!
//! let mut kit = Kit::<Greeter>::new(json!({}))?;
//! let outcome = kit.connection("c1").user("42").message(Kind::Subscribe).channel("news").send();
//! assert_eq!(outcome.verdict, Verdict::Next);
//! assert_eq!(outcome.effects, [Effect::publish("news", r#"{"joined":"42"}"#)]);
//! # Ok::<(), String>(())
//! ```
//!
//! The test that a plugin carries in its file, `#[plugin(self_test = "self-test.json")]`, is played by
//! [`Kit::self_test`] as the gateway plays it, and events of one's own by [`Kit::play`].

mod builder;
mod client;
mod connection;
mod delivering;
pub(crate) mod host;
mod check;
mod kept;
mod outcome;
mod script;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt;
use std::rc::Rc;
use std::time::Duration;

use serde::Serialize;

use crate::{Connect, HostError, Interests, Plugin, event, http, settings};
use client::Client;
use host::{Around, Call, Hook, Limits};
use kept::Kept;

pub use builder::Builder;
pub use connection::{Connecting, Connection, Message};
pub use delivering::Delivering;
pub use outcome::{Effect, LogLine, Outcome};

/// Where the clock of a new kit stands: Unix time in milliseconds.
pub const START: u64 = gateway_plugin_script::START;

/// A plugin with a gateway around it, for tests.
pub struct Kit<P> {
    plugin: P,
    interests: Interests,
    configured: Vec<LogLine>,
    /// As the plugin reads them.
    settings: String,
    clients: BTreeMap<String, Client>,
    clients_made: u64,
    now: u64,
    limits: Limits,
    around: Rc<Around>,
}

fn text(config: impl Serialize) -> Result<String, String> {
    serde_json::to_string(&config).map_err(|e| format!("the settings are not expressible as JSON: {e}"))
}

/// An instance that accepted its settings.
struct Configured<P> {
    plugin: P,
    interests: Interests,
    log: Vec<LogLine>,
}

impl<P: Plugin> Configured<P> {
    fn new(config: &str, now: u64, limits: Limits, around: &Rc<Around>) -> Result<Self, String> {
        let mut interests = Interests::default();
        let (plugin, call) = host::enter(Call::new(Hook::Configure, now, limits, around), || {
            let plugin = P::configure(settings::parse(config)?, &mut interests)?;
            host::declare(&interests)?;
            Ok::<_, String>(plugin)
        });
        Ok(Self { plugin: plugin?, interests, log: call.log })
    }
}

impl<P: Plugin> Kit<P> {
    /// Loads the plugin with the `[config]` table of its settings file, for example `json!({"limit": 3})`.
    ///
    /// # Errors
    ///
    /// The text that the operator would read if the gateway refused the plugin.
    pub fn new(config: impl Serialize) -> Result<Self, String> {
        Self::builder().configure(config)
    }

    /// For a plugin that needs more than settings in `configure`.
    pub fn builder() -> Builder<P> {
        Builder::new()
    }

    fn configure(config: impl Serialize, environment: BTreeMap<String, String>) -> Result<Self, String> {
        let limits = Limits::default();
        let around = Rc::new(Around {
            http: RefCell::default(),
            environment: RefCell::new(environment),
            kept: RefCell::new(Kept::new()),
        });
        let settings = text(config)?;
        let Configured { plugin, interests, log } = Configured::new(&settings, START, limits, &around)?;
        Ok(Self {
            plugin,
            interests,
            configured: log,
            settings,
            clients: BTreeMap::new(),
            clients_made: 0,
            now: START,
            limits,
            around,
        })
    }

    /// Loads the plugin again, as the gateway does when its settings file has changed. Connections, rate
    /// limits and values stay; what the plugin kept itself does not.
    ///
    /// # Errors
    ///
    /// The text that the operator would read. The instance before goes on.
    pub fn reload(&mut self, config: impl Serialize) -> Result<(), String> {
        self.renew(text(config)?)
    }

    /// Another instance, with these settings.
    fn renew(&mut self, settings: String) -> Result<(), String> {
        let declared = self.around.kept.borrow_mut().forget_declarations();
        match Configured::new(&settings, self.now, self.limits, &self.around) {
            Ok(Configured { plugin, interests, log }) => {
                (self.plugin, self.interests, self.configured) = (plugin, interests, log);
                self.settings = settings;
                Ok(())
            }
            Err(error) => {
                self.around.kept.borrow_mut().restore_declarations(declared);
                Err(error)
            }
        }
    }

    /// The plugin, to look at its state.
    pub const fn plugin(&self) -> &P {
        &self.plugin
    }

    /// What the plugin asked to see.
    pub const fn interests(&self) -> &Interests {
        &self.interests
    }

    /// What the plugin logged in `configure`.
    pub fn configure_log(&self) -> &[LogLine] {
        &self.configured
    }

    /// Where the clock stands: Unix time in milliseconds.
    pub const fn now(&self) -> u64 {
        self.now
    }

    /// Sets the clock to a Unix time in milliseconds.
    pub const fn set_now(&mut self, unix_millis: u64) -> &mut Self {
        self.now = unix_millis;
        self
    }

    /// Moves the clock on.
    pub fn advance(&mut self, by: Duration) -> &mut Self {
        let millis = u64::try_from(by.as_millis()).unwrap_or(u64::MAX);
        self.now = self.now.saturating_add(millis);
        self
    }

    /// Grants and sets an environment variable for the hooks from now on. See [`builder`](Self::builder) for
    /// `configure`.
    pub fn environment(&mut self, name: &str, value: &str) -> &mut Self {
        self.around.environment.borrow_mut().insert(name.to_owned(), value.to_owned());
        self
    }

    /// How many effects one call of a hook may have before the next is refused: `effects_max` in the
    /// `[limits]` of a settings file. Zero shows how the plugin takes refusals.
    pub const fn effects_max(&mut self, count: usize) -> &mut Self {
        self.limits.effects = count;
        self
    }

    /// The interval of the plugin's timer has passed, in the instance with the number 0. Where the clock
    /// stands is the test's business.
    pub fn timer(&mut self) -> Outcome<()> {
        self.timer_of(0)
    }

    /// The interval of the plugin's timer has passed, in another instance. A plugin that asked for no timer
    /// is not called.
    pub fn timer_of(&mut self, instance: u32) -> Outcome<()> {
        if self.interests.asked_timer().is_none() {
            return Outcome {
                verdict: (),
                effects: Vec::new(),
                payload: None,
                log: Vec::new(),
                called: false,
            };
        }
        let plugin = &mut self.plugin;
        let call = Call::new(Hook::Timer, self.now, self.limits, &self.around);
        let ((), call) = host::enter(call, || plugin.on_timer(&event::Timer::new(instance)));
        Outcome { verdict: (), effects: call.effects, payload: None, log: call.log, called: true }
    }

    /// What servers answer to [requests](crate::http). Every origin is granted, and nothing is cached.
    ///
    /// ```
    /// # use gateway_plugin_sdk::{http::Response, kit::Kit, Plugin};
    /// # fn f<P: Plugin>(kit: &mut Kit<P>) {
    /// kit.http(|request| {
    ///     assert_eq!(request.url(), "https://idp.example/userinfo");
    ///     Ok(Response::new(200, r#"{"sub":"42"}"#))
    /// });
    /// # }
    /// ```
    pub fn http(
        &mut self,
        answer: impl FnMut(&http::Request) -> Result<http::Response, HostError> + 'static,
    ) -> &mut Self {
        *self.around.http.borrow_mut() = Some(host::Server(Box::new(answer)));
        self
    }

    /// Something was published to `channel` and is on its way to subscribers.
    pub fn deliver(&mut self, channel: &str) -> Delivering<'_, P> {
        Delivering::new(self, channel)
    }

    /// The connection with this id. It begins as an admitted, anonymous client of `127.0.0.1` that speaks
    /// `centrifuge-json`, and keeps what later calls and the plugin make of it.
    pub fn connection(&mut self, id: &str) -> Connection<'_, P> {
        if !self.clients.contains_key(id) {
            self.clients_made += 1;
            self.clients.insert(id.to_owned(), Client::new(self.clients_made, id, self.now));
        }
        Connection::new(self, id)
    }

    /// The connection has gone, and what belongs to it.
    fn forget(&mut self, id: &str) -> Option<Client> {
        let client = self.clients.remove(id)?;
        self.around.kept.borrow_mut().forget_connection(client.number);
        Some(client)
    }

    /// A new client connects with a token and nothing else; see [`Connection::connect`] for more.
    #[track_caller]
    pub fn connect(&mut self, token: &str) -> Outcome<Connect> {
        let id = format!("connection-{}", self.clients_made + 1);
        self.connection(&id).connect(token).send()
    }
}

/// A payload of a client or of a publication.
#[track_caller]
fn as_json(value: &(impl Serialize + ?Sized)) -> Vec<u8> {
    serde_json::to_vec(value)
        .unwrap_or_else(|error| panic!("the payload is not expressible as JSON: {error}"))
}

impl<P> fmt::Debug for Kit<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Kit")
            .field("interests", &self.interests)
            .field("clients", &self.clients)
            .field("now", &self.now)
            .finish_non_exhaustive()
    }
}
