//! `SelfTest` is the script in the file of a plugin.

use serde_json::{Map, Value};

use crate::{Reader, Script};

/// Maximum size of a self-test in bytes.
pub const SELF_TEST_BYTES_MAX: usize = 256 << 10;
/// Maximum number of events. Together with the deadline of a call it limits the time.
pub const SELF_TEST_EVENTS_MAX: usize = 256;

/// The self-test of a plugin: `{"settings": {..}, "events": [..]}`, where the settings are a `[config]` table
/// and the events those of a [`Script`].
#[derive(Debug, Clone, PartialEq)]
pub struct SelfTest<K, C> {
    /// The `[config]` table; empty if the test has none.
    pub settings: Map<String, Value>,
    /// The events, whose places are `event 1` and so on.
    pub script: Script<K, C>,
}

impl<K: Copy, C> Reader<K, C> {
    /// Reads a self-test.
    ///
    /// # Errors
    ///
    /// What is wrong with it, in words that follow "it cannot be read: ".
    pub fn self_test(&self, text: &[u8]) -> Result<SelfTest<K, C>, String> {
        if text.len() > SELF_TEST_BYTES_MAX {
            return Err(format!("it has more than {} KiB", SELF_TEST_BYTES_MAX >> 10));
        }
        let mut test: Map<String, Value> =
            serde_json::from_slice(text).map_err(|error| format!("it is no JSON object: {error}"))?;
        let settings = match test.remove("settings") {
            None => Map::new(),
            Some(Value::Object(settings)) => settings,
            Some(_) => return Err("its `settings` are no object".to_owned()),
        };
        let Some(Value::Array(events)) = test.remove("events") else {
            return Err("it has no array `events`".to_owned());
        };
        if events.len() > SELF_TEST_EVENTS_MAX {
            return Err(format!("it has {} events; at most {SELF_TEST_EVENTS_MAX}", events.len()));
        }
        if let Some(key) = test.keys().next() {
            return Err(format!("`{key}` is not a key; known here: settings, events"));
        }
        let script = self.events(events).map_err(|errors| errors.to_string())?;
        Ok(SelfTest { settings, script })
    }
}
