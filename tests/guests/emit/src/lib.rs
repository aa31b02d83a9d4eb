//! Emits every raw message to an upstream, and that a client came and went. Answers with what came of it.

use gateway_plugin_sdk::prelude::*;

/// The `[config]` table.
#[settings]
pub struct Settings {
    upstream: String,
}

/// The plugin.
#[derive(Debug)]
pub struct Emit {
    upstream: String,
}

#[plugin]
impl Plugin for Emit {
    type Config = Settings;

    fn configure(config: Settings, _: &mut Interests) -> Result<Self, String> {
        Ok(Self { upstream: config.upstream })
    }

    fn on_connect(&mut self, event: &Connecting<'_>) -> Connect {
        let _ = event.emit(&self.upstream, b"came");
        Connect::accept("42")
    }

    fn on_message(&mut self, event: &Message<'_>) -> Verdict {
        match event.emit(&self.upstream, event.payload()) {
            Ok(()) => Verdict::reply("taken"),
            Err(error) => Verdict::reply(format!("{}: {error}", error.kind.number())),
        }
    }

    fn on_disconnect(&mut self, event: &Disconnected<'_>) {
        let _ = event.emit_json(&self.upstream, &json!({"gone": event.user()}));
    }
}
