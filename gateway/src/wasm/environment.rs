//! [`Environment`] holds the environment variables granted to a plugin and masks their values in its output.

use std::borrow::Cow;
use std::sync::{Mutex, PoisonError};

use tracing::warn;

/// Shorter values are not masked: they are no secrets, and masking them would damage every line.
const SECRET_BYTES_MIN: usize = 4;
/// Replacement for a secret.
const MASK: &str = "***";
/// Most names logged because they were read without a grant.
const REFUSED_MAX: usize = 16;

/// Values of the granted variables, read when the plugin was loaded.
#[derive(Default)]
pub(super) struct Environment {
    values: Box<[(Box<str>, Box<str>)]>,
    /// Texts to mask: every value, and each line of a multi-line value. Longer ones first.
    secrets: Box<[Box<str>]>,
    /// Names that were read without a grant.
    refused: Mutex<Vec<Box<str>>>,
}

impl Environment {
    /// Reads the granted variables with `read`.
    pub(super) fn new(names: &[Box<str>], read: impl Fn(&str) -> Option<String>) -> Self {
        let values: Box<[(Box<str>, Box<str>)]> =
            names.iter().filter_map(|name| Some((name.clone(), read(name)?.into()))).collect();
        let parts = values.iter().flat_map(|(_, value)| {
            // A key with several lines is printed line by line.
            std::iter::once(&**value).chain(value.lines().filter(|line| line.len() != value.len()))
        });
        let mut secrets: Vec<Box<str>> =
            parts.filter(|part| part.len() >= SECRET_BYTES_MIN).map(Into::into).collect();
        secrets.sort_by(|a, b| b.len().cmp(&a.len()).then_with(|| a.cmp(b)));
        secrets.dedup();
        Self { values, secrets: secrets.into(), refused: Mutex::default() }
    }

    /// The value of a granted variable that is set.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.values.iter().find(|(granted, _)| **granted == *name).map(|(_, value)| &**value)
    }

    /// Logs once for each name that `plugin` has no grant for it.
    pub(super) fn refuse(&self, plugin: &str, name: &str) {
        let mut refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        if refused.len() < REFUSED_MAX && !refused.iter().any(|known| **known == *name) {
            refused.push(name.into());
            warn!(
                plugin,
                variable = name,
                "environment variable not granted or not set; to grant it, add environment = [{name:?}] under [grants]"
            );
        }
    }

    /// The text with every secret masked.
    pub(super) fn mask<'a>(&self, text: &'a str) -> Cow<'a, str> {
        let mut text = Cow::Borrowed(text);
        for secret in &self.secrets {
            if text.contains(&**secret) {
                text = Cow::Owned(text.replace(&**secret, MASK));
            }
        }
        text
    }

    /// The same for a text that was cut off: a secret that is cut at the end is masked too.
    pub(super) fn mask_cut<'a>(&self, text: &'a str) -> Cow<'a, str> {
        let masked = self.mask(text);
        let beginning = |secret: &str| {
            let longest = secret.len().min(masked.len());
            let mut lengths =
                (SECRET_BYTES_MIN..=longest).rev().filter(|length| secret.is_char_boundary(*length));
            lengths.find(|length| masked.ends_with(&secret[..*length]))
        };
        match self.secrets.iter().filter_map(|secret| beginning(secret)).max() {
            Some(length) => Cow::Owned(format!("{}{MASK}", &masked[..masked.len() - length])),
            None => masked,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment(values: &[(&str, &str)]) -> Environment {
        let names: Vec<Box<str>> = values.iter().map(|(name, _)| (*name).into()).collect();
        Environment::new(&names, |name| {
            values.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn only_what_was_granted_and_is_set_can_be_read() {
        let environment =
            Environment::new(&["A".into(), "B".into()], |name| (name == "A").then(|| "1".into()));
        assert_eq!(
            (environment.get("A"), environment.get("B"), environment.get("PATH")),
            (Some("1"), None, None)
        );
    }

    #[test]
    fn secrets_are_masked_wherever_they_stand() {
        let environment = environment(&[("KEY", "hunter2"), ("LONG", "hunter2hunter3"), ("SHORT", "abc")]);
        for (text, masked) in [
            ("nothing", "nothing"),
            ("hunter2", "***"),
            ("a hunter2, hunter2!", "a ***, ***!"),
            ("hunter2hunter3", "***"),
            ("abc", "abc"),
        ] {
            assert_eq!(environment.mask(text), masked);
        }
    }

    #[test]
    fn a_value_of_several_lines_is_masked_line_by_line() {
        let environment = environment(&[("KEY", "-----BEGIN-----\nabcdef\n")]);
        assert_eq!(environment.mask("key -----BEGIN-----"), "key ***");
        assert_eq!(environment.mask("abcdef"), "***");
    }

    #[test]
    fn the_beginning_of_a_secret_where_a_text_was_cut_is_masked() {
        let environment = environment(&[("KEY", "hunter2é")]);
        assert_eq!(environment.mask_cut("the key is hunter"), "the key is ***");
        assert_eq!(environment.mask_cut("the key is hun"), "the key is hun");
        assert_eq!(environment.mask_cut("hunter2é"), "***");
        assert_eq!(environment.mask("the key is hunter"), "the key is hunter", "that is another word");
    }
}
