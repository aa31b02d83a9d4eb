//! Picks some fields out of JSON in one pass, without building the rest.

use std::borrow::Cow;
use std::fmt;

use serde::de::{DeserializeSeed, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::{Deserializer, Value};

use super::{Found, Path, step};

/// Every place in the payload that some rule looks at, as a tree.
#[derive(Debug, Default)]
pub(crate) struct Fields {
    root: Node,
    count: usize,
}

#[derive(Debug, Default)]
struct Node {
    /// Whether this very place is looked at, and as which.
    slot: Option<usize>,
    /// Places below, by name or position.
    below: Vec<(String, Node)>,
}

/// What was found so far, by slot.
type Slots<'m> = Vec<Option<Found<'m>>>;

impl Fields {
    /// Takes a path in and tells it which one it is.
    pub(crate) fn add(&mut self, path: &mut Path) {
        let node = path.parts.iter().fold(&mut self.root, |node, part| {
            let known = node.below.iter().position(|(name, _)| name == part);
            let index = known.unwrap_or_else(|| {
                node.below.push((part.clone(), Node::default()));
                node.below.len() - 1
            });
            &mut node.below[index].1
        });
        path.slot = *node.slot.get_or_insert_with(|| {
            self.count += 1;
            self.count - 1
        });
    }

    /// The fields of a payload. None of them if it is not JSON from beginning to end.
    pub(super) fn find<'m>(&self, payload: &'m [u8]) -> Slots<'m> {
        let nothing = || vec![None; self.count];
        let mut slots = nothing();
        let Ok(text) = std::str::from_utf8(payload) else { return slots };
        let mut json = Deserializer::from_str(text);
        let read = Pick { node: &self.root, slots: &mut slots }.deserialize(&mut json);
        if read.and_then(|()| json.end()).is_err() { nothing() } else { slots }
    }
}

impl Node {
    /// A name that occurs twice in an object counts the last time.
    fn forget(&self, slots: &mut Slots<'_>) {
        if let Some(slot) = self.slot {
            slots[slot] = None;
        }
        self.below.iter().for_each(|(_, node)| node.forget(slots));
    }

    /// The places below, out of a value that had to be built because it is looked at itself.
    fn take_from(&self, value: &Value, slots: &mut Slots<'_>) {
        for (part, node) in &self.below {
            let Some(value) = step(value, part) else { continue };
            if let Some(slot) = node.slot {
                slots[slot] = Some(owned(value.clone()));
            }
            node.take_from(value, slots);
        }
    }
}

fn owned<'m>(value: Value) -> Found<'m> {
    match value {
        Value::String(text) => Found::Text(Cow::Owned(text)),
        other => Found::Other(Cow::Owned(other)),
    }
}

/// Reads one value: keeps what is looked at and skips the rest.
struct Pick<'p, 'm> {
    node: &'p Node,
    slots: &'p mut Slots<'m>,
}

impl<'m> DeserializeSeed<'m> for Pick<'_, 'm> {
    type Value = ();

    fn deserialize<D: serde::Deserializer<'m>>(self, deserializer: D) -> Result<(), D::Error> {
        match self.node.slot {
            None => deserializer.deserialize_any(self),
            Some(slot) if self.node.below.is_empty() => {
                self.slots[slot] = Some(deserializer.deserialize_any(Leaf)?);
                Ok(())
            }
            Some(slot) => {
                let value: Value = serde::Deserialize::deserialize(deserializer)?;
                self.node.take_from(&value, self.slots);
                self.slots[slot] = Some(owned(value));
                Ok(())
            }
        }
    }
}

impl<'m> Visitor<'m> for Pick<'_, 'm> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_map<A: MapAccess<'m>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(index) = map.next_key_seed(Name(&self.node.below))? {
            match index {
                None => drop(map.next_value::<IgnoredAny>()?),
                Some(index) => {
                    let node = &self.node.below[index].1;
                    node.forget(self.slots);
                    map.next_value_seed(Pick { node, slots: self.slots })?;
                }
            }
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'m>>(self, mut items: A) -> Result<(), A::Error> {
        let below = &self.node.below;
        for position in 0_usize.. {
            let node = below.iter().find(|(part, _)| part.parse() == Ok(position));
            let more = match node {
                None => items.next_element::<IgnoredAny>()?.is_some(),
                Some((_, node)) => items.next_element_seed(Pick { node, slots: self.slots })?.is_some(),
            };
            if !more {
                break;
            }
        }
        Ok(())
    }

    // A place that is no object or list has nothing below.

    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        Ok(())
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }
}

/// Which of the places below a name means.
struct Name<'p>(&'p [(String, Node)]);

