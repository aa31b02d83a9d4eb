//! Runs the hooks of a plugin in `cargo test`, without a gateway and without WebAssembly.
//!
//! The kit acts as the gateway: it reads the settings in the same way, respects the plugin's [`Interests`],
//! keeps connections with their users and attributes, records effects and log lines, and keeps rate limits
//! and values with the gateway's own code. Its clock moves only when the test moves it.
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
//! [`Kit::self_test`] plays the test in the file of the plugin, `#[plugin(self_test = "self-test.json")]`, as
//! the gateway does. [`Kit::play`] plays other events.

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

/// The time of a new kit: Unix time in milliseconds.
pub const START: u64 = gateway_plugin_script::START;

/// Runs a plugin in a test, in place of a gateway.
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
            let plugin = P::configure(settings::Config::read(config)?, &mut interests)?;
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

    /// Sets up a plugin that needs more than settings in `configure`.
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
    /// limits and values stay; the fields of the plugin start anew.
    ///
    /// # Errors
    ///
    /// The text that the operator would read. The previous instance stays in use.
    pub fn reload(&mut self, config: impl Serialize) -> Result<(), String> {
        self.renew(text(config)?)
    }

    /// Creates another instance, with these settings.
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

    /// The plugin, to inspect its state.
    pub const fn plugin(&self) -> &P {
        &self.plugin
    }

    /// The interests of the plugin.
    pub const fn interests(&self) -> &Interests {
        &self.interests
    }

    /// The log lines of `configure`.
    pub fn configure_log(&self) -> &[LogLine] {
        &self.configured
    }

    /// The current time: Unix time in milliseconds.
    pub const fn now(&self) -> u64 {
        self.now
    }

    /// Sets the clock to a Unix time in milliseconds.
    pub const fn set_now(&mut self, unix_millis: u64) -> &mut Self {
        self.now = unix_millis;
        self
    }

    /// Moves the clock forward.
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

    /// Sets the maximum number of effects of one call, like `effects_max` in the `[limits]` of a settings
    /// file. Use zero to test how the plugin handles refusals.
    pub const fn effects_max(&mut self, count: usize) -> &mut Self {
        self.limits.effects = count;
        self
    }

    /// Runs the timer of the plugin, in the instance with the number 0. It does not move the clock.
    pub fn timer(&mut self) -> Outcome<()> {
        self.timer_of(0)
    }

    /// Runs the timer of the plugin, in another instance. It does not call a plugin without a timer.
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

    /// Sets the responses of servers to [requests](crate::http). The kit grants every origin and caches
    /// nothing.
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

    /// Starts the delivery of a publication in `channel`.
    pub fn deliver(&mut self, channel: &str) -> Delivering<'_, P> {
        Delivering::new(self, channel)
    }

    /// The connection with this id. A new one is an admitted, anonymous client at `127.0.0.1` with the
    /// protocol `centrifuge-json`. It keeps the changes that later calls and the plugin make.
    pub fn connection(&mut self, id: &str) -> Connection<'_, P> {
        if !self.clients.contains_key(id) {
            self.clients_made += 1;
            self.clients.insert(id.to_owned(), Client::new(self.clients_made, id, self.now));
        }
        Connection::new(self, id)
    }

    /// Removes the connection and its state.
    fn forget(&mut self, id: &str) -> Option<Client> {
        let client = self.clients.remove(id)?;
        self.around.kept.borrow_mut().forget_connection(client.number);
        Some(client)
    }

    /// Connects a new client with only a token; see [`Connection::connect`] for more.
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
