//! Durations and sizes as people write them: a whole number directly followed by a unit.

use std::time::Duration;

const DURATIONS: [(&str, u64); 5] =
    [("ms", 1), ("s", 1_000), ("m", 60 * 1_000), ("h", 3_600 * 1_000), ("d", 86_400 * 1_000)];
const SIZES: [(&str, u64); 4] = [("B", 1), ("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30)];

/// Reads `500ms`, `25s`, `5m`, `1h`, `30d`. `None` for anything else.
///
/// ```
/// # use gateway_plugin_grammar::units;
/// # use std::time::Duration;
/// assert_eq!(units::duration("25s"), Some(Duration::from_secs(25)));
/// assert_eq!(units::duration("25"), None);
/// ```
pub fn duration(text: &str) -> Option<Duration> {
    quantity(text, &DURATIONS).map(Duration::from_millis)
}

/// Reads `512B`, `64KiB`, `1MiB`, `1GiB` as bytes. `None` for anything else.
///
/// ```
/// # use gateway_plugin_grammar::units;
/// assert_eq!(units::size("64KiB"), Some(65_536));
/// assert_eq!(units::size("64KB"), None);
/// ```
pub fn size(text: &str) -> Option<u64> {
    quantity(text, &SIZES)
}

/// The shortest text that [`duration`] reads as this value, which must be whole milliseconds.
pub fn show_duration(value: Duration) -> String {
    show(u64::try_from(value.as_millis()).unwrap_or(u64::MAX), "s", &DURATIONS)
}

/// The shortest text that [`size`] reads as this value.
pub fn show_size(value: u64) -> String {
    show(value, "B", &SIZES)
}

fn quantity(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let end = text.find(|c: char| !c.is_ascii_digit())?;
    let (number, unit) = text.split_at(end);
    let (_, factor) = units.iter().find(|(name, _)| *name == unit)?;
    number.parse::<u64>().ok()?.checked_mul(*factor)
}

fn show(value: u64, zero: &str, units: &[(&str, u64)]) -> String {
    if value == 0 {
        return format!("0{zero}");
    }
    let divides = |&&(_, factor): &&(&str, u64)| value.is_multiple_of(factor);
    let (unit, factor) = units.iter().rev().find(divides).unwrap_or(&units[0]);
    format!("{}{unit}", value / factor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_is_a_whole_number_and_a_unit() {
        for (text, milliseconds) in [
            ("0s", 0),
            ("500ms", 500),
            ("25s", 25_000),
            ("5m", 300_000),
            ("1h", 3_600_000),
            ("30d", 2_592_000_000),
        ] {
            assert_eq!(duration(text), Some(Duration::from_millis(milliseconds)), "{text}");
        }
        for text in [
            "",
            "25",
            "s",
            "-1s",
            "+1s",
            "1.5s",
            "25 s",
            "25S",
            "25sec",
            "1m30s",
            "20000000000000000000s",
            "٣s",
        ] {
            assert_eq!(duration(text), None, "{text:?}");
        }
    }

    #[test]
    fn a_size_is_a_whole_number_and_a_binary_unit() {
        for (text, bytes) in
            [("0B", 0), ("512B", 512), ("64KiB", 65_536), ("1MiB", 1_048_576), ("2GiB", 2_147_483_648)]
        {
            assert_eq!(size(text), Some(bytes), "{text}");
        }
        for text in ["64", "64KB", "64kib", "64k", "1.5MiB", "18446744073709551615KiB"] {
            assert_eq!(size(text), None, "{text:?}");
        }
    }

    #[test]
    fn what_is_shown_is_read_back() {
        for milliseconds in [0, 1, 999, 1_000, 60_000, 61_000, 5_400_000, 86_400_000] {
            let value = Duration::from_millis(milliseconds);
            assert_eq!(duration(&show_duration(value)), Some(value));
        }
        for bytes in [0, 1, 1_023, 1_024, 65_536, 1_048_577, 1 << 30] {
            assert_eq!(size(&show_size(bytes)), Some(bytes));
        }
        assert_eq!(show_duration(Duration::from_secs(300)), "5m");
        assert_eq!(show_size(65_536), "64KiB");
    }
}
