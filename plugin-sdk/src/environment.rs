//! Values that the operator shares by name: secrets that should not lie in a settings file.
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
//! `[grants]`. A name that `#[plugin]` lists is one the plugin cannot do without: the gateway refuses to load
//! the plugin until it is granted. A name that may be needed, depending on the settings, is better left out
//! of the list.
//!
//! The gateway masks these values in what the plugin logs and prints and in its refusals.

/// The value of an environment variable of the gateway, as it was when the plugin was loaded. `None` if it is
/// not set or the plugin was not granted its name.
pub fn get(name: &str) -> Option<String> {
    crate::host::environment(name)
}
