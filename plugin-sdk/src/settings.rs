//! Reads the `[config]` table of a plugin.
//!
//! Most plugins describe their settings as a struct with
//! [`#[settings]`](gateway_plugin_sdk_macros::settings). The first error then ends the reading. A plugin
//! whose settings are a table of rules, or depend on each other, reads them with [`Table`] instead: it finds
//! every error, names each by the path of its key, and says what is accepted. A key that nobody has read is
//! refused with the nearest known one.
//!
//! ```
//! use std::time::Duration;
//!
//! use gateway_plugin_sdk::prelude::*;
//! use gateway_plugin_sdk::serde_json::Map;
//! use gateway_plugin_sdk::settings::{Errors, Table};
//!
//! struct Quiet {
//!     hours: Vec<Hour>,
//! }
//!
//! struct Hour {
//!     channels: Vec<String>,
//!     length: Duration,
//! }
//!
//! #[plugin]
//! impl Plugin for Quiet {
//!     type Config = Map<String, Value>;
//!
//!     fn configure(config: Map<String, Value>, _: &mut Interests) -> Result<Self, String> {
//!         let errors = Errors::default();
//!         let mut table = Table::new(config, &errors);
//!         let hours = table.tables("hours").or_default().into_iter().filter_map(hour).collect();
//!         table.finish();
//!         errors.finish(Self { hours })
//!     }
//! }
//!
//! fn hour(mut table: Table<'_>) -> Option<Hour> {
//!     let channels = table.patterns("channel").required();
//!     let length = table.duration("length", Duration::from_secs(1)..=Duration::from_secs(86_400));
//!     let length = length.or(Duration::from_secs(3600));
//!     table.finish();
//!     Some(Hour { channels: channels?, length })
//! }
//!
//! use gateway_plugin_sdk::kit::Kit;
//!
//! let error = Kit::<Quiet>::new(json!({ "hours": [{ "chanel": "chat:*", "length": "2d" }] })).unwrap_err();
//! assert_eq!(
//!     error,
//!     "3 errors: \
//!      `hours[0].channel` is missing; accepted: channel names, with or without a last `*`; \
//!      `hours[0].length` is \"2d\"; accepted: a duration from \"1s\" to \"1d\", or a number of seconds; \
//!      `hours[0].chanel` is not a known key; the nearest is `channel`"
//! );
//! # let kit = Kit::<Quiet>::new(json!({ "hours": [{ "channel": "chat:*" }] }))?;
//! # Ok::<(), String>(())
//! ```

mod errors;
mod field;
mod table;

use std::any::TypeId;

use serde::de::DeserializeOwned;
use serde_json::Value;

pub use self::errors::Errors;
pub use self::field::Field;
pub use self::table::Table;

/// A type that the `[config]` table of a settings file can be read into.
///
/// [`#[settings]`](gateway_plugin_sdk_macros::settings) makes a struct or an enum one, and so does every
/// other implementation of serde's `Deserialize`.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be read from the settings file of a plugin",
    label = "this type needs `#[settings]`",
    note = "put `#[settings]` above the definition of `{Self}`, and above every struct and enum in it",
    note = "a plugin without settings has `type Config = ();`"
)]
pub trait Config: Sized + 'static {
    /// Reads the table, which the gateway passes as JSON. The error names the key and no line or column,
    /// because the operator wrote TOML.
    ///
    /// # Errors
    ///
    /// The first error, for the operator.
    fn read(settings: &str) -> Result<Self, String>;
}

// Without this attribute the compiler names the missing implementation of serde, and advises the derive of a
// crate on which a plugin does not depend.
#[diagnostic::do_not_recommend]
impl<C: DeserializeOwned + 'static> Config for C {
    fn read(settings: &str) -> Result<Self, String> {
        parse(settings)
    }
}

fn parse<C: DeserializeOwned + 'static>(settings: &str) -> Result<C, String> {
    let value: Value = serde_json::from_str(settings)
        .map_err(|e| format!("the gateway sent settings that are not JSON: {e}"))?;
    let value = if TypeId::of::<C>() == TypeId::of::<()>() { nothing(&value)? } else { value };
    serde_path_to_error::deserialize(value).map_err(|e| match e.path().to_string() {
        path if path == "." => e.into_inner().to_string(),
        path => format!("`{path}`: {}", e.into_inner()),
    })
}

/// A plugin with `type Config = ()` accepts only an empty table, so that a misplaced key causes an error.
fn nothing(value: &Value) -> Result<Value, String> {
    match value {
        Value::Object(map) if map.is_empty() => Ok(Value::Null),
        Value::Object(map) => {
            let keys: Vec<_> = map.keys().map(|key| format!("`{key}`")).collect();
            Err(format!("this plugin takes no settings: remove {} from [config]", keys.join(", ")))
        }
        _ => Err("settings must be a table".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq, serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Limits {
        rate: u32,
        rules: Vec<Rule>,
    }

    #[derive(Debug, PartialEq, serde::Deserialize)]
    struct Rule {
        code: u32,
    }

    #[track_caller]
    fn check(settings: &str, expected: &str) {
        assert_eq!(parse::<Limits>(settings).map(drop).expect_err(settings), expected);
    }

    #[test]
    fn errors_name_the_key() {
        check(r#"{"rules":[]}"#, "missing field `rate`");
        check(r#"{"rate":"fast","rules":[]}"#, "`rate`: invalid type: string \"fast\", expected u32");
        check(
            r#"{"rate":1,"rules":[{"code":1},{"code":-1}]}"#,
            "`rules[1].code`: invalid value: integer `-1`, expected u32",
        );
        check(r#"{"rate":1,"rules":[],"rat":2}"#, "`rat`: unknown field `rat`, expected `rate` or `rules`");
    }

    #[test]
    fn a_plugin_without_settings_takes_an_empty_table_only() {
        assert_eq!(parse::<()>("{}"), Ok(()));
        assert_eq!(
            parse::<()>(r#"{"a":1,"b":2}"#),
            Err("this plugin takes no settings: remove `a`, `b` from [config]".into())
        );
    }
}
