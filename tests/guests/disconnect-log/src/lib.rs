//! Accepts the token as the user, with an attribute, and writes into the log, and publishes to `room:gone`,
//! what it gets to know of a client that has gone, its headers that the settings name among it.

use std::time::{Duration, Instant};

use gateway_plugin_sdk::prelude::*;

/// The `[config]` table.
#[settings]
pub struct Settings {
    /// How long it takes to think of a client that has gone.
    #[serde(default)]
    thinks_ms: u64,
    /// Joined by one blank.
    headers: Option<Vec<String>>,
}

/// The plugin.
#[derive(Debug)]
pub struct DisconnectLog {
    thinks: Duration,
    headers: Vec<String>,
}

#[plugin]
impl Plugin for DisconnectLog {
    type Config = Settings;

    fn configure(config: Settings, _: &mut Interests) -> Result<Self, String> {
        Ok(Self {
            thinks: Duration::from_millis(config.thinks_ms),
            headers: config.headers.unwrap_or_else(|| vec!["x-test".to_owned()]),
        })
    }

    fn on_connect(&mut self, event: &Connecting<'_>) -> Connect {
        Connect::accept(event.token()).attribute("seat", "back")
    }

    fn on_message(&mut self, event: &Message<'_>) -> Verdict {
        if event.kind() == Kind::Rpc && event.method() == "sit" {
            let _ = event.set_attribute("seat", event.text().unwrap_or_default().trim_matches('"'));
            return Verdict::reply_json(&json!({}));
        }
        Verdict::next()
    }

    fn on_disconnect(&mut self, event: &Disconnected<'_>) {
        let begun = Instant::now();
        while begun.elapsed() < self.thinks {}
        let headers: Vec<_> =
            self.headers.iter().map(|name| event.header(name).unwrap_or_default()).collect();
        log::info!(
            "gone: {} {} {} {} {} {} {}",
            event.connection(),
            event.user(),
            event.code(),
            event.attribute("seat").unwrap_or_default(),
            event.remote_address(),
            event.protocol(),
            headers.join(" "),
        );
        let _ = event.publish_json("room:gone", &json!(event.connection()));
    }
}
