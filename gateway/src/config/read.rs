//! `Document` reads a TOML document key by key over the shipped defaults. An invalid value is recorded and
//! replaced by its default, so that one pass finds every error.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::fmt::Display;
use std::ops::{Range, RangeInclusive};
use std::time::Duration;

use gateway_plugin_grammar::nearest::nearest;
use gateway_plugin_grammar::units;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::error::{ConfigError, ConfigErrors};

/// Maximum length of an invalid value in a message.
const FOUND_CHARS_MAX: usize = 60;

/// Why a value is refused.
pub(super) struct Invalid {
    /// The offending part; `None` for the whole value.
    pub(super) span: Option<Range<usize>>,
    /// The value found.
    pub(super) found: String,
    /// The values accepted.
    pub(super) accepted: String,
}

/// A user's document and the defaults for it.
pub(super) struct Document<'i> {
    origin: String,
    text: &'i str,
    user: DeTable<'i>,
    defaults: DeTable<'i>,
    errors: RefCell<Vec<ConfigError>>,
    read: RefCell<BTreeSet<String>>,
}

impl<'i> Document<'i> {
    /// Parses a text. If it is not TOML, that is the only error reported.
    pub(super) fn parse(origin: &str, text: &'i str, defaults: &'static str) -> Result<Self, ConfigErrors> {
        let (user, errors) = DeTable::parse_recoverable(text);
        if !errors.is_empty() {
            let syntax = |error: &toml::de::Error| ConfigError {
                origin: origin.to_owned(),
                position: error.span().map(|span| position(text, span.start)),
                key: None,
                message: format!("not valid TOML: {}", error.message()),
            };
            return Err(ConfigErrors::new(errors.iter().map(syntax).collect()));
        }
        Ok(Self {
            origin: origin.to_owned(),
            text,
            user: user.into_inner(),
            defaults: DeTable::parse(defaults).expect("the shipped defaults are valid TOML").into_inner(),
            errors: RefCell::default(),
            read: RefCell::default(),
        })
    }

    /// A table of the document, which must exist in the defaults.
    pub(super) fn section(&self, name: &'static str) -> Section<'_, 'i> {
        let entry = self.user.get_key_value(name);
        let user = entry.and_then(|(_, value)| self.table(name, value));
        self.over(name, name.to_owned(), entry.map(|(key, _)| key.span()), user)
    }

    /// The tables below `parent` with their names, each read over the defaults of `like`.
    pub(super) fn sections(&self, parent: &'static str, like: &'static str) -> Vec<(&str, Section<'_, 'i>)> {
        let mut sections = Vec::new();
        for (key, value) in
            self.user.get(parent).and_then(|value| self.table(parent, value)).into_iter().flatten()
        {
            let path = format!("{parent}.{}", bare_or_quoted(key.get_ref()));
            if let Some(user) = self.table(&path, value) {
                sections.push((&**key.get_ref(), self.over(like, path, Some(key.span()), Some(user))));
            }
        }
        sections
    }

    fn over<'d>(
        &'d self,
        like: &'static str,
        path: String,
        span: Option<Range<usize>>,
        user: Option<&'d DeTable<'i>>,
    ) -> Section<'d, 'i> {
        let defaults = self.defaults.get(like).and_then(|value| value.get_ref().as_table());
        let defaults = defaults.expect("the shipped defaults have every table");
        let (known, refused) = Default::default();
        Section { document: self, like, path, span, user, defaults, known, refused }
    }

    fn table<'d>(&'d self, path: &str, value: &'d Spanned<DeValue<'i>>) -> Option<&'d DeTable<'i>> {
        let table = value.get_ref().as_table();
        if table.is_none() {
            self.refuse(path, Some(value.span()), &found(value.get_ref()), &format!("a table: [{path}]"));
        }
        table
    }

    fn refuse(&self, path: &str, span: Option<Range<usize>>, found: &str, accepted: &str) {
        self.note(path, span, format!("found {found}; accepted: {accepted}"));
    }

    fn note(&self, path: &str, span: Option<Range<usize>>, message: String) {
        self.errors.borrow_mut().push(ConfigError {
            origin: self.origin.clone(),
            position: span.map(|span| position(self.text, span.start)),
            key: Some(path.to_owned()),
            message,
        });
    }

    /// Adds an error that is not in the document.
    pub(super) fn external(&self, error: ConfigError) {
        self.errors.borrow_mut().push(error);
    }

    /// Reports unknown tables, and ends the reading.
    pub(super) fn finish(self) -> Result<BTreeSet<String>, ConfigErrors> {
        for (key, value) in &self.user {
            if !self.defaults.contains_key(key) {
                let names: Vec<&str> = self.defaults.keys().map(|name| name.get_ref().as_ref()).collect();
                let what = if value.get_ref().is_table() { "table" } else { "key" };
                let message = unknown(what, key.get_ref(), &names, || self.in_other_table(key.get_ref(), ""));
                self.note(&bare_or_quoted(key.get_ref()), Some(key.span()), message);
            }
        }
        let errors = self.errors.into_inner();
        if errors.is_empty() { Ok(self.read.into_inner()) } else { Err(ConfigErrors::new(errors)) }
    }

    /// The path of the same key in another table.
    fn in_other_table(&self, key: &str, not_in: &str) -> Option<String> {
        let has = |table: &DeValue<'_>| table.as_table().is_some_and(|table| table.contains_key(key));
        let mut tables =
            self.defaults.iter().filter(|(name, table)| name.get_ref() != not_in && has(table.get_ref()));
        tables.next().map(|(name, _)| format!("{}.{key}", name.get_ref()))
    }
}

