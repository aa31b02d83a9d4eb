//! The trait `Plugin`: one method for each hook.

use crate::{
    Connect, Connecting, Delivery, Disconnected, Interests, Message, Outgoing, Timer, Verdict, settings,
};

/// A plugin: its settings, its state, and the hooks it implements.
///
/// Put [`#[plugin]`](crate::plugin) on the `impl` block. It exports exactly the hooks that the block
/// contains, so an absent hook costs the gateway nothing.
///
/// The gateway keeps one instance per worker while the plugin is loaded, and an instance runs one hook at a
/// time, so `&mut self` needs no lock. Messages of different clients may go to different instances. So keep
/// state that must be exact in the gateway (attributes, channels, [rate limits](crate::rate),
/// [values](crate::kv)), and use the fields of the plugin as a cache.
pub trait Plugin: Sized + 'static {
    /// The `[config]` table of the plugin's settings file; `()` for a plugin without settings.
    ///
    /// [`#[settings]`](macro@crate::settings) derives the necessary traits for a struct.
    type Config: settings::Config;

    /// Runs once per instance, before any other hook.
    ///
    /// # Errors
    ///
    /// If it returns an error, the gateway does not load the plugin, and the previous version keeps running.
    /// The text should say what the operator must change.
    fn configure(config: Self::Config, interests: &mut Interests) -> Result<Self, String>;

    /// Runs after a client has sent its first command (in raw mode: after the handshake) and before it is
    /// admitted; and again when it refreshes.
    ///
    /// [`Connect::Accept`] gives the client an identity, [`Connect::Refuse`] ends the chain and refuses the
    /// client, [`Connect::Pass`] leaves the decision to the other plugins.
    fn on_connect(&mut self, event: &Connecting<'_>) -> Connect {
        let _ = event;
        Connect::Pass
    }

    /// Runs for every command of an admitted client that the plugin's [`Interests`] cover.
    ///
    /// [`Verdict`] describes the result of each answer.
    fn on_message(&mut self, event: &Message<'_>) -> Verdict {
        let _ = event;
        Verdict::Next
    }

    /// Runs for a publication on its way to subscribers, in the channels set with [`Interests::deliver`]:
    /// once for each worker that has subscribers and, with [`Interests::deliver_by`], once for each class of
    /// them. It never runs for single subscribers, so the event does not name them.
    ///
    /// It also runs for publications that clients read later, from the history or in a recovery. So it sees
    /// the same publication more than once, and should give the same answer each time. [`Delivery`] describes
    /// the result of each answer. The gateway refuses effects here.
    fn on_deliver(&mut self, event: &Outgoing<'_>) -> Delivery {
        let _ = event;
        Delivery::Pass
    }

    /// Runs after an admitted client has disconnected. Use it to remove the state that the plugin kept for
    /// the connection.
    ///
    /// If one of several gateways on Redis dies, a surviving one runs this hook for its clients, with the
    /// code 3002. The event has the last state of the client, but a
    /// [`connection_number`](crate::Context::connection_number) that no other hook has seen. In rare cases
    /// this happens more than once for a client. Values and buckets of the dead gateway are not available.
    fn on_disconnect(&mut self, event: &Disconnected<'_>) {
        let _ = event;
    }

    /// Runs once per interval set with [`Interests::timer`], in every instance.
    ///
    /// The gateway has one instance per worker, and spreads their timers over the interval. Do work that must
    /// happen once for the whole gateway in the instance with the number 0, see [`Timer::instance`]. If the
    /// plugin is busy during an interval, the gateway skips that interval. A new version of the plugin
    /// continues the timer of the old one.
    fn on_timer(&mut self, event: &Timer) {
        let _ = event;
    }
}
