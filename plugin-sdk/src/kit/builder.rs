//! `Builder` sets up a plugin under test: settings, time, environment and HTTP answers.

use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;

use serde::Serialize;

use super::Kit;
use crate::Plugin;

/// The environment that a plugin finds in `configure`.
pub struct Builder<P> {
    environment: BTreeMap<String, String>,
    plugin: PhantomData<fn() -> P>,
}

impl<P: Plugin> Builder<P> {
    pub(super) fn new() -> Self {
        Self { environment: BTreeMap::new(), plugin: PhantomData }
    }

    /// Grants and sets an environment variable.
    #[must_use]
    pub fn environment(mut self, name: &str, value: &str) -> Self {
        self.environment.insert(name.to_owned(), value.to_owned());
        self
    }

    /// Loads the plugin with the `[config]` table of its settings file, as [`Kit::new`] does.
    ///
    /// # Errors
    ///
    /// The text that the operator would read if the gateway refused the plugin.
    pub fn configure(self, config: impl Serialize) -> Result<Kit<P>, String> {
        Kit::configure(config, self.environment)
    }
}

impl<P> fmt::Debug for Builder<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Builder").finish_non_exhaustive()
    }
}
