use std::cell::OnceCell;
use std::fmt;

use serde_json::{Map, Value};

use crate::template::Unfit;

/// A place in a JSON value: names and positions joined by dots, such as `user.roles.0`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Path(Vec<String>);

impl Path {
    /// `None` if the text is empty or has an empty part.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let parts: Vec<String> = text.split('.').map(str::to_owned).collect();
        if parts.iter().any(String::is_empty) { None } else { Some(Self(parts)) }
    }

    /// Whether setting one of the two would undo setting the other.
    pub(crate) fn overlaps(&self, other: &Self) -> bool {
        self.0.iter().zip(&other.0).all(|(a, b)| a == b)
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join("."))
    }
}

/// The payload of a message: parsed once, when a rule first looks into it.
#[derive(Debug)]
pub(crate) struct Payload<'m> {
    original: &'m [u8],
    parsed: OnceCell<Option<Value>>,
    rewritten: Option<Vec<u8>>,
}

impl<'m> Payload<'m> {
    pub(crate) const fn new(original: &'m [u8]) -> Self {
        Self { original, parsed: OnceCell::new(), rewritten: None }
    }

    /// What is at a path; `None` if nothing is, or if the payload is not JSON.
    pub(crate) fn get(&self, path: &Path) -> Option<&Value> {
        path.0.iter().try_fold(self.json()?, |value, part| match value {
            Value::Object(fields) => fields.get(part),
            Value::Array(items) => items.get(part.parse::<usize>().ok()?),
            _ => None,
        })
    }

    /// Sets values, making objects on the way where there is nothing yet.
    pub(crate) fn set(&mut self, values: Vec<(&Path, Value)>) -> Result<(), Unfit> {
        let mut root = match self.json() {
            Some(root @ Value::Object(_)) => root.clone(),
            _ => return Err(Unfit::NotAnObject(None)),
        };
        for (path, value) in values {
            put(&mut root, path, value)?;
        }
        self.rewritten = Some(root.to_string().into_bytes());
        self.parsed = OnceCell::from(Some(root));
        Ok(())
    }

    /// The payload as the rules left it; `None` if they did not change it.
    pub(crate) fn rewritten(&self) -> Option<&[u8]> {
        self.rewritten.as_deref()
    }

    fn json(&self) -> Option<&Value> {
        self.parsed.get_or_init(|| serde_json::from_slice(self.original).ok()).as_ref()
    }
}

fn put(root: &mut Value, path: &Path, value: Value) -> Result<(), Unfit> {
    let Some((last, way)) = path.0.split_last() else { return Ok(()) };
    let not_an_object = || Unfit::NotAnObject(Some(path.to_string()));
    let mut place = root;
    for part in way {
        let fields = place.as_object_mut().ok_or_else(not_an_object)?;
        place = fields.entry(part.as_str()).or_insert_with(|| Value::Object(Map::new()));
    }
    place.as_object_mut().ok_or_else(not_an_object)?.insert(last.clone(), value);
    Ok(())
}
