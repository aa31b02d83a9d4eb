//! [`SelfTest`]: the test embedded in a plugin by its author, with settings, events, and the expected
//! outcomes.
//!
//! It is a custom section with JSON in the format of [`gateway_plugin_script::SelfTest`]. The registry runs
//! it whenever it loads the plugin, on instances that serve no clients.

use std::sync::Arc;

use serde_json::Value;

use super::counters::PluginCounters;
use super::failure::Failure;
use super::grants::Grants;
use super::load::{Factory, LoadCode, LoadError, Loader};
use super::script::{self, Answer, Player, Script};
use super::settings::{Limits, Settings};

/// A test as stored in the file.
#[derive(Debug, Clone, PartialEq)]
pub struct SelfTest {
    /// The `[config]` table as JSON.
    settings: Box<str>,
    script: Script,
}

/// Result of a successful test.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tally {
    /// Number of events.
    pub events: usize,
    /// WebAssembly instructions of all its hooks; `None` unless the engine counts them.
    pub instructions: Option<u64>,
}

impl SelfTest {
    /// Parses the section.
    ///
    /// # Errors
    ///
    /// If the section is not a self-test.
    pub fn parse(section: &[u8]) -> Result<Self, LoadError> {
        let test = script::reader().self_test(section).map_err(|why| {
            let message =
                format!("carries a self-test that cannot be read: {why}; its author has to repair it");
            LoadError::new(LoadCode::SelfTest, message)
        })?;
        Ok(Self { settings: Value::Object(test.settings).to_string().into(), script: test.script })
    }

    /// Runs the test with the operator's limits and the author's settings. Effects are recorded and dropped,
    /// so the plugin reaches nothing outside of itself. Blocking.
    ///
    /// # Errors
    ///
    /// If the plugin cannot be loaded with these settings, or does not do what the test expects.
    pub fn run(
        &self,
        loader: &dyn Loader,
        name: &str,
        wasm: &[u8],
        requested: &Grants,
        limits: &Limits,
    ) -> Result<Tally, LoadError> {
        let settings = Settings {
            config: self.settings.clone(),
            // Effects are only recorded. A response from the network or a value of this machine would change
            // the test.
            grants: Grants { http: [].into(), environment: [].into(), ..requested.clone() },
            limits: Limits { log_lines_per_second: 0, ..limits.clone() },
            ..Settings::default()
        };
        self.play(&*loader.load(name, wasm, &settings)?)
    }

    fn play(&self, factory: &dyn Factory) -> Result<Tally, LoadError> {
        let counters = Arc::new(PluginCounters::new(1));
        let fails = |why: String| {
            let message =
                format!("fails its self-test: {why}; it does not do what its author says, rebuild it");
            LoadError::new(LoadCode::SelfTest, message)
        };
        let instance = || {
            let made = factory.instantiate(&counters);
            made.map_err(|error| match error.code() {
                LoadCode::Configure => fails(format!("with the settings of the test it {}", error.message())),
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
            let unmet = step.unmet(&outcome.to_json());
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

    #[test]
    fn a_test_that_cannot_be_read_is_refused_with_the_reason() {
        let error = SelfTest::parse(br#"{"events":[{"event":"message","kind":"shout"}]}"#);
        let error = error.expect_err("there is no such kind");
        assert_eq!(error.code(), LoadCode::SelfTest);
        let why =
            "carries a self-test that cannot be read: event 1: `kind` is \"shout\"; expected one of publish";
        assert!(error.message().starts_with(why), "{error}");
    }
}
