//! The test that an author has put into a plugin: settings, events, and what should come of them.
//!
//! It is a custom section with JSON: `{"settings": {..}, "events": [..]}`, where the settings are a `[config]` table and the
//! events are those of a [`Script`]. The registry plays it whenever the plugin is loaded, on instances that serve nobody.

use std::sync::Arc;

use serde_json::{Map, Value};

use super::counters::PluginCounters;
use super::failure::Failure;
use super::grants::Grants;
use super::load::{Factory, LoadCode, LoadError, Loader};
use super::script::{Answer, Player, Script};
use super::settings::{Limits, Settings};

/// Largest test in bytes.
pub const SELF_TEST_BYTES_MAX: usize = 256 << 10;
/// Most events. Together with the deadline of a call this bounds the time.
const EVENTS_MAX: usize = 256;

/// A test as it stands in the file.
#[derive(Debug, Clone, PartialEq)]
pub struct SelfTest {
    /// The `[config]` table as JSON.
    settings: Box<str>,
    script: Script,
}

/// What a test that held came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tally {
    /// How many events it has.
    pub events: usize,
    /// WebAssembly instructions of all its hooks; `None` unless the engine counts them.
    pub instructions: Option<u64>,
}

impl SelfTest {
    /// Reads the section.
    pub fn parse(section: &[u8]) -> Result<Self, LoadError> {
        let bad = |why: String| {
            let sentence =
                format!("carries a self-test that cannot be read: {why}; its author has to repair it");
            LoadError::new(LoadCode::SelfTest, sentence)
        };
        if section.len() > SELF_TEST_BYTES_MAX {
            return Err(bad(format!("it has more than {} KiB", SELF_TEST_BYTES_MAX >> 10)));
        }
        let mut test: Map<String, Value> =
            serde_json::from_slice(section).map_err(|error| bad(format!("it is no JSON object: {error}")))?;
        let settings = test.remove("settings").unwrap_or_else(|| Value::Object(Map::new()));
        if !settings.is_object() {
            return Err(bad("its `settings` are no object".into()));
        }
        let Some(Value::Array(events)) = test.remove("events") else {
            return Err(bad("it has no array `events`".into()));
        };
        if events.len() > EVENTS_MAX {
            return Err(bad(format!("it has {} events; at most {EVENTS_MAX}", events.len())));
        }
        if let Some(key) = test.keys().next() {
            return Err(bad(format!("`{key}` is not a key; known here: settings, events")));
        }
        let script = Script::parse(Value::Array(events).to_string().as_bytes());
        let script = script.map_err(|mistakes| bad(mistakes.to_string()))?;
        Ok(Self { settings: settings.to_string().into(), script })
    }

    /// Plays the test with the operator's limits and the author's settings. What the plugin does is recorded and thrown
    /// away; it reaches nothing outside of itself. Blocking.
    pub fn run(
        &self,
        loader: &dyn Loader,
        name: &str,
        wasm: &[u8],
        asks: &Grants,
        limits: &Limits,
    ) -> Result<Tally, LoadError> {
        let settings = Settings {
            config: self.settings.clone(),
            // Effects are only recorded. An answer from the network or a value of this machine would make it another test.
            grants: Grants { http: [].into(), environment: [].into(), ..asks.clone() },
            limits: Limits { log_lines_per_second: 0, ..limits.clone() },
            ..Settings::default()
        };
        self.play(&*loader.load(name, wasm, &settings)?)
    }

    fn play(&self, factory: &dyn Factory) -> Result<Tally, LoadError> {
        let counters = Arc::new(PluginCounters::new(1));
        let fails = |why: String| {
            let sentence =
                format!("fails its self-test: {why}; it does not do what its author says, rebuild it");
            LoadError::new(LoadCode::SelfTest, sentence)
        };
        let instance = || {
            let made = factory.instantiate(&counters);
            made.map_err(|error| match error.code() {
                LoadCode::Configure => {
                    fails(format!("with the settings of the test it {}", error.sentence()))
                }
                _ => error,
            })
        };
        let mut plugin = instance()?;
        let mut player = Player::new();
        let mut tally = Tally { events: self.script.steps.len(), instructions: None };
        plugin.usage();
        for step in &self.script.steps {
            let outcome = player.play(&mut *plugin, step);
            if let Some(instructions) = plugin.usage().instructions {
                tally.instructions = Some(tally.instructions.unwrap_or(0) + instructions);
            }
            let unmet = step.unmet(&outcome);
            let (place, event) = (&step.place, step.event.as_str());
            if !unmet.is_empty() {
                return Err(fails(format!("{place} ({event}): {}", unmet.join(", "))));
            }
            if let Answer::Failed(Failure { cause, detail }) = &outcome.answer {
                if step.expect.is_none() {
                    return Err(fails(format!("{place} ({event}): it failed: {cause}: {detail}")));
                }
                if cause.ends_instance() {
                    plugin = instance()?;
                }
            }
        }
        Ok(tally)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(section: &str, words: &str) {
        let error = SelfTest::parse(section.as_bytes()).expect_err("it has a mistake");
        assert_eq!(error.code(), LoadCode::SelfTest);
        assert!(error.sentence().contains(words), "{words:?} in: {error}");
    }

    #[test]
    fn a_test_that_cannot_be_read_is_refused_with_the_reason() {
        check("[]", "it is no JSON object");
        check(r#"{"events":[],"settings":3}"#, "its `settings` are no object");
        check(r#"{"settings":{}}"#, "it has no array `events`");
        check(r#"{"events":[],"evnets":[]}"#, "`evnets` is not a key; known here: settings, events");
        check(r#"{"events":[{"event":"fly"}]}"#, "event 1: ");
        check(&format!(r#"{{"events":[{}1]}}"#, "1,".repeat(256)), "it has 257 events; at most 256");
        check(
            &format!(r#"{{"events":[],"settings":{{"a":"{}"}}}}"#, "x".repeat(256 << 10)),
            "more than 256 KiB",
        );
    }
}
