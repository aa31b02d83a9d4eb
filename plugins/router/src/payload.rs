//! The payload of a message, as far as the rules look into it.

mod fields;

use std::borrow::Cow;
use std::cell::OnceCell;
use std::fmt;

use serde_json::{Map, Value};

use crate::template::Unfit;
pub(crate) use fields::Fields;

/// A place in a JSON value: names and positions joined by dots, such as `user.roles.0`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Path {
    parts: Vec<String>,
    /// Which of the [`Fields`] it is, once those are known.
    slot: usize,
}

impl Path {
    /// `None` if the text is empty or has an empty part.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let parts: Vec<String> = text.split('.').map(str::to_owned).collect();
        if parts.iter().any(String::is_empty) { None } else { Some(Self { parts, slot: usize::MAX }) }
    }

    /// Whether setting one of the two would undo setting the other.
    pub(crate) fn overlaps(&self, other: &Self) -> bool {
        self.parts.iter().zip(&other.parts).all(|(a, b)| a == b)
    }

    fn within<'v>(&self, root: &'v Value) -> Option<&'v Value> {
        self.parts.iter().try_fold(root, |value, part| step(value, part))
    }
}

/// What is one name or position further on.
fn step<'v>(value: &'v Value, part: &str) -> Option<&'v Value> {
    match value {
        Value::Object(fields) => fields.get(part),
        Value::Array(items) => items.get(part.parse::<usize>().ok()?),
        _ => None,
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.parts.join("."))
    }
}

/// What is at a path. A text is by far the most common, and is not copied.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Found<'f> {
    Text(Cow<'f, str>),
    Other(Cow<'f, Value>),
}

impl Found<'_> {
    /// Whether it is this value.
    pub(crate) fn is(&self, wanted: &Value) -> bool {
        match self {
            Self::Text(text) => wanted.as_str() == Some(&**text),
            Self::Other(value) => **value == *wanted,
        }
    }

    pub(crate) fn into_value(self) -> Value {
        match self {
            Self::Text(text) => Value::String(text.into_owned()),
            Self::Other(value) => value.into_owned(),
        }
    }

    /// The same without a copy.
    fn by_ref(&self) -> Found<'_> {
        match self {
            Self::Text(text) => Found::Text(Cow::Borrowed(text)),
            Self::Other(value) => Found::Other(Cow::Borrowed(value)),
        }
    }
}

impl<'v> From<&'v Value> for Found<'v> {
    fn from(value: &'v Value) -> Self {
        match value {
            Value::String(text) => Self::Text(Cow::Borrowed(text)),
            other => Self::Other(Cow::Borrowed(other)),
        }
    }
}

/// The payload of a message: read once, when a rule first looks into it, and only for the fields that rules name.
#[derive(Debug)]
pub(crate) struct Payload<'m> {
    original: &'m [u8],
    fields: &'m Fields,
    found: OnceCell<Vec<Option<Found<'m>>>>,
    /// The whole value and its text, once a rule has changed it.
    rewritten: Option<(Value, Vec<u8>)>,
}

impl<'m> Payload<'m> {
    pub(crate) const fn new(original: &'m [u8], fields: &'m Fields) -> Self {
        Self { original, fields, found: OnceCell::new(), rewritten: None }
    }

    /// What is at a path; `None` if nothing is, or if the payload is not JSON.
    pub(crate) fn get(&self, path: &Path) -> Option<Found<'_>> {
        if let Some((value, _)) = &self.rewritten {
            return path.within(value).map(Found::from);
        }
        let found = self.found.get_or_init(|| self.fields.find(self.original));
        found.get(path.slot)?.as_ref().map(Found::by_ref)
    }

    /// Sets values, making objects on the way where there is nothing yet.
    pub(crate) fn set(&mut self, values: Vec<(&Path, Value)>) -> Result<(), Unfit> {
        let root = match &self.rewritten {
            Some((value, _)) => Some(value.clone()),
            None => serde_json::from_slice(self.original).ok(),
        };
        let Some(mut root @ Value::Object(_)) = root else { return Err(Unfit::NotAnObject(None)) };
        for (path, value) in values {
            put(&mut root, path, value)?;
        }
        let text = root.to_string().into_bytes();
        self.rewritten = Some((root, text));
        Ok(())
    }

    /// The payload as the rules left it; `None` if they did not change it.
    pub(crate) fn rewritten(&self) -> Option<&[u8]> {
        self.rewritten.as_ref().map(|(_, text)| text.as_slice())
    }
}

fn put(root: &mut Value, path: &Path, value: Value) -> Result<(), Unfit> {
    let Some((last, way)) = path.parts.split_last() else { return Ok(()) };
    let not_an_object = || Unfit::NotAnObject(Some(path.to_string()));
    let mut place = root;
    for part in way {
        let fields = place.as_object_mut().ok_or_else(not_an_object)?;
        place = fields.entry(part.as_str()).or_insert_with(|| Value::Object(Map::new()));
    }
    place.as_object_mut().ok_or_else(not_an_object)?.insert(last.clone(), value);
    Ok(())
}
