//! `Table` reads a table of settings key by key.

use std::fmt::Display;
use std::ops::RangeInclusive;
use std::time::Duration;

use gateway_plugin_grammar::nearest::nearest;
use serde::Deserialize as _;
use serde_json::{Map, Value};

use super::{Errors, Field};
use crate::units::{Size, Span, show_duration, show_size};
use crate::{Kind, address};

/// Characters of a value that an error repeats.
const FOUND_CHARS_MAX: usize = 60;

/// A table of settings that is read key by key, see [the module](super).
///
/// A getter takes its key out of the table, and [`finish`](Self::finish) refuses the keys that nobody has
/// taken. An error names the path of the key, and repeats what was found instead of an accepted value: take a
/// secret with [`take`](Self::take), which repeats nothing.
#[derive(Debug)]
pub struct Table<'e> {
    path: String,
    values: Map<String, Value>,
    /// The keys that getters have asked for, in that order.
    known: Vec<String>,
    errors: &'e Errors,
}

impl<'e> Table<'e> {
    /// The whole `[config]` table.
    pub const fn new(values: Map<String, Value>, errors: &'e Errors) -> Self {
        Self { path: String::new(), values, known: Vec::new(), errors }
    }

    // ---- Values ----

    /// `true` or `false`.
    pub fn flag(&mut self, key: &str) -> Field<'e, bool> {
        self.read(key, "true or false", Value::as_bool)
    }

    /// A whole number in a range.
    pub fn number(&mut self, key: &str, range: RangeInclusive<u64>) -> Field<'e, u64> {
        let accepted = format!("a whole number from {} to {}", range.start(), range.end());
        self.read(key, accepted, |value| value.as_u64().filter(|number| range.contains(number)))
    }

    /// A duration in a range, written as a [`Span`].
    pub fn duration(&mut self, key: &str, range: RangeInclusive<Duration>) -> Field<'e, Duration> {
        let (least, most) = (show_duration(*range.start()), show_duration(*range.end()));
        let accepted = format!("a duration from \"{least}\" to \"{most}\", or a number of seconds");
        self.read(key, accepted, |value| {
            Span::deserialize(value).ok().map(|span| span.0).filter(|duration| range.contains(duration))
        })
    }

    /// A size in a range of bytes, written as a [`Size`].
    pub fn size(&mut self, key: &str, range: RangeInclusive<u64>) -> Field<'e, u64> {
        let (least, most) = (show_size(*range.start()), show_size(*range.end()));
        let accepted = format!("a size from \"{least}\" to \"{most}\", or a number of bytes");
        self.read(key, accepted, |value| {
            Size::deserialize(value).ok().map(Size::bytes).filter(|bytes| range.contains(bytes))
        })
    }

    /// Any text.
    pub fn text(&mut self, key: &str) -> Field<'e, String> {
        self.read(key, "a text", |value| value.as_str().map(str::to_owned))
    }

    /// One of these words.
    pub fn word<'w>(&mut self, key: &str, words: &[&'w str]) -> Field<'e, &'w str> {
        self.read(key, words.join(", "), |value| {
            let text = value.as_str()?;
            words.iter().copied().find(|word| *word == text)
        })
    }

    /// A value that `convert` can read. An error says what is `accepted`.
    pub fn read<T>(
        &mut self,
        key: &str,
        accepted: impl Into<String>,
        convert: impl FnOnce(&Value) -> Option<T>,
    ) -> Field<'e, T> {
        let field = self.field(key, accepted);
        let Some(value) = self.take(key) else { return field };
        match convert(&value) {
            Some(read) => field.read(read),
            None => field.refuse(&format!("is {}", found(&value))),
        }
    }

    // ---- Lists ----

    /// A text or a list of texts, at least one.
    pub fn texts(&mut self, key: &str) -> Field<'e, Vec<String>> {
        self.list(key, "texts", |text| Some(text.to_owned()))
    }

    /// The name of a kind, or a list of such names.
    pub fn kinds(&mut self, key: &str) -> Field<'e, Vec<Kind>> {
        self.list(key, Kind::ALL.map(Kind::name).join(", "), Kind::from_name)
    }

    /// A pattern of channels and other addresses, or a list of them; see
    /// [`address::matches`](crate::address::matches()).
    pub fn patterns(&mut self, key: &str) -> Field<'e, Vec<String>> {
        self.list(key, "channel names, with or without a last `*`", |text| {
            address::is_pattern(text).then(|| text.to_owned())
        })
    }

    /// A text or a list of texts, at least one, each of which `convert` can read. An error says which are
    /// `accepted`.
    pub fn list<T>(
        &mut self,
        key: &str,
        accepted: impl Into<String>,
        convert: impl Fn(&str) -> Option<T>,
    ) -> Field<'e, Vec<T>> {
        let accepted = accepted.into();
        let field = self.field(key, accepted.as_str());
        let Some(value) = self.take(key) else { return field };
        let items = match &value {
            Value::Array(items) => items.as_slice(),
            one => std::slice::from_ref(one),
        };
        let texts: Option<Vec<&str>> = items.iter().map(Value::as_str).collect();
        let Some(texts) = texts.filter(|texts| !texts.is_empty()) else {
            self.error(key, format!("is {}; accepted: a text or a list of texts", found(&value)));
            return field.invalid();
        };
        let before = self.errors.len();
        let mut list = Vec::with_capacity(texts.len());
        for text in texts {
            match convert(text) {
                Some(item) => list.push(item),
                None => self.error(key, format!("has {}; accepted: {accepted}", quoted(text))),
            }
        }
        if self.errors.len() == before { field.read(list) } else { field.invalid() }
    }

    // ---- Tables ----

    /// A table.
    pub fn table(&mut self, key: &str) -> Field<'e, Self> {
        let field = self.field(key, "a table");
        match self.take(key) {
            None => field,
            Some(Value::Object(values)) => {
                let table = self.inner(self.path_of(key), values);
                field.read(table)
            }
            Some(other) => field.refuse(&format!("is {}", found(&other))),
        }
    }

    /// A list of tables, possibly empty. Members that are not tables are left out of it.
    pub fn tables(&mut self, key: &str) -> Field<'e, Vec<Self>> {
        let field = self.field(key, format!("a list of tables: [[config.{}]]", self.path_of(key)));
        let items = match self.take(key) {
            None => return field,
            Some(Value::Array(items)) => items,
            Some(other) => return field.refuse(&format!("is {}", found(&other))),
        };
        let mut tables = Vec::with_capacity(items.len());
        for (index, item) in items.into_iter().enumerate() {
            let path = format!("{}[{index}]", self.path_of(key));
            match item {
                Value::Object(values) => tables.push(self.inner(path, values)),
                other => self.errors.add(&path, format!("is {}; accepted: a table", found(&other))),
            }
        }
        field.read(tables)
    }

    fn inner(&self, path: String, values: Map<String, Value>) -> Self {
        Self { path, values, known: Vec::new(), errors: self.errors }
    }

    // ---- Everything else ----

    /// The value of a key, which stays in the table.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.values.get(key)
    }

    /// Takes the value of a key as it is written.
    pub fn take(&mut self, key: &str) -> Option<Value> {
        if !self.known.iter().any(|known| known == key) {
            self.known.push(key.to_owned());
        }
        self.values.remove(key)
    }

    /// The path of a key of this table, such as `limits[0].period`.
    pub fn path_of(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }

    /// Adds an error about a key: what is wrong with it, as the rest of the sentence.
    pub fn error(&self, key: &str, message: impl Display) {
        self.errors.add(&self.path_of(key), message);
    }

    /// Adds an error about the table as a whole.
    pub fn error_here(&self, message: impl Display) {
        self.errors.add(if self.path.is_empty() { "config" } else { &self.path }, message);
    }

    /// Refuses the keys that are left: each with the nearest of the keys that were read, or with all of them.
    pub fn finish(self) {
        for key in self.values.keys() {
            let known = self.known.iter().map(String::as_str);
            self.error(
                key,
                match nearest(key, known) {
                    Some(nearest) => format!("is not a known key; the nearest is `{nearest}`"),
                    None => format!("is not a known key; accepted: {}", self.known.join(", ")),
                },
            );
        }
    }

    fn field<T>(&self, key: &str, accepted: impl Into<String>) -> Field<'e, T> {
        Field::missing(self.path_of(key), accepted.into(), self.errors)
    }
}

