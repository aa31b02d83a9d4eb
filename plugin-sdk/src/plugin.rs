//! The trait `Plugin`: one method for each hook.

use serde::de::DeserializeOwned;

use crate::{Connect, Connecting, Delivery, Disconnected, Interests, Message, Outgoing, Timer, Verdict};

/// A plugin: its settings, its state, and the hooks it implements.
///
/// Put [`#[plugin]`](crate::plugin) on the `impl` block. It exports exactly the hooks that the block
/// contains, so a hook that is left out costs the gateway nothing.
///
/// The gateway keeps one instance per worker for as long as the plugin is loaded and calls one hook at a
/// time, so `&mut self` needs no lock. Two messages of one client may meet the same instance, two clients may
/// not: state that has to be exact belongs in the gateway (attributes, channels, [rate limits](crate::rate),
/// [values](crate::kv)), and what a plugin keeps itself is a cache.
pub trait Plugin: Sized + 'static {
    /// The `[config]` table of the plugin's settings file; `()` for a plugin without settings.
    ///
    /// [`#[settings]`](gateway_plugin_sdk_macros::settings) derives what a struct needs for this.
    type Config: DeserializeOwned + 'static;

    /// Runs once per instance, before any other hook.
    ///
    /// # Errors
    ///
    /// An error refuses to load the plugin; the version that was running before stays. The text tells the
    /// operator what to change.
    fn configure(config: Self::Config, interests: &mut Interests) -> Result<Self, String>;

    /// Runs after a client has sent its first command (in raw mode: after the handshake) and before it is
    /// admitted; and again when it refreshes.
    ///
    /// [`Connect::Accept`] gives the client an identity, [`Connect::Refuse`] ends the chain and turns it
    /// away, [`Connect::Pass`] leaves it to the other plugins.
    fn on_connect(&mut self, event: &Connecting<'_>) -> Connect {
        let _ = event;
        Connect::Pass
    }

    /// Runs for every command of an admitted client that the plugin's [`Interests`] cover.
    ///
    /// [`Verdict`] says what each answer causes.
    fn on_message(&mut self, event: &Message<'_>) -> Verdict {
        let _ = event;
        Verdict::Next
    }

    /// Runs for a publication on its way to subscribers, in the channels asked for with
    /// [`Interests::deliver`]: once for each worker that has subscribers and, with [`Interests::deliver_by`],
    /// for each class of them. Never for each subscriber, which is why it is not told who they are.
    ///
    /// What clients read afterwards, from the history or because they missed it, passes here as well: the
    /// same publication comes more than once, and should be answered alike. [`Delivery`] says what each
    /// answer causes. Effects are refused.
    fn on_deliver(&mut self, event: &Outgoing<'_>) -> Delivery {
        let _ = event;
        Delivery::Pass
    }

    /// Runs after a client that was admitted has gone. The place to forget what the plugin kept about the
    /// connection.
    ///
    /// Of several gateways on Redis one that survives runs it for the clients of one that died, with the code
    /// 3002: with the client as it was, but under a [`connection_number`](crate::Context::connection_number)
    /// that no other hook has seen. Rarely this happens more than once for a client. Values and buckets of
    /// the gateway that died are not there.
    fn on_disconnect(&mut self, event: &Disconnected<'_>) {
        let _ = event;
    }

    /// Runs every interval that was asked for with [`Interests::timer`], in every instance.
    ///
    /// The gateway has one instance per worker, and their timers take turns over the interval. What has to
    /// happen once for the whole gateway happens in the instance with the number 0, see [`Timer::instance`].
    /// An interval in which the plugin was busy is left out and not made up for; a new version of the plugin
    /// goes on with the old one's timer.
    fn on_timer(&mut self, event: &Timer) {
        let _ = event;
    }
}
