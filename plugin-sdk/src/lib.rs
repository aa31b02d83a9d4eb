//! The crate for authors of gateway plugins: a trait, a macro and a test kit.
//!
//! A plugin is a crate of type `cdylib` with this crate as its only dependency, built with
//! `cargo build --release --target wasm32-wasip1` (or `wasm32-wasip2`) and dropped into the gateway's plugin
//! folder.
//!
//! ```toml
//! [lib]
//! crate-type = ["cdylib"]
//!
//! # Without these the file is twenty times as large, and takes longer to load.
//! [profile.release]
//! lto = true
//! codegen-units = 1
//! panic = "abort"
//! strip = true
//! ```
//!
//! `gateway plugin new NAME` writes such a crate, and `gateway plugin build` builds it with the right
//! profile.
//!
//! This is a complete plugin:
//!
//! ```
//! use gateway_plugin_sdk::prelude::*;
//!
//! #[settings]
//! struct Settings {
//!     word: String,
//! }
//!
//! struct Polite {
//!     word: String,
//! }
//!
//! #[plugin]
//! impl Plugin for Polite {
//!     type Config = Settings;
//!
//!     fn configure(config: Settings, interests: &mut Interests) -> Result<Self, String> {
//!         interests.kinds([Kind::Publish]).channels(["chat:*"]);
//!         Ok(Self { word: config.word })
//!     }
//!
//!     fn on_message(&mut self, event: &Message<'_>) -> Verdict {
//!         match event.text() {
//!             Some(text) if text.contains(&self.word) => Verdict::deny(code::PERMISSION_DENIED, "be polite"),
//!             _ => Verdict::next(),
//!         }
//!     }
//! }
//!
//! // In `cargo test`, without a gateway:
//! use gateway_plugin_sdk::kit::Kit;
//!
//! let mut kit = Kit::<Polite>::new(json!({"word": "darn"}))?;
//! let outcome = kit.connection("c1").user("42").message(Kind::Publish).channel("chat:1").json(&"darn!").send();
//! assert_eq!(outcome.verdict, Verdict::deny(103, "be polite"));
//! # Ok::<(), String>(())
//! ```
//!
//! # Hooks and verdicts
//!
//! Plugins form a chain in the order of their file names. For each event the gateway calls them one after the
//! other.
//!
//! ```text
//!   plugin is loaded          configure ---- error ----> not loaded, the version before stays
//!                                 | ok
//!   client connects,              v
//!   or refreshes             on_connect ---- refuse ---> error reply or close; chain ends
//!                                 | accept   -> identity; later plugins still run, the last accept wins
//!                                 | pass     -> next plugin; all pass: the setting for anonymous clients
//!                                 v
//!   client sends a           on_message ---- deny -----> error reply          \
//!   command (publish,             |     ---- drop -----> nothing, seems fine   |
//!   subscribe, rpc, raw ..)       |     ---- disconnect  close                 |  chain
//!                                 |     ---- reply ----> payload to the sender |  ends
//!                                 |     ---- route ----> payload to addresses /
//!                                 | replace  -> next plugin, with this payload
//!                                 | allow    -> next plugin; all done: permitted
//!                                 | next     -> next plugin; all done: the policy of the channel decides
//!                                 v
//!   publication leaves      on_deliver ---- drop -----> not to these subscribers; chain ends
//!   to subscribers                | replace  -> next plugin, with this payload
//!                                 | pass     -> next plugin; all pass: as it was published
//!
//!   connection has gone     on_disconnect    no answer
//!
//!   an interval has passed  on_timer         no answer
//! ```
//!
//! A subscription may expire. A plugin that permits a [`Kind::Subscribe`] sets until when, with
//! [`Message::set_subscription_expiry`], for example by the [token](Message::token) that came with it. The
//! client then sends a [`Kind::SubRefresh`] with another token in time, and the plugin sets the expiry again.
//! For subscriptions that plugins make there is [`Context::refresh_subscription`].
//!
//! A hook has a deadline and a memory limit. If it panics, loops or exceeds a limit, the gateway stops it and
//! discards its instance. The settings file of the plugin decides about the event (`failure`). The gateway
//! discards the effects that the hook requested before it failed ([`Context`]).
//!
//! The gateway keeps state that must survive a failure or a reload, or that workers share: rate limits
//! ([`rate`]) and values ([`kv`]). Changes to this state take effect at once.

// The generated bindings name their runtime by the path that plugins use.
#[cfg(target_family = "wasm")]
extern crate self as gateway_plugin_sdk;

mod error;
mod event;
mod gateway;
mod interests;
mod kind;
mod plugin;
mod verdict;

pub mod address;
pub mod code;
pub mod environment;
pub mod fields;
pub mod kv;
pub mod http;
pub mod log;
pub mod rate;
pub mod secret;
pub mod settings;
pub mod units;

#[cfg(target_family = "wasm")]
#[allow(
    unsafe_code,
    unreachable_pub,
    missing_docs,
    clippy::all,
    reason = "generated: the canonical ABI is made of raw pointers"
)]
#[doc(hidden)]
pub mod bindings;
#[cfg(target_family = "wasm")]
mod host;
#[cfg(target_family = "wasm")]
#[allow(missing_docs, reason = "reached through `__private` only")]
mod runtime;

#[cfg(not(target_family = "wasm"))]
pub mod kit;
#[cfg(not(target_family = "wasm"))]
use kit::host;

pub use error::{HostError, HostErrorKind};
pub use event::{Connecting, Context, Disconnected, Message, Outgoing, Timer};
pub use gateway::Gateway;
pub use gateway_plugin_sdk_macros::{plugin, settings};
pub use interests::Interests;
pub use kind::Kind;
pub use plugin::Plugin;
pub use verdict::{Connect, Delivery, Identity, Refusal, Verdict};

pub use {serde, serde_json};

/// The items that most plugins need, for `use gateway_plugin_sdk::prelude::*`.
pub mod prelude {
    pub use serde_json::{Value, json};

    pub use crate::{
        Connect, Connecting, Delivery, Disconnected, Interests, Kind, Message, Outgoing, Plugin, Timer,
        Verdict, address, code, environment, log, plugin, settings,
    };
}

/// Items for code that the macros generate. Not part of the public interface.
#[doc(hidden)]
pub mod __private {
    #[cfg(target_family = "wasm")]
    pub use crate::{bindings, runtime::Slot};
    #[cfg(target_family = "wasm")]
    pub use wit_bindgen::rt;

    pub const fn used<P: crate::Plugin>() {}

    pub const fn is_readable<C: crate::settings::Config>() {}

    /// The data in the file of a plugin, for the test kit. The macro implements it.
    #[cfg(not(target_family = "wasm"))]
    pub trait Embedded: crate::Plugin {
        /// The hooks that the plugin implements.
        const HOOKS: &'static [&'static str];
        /// The text of its self-test.
        const SELF_TEST: Option<&'static str>;
    }

    pub const fn bytes<const N: usize>(text: &str) -> [u8; N] {
        match text.as_bytes().as_array() {
            Some(bytes) => *bytes,
            None => panic!("the text is not N bytes long"),
        }
    }
}
