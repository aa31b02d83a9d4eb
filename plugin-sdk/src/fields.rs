//! Reads some fields of a JSON payload in one pass, without building the rest.
//!
//! A rule often needs only one or two fields of a message. Register their paths once, in
//! [`Plugin::configure`](crate::Plugin::configure). [`Fields::find`] then scans a payload from beginning to
//! end, checks that it is JSON, and returns the values at these paths. It does not copy a text without
//! escapes.
//!
//! ```
//! use gateway_plugin_sdk::fields::{Fields, Path};
//! let mut fields = Fields::default();
//! let room = fields.add(&Path::parse("room.name").unwrap());
//! let found = fields.find(br#"{"room": {"name": "attic", "size": 3}, "text": "hello"}"#);
//! assert_eq!(found.get(room).unwrap().text(), Some("attic"));
//! ```

mod scan;

use std::borrow::Cow;
use std::fmt;

use serde_json::Value;

use scan::{Begins, Scan};

/// A path in a JSON value: names and positions joined by dots, such as `user.roles.0`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Path(Vec<String>);

impl Path {
    /// `None` if the text is empty or has an empty part.
    pub fn parse(text: &str) -> Option<Self> {
        let parts: Vec<String> = text.split('.').map(str::to_owned).collect();
        if parts.iter().any(String::is_empty) { None } else { Some(Self(parts)) }
    }

    /// The names and positions, from the outermost on; at least one.
    pub fn parts(&self) -> &[String] {
        &self.0
    }

    /// The part of a value at this path.
    pub fn within<'v>(&self, root: &'v Value) -> Option<&'v Value> {
        self.0.iter().try_fold(root, |value, part| step(value, part))
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
        f.write_str(&self.0.join("."))
    }
}

/// One of the paths in [`Fields`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Slot(usize);

/// All paths in payloads that a plugin reads.
#[derive(Debug, Default)]
pub struct Fields {
    root: Node,
    count: usize,
}

#[derive(Debug, Default)]
struct Node {
    /// Whether this very place is looked at, and as which.
    slot: Option<Slot>,
    /// Places below, by name or position.
    below: Vec<(String, Node)>,
}

/// The value at a path. A text is by far the most common kind, so it is not copied.
#[derive(Debug, Clone, PartialEq)]
pub enum Found<'m> {
    /// A text.
    Text(Cow<'m, str>),
    /// Anything else.
    Other(Cow<'m, Value>),
}

impl<'m> Found<'m> {
    /// The text, if the value is one.
    pub fn text(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            Self::Other(_) => None,
        }
    }

    /// Whether it equals this value.
    pub fn is(&self, wanted: &Value) -> bool {
        match self {
            Self::Text(text) => wanted.as_str() == Some(&**text),
            Self::Other(value) => **value == *wanted,
        }
    }

    /// An owned copy of the value.
    pub fn into_value(self) -> Value {
        match self {
            Self::Text(text) => Value::String(text.into_owned()),
            Self::Other(value) => value.into_owned(),
        }
    }

    /// The value, without a copy.
    pub fn by_ref(&self) -> Found<'_> {
        match self {
            Self::Text(text) => Found::Text(Cow::Borrowed(text)),
            Self::Other(value) => Found::Other(Cow::Borrowed(value)),
        }
    }

    fn owned(value: Value) -> Self {
        match value {
            Value::String(text) => Self::Text(Cow::Owned(text)),
            other => Self::Other(Cow::Owned(other)),
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

/// The values of one payload at the paths.
#[derive(Debug, Clone, PartialEq)]
pub struct Picked<'m>(Vec<Option<Found<'m>>>);

impl<'m> Picked<'m> {
    /// The value at a path; `None` if there is none, or if the payload is not JSON.
    pub fn get(&self, slot: Slot) -> Option<&Found<'m>> {
        self.0.get(slot.0)?.as_ref()
    }
}