/// One table of a document.
pub(super) struct Section<'d, 'i> {
    document: &'d Document<'i>,
    like: &'static str,
    path: String,
    span: Option<Range<usize>>,
    user: Option<&'d DeTable<'i>>,
    defaults: &'d DeTable<'i>,
    known: RefCell<Vec<&'static str>>,
    refused: RefCell<Vec<&'static str>>,
}

impl<'d, 'i> Section<'d, 'i> {
    /// A table within this one. `path` is its path in the defaults.
    pub(super) fn section(&self, key: &'static str, path: &'static str) -> Section<'d, 'i> {
        self.known.borrow_mut().push(key);
        let entry = self.user.and_then(|table| table.get_key_value(key));
        let user = entry.and_then(|(_, value)| self.document.table(&self.path_of(key), value));
        let defaults = self.defaults.get(key).and_then(|value| value.get_ref().as_table());
        let defaults = defaults.expect("the shipped defaults have every table");
        let (known, refused) = Default::default();
        let span = entry.map(|(key, _)| key.span());
        Section {
            document: self.document,
            like: path,
            path: self.path_of(key),
            span,
            user,
            defaults,
            known,
            refused,
        }
    }

    /// Any value, with a conversion that describes errors.
    pub(super) fn value<T>(
        &self,
        key: &'static str,
        convert: impl Fn(&Spanned<DeValue<'i>>) -> Result<T, Vec<Invalid>>,
    ) -> T {
        self.known.borrow_mut().push(key);
        self.document.read.borrow_mut().insert(format!("{}.{key}", self.like));
        if let Some(value) = self.user.and_then(|table| table.get(key)) {
            match convert(value) {
                Ok(converted) => return converted,
                Err(invalids) => {
                    self.refused.borrow_mut().push(key);
                    for invalid in invalids {
                        let span = invalid.span.unwrap_or_else(|| value.span());
                        self.document.refuse(
                            &self.path_of(key),
                            Some(span),
                            &invalid.found,
                            &invalid.accepted,
                        );
                    }
                }
            }
        }
        let default = self.defaults.get(key).map(convert);
        default.and_then(Result::ok).expect("the shipped defaults have a valid value for every key")
    }

    /// A value that is converted as a whole.
    pub(super) fn simple<T>(
        &self,
        key: &'static str,
        accepted: &dyn Display,
        convert: impl Fn(&DeValue<'i>) -> Option<T>,
    ) -> T {
        self.value(key, |value| {
            let invalid =
                || Invalid { span: None, found: found(value.get_ref()), accepted: accepted.to_string() };
            convert(value.get_ref()).ok_or_else(|| vec![invalid()])
        })
    }

    /// `true` or `false`.
    pub(super) fn flag(&self, key: &'static str) -> bool {
        self.simple(key, &"true or false", DeValue::as_bool)
    }

    /// A whole number in a range.
    pub(super) fn number(&self, key: &'static str, range: RangeInclusive<u64>) -> u64 {
        let accepted = format!("a whole number from {} to {}", range.start(), range.end());
        self.simple(key, &accepted, |value| {
            let number = value.as_integer()?;
            u64::from_str_radix(number.as_str(), number.radix()).ok().filter(|number| range.contains(number))
        })
    }

    /// Like [`Section::number`], for counts of things in memory.
    pub(super) fn count(&self, key: &'static str, range: RangeInclusive<u64>) -> usize {
        usize::try_from(self.number(key, range)).unwrap_or(usize::MAX)
    }

    /// A size in a range of bytes.
    pub(super) fn size(&self, key: &'static str, range: RangeInclusive<u64>) -> usize {
        let (least, most) = (units::show_size(*range.start()), units::show_size(*range.end()));
        let accepted = format!("a size from \"{least}\" to \"{most}\", in B, KiB, MiB or GiB");
        let bytes = self.simple(key, &accepted, |value| {
            value.as_str().and_then(units::size).filter(|bytes| range.contains(bytes))
        });
        usize::try_from(bytes).unwrap_or(usize::MAX)
    }

    /// A duration in a range of milliseconds.
    pub(super) fn duration(&self, key: &'static str, range: RangeInclusive<u64>) -> Duration {
        let range = Duration::from_millis(*range.start())..=Duration::from_millis(*range.end());
        let (least, most) = (units::show_duration(*range.start()), units::show_duration(*range.end()));
        let accepted = format!("a duration from \"{least}\" to \"{most}\", in ms, s, m, h or d");
        self.simple(key, &accepted, |value| {
            value.as_str().and_then(units::duration).filter(|duration| range.contains(duration))
        })
    }

    /// Reports that the value of the first of these keys conflicts with the others. Not if one of them was
    /// refused already, since its default has replaced it.
    pub(super) fn conflict(&self, keys: &[&'static str], found: &str, accepted: &str) {
        if !keys.iter().any(|key| self.refused.borrow().contains(key)) {
            let span = keys.iter().find_map(|key| self.user?.get(*key)).map(Spanned::span);
            self.document.refuse(&self.path_of(keys[0]), span, found, accepted);
        }
    }

    /// Whether the user's table differs from the shipped defaults, which a printed default file repeats.
    pub(super) fn is_changed(&self) -> bool {
        let differs = |key: &str, value: &Spanned<DeValue<'_>>| {
            let default = self.defaults.get(key).map(|default| format!("{:?}", default.get_ref()));
            default != Some(format!("{:?}", value.get_ref()))
        };
        self.user.into_iter().flatten().any(|(key, value)| differs(key.get_ref(), value))
    }

    /// Reports that the table must not have its name.
    pub(super) fn misnamed(&self, name: &str, accepted: &str) {
        self.document.refuse(&self.path, self.span.clone(), &quoted(name), accepted);
    }

    /// Reports unknown keys.
    pub(super) fn finish(self) {
        let known = self.known.borrow();
        for key in self.user.into_iter().flat_map(|table| table.keys()) {
            if !known.contains(&key.get_ref().as_ref()) {
                let in_other_table = || self.document.in_other_table(key.get_ref(), self.like);
                let message = unknown("key", key.get_ref(), &known, in_other_table);
                self.document.note(&self.path_of(key.get_ref()), Some(key.span()), message);
            }
        }
    }

    fn path_of(&self, key: &str) -> String {
        format!("{}.{}", self.path, bare_or_quoted(key))
    }
}

/// A value as shown in a message.
pub(super) fn found(value: &DeValue<'_>) -> String {
    match value {
        DeValue::String(text) => quoted(text),
        DeValue::Integer(number) => format!("the number {number}"),
        DeValue::Float(number) => format!("the number {number}"),
        DeValue::Boolean(flag) => flag.to_string(),
        DeValue::Datetime(_) => "a date".to_owned(),
        DeValue::Array(_) => "a list".to_owned(),
        DeValue::Table(_) => "a table".to_owned(),
    }
}

/// A text as shown in a message: escaped, and cut if it is long.
pub(super) fn quoted(text: &str) -> String {
    match text.char_indices().nth(FOUND_CHARS_MAX) {
        Some((end, _)) => format!("{:?}...", &text[..end]),
        None => format!("{text:?}"),
    }
}

/// A key as it is written in TOML.
fn bare_or_quoted(key: &str) -> String {
    let bare = |b: u8| b.is_ascii_alphanumeric() || b"_-".contains(&b);
    if !key.is_empty() && key.len() <= FOUND_CHARS_MAX && key.bytes().all(bare) {
        key.to_owned()
    } else {
        quoted(key)
    }
}

fn unknown(what: &str, name: &str, known: &[&str], in_other_table: impl Fn() -> Option<String>) -> String {
    match nearest(name, known.iter().copied()) {
        Some(near) => format!("no such {what}; the nearest is `{near}`"),
        None => match in_other_table() {
            Some(path) => format!("no such {what} here; there is `{path}`"),
            None => format!("no such {what}; accepted: {}", known.join(", ")),
        },
    }
}

fn position(text: &str, offset: usize) -> (usize, usize) {
    let before = &text[..text.floor_char_boundary(offset)];
    let line = before.rsplit('\n').next().unwrap_or("");
    (before.matches('\n').count() + 1, line.chars().count() + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_count_lines_and_characters_from_one() {
        let text = "a = 1\näö = 2";
        assert_eq!(position(text, 0), (1, 1));
        assert_eq!(position(text, 6), (2, 1));
        assert_eq!(position(text, text.find('2').unwrap_or(0)), (2, 6));
        assert_eq!(position(text, 999), (2, 7));
    }
}
