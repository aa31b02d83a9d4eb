//! Reads secrets from outside the configuration: the value in the file says where the secret is.

use std::fs;
use std::path::Path;

use toml::Spanned;
use toml::de::DeValue;

use super::read::{Invalid, found};

/// Reads a secret, such as "a password", from the place that a value names: "env:NAME", "file:PATH" (relative
/// to `folder`), or "" for none. Trailing white space is removed. No message repeats any part of it.
pub(super) fn external_secret(
    value: &Spanned<DeValue<'_>>,
    folder: &Path,
    environment: &dyn Fn(&str) -> Option<String>,
    what: &str,
    accepted: &str,
) -> Result<Option<String>, Vec<Invalid>> {
    let invalid = |found: String| vec![Invalid { span: None, found, accepted: accepted.to_owned() }];
    let Some(text) = value.get_ref().as_str() else { return Err(invalid(found(value.get_ref()))) };
    let mut secret = if text.is_empty() {
        return Ok(None);
    } else if let Some(name) = text.strip_prefix("env:") {
        environment(name)
            .ok_or_else(|| invalid(format!("the environment variable {name}, which is not set")))?
    } else if let Some(path) = text.strip_prefix("file:") {
        let read = fs::read_to_string(folder.join(path));
        read.map_err(|error| invalid(format!("the file {path}, which cannot be read: {error}")))?
    } else {
        let found = format!("{what} in the file, where every reader of the configuration sees it");
        return Err(invalid(found));
    };
    secret.truncate(secret.trim_ascii_end().len());
    Ok(Some(secret))
}
