//! Knows the environment variable `SECRETS_KEY`. A raw message says what it does with it: prints it, logs it,
//! panics with it, or answers its length. An rpc with `{"tell": ADDRESS}` publishes, so that it asks for that
//! effect too.

use gateway_plugin_sdk::prelude::*;

/// The `[config]` table.
#[settings]
pub struct Settings {
    /// Refuses its settings with the key in the sentence.
    #[serde(default)]
    blab: bool,
    /// Loads without the key.
    #[serde(default)]
    keyless: bool,
}

/// The plugin.
#[derive(Debug)]
pub struct Secrets {
    key: Option<String>,
}

#[plugin(environment = ["SECRETS_KEY"], self_test = "self-test.json")]
impl Plugin for Secrets {
    type Config = Settings;

    fn configure(config: Settings, _: &mut Interests) -> Result<Self, String> {
        let key = environment::get("SECRETS_KEY");
        match &key {
            Some(key) if config.blab => Err(format!("the key is {key}, which nobody should read")),
            None if !config.keyless => Err("SECRETS_KEY is not set".to_owned()),
            _ => Ok(Self { key }),
        }
    }

    fn on_message(&mut self, event: &Message<'_>) -> Verdict {
        if let Some(address) =
            event.json::<Value>().ok().and_then(|value| Some(value["tell"].as_str()?.to_owned()))
        {
            return match event.publish_json(address, "hello") {
                Ok(()) => Verdict::next(),
                Err(error) => Verdict::deny(code::BAD_REQUEST, error.to_string()),
            };
        }
        let key = self.key.as_deref();
        match event.payload() {
            b"key?" => Verdict::reply(key.map_or("none".to_owned(), |key| format!("{} bytes", key.len()))),
            b"path?" => Verdict::reply(environment::get("PATH").unwrap_or_else(|| "none".to_owned())),
            b"log" => {
                log::info!("logged: {}", key.unwrap_or_default());
                Verdict::reply("done")
            }
            b"print" => {
                println!("printed: {}", key.unwrap_or_default());
                Verdict::reply("done")
            }
            b"panic" => panic!("panicked: {}", key.unwrap_or_default()),
            b"route" => Verdict::route([format!("routed {}", key.unwrap_or_default())]),
            _ => Verdict::next(),
        }
    }
}
