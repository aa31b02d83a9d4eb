//! Durations and sizes in settings, with the syntax of the gateway: `"500ms"`, `"25s"`, `"5m"`, `"1h"`,
//! `"30d"`; `"512B"`, `"64KiB"`, `"1MiB"`, `"1GiB"`.
//!
//! ```
//! use gateway_plugin_sdk::prelude::*;
//! use gateway_plugin_sdk::units::{Size, Span};
//!
//! #[settings]
//! struct Settings {
//!     interval: Span,
//!     most: Size,
//! }
//!
//! let settings: Settings = serde_json::from_value(json!({ "interval": "1m", "most": "64KiB" }))?;
//! assert_eq!((settings.interval.seconds(), settings.most.bytes()), (60, 65_536));
//! # Ok::<(), serde_json::Error>(())
//! ```

use std::fmt;
use std::time::Duration;

use serde::de::{Deserialize, Deserializer, Error, Visitor};

#[doc(inline)]
pub use gateway_plugin_grammar::units::{duration, show_duration, show_size, size};

/// A duration in settings: a text such as `"25s"`, or a whole number of seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span(pub Duration);

impl Span {
    /// The duration in whole seconds, rounded down.
    pub const fn seconds(self) -> u64 {
        self.0.as_secs()
    }
}

/// A size in settings: a text such as `"64KiB"`, or a whole number of bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Size(pub u64);

impl Size {
    /// The size in bytes.
    pub const fn bytes(self) -> u64 {
        self.0
    }
}

/// Reads a text with a unit, or a number without one.
struct Quantity {
    expected: &'static str,
    text: fn(&str) -> Option<u64>,
}

impl Visitor<'_> for Quantity {
    type Value = Result<u64, u64>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.expected)
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Self::Value, E> {
        Ok(Err(value))
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<Self::Value, E> {
        let read = (self.text)(value);
        read.map(Ok).ok_or_else(|| E::invalid_value(serde::de::Unexpected::Str(value), &self))
    }
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let quantity = Quantity {
            expected: "a duration such as \"500ms\", \"25s\" or \"1h\", or a number of seconds",
            text: |text| duration(text)?.as_millis().try_into().ok(),
        };
        let read = deserializer.deserialize_any(quantity)?;
        Ok(Self(read.map_or_else(Duration::from_secs, Duration::from_millis)))
    }
}

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let expected = "a size such as \"512B\", \"64KiB\" or \"1MiB\", or a number of bytes";
        let read = deserializer.deserialize_any(Quantity { expected, text: size })?;
        Ok(Self(read.unwrap_or_else(|bytes| bytes)))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, from_value, json};

    use super::*;

    #[test]
    fn a_quantity_is_a_text_with_a_unit_or_a_number_without_one() {
        let span = |value: Value| from_value::<Span>(value).map(|span| span.0.as_millis());
        assert_eq!(span(json!("500ms")).expect("a duration"), 500);
        assert_eq!(span(json!("1h")).expect("a duration"), 3_600_000);
        assert_eq!(span(json!(30)).expect("seconds"), 30_000);
        let size = |value: Value| from_value::<Size>(value).map(Size::bytes);
        assert_eq!(size(json!("64KiB")).expect("a size"), 65_536);
        assert_eq!(size(json!(8192)).expect("bytes"), 8192);
        for wrong in
            [json!("30"), json!("30 s"), json!("fast"), json!(-1), json!(1.5), json!(true), json!(null)]
        {
            let error = span(wrong.clone()).expect_err("no duration").to_string();
            assert!(error.contains("expected a duration such as"), "{error}");
            assert!(size(wrong.clone()).is_err(), "{wrong}");
        }
    }
}
