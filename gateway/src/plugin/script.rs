//! Scripts: events with the verdicts and effects that a plugin is expected to return. `gateway plugin run`
//! plays them, and a plugin can embed one as its self-test. [`gateway_plugin_script`] defines the format and
//! reads it, here and in the test kit of the SDK; this module runs scripts against a plugin.

mod play;
mod show;

use gateway_plugin_script::{Errors, Reader};

use super::event::Kind;
use crate::protocol::channel::Channel;

pub use self::play::{Answer, Occurrence, Outcome, Player};
pub use gateway_plugin_script::START;

/// Events in their order.
pub type Script = gateway_plugin_script::Script<Kind, Channel>;
/// One event and its expected outcome.
pub type Step = gateway_plugin_script::Step<Kind, Channel>;
/// One event.
pub type Event = gateway_plugin_script::Event<Kind, Channel>;

/// Reads a script. All errors are reported together.
///
/// # Errors
///
/// All errors of the script, each with its place.
pub fn parse(text: &[u8]) -> Result<Script, Errors> {
    reader().script(text)
}

/// A reader with the kinds and channels of the gateway.
pub(super) fn reader() -> Reader<Kind, Channel> {
    Reader {
        kinds: Kind::ALL.map(|kind| (kind.as_str(), kind)).into(),
        channel: |name| Channel::parse_subscription(name).map_err(|error| error.to_string()),
    }
}

#[cfg(test)]
mod tests;
