//! Environment variables that the operator grants by name, for secrets that should not be in a settings file.
//!
//! ```
//! use gateway_plugin_sdk::kit::Kit;
//! use gateway_plugin_sdk::prelude::*;
//!
//! struct Guard {
//!     key: String,
//! }
//!
//! #[plugin(environment = ["GUARD_KEY"])]
//! impl Plugin for Guard {
//!     type Config = ();
//!
//!     fn configure(_: (), _: &mut Interests) -> Result<Self, String> {
//!         let key = environment::get("GUARD_KEY").ok_or("the environment variable GUARD_KEY is not set")?;
//!         Ok(Self { key })
//!     }
//! }
//!
//! let kit = Kit::<Guard>::builder().environment("GUARD_KEY", "secret").configure(json!({}))?;
//! assert_eq!(kit.plugin().key, "secret");
//! # Ok::<(), String>(())
//! ```
//!
//! The operator grants each name in the plugin's settings file, `environment = ["GUARD_KEY"]` under
//! `[grants]`. List a name in `#[plugin]` only if the plugin always needs it: the gateway refuses to load the
//! plugin until the name is granted. Do not list a name that the plugin needs only with some settings.
//!
//! The gateway masks these values in the plugin's log lines, output and refusals.

/// The value of an environment variable of the gateway, as of the time when the plugin was loaded. `None` if
/// it is not set or its name is not granted.
pub fn get(name: &str) -> Option<String> {
    crate::host::environment(name)
}
