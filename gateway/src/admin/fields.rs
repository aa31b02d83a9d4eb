//! `Fields` reads the body of an API request, a JSON object, field by field.

use std::collections::BTreeMap;
use std::fmt;

use base64::prelude::{BASE64_STANDARD, Engine as _};
use bytes::Bytes;
use gateway_plugin_grammar::address;
use serde::de::{DeserializeOwned, Error as _, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::value::{RawValue, to_raw_value};

use crate::protocol::code::ReplyError;
use crate::protocol::command::Position;
use crate::protocol::json::{NotJson, compact, says_nothing};

/// Maximum number of characters of an unknown name in an error.
const NAME_SHOWN_MAX: usize = 64;

/// Why a request cannot be carried out.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Failure {
    /// The request is malformed: status 400.
    Malformed(String),
    /// The request is refused with this error: status 200.
    Api(ReplyError),
}

impl From<ReplyError> for Failure {
    fn from(error: ReplyError) -> Self {
        Self::Api(error)
    }
}

impl From<Failure> for ReplyError {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Malformed(message) => bad_request(message),
            Failure::Api(error) => error,
        }
    }
}

/// An error for a missing or unsupported field.
pub(super) fn bad_request(message: impl Into<String>) -> ReplyError {
    ReplyError::BAD_REQUEST.because(message.into())
}

/// The fields that were not read yet.
pub(super) struct Fields {
    left: BTreeMap<String, Box<RawValue>>,
    /// Those that were asked for, whether they were there or not.
    known: Vec<&'static str>,
}

impl<'de> Deserialize<'de> for Fields {
    /// From an object. A field that occurs twice is an error, because only one of its values would count.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Object;

        impl<'de> Visitor<'de> for Object {
            type Value = Fields;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Fields, A::Error> {
                let mut fields = BTreeMap::new();
                while let Some((name, value)) = map.next_entry::<String, Box<RawValue>>()? {
                    if fields.contains_key(&name) {
                        return Err(A::Error::custom(format_args!("`{name}` occurs twice")));
                    }
                    fields.insert(name, value);
                }
                Ok(Fields { left: fields, known: Vec::new() })
            }
        }

        deserializer.deserialize_map(Object)
    }
}

impl Fields {
    /// Parses a body. An empty body is an object without fields.
    pub(super) fn parse(body: &[u8]) -> Result<Self, Failure> {
        if body.iter().all(u8::is_ascii_whitespace) {
            return Ok(Self { left: BTreeMap::new(), known: Vec::new() });
        }
        let malformed =
            |error: serde_json::Error| Failure::Malformed(format!("the body is not a JSON object: {error}"));
        serde_json::from_slice(body).map_err(malformed)
    }

    fn take(&mut self, name: &'static str) -> Option<Box<RawValue>> {
        if !self.known.contains(&name) {
            self.known.push(name);
        }
        self.left.remove(name)
    }

    /// The fields that are not null, whatever their names.
    pub(super) fn entries(self) -> impl Iterator<Item = (String, Box<RawValue>)> {
        self.left.into_iter().filter(|(_, value)| value.get() != "null")
    }

    /// A field that may be missing or null.
    pub(super) fn optional<T: DeserializeOwned>(&mut self, name: &'static str) -> Result<Option<T>, Failure> {
        let Some(value) = self.take(name) else { return Ok(None) };
        serde_json::from_str(value.get()).map_err(|error| Failure::Malformed(format!("`{name}`: {error}")))
    }

    /// A field that is an object, to be read and finished like the body. `None` if it is missing or null.
    pub(super) fn object(&mut self, name: &'static str) -> Result<Option<Self>, Failure> {
        self.optional(name)
    }

    /// A field that must be there.
    pub(super) fn required<T: DeserializeOwned>(&mut self, name: &'static str) -> Result<T, Failure> {
        self.optional(name)?.ok_or_else(|| bad_request(format!("`{name}` is missing")).into())
    }

    /// A text of at most this many bytes. An empty one counts as missing.
    pub(super) fn text(&mut self, name: &'static str, bytes_max: usize) -> Result<Option<Box<str>>, Failure> {
        let text: Option<Box<str>> = self.optional(name)?;
        match text.filter(|text| !text.is_empty()) {
            Some(text) if text.len() > bytes_max => {
                let bytes = text.len();
                Err(bad_request(format!("`{name}` has {bytes} bytes, at most {bytes_max} are accepted"))
                    .into())
            }
            text => Ok(text),
        }
    }

    /// With this text in a field that is missing, null or empty.
    pub(super) fn or_text(mut self, name: &str, text: &str) -> Self {
        if self.left.get(name).is_none_or(|value| says_nothing(value.get()) || value.get() == "\"\"")
            && let Ok(value) = to_raw_value(text)
        {
            self.left.insert(name.to_owned(), value);
        }
        self
    }