impl Fields {
    /// Registers a path. A path that is already known keeps its slot.
    pub fn add(&mut self, path: &Path) -> Slot {
        let node = path.0.iter().fold(&mut self.root, |node, part| {
            let known = node.below.iter().position(|(name, _)| name == part);
            let index = known.unwrap_or_else(|| {
                node.below.push((part.clone(), Node::default()));
                node.below.len() - 1
            });
            &mut node.below[index].1
        });
        *node.slot.get_or_insert_with(|| {
            self.count += 1;
            Slot(self.count - 1)
        })
    }

    /// The values of a payload at the paths; none if the payload is not JSON from beginning to end. If a name
    /// occurs twice in an object, the last one counts.
    pub fn find<'m>(&self, payload: &'m [u8]) -> Picked<'m> {
        let mut slots = vec![None; self.count];
        let read = std::str::from_utf8(payload).ok().and_then(|text| {
            let mut scan = Scan::new(text);
            self.root.pick(&mut scan, &mut slots)?;
            scan.end()
        });
        if read.is_none() {
            slots.fill(None);
        }
        Picked(slots)
    }
}

impl Node {
    /// Reads the value that the scan has come to: keeps what is looked at and skips the rest. `None` if it is
    /// not JSON.
    fn pick<'m>(&self, scan: &mut Scan<'m>, slots: &mut [Option<Found<'m>>]) -> Option<()> {
        if let Some(slot) = self.slot {
            let found = value(scan)?;
            if let Found::Other(value) = &found {
                self.take_from(value, slots);
            }
            slots[slot.0] = Some(found);
            return Some(());
        }
        match scan.begins()? {
            Begins::Object => {
                let mut more = scan.open(b'{', b'}')?;
                while more {
                    match self.named(&scan.name()?) {
                        None => scan.skip()?,
                        Some(Self { slot: Some(slot), below }) if below.is_empty() => {
                            slots[slot.0] = Some(value(scan)?);
                        }
                        Some(node) => {
                            node.forget(slots);
                            node.pick(scan, slots)?;
                        }
                    }
                    more = scan.more(b'}')?;
                }
                Some(())
            }
            Begins::Array => {
                let mut more = scan.open(b'[', b']')?;
                let mut position = 0_usize;
                while more {
                    match self.below.iter().find(|(part, _)| part.parse() == Ok(position)) {
                        None => scan.skip()?,
                        Some((_, node)) => node.pick(scan, slots)?,
                    }
                    position += 1;
                    more = scan.more(b']')?;
                }
                Some(())
            }
            Begins::Text | Begins::Other => scan.skip(),
        }
    }

    #[inline]
    fn named(&self, name: &str) -> Option<&Self> {
        self.below.iter().find(|(part, _)| part == name).map(|(_, node)| node)
    }

    /// A name has come again: what it had before does not count.
    fn forget(&self, slots: &mut [Option<Found<'_>>]) {
        if let Some(slot) = self.slot {
            slots[slot.0] = None;
        }
        self.below.iter().for_each(|(_, node)| node.forget(slots));
    }

    /// The places below, out of a value that had to be built because it is looked at itself.
    fn take_from(&self, value: &Value, slots: &mut [Option<Found<'_>>]) {
        for (part, node) in &self.below {
            let Some(value) = step(value, part) else { continue };
            if let Some(slot) = node.slot {
                slots[slot.0] = Some(Found::owned(value.clone()));
            }
            node.take_from(value, slots);
        }
    }
}

/// The whole value that the scan has come to.
#[inline]
fn value<'m>(scan: &mut Scan<'m>) -> Option<Found<'m>> {
    if scan.begins()? == Begins::Text {
        return scan.text().map(Found::Text);
    }
    let from = scan.rest();
    scan.skip()?;
    let text = &from[..from.len() - scan.rest().len()];
    serde_json::from_str(text).ok().map(Found::owned)
}
