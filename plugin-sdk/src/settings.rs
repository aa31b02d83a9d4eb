//! `parse` reads the `[config]` table of a plugin and names the key of an error.

use std::any::TypeId;

use serde::de::DeserializeOwned;
use serde_json::Value;

/// Reads the `[config]` table, which the gateway passes as JSON. The error names the key and no line or
/// column, because the operator wrote TOML.
pub(crate) fn parse<C: DeserializeOwned + 'static>(settings: &str) -> Result<C, String> {
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
