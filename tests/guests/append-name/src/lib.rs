//! Appends `|NAMEVERSION` to a raw message and passes it on, so that an answer further down the chain shows
//! every plugin that saw the message, in order.

use gateway_plugin_sdk::prelude::*;

/// The `[config]` table.
#[settings]
pub struct Settings {
    name: String,
    version: String,
}

/// The plugin.
#[derive(Debug)]
pub struct AppendName {
    mark: Vec<u8>,
}

#[plugin]
impl Plugin for AppendName {
    type Config = Settings;

    fn configure(config: Settings, interests: &mut Interests) -> Result<Self, String> {
        interests.kinds([Kind::Raw]);
        Ok(Self { mark: format!("|{}{}", config.name, config.version).into_bytes() })
    }

    fn on_message(&mut self, event: &Message<'_>) -> Verdict {
        Verdict::replace([event.payload(), &self.mark].concat())
    }
}