    /// The raw JSON of a field, which may be null. `None` if it is missing.
    pub(super) fn json(&mut self, name: &'static str) -> Option<Box<RawValue>> {
        self.take(name)
    }

    /// A field that may be missing or empty: some libraries write an empty list for an empty map.
    pub(super) fn filled<T: DeserializeOwned>(&mut self, name: &'static str) -> Result<Option<T>, Failure> {
        if self.left.get(name).is_some_and(|value| says_nothing(value.get())) {
            self.left.remove(name);
        }
        self.optional(name)
    }

    /// A field that is a map from names to texts. A missing one is empty.
    pub(super) fn texts(&mut self, name: &'static str) -> Result<BTreeMap<Box<str>, Box<str>>, Failure> {
        let entries: BTreeMap<Box<str>, Box<RawValue>> = self.filled(name)?.unwrap_or_default();
        let text = |(key, value): (Box<str>, Box<RawValue>)| match serde_json::from_str(value.get()) {
            Ok(text) => Ok((key, text)),
            Err(error) => Err(Failure::Malformed(format!("`{name}`: the value of {key:?}: {error}"))),
        };
        entries.into_iter().map(text).collect()
    }

    /// A payload that comes as JSON in one field or as Base64 of any bytes in another one, and whether it is
    /// JSON on one line. `None` if both are missing.
    pub(super) fn payload(
        &mut self,
        plain: &'static str,
        base64: &'static str,
    ) -> Result<Option<(Bytes, bool)>, Failure> {
        let (data, encoded) = (self.json(plain), self.filled::<Box<str>>(base64)?);
        let data = match (data, encoded) {
            // A library that fills in all fields writes null for the one that it does not use.
            (Some(data), Some(_)) if data.get() != "null" => {
                let why = format!("`{plain}` and `{base64}` are both there: one of them is the payload");
                return Err(bad_request(why).into());
            }
            (_, Some(encoded)) => {
                let data = BASE64_STANDARD
                    .decode(&*encoded)
                    .map_err(|error| Failure::Malformed(format!("`{base64}` is not Base64: {error}")))?;
                let data = Bytes::from(data);
                return match compact(data.clone()) {
                    Ok(compact) => Ok(Some((compact, true))),
                    // Any bytes may be a payload; one that is not JSON reaches JSON clients as a string.
                    Err(NotJson::Syntax(_)) => Ok(Some((data, false))),
                    Err(unfit @ NotJson::Unfit(_)) => {
                        Err(bad_request(format!("`{base64}` is {unfit}")).into())
                    }
                };
            }
            (Some(data), None) => data,
            (None, None) => return Ok(None),
        };
        match compact(Bytes::from(Box::<str>::from(data).into_string())) {
            Ok(compact) => Ok(Some((compact, true))),
            Err(error @ NotJson::Syntax(_)) => Err(Failure::Malformed(format!("`{plain}`: {error}"))),
            Err(unfit @ NotJson::Unfit(_)) => Err(bad_request(format!("`{plain}` is {unfit}")).into()),
        }
    }

    /// A position in a stream.
    pub(super) fn position(&mut self, name: &'static str) -> Result<Option<Position>, Failure> {
        let Some(mut since) = self.object(name)? else { return Ok(None) };
        let offset = since.optional("offset")?.unwrap_or(0);
        let epoch: Box<str> = since.optional("epoch")?.unwrap_or_default();
        since.finish()?;
        Ok(Some(Position { offset, epoch: epoch.into() }))
    }

    /// The user named by a request, if any. Every user id that a client may have is accepted.
    pub(super) fn user(&mut self) -> Result<Option<Box<str>>, Failure> {
        let user: Option<Box<str>> = self.optional("user")?;
        let Some(user) = user.filter(|user| !user.is_empty()) else { return Ok(None) };
        address::check_user(&user).map_err(|why| bad_request(format!("`user`: {why}")))?;
        Ok(Some(user))
    }

