//! Durations and sizes as people write them.

/// `5ms`, `1s`, `2m` in milliseconds.
pub(super) fn milliseconds(text: &str) -> Option<u64> {
    let (number, unit) = split(text)?;
    number.checked_mul(match unit {
        "ms" => 1,
        "s" => 1000,
        "m" => 60_000,
        _ => return None,
    })
}

/// `512B`, `64KiB`, `32MiB`, `1GiB` in bytes.
pub(super) fn bytes(text: &str) -> Option<u64> {
    let (number, unit) = split(text)?;
    number.checked_mul(match unit {
        "B" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        _ => return None,
    })
}

/// A size in the largest unit that divides it.
pub(super) fn show_bytes(bytes: u64) -> String {
    let units = [(1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
    match units.into_iter().find(|(size, _)| bytes >= *size && bytes.is_multiple_of(*size)) {
        Some((size, unit)) => format!("{}{unit}", bytes / size),
        None => format!("{bytes}B"),
    }
}

fn split(text: &str) -> Option<(u64, &str)> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    Some((number.parse().ok()?, unit.trim_start_matches(' ')))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_needs_a_unit_and_must_fit() {
        assert_eq!(milliseconds("5ms"), Some(5));
        assert_eq!(milliseconds("2 s"), Some(2000));
        assert_eq!(bytes("32MiB"), Some(32 << 20));
        for bad in
            ["", "5", "ms", "-5ms", "5 hours", "0.5s", "99999999999999999999s", "18446744073709551615s"]
        {
            assert_eq!(milliseconds(bad), None, "{bad}");
        }
        for bad in ["32", "32MB", "32mib", "18446744073709551615GiB"] {
            assert_eq!(bytes(bad), None, "{bad}");
        }
    }

    #[test]
    fn sizes_are_shown_as_they_would_be_written() {
        for text in ["1B", "1023B", "1KiB", "1536KiB", "4GiB"] {
            assert_eq!(show_bytes(bytes(text).expect(text)), text);
        }
    }
}
