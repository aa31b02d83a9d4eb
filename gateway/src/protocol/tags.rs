//! [`Tags`]: names with values that a publication carries besides its payload. Clients receive them, and
//! filters of subscribers ([`super::filter`]) decide by them.

use std::sync::Arc;

use serde::{Serialize, Serializer};

use super::json;

/// Maximum number of tags of one publication.
pub const TAGS_MAX: usize = 64;

/// Maximum bytes of the names and values of one publication's tags.
pub const TAGS_BYTES_MAX: usize = 4 * 1024;

/// The tags of a publication: at least one, in the order of their names, each name once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tags {
    entries: Box<[(Box<str>, Box<str>)]>,
    /// As a JSON object.
    bytes: usize,
}

/// Why tags cannot be published. Completes the sentence "`tags` ...".
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidTags {
    /// A name is empty.
    #[error("has an empty name")]
    Unnamed,
    /// Too many.
    #[error("has {0} entries, at most {TAGS_MAX} are accepted")]
    TooMany(usize),
    /// Too many bytes.
    #[error("has {0} bytes of names and values, at most {TAGS_BYTES_MAX} are accepted")]
    TooLarge(usize),
}

impl Tags {
    /// Tags from outside, checked against the limits. `None` if there are none.
    ///
    /// # Errors
    ///
    /// If they exceed a limit, or one has no name.
    pub fn checked(
        entries: impl IntoIterator<Item = (Box<str>, Box<str>)>,
    ) -> Result<Option<Arc<Self>>, InvalidTags> {
        let entries: Vec<_> = entries.into_iter().collect();
        let bytes = entries.iter().map(|(name, value)| name.len() + value.len()).sum();
        if entries.len() > TAGS_MAX {
            return Err(InvalidTags::TooMany(entries.len()));
        }
        if bytes > TAGS_BYTES_MAX {
            return Err(InvalidTags::TooLarge(bytes));
        }
        if entries.iter().any(|(name, _)| name.is_empty()) {
            return Err(InvalidTags::Unnamed);
        }
        Ok(Self::of(entries))
    }

    /// Tags of another gateway, which has checked them. `None` if there are none.
    pub fn of(mut entries: Vec<(Box<str>, Box<str>)>) -> Option<Arc<Self>> {
        if entries.is_empty() {
            return None;
        }
        entries.sort_by(|(name, _), (other, _)| name.cmp(other));
        entries.dedup_by(|(name, _), (other, _)| name == other);
        const AROUND: usize = r#""tags":{},"#.len();
        const BETWEEN: usize = ":,".len();
        let bytes = |(name, value): &(Box<str>, Box<str>)| {
            json::string_bytes(name) + json::string_bytes(value) + BETWEEN
        };
        let bytes = AROUND + entries.iter().map(bytes).sum::<usize>();
        Some(Arc::new(Self { entries: entries.into(), bytes }))
    }

    /// The value of a tag, if the publication has this tag.
    pub fn get(&self, name: &str) -> Option<&str> {
        let at = self.entries.binary_search_by(|(own, _)| (**own).cmp(name)).ok()?;
        self.entries.get(at).map(|(_, value)| &**value)
    }

    /// Names and values, in the order of the names.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.entries.iter().map(|(name, value)| (&**name, &**value))
    }

    /// Most bytes they take in a message, in JSON with their key.
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

/// Most bytes of the tags of a publication in a message.
pub fn tags_bytes(tags: Option<&Tags>) -> usize {
    tags.map_or(0, Tags::bytes)
}

/// As an object.
impl Serialize for Tags {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.iter())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(tags: &[(&str, &str)]) -> Result<Option<Arc<Tags>>, InvalidTags> {
        Tags::checked(tags.iter().map(|(name, value)| ((*name).into(), (*value).into())))
    }

    #[test]
    fn a_tag_is_found_by_its_name_whatever_the_order() {
        let tags = checked(&[("b", "2"), ("a", "1"), ("c", "")]).expect("valid").expect("some");
        assert_eq!((tags.get("a"), tags.get("b"), tags.get("c")), (Some("1"), Some("2"), Some("")));
        assert_eq!((tags.get(""), tags.get("d")), (None, None));
        assert_eq!(tags.iter().collect::<Vec<_>>(), [("a", "1"), ("b", "2"), ("c", "")]);
        assert_eq!(checked(&[]), Ok(None));
    }

    #[test]
    fn tags_are_bounded_in_number_and_in_bytes() {
        let many: Vec<_> = (0..=TAGS_MAX).map(|number| number.to_string()).collect();
        let many: Vec<_> = many.iter().map(|name| (name.as_str(), "")).collect();
        assert!(checked(&many[1..]).is_ok());
        assert_eq!(checked(&many), Err(InvalidTags::TooMany(TAGS_MAX + 1)));
        let large = "x".repeat(TAGS_BYTES_MAX);
        assert!(checked(&[("a", &large[1..])]).is_ok());
        assert_eq!(checked(&[("a", &large)]), Err(InvalidTags::TooLarge(TAGS_BYTES_MAX + 1)));
        assert_eq!(checked(&[("", "1")]), Err(InvalidTags::Unnamed));
    }

    #[test]
    fn their_bytes_are_at_least_those_of_the_json() {
        let tags = checked(&[("a\n", "\u{1}\"h\u{e9}"), ("b", "")]).expect("valid").expect("some");
        let written = serde_json::to_string(&*tags).expect("text");
        assert_eq!(written, r#"{"a\n":"\u0001\"hé","b":""}"#);
        assert!(tags.bytes() >= written.len() + r#""tags":,"#.len(), "{}", tags.bytes());
    }
}