    /// Refuses unread fields, because ignoring them would change the meaning of the request. Libraries spell
    /// out fields that they do not use, so empty values are accepted.
    pub(super) fn finish(self) -> Result<(), Failure> {
        let Self { left, known } = self;
        let Some((name, _)) = left.iter().find(|(_, value)| !says_nothing(value.get())) else {
            return Ok(());
        };
        let name: String = name.chars().take(NAME_SHOWN_MAX).collect();
        let message = match known.split_last() {
            None => format!("`{name}` is not supported here: no field is"),
            Some((last, [])) => format!("`{name}` is not supported here: only `{last}` is"),
            Some((last, others)) => {
                format!(
                    "`{name}` is not supported here: the fields are `{}` and `{last}`",
                    others.join("`, `")
                )
            }
        };
        Err(bad_request(message).into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(body: &str) -> Fields {
        Fields::parse(body.as_bytes()).expect(body)
    }

    #[test]
    fn a_body_is_one_object() {
        for body in ["[]", "1", "{", "{} {}", "{\"a\":1,}", "nonsense", "\"\u{1}\""] {
            assert!(matches!(Fields::parse(body.as_bytes()), Err(Failure::Malformed(_))), "{body}");
        }
        assert!(matches!(Fields::parse(b"{\"a\":\"\xff\"}"), Err(Failure::Malformed(_))));
        for body in ["{}", "", " \n"] {
            assert_eq!(fields(body).finish(), Ok(()), "{body:?}");
        }
    }

    #[test]
    fn a_field_occurs_once() {
        let malformed = |result: Result<(), Failure>| match result {
            Err(Failure::Malformed(why)) => why,
            _ => panic!("accepted"),
        };
        let why = malformed(Fields::parse(b"{\"channel\":\"a\",\"data\":1,\"channel\":\"b\"}").map(drop));
        assert!(why.contains("`channel` occurs twice at line 1"), "{why}");
        let why = malformed(fields("{\"o\":{\"a\":1,\"a\":null}}").object("o").map(drop));
        assert!(why.contains("`a` occurs twice"), "{why}");
    }

    #[test]
    fn a_field_has_its_type() {
        assert_eq!(fields("{\"n\":7}").required::<i64>("n"), Ok(7));
        assert!(matches!(fields("{\"n\":\"7\"}").required::<i64>("n"), Err(Failure::Malformed(_))));
        assert_eq!(fields("{\"n\":null}").optional::<i64>("n"), Ok(None));
        assert!(fields("{\"o\":null}").object("o").is_ok_and(|object| object.is_none()));
        let mut inner =
            fields("{\"o\":{\"a\":null,\"b\":1}}").object("o").expect("an object").expect("there");
        assert_eq!((inner.optional::<u8>("a"), inner.optional::<u8>("b")), (Ok(None), Ok(Some(1))));
        assert!(
            matches!(fields("{\"n\":null}").required::<i64>("n"), Err(Failure::Api(error)) if error.code == 107)
        );
        let raw = fields("{\"data\":{ \"a\" : [1] }}").json("data");
        assert_eq!(raw.expect("there").get(), "{ \"a\" : [1] }");
    }

    #[test]
    fn a_map_has_texts_and_may_be_left_empty_in_any_way() {
        let texts = |body: &str| fields(body).texts("tags");
        for body in ["{}", "{\"tags\":null}", "{\"tags\":{}}", "{\"tags\":[]}"] {
            assert_eq!(texts(body), Ok(BTreeMap::new()), "{body}");
        }
        let expected = [("a".into(), "1".into()), ("b".into(), "".into())].into();
        assert_eq!(texts("{\"tags\":{\"b\":\"\",\"a\":\"1\"}}"), Ok(expected));
        for (body, named) in [
            ("{\"tags\":7}", "`tags`: "),
            ("{\"tags\":[\"a\"]}", "`tags`: "),
            ("{\"tags\":{\"kind\":7}}", "`tags`: the value of \"kind\": "),
            ("{\"tags\":{\"kind\":null}}", "`tags`: the value of \"kind\": "),
        ] {
            let Err(Failure::Malformed(message)) = texts(body) else { panic!("{body}") };
            assert!(message.starts_with(named), "{message}");
        }
    }

    #[test]
    fn a_field_that_would_be_ignored_is_refused_unless_it_says_nothing() {
        assert_eq!(
            fields("{\"tags\":{},\"skip_history\":false,\"delta\":null,\"key\":\"\",\"n\":0}").finish(),
            Ok(())
        );
        let Err(Failure::Api(error)) = fields("{\"skip_history\":true}").finish() else { panic!("accepted") };
        let message = "`skip_history` is not supported here: no field is";
        assert_eq!((error.code, &*error.message), (107, message));
        let mut known = fields("{\"c\":1}");
        for (name, expected) in [
            ("a", "`c` is not supported here: only `a` is"),
            ("b", "`c` is not supported here: the fields are `a` and `b`"),
        ] {
            assert_eq!(known.optional::<u8>(name), Ok(None));
            let again = Fields { left: fields("{\"c\":1}").left, known: known.known.clone() };
            let Err(Failure::Api(error)) = again.finish() else { panic!("accepted") };
            assert_eq!(error.message, expected);
        }
    }
}
