//! Answers a raw message with `{"version":VERSION,"payload":TEXT}`; the version comes from the settings.
//! Shows which version of a plugin handled a message.

use gateway_plugin_sdk::prelude::*;

/// The `[config]` table.
#[settings]
pub struct Settings {
    version: String,
    /// Refuses to load.
    #[serde(default)]
    fail: bool,
}

/// The plugin.
#[derive(Debug)]
pub struct VersionEcho {
    version: String,
}

#[plugin]
impl Plugin for VersionEcho {
    type Config = Settings;

    fn configure(config: Settings, interests: &mut Interests) -> Result<Self, String> {
        if config.fail {
            return Err(format!("version {} was told to fail", config.version));
        }
        interests.kinds([Kind::Raw]);
        Ok(Self { version: config.version })
    }

    fn on_message(&mut self, event: &Message<'_>) -> Verdict {
        let payload = String::from_utf8_lossy(event.payload());
        Verdict::reply_json(&json!({"version": self.version, "payload": payload}))
    }
}