impl<'m> DeserializeSeed<'m> for Name<'_> {
    type Value = Option<usize>;

    fn deserialize<D: serde::Deserializer<'m>>(self, deserializer: D) -> Result<Option<usize>, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for Name<'_> {
    type Value = Option<usize>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a name")
    }

    fn visit_str<E>(self, name: &str) -> Result<Option<usize>, E> {
        Ok(self.0.iter().position(|(part, _)| part == name))
    }
}

/// Keeps a whole value. A text without escapes stays where it is.
struct Leaf;

impl<'m> Visitor<'m> for Leaf {
    type Value = Found<'m>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_borrowed_str<E>(self, text: &'m str) -> Result<Found<'m>, E> {
        Ok(Found::Text(Cow::Borrowed(text)))
    }

    fn visit_str<E>(self, text: &str) -> Result<Found<'m>, E> {
        Ok(Found::Text(Cow::Owned(text.to_owned())))
    }

    fn visit_bool<E>(self, value: bool) -> Result<Found<'m>, E> {
        Ok(owned(value.into()))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Found<'m>, E> {
        Ok(owned(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Found<'m>, E> {
        Ok(owned(value.into()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Found<'m>, E> {
        Ok(owned(value.into()))
    }

    fn visit_unit<E>(self) -> Result<Found<'m>, E> {
        Ok(owned(Value::Null))
    }

    fn visit_seq<A: SeqAccess<'m>>(self, items: A) -> Result<Found<'m>, A::Error> {
        let items = serde::de::value::SeqAccessDeserializer::new(items);
        serde::Deserialize::deserialize(items).map(owned)
    }

    fn visit_map<A: MapAccess<'m>>(self, map: A) -> Result<Found<'m>, A::Error> {
        let map = serde::de::value::MapAccessDeserializer::new(map);
        serde::Deserialize::deserialize(map).map(owned)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// What a payload has at these paths, beside what a parser that builds everything says.
    fn check(payload: &str, paths: &[&str]) {
        let mut fields = Fields::default();
        let mut parsed: Vec<Path> = paths.iter().map(|path| Path::parse(path).expect(path)).collect();
        parsed.iter_mut().for_each(|path| fields.add(path));
        let found = fields.find(payload.as_bytes());
        let whole: Option<Value> = serde_json::from_str(payload).ok();
        for path in &parsed {
            let expected = whole.as_ref().and_then(|whole| path.within(whole));
            let is = found[path.slot].clone().map(Found::into_value);
            assert_eq!(is.as_ref(), expected, "{path} in {payload}");
        }
    }

    #[test]
    fn it_finds_what_a_whole_value_has_at_the_place() {
        let paths = ["a", "a.b", "a.b.1", "x", "0", "1.a", "b.c", "b.d", "deep.er.est"];
        for payload in [
            r#"{"a":{"b":[0,"x"]},"x":"plain","b":{"c":1.5,"d":null}}"#,
            r#"{"x":"esc\"aped","a":1,"b":[],"deep":{"er":{"est":{"k":[1,{}]}}}}"#,
            r#"[{"a":1},{"a":true}]"#,
            r#"{"b":{"c":1,"d":2},"b":{"d":3}}"#,
            r#"{"a":{"b":[1]},"a":{"c":1}}"#,
            r#"{"b":-7,"0":"zero","1":{"a":18446744073709551615}}"#,
            r#""text""#,
            "7",
            "null",
            "{}",
            "",
            r#"{"x":"cut"#,
            r#"{"x":1} {"x":2}"#,
            r#"{"x":1,}"#,
        ] {
            check(payload, &paths);
            check(payload, &["b.c"]);
            check(payload, &[]);
        }
    }

    #[test]
    fn one_place_has_one_slot() {
        let mut fields = Fields::default();
        let [mut a, mut b, mut c] = ["u.id", "u.id", "u"].map(|path| Path::parse(path).expect(path));
        for path in [&mut a, &mut b, &mut c] {
            fields.add(path);
        }
        assert_eq!(a.slot, b.slot);
        assert_ne!(a.slot, c.slot);
        assert_eq!(fields.find(br#"{"u":{"id":7}}"#).len(), 2);
    }

    #[test]
    fn bytes_that_are_no_text_have_no_fields() {
        let mut fields = Fields::default();
        let mut path = Path::parse("a").expect("a path");
        fields.add(&mut path);
        assert_eq!(fields.find(b"{\"a\":1,\"b\":\"\xff\"}"), [None]);
        assert_eq!(
            fields.find(json!({"a": 1}).to_string().as_bytes())[0].as_ref().map(|f| f.is(&json!(1))),
            Some(true)
        );
    }
}
