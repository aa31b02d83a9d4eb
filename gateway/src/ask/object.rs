//! [`Object`] reads the fields of a JSON object one by one, so that a field nobody has taken can be named.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

use crate::protocol::json;

/// Most fields of an object. Those of an answer are fewer.
const FIELDS_MAX: usize = 64;

/// The fields that are left, in order. A `null` counts as absent.
pub(super) struct Object<'a> {
    fields: Vec<(String, &'a RawValue)>,
}

struct Fields {
    max: usize,
}

impl<'de> Visitor<'de> for Fields {
    type Value = Object<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Object<'de>, A::Error> {
        let mut fields: Vec<(String, &'de RawValue)> = Vec::new();
        while let Some((name, value)) = map.next_entry::<String, &'de RawValue>()? {
            if value.get() == "null" {
                continue;
            }
            if fields.len() == self.max {
                return Err(serde::de::Error::custom(format_args!("more than {} fields", self.max)));
            }
            fields.push((name, value));
        }
        Ok(Object { fields })
    }
}

impl<'a> Object<'a> {
    /// Reads an object. The error says what is wrong, without a part of it.
    pub(super) fn read(json: &'a str) -> Result<Self, String> {
        Self::with_fields(json, FIELDS_MAX)
    }

    /// Reads an object with at most this many fields.
    pub(super) fn with_fields(json: &'a str, max: usize) -> Result<Self, String> {
        let mut deserializer = serde_json::Deserializer::from_str(json);
        let object = deserializer.deserialize_map(Fields { max }).map_err(|error| shape(&error, max))?;
        deserializer.end().map_err(|_| "is followed by something".to_owned())?;
        Ok(object)
    }

    /// Takes a field. The last one of a name counts.
    pub(super) fn take(&mut self, name: &str) -> Option<&'a RawValue> {
        let mut taken = None;
        self.fields.retain(|(other, value)| {
            let found = other == name;
            if found {
                taken = Some(*value);
            }
            !found
        });
        taken
    }

    pub(super) fn object(&mut self, name: &str) -> Result<Option<Object<'a>>, String> {
        let Some(value) = self.take(name) else { return Ok(None) };
        Object::read(value.get()).map(Some).map_err(|error| format!("`{name}` {error}"))
    }

    pub(super) fn value<T: Deserialize<'a>>(&mut self, name: &str, what: &str) -> Result<Option<T>, String> {
        let Some(value) = self.take(name) else { return Ok(None) };
        serde_json::from_str(value.get()).map(Some).map_err(|_| format!("`{name}` is not {what}"))
    }

    pub(super) fn text(&mut self, name: &str) -> Result<String, String> {
        Ok(self.value(name, "a text")?.unwrap_or_default())
    }

    pub(super) fn flag(&mut self, name: &str) -> Result<bool, String> {
        Ok(self.value(name, "true or false")?.unwrap_or_default())
    }

    /// A Unix time in seconds; `None` for 0.
    pub(super) fn time(&mut self, name: &str) -> Result<Option<u64>, String> {
        Ok(self.value(name, "a Unix time in seconds")?.filter(|seconds| *seconds != 0))
    }

    /// JSON on one line in one field, or the same as Base64 in the other; empty for none.
    pub(super) fn json(&mut self, body: &Bytes, plain: &str, base64: &str) -> Result<Bytes, String> {
        self.payload(body, plain, base64, true).map(Option::unwrap_or_default)
    }

    /// A payload in one of two fields: JSON, or Base64 of bytes that are JSON if `must_be_json`. JSON is a
    /// slice of the body if that is not much larger.
    pub(super) fn payload(
        &mut self,
        body: &Bytes,
        plain: &str,
        base64: &str,
        must_be_json: bool,
    ) -> Result<Option<Bytes>, String> {
        let plain_value = self.take(plain);
        let encoded = self.value::<String>(base64, "a text")?.filter(|text| !text.is_empty());
        let (bytes, name) = match (encoded, plain_value) {
            (Some(text), _) => {
                let bytes = STANDARD.decode(text).map_err(|_| format!("`{base64}` is not Base64"))?;
                if !must_be_json {
                    return Ok(Some(bytes.into()));
                }
                (bytes.into(), base64)
            }
            (None, Some(value)) => (slice(body, value.get()), plain),
            (None, None) => return Ok(None),
        };
        json::compact(bytes).map(Some).map_err(|error| format!("`{name}` is {error}"))
    }

    /// The fields that nobody has taken, but for those that say nothing.
    pub(super) fn left(&self) -> impl Iterator<Item = &str> {
        self.fields.iter().filter(|(_, value)| !json::says_nothing(value.get())).map(|(name, _)| &**name)
    }

    /// All fields, in order.
    pub(super) fn into_fields(self) -> impl Iterator<Item = (String, &'a RawValue)> {
        self.fields.into_iter()
    }
}

/// A part of the body without a copy, unless it would keep a much larger body in memory.
fn slice(body: &Bytes, part: &str) -> Bytes {
    if part.len() * 2 >= body.len() {
        body.slice_ref(part.as_bytes())
    } else {
        part.as_bytes().to_vec().into()
    }
}

fn shape(error: &serde_json::Error, max: usize) -> String {
    if error.is_data() && error.to_string().starts_with("more than") {
        return format!("has more than {max} fields");
    }
    if error.is_data() { "is not an object".to_owned() } else { "is not JSON".to_owned() }
}
