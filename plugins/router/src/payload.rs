//! The payload of a message, as far as the rules look into it.

use std::cell::OnceCell;
use std::fmt;

use gateway_plugin_sdk::fields::{self, Fields, Found, Picked, Slot};
use serde_json::{Map, Value};

use crate::template::Unfit;

/// A place in the payload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Path {
    place: fields::Path,
    /// Which of the [`Fields`] it is, once those are known.
    slot: Option<Slot>,
}

impl Path {
    /// `None` if the text is empty or has an empty part.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        Some(Self { place: fields::Path::parse(text)?, slot: None })
    }

    /// Makes it known to those who read payloads.
    pub(crate) fn add_to(&mut self, fields: &mut Fields) {
        self.slot = Some(fields.add(&self.place));
    }

    /// Whether setting one of the two would undo setting the other.
    pub(crate) fn overlaps(&self, other: &Self) -> bool {
        self.place.parts().iter().zip(other.place.parts()).all(|(a, b)| a == b)
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.place.fmt(f)
    }
}

/// The payload of a message: read once, when a rule first looks into it, and only for the fields that rules
/// name.
#[derive(Debug)]
pub(crate) struct Payload<'m> {
    original: &'m [u8],
    fields: &'m Fields,
    found: OnceCell<Picked<'m>>,
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
            return path.place.within(value).map(Found::from);
        }
        let found = self.found.get_or_init(|| self.fields.find(self.original));
        found.get(path.slot?).map(Found::by_ref)
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
    let Some((last, way)) = path.place.parts().split_last() else { return Ok(()) };
    let not_an_object = || Unfit::NotAnObject(Some(path.to_string()));
    let mut place = root;
    for part in way {
        let fields = place.as_object_mut().ok_or_else(not_an_object)?;
        place = fields.entry(part.as_str()).or_insert_with(|| Value::Object(Map::new()));
    }
    place.as_object_mut().ok_or_else(not_an_object)?.insert(last.clone(), value);
    Ok(())
}