/// A value as an error shows it.
fn found(value: &Value) -> String {
    match value {
        Value::String(text) => quoted(text),
        Value::Array(items) if items.is_empty() => "an empty list".to_owned(),
        Value::Array(_) => "a list".to_owned(),
        Value::Object(_) => "a table".to_owned(),
        Value::Null | Value::Bool(_) | Value::Number(_) => value.to_string(),
    }
}

/// A text as an error shows it: escaped, and cut if it is long.
fn quoted(text: &str) -> String {
    match text.char_indices().nth(FOUND_CHARS_MAX) {
        Some((end, _)) => format!("{:?}...", &text[..end]),
        None => format!("{text:?}"),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// Reads some settings, and returns the error.
    #[track_caller]
    fn error(settings: Value, read: impl FnOnce(&mut Table<'_>)) -> String {
        let errors = Errors::default();
        let Value::Object(values) = settings else { panic!("not a table") };
        let mut table = Table::new(values, &errors);
        read(&mut table);
        table.finish();
        errors.finish(()).err().unwrap_or_default()
    }

    #[test]
    fn values_are_read_by_their_type() {
        let settings = json!({
            "flag": true, "number": 7, "span": "5m", "seconds": 3, "size": "1KiB", "text": "x", "word": "b",
            "texts": ["a", "b"], "one": "a", "kinds": "publish", "patterns": ["chat:*", "news"],
        });
        let error = error(settings, |table| {
            assert_eq!(table.flag("flag").required(), Some(true));
            assert_eq!(table.number("number", 1..=9).required(), Some(7));
            let range = Duration::ZERO..=Duration::from_secs(600);
            assert_eq!(table.duration("span", range.clone()).required(), Some(Duration::from_secs(300)));
            assert_eq!(table.duration("seconds", range).required(), Some(Duration::from_secs(3)));
            assert_eq!(table.size("size", 0..=4096).required(), Some(1024));
            assert_eq!(table.text("text").required().as_deref(), Some("x"));
            assert_eq!(table.word("word", &["a", "b"]).required(), Some("b"));
            assert_eq!(table.texts("texts").required(), Some(vec!["a".to_owned(), "b".to_owned()]));
            assert_eq!(table.texts("one").required(), Some(vec!["a".to_owned()]));
            assert_eq!(table.kinds("kinds").required(), Some(vec![Kind::Publish]));
            assert_eq!(table.patterns("patterns").required().map(|patterns| patterns.len()), Some(2));
        });
        assert_eq!(error, "");
    }

    #[test]
    fn a_key_that_is_left_out_has_its_default_or_is_an_error() {
        let error = error(json!({}), |table| {
            assert!(!table.flag("flag").or_default());
            assert_eq!(table.number("number", 1..=9).or(3), 3);
            assert_eq!(table.text("text").optional(), None);
            assert_eq!(table.number("least", 1..=9).required(), None);
            assert!(table.tables("rules").required().is_none());
        });
        let missing = "2 errors: `least` is missing; accepted: a whole number from 1 to 9; \
                       `rules` is missing; accepted: a list of tables: [[config.rules]]";
        assert_eq!(error, missing);
    }

    #[test]
    fn an_error_says_what_was_found_and_what_is_accepted() {
        let check = |value: Value, read: fn(&mut Table<'_>), expected: &str| {
            assert_eq!(error(json!({ "key": value }), read), format!("`key` {expected}"));
        };
        check(json!(1), |table| drop(table.flag("key")), "is 1; accepted: true or false");
        let number: fn(&mut Table<'_>) = |table| assert_eq!(table.number("key", 1..=9).or(3), 3);
        for (value, shown) in [
            (json!(0), "0"),
            (json!(-1), "-1"),
            (json!(1.5), "1.5"),
            (json!("7"), "\"7\""),
            (json!([]), "an empty list"),
            (json!([7]), "a list"),
            (json!({"a": 7}), "a table"),
            (json!(null), "null"),
        ] {
            check(value, number, &format!("is {shown}; accepted: a whole number from 1 to 9"));
        }
        check(
            json!("2h"),
            |table| drop(table.duration("key", Duration::from_millis(500)..=Duration::from_secs(3600))),
            "is \"2h\"; accepted: a duration from \"500ms\" to \"1h\", or a number of seconds",
        );
        check(
            json!("1 KiB"),
            |table| drop(table.size("key", 1024..=4096)),
            "is \"1 KiB\"; accepted: a size from \"1KiB\" to \"4KiB\", or a number of bytes",
        );
        check(json!("c"), |table| drop(table.word("key", &["a", "b"])), "is \"c\"; accepted: a, b");
        check(
            json!([]),
            |table| drop(table.texts("key")),
            "is an empty list; accepted: a text or a list of texts",
        );
        check(
            json!(["a", 1]),
            |table| drop(table.texts("key")),
            "is a list; accepted: a text or a list of texts",
        );
        check(
            json!(["news", "a b"]),
            |table| drop(table.patterns("key")),
            "has \"a b\"; accepted: channel names, with or without a last `*`",
        );
        check(json!(7), |table| drop(table.table("key")), "is 7; accepted: a table");
    }

    #[test]
    fn a_long_value_is_cut() {
        let error = error(json!({ "key": "x".repeat(1000) }), |table| drop(table.flag("key")));
        assert_eq!(error, format!("`key` is \"{}\"...; accepted: true or false", "x".repeat(60)));
    }

    #[test]
    fn errors_have_the_path_of_their_key() {
        let settings = json!({
            "outer": { "inner": { "flag": 1 } },
            "rules": [{ "flag": 1 }, 7, { "flag": true, "color": 3, "flog": 2 }],
        });
        let error = error(settings, |table| {
            let mut outer = table.table("outer").required().expect("a table");
            let mut inner = outer.table("inner").required().expect("a table");
            let _ = inner.flag("flag").required();
            inner.finish();
            outer.finish();
            let rules = table.tables("rules").or_default();
            assert_eq!(rules.len(), 2, "the one that is no table is left out");
            for mut rule in rules {
                let _ = rule.flag("flag").required();
                rule.finish();
            }
        });
        let expected = "5 errors: `outer.inner.flag` is 1; accepted: true or false; \
                        `rules[1]` is 7; accepted: a table; \
                        `rules[0].flag` is 1; accepted: true or false; \
                        `rules[2].color` is not a known key; accepted: flag; \
                        `rules[2].flog` is not a known key; the nearest is `flag`";
        assert_eq!(error, expected);
    }

    #[test]
    fn a_table_can_have_errors_of_its_own() {
        let error = error(json!({ "rule": {} }), |table| {
            table.error_here("has no rules");
            let rule = table.table("rule").required().expect("a table");
            rule.error_here("has no action");
            rule.error("user", "never matches");
        });
        assert_eq!(error, "3 errors: `config` has no rules; `rule` has no action; `rule.user` never matches");
    }

    #[test]
    fn a_value_can_be_looked_at_and_taken() {
        let error = error(json!({ "secret": "s3cret" }), |table| {
            assert_eq!(table.get("secret"), Some(&json!("s3cret")));
            assert_eq!(table.take("secret"), Some(json!("s3cret")));
            assert_eq!(table.take("secret"), None);
        });
        assert_eq!(error, "");
    }
}
