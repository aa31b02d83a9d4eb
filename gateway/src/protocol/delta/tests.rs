//! Deltas are applied by a decoder of these tests, which shares nothing with the encoder.

use proptest::prelude::*;

use super::*;
use crate::mix;

/// Reads a number and the character after it.
fn number(delta: &mut &[u8]) -> Option<(usize, u8)> {
    let mut number = 0_usize;
    let mut digits = 0;
    while let Some((first, rest)) = delta.split_first() {
        *delta = rest;
        let digit = match first {
            b'0'..=b'9' => first - b'0',
            b'A'..=b'Z' => first - b'A' + 10,
            b'_' => 36,
            b'a'..=b'z' => first - b'a' + 37,
            b'~' => 63,
            _ if digits == 0 => return None,
            _ => return Some((number, *first)),
        };
        number = number * 64 + usize::from(digit);
        digits += 1;
    }
    None
}

/// What a client makes of a delta.
fn applied(base: &[u8], mut delta: &[u8]) -> Option<Vec<u8>> {
    let (size, b'\n') = number(&mut delta)? else { return None };
    let mut out = Vec::new();
    loop {
        match number(&mut delta)? {
            (length, b'@') => {
                let (from, b',') = number(&mut delta)? else { return None };
                out.extend_from_slice(base.get(from..from + length)?);
            }
            (length, b':') => {
                out.extend_from_slice(delta.get(..length)?);
                delta = &delta[length..];
            }
            (sum, b';') => {
                let four = |group: &[u8]| {
                    (0..4).fold(0, |sum, at| sum << 8 | u32::from(*group.get(at).unwrap_or(&0)))
                };
                let expected = out.chunks(4).map(four).fold(0, u32::wrapping_add);
                let is_whole = delta.is_empty() && out.len() == size && sum == expected as usize;
                return is_whole.then_some(out);
            }
            _ => return None,
        }
    }
}

fn encoded(base: &[u8], target: &[u8]) -> Option<Vec<u8>> {
    let delta = Encoder::default().encode(base, target)?;
    assert!(delta.len() < target.len());
    assert_eq!(applied(base, &delta).as_deref(), Some(target), "{}", String::from_utf8_lossy(&delta));
    if std::str::from_utf8(target).is_ok() {
        assert!(std::str::from_utf8(&delta).is_ok(), "{delta:?} is cut within a character");
    }
    Some(delta)
}

/// Bytes of the delta between two texts.
#[track_caller]
fn bytes(base: &str, target: &str) -> usize {
    encoded(base.as_bytes(), target.as_bytes()).expect("it is smaller").len()
}

#[test]
fn a_delta_has_the_form_that_the_format_prescribes() {
    let base = "a text that stays the same, and one word at the end: before";
    let target = "a text that stays the same, and one word at the end: after";
    let delta = encoded(base.as_bytes(), target.as_bytes()).expect("it is smaller");
    // 58 bytes: 53 of the base from its beginning, and 5 new ones.
    assert_eq!(&delta[..], b"v\nq@0,5:after33Q5si;");
    let same = encoded(base.as_bytes(), base.as_bytes()).expect("it is smaller");
    assert!(same.starts_with(b"w\nw@0,") && same.len() < 16, "{}", String::from_utf8_lossy(&same));
}

#[test]
fn numbers_have_base_64_without_leading_zeros() {
    let written = |number| {
        let mut delta = Delta { out: Vec::new(), target: &[], done: 0 };
        delta.number(number);
        String::from_utf8(delta.out).expect("digits are text")
    };
    for (number, text) in [(0, "0"), (63, "~"), (64, "10"), (4095, "~~"), (4096, "100"), (u32::MAX, "3~~~~~")]
    {
        assert_eq!(written(number), text);
    }
}

#[test]
fn payloads_that_are_too_small_or_too_large_have_no_delta() {
    for (base, target) in [(0, 1000), (1000, 0), (0, 0), (BYTES_MIN - 1, 1000), (1000, BYTES_MIN - 1)] {
        assert_eq!(encoded(&vec![b'a'; base], &vec![b'a'; target]), None, "{base} and {target} bytes");
    }
    for (base, target) in [(BYTES_MAX, BYTES_MAX), (BYTES_MIN, BYTES_MAX), (BYTES_MIN, BYTES_MIN)] {
        assert!(encoded(&vec![b'a'; base], &vec![b'a'; target]).is_some(), "{base} and {target} bytes");
    }
    let large = vec![b'a'; BYTES_MAX + 1];
    assert_eq!(encoded(&large, &large[1..]), None);
    assert_eq!(encoded(&large[1..], &large), None);
}

#[test]
fn a_delta_that_is_not_smaller_is_none() {
    let random = |seed: u64| (0..200).map(|at| mix::mix(seed + at) as u8).collect::<Vec<_>>();
    assert_eq!(encoded(&random(0), &random(1000)), None);
}

#[test]
fn numbers_that_change_in_a_record_leave_the_rest_to_be_copied() {
    let quote = |bid: &str, ask: &str, time: u32| {
        format!(
            r#"{{"symbol":"ACME","currency":"EUR","bid":{bid},"ask":{ask},"venue":"XETR","status":"open","time":{time}}}"#
        )
    };
    let (before, after) = (quote("99.95", "100.05", 1_700_000_000), quote("100.00", "100.10", 1_700_000_001));
    assert!(bytes(&before, &after) < after.len() / 2, "{} of {}", bytes(&before, &after), after.len());
    let list = |changed: usize| {
        let item = |n: usize| format!(r#"{{"id":{n},"price":{}}}"#, if n == changed { 7 * n } else { n });
        format!("[{}]", (0..500).map(item).collect::<Vec<_>>().join(","))
    };
    assert!(bytes(&list(100), &list(400)) < 100, "two of 500 items change");
}

#[test]
fn pieces_that_have_moved_are_found() {
    let lines: Vec<String> = (0..300).map(|n| format!("line {} of many\n", mix::mix(n))).collect();
    let text = lines.concat();
    let moved = [&lines[100..], &lines[..100]].concat().concat();
    assert!(bytes(&text, &moved) < 100, "{} bytes", bytes(&text, &moved));
    // Of a large payload only some places are indexed.
    let large: Vec<String> = (0..7000).map(|n| format!("line {} of many\n", mix::mix(n))).collect();
    let moved = [&large[3000..], &large[..3000]].concat().concat();
    assert!(bytes(&large.concat(), &moved) < 1000, "{} bytes", bytes(&large.concat(), &moved));
}

#[test]
fn characters_are_not_cut() {
    // Both characters have three bytes, of which the first two are equal.
    let text = |character: char| format!("{}{character}{}", "\u{20ac}".repeat(20), "\u{20ac}".repeat(20));
    assert!(bytes(&text('\u{20ad}'), &text('\u{20ae}')) < 40);
    // Their last bytes are equal.
    assert!(bytes(&text('\u{10ac}'), &text('\u{11ac}')) < 40);
    assert!(bytes(&text('\u{1f600}'), &text('\u{1f601}')) < 40);
}

#[test]
fn payloads_that_repeat_one_byte_take_no_longer_than_others() {
    let mut encoder = Encoder::default();
    for byte in [b'a', 0x80, 0xff] {
        let base = vec![byte; BYTES_MAX];
        let mut target = base.clone();
        (0..BYTES_MAX).step_by(9).for_each(|at| target[at] ^= 1);
        let delta = encoder.encode(&base, &target);
        assert!(delta.is_none_or(|delta| applied(&base, &delta) == Some(target)));
    }
    assert!(encoder.index.capacity() <= 4 * PLACES_MAX, "the index stays small");
}

/// A text, and the text after some edits.
fn edited() -> impl Strategy<Value = (String, String)> {
    let words =
        prop::sample::select(vec!["price", "h\u{e9}llo", "\u{4e16}\u{754c}", "\u{1f600}", "\",\"", "0", " "]);
    let text = prop::collection::vec(words.clone(), 0..400);
    let edit = (any::<prop::sample::Index>(), 0_usize..30, prop::collection::vec(words, 0..5));
    (text, prop::collection::vec(edit, 0..8)).prop_map(|(before, edits)| {
        let mut after = before.clone();
        for (at, removed, added) in edits {
            let at = at.index(after.len() + 1);
            let end = after.len().min(at + removed);
            drop(after.splice(at..end, added));
        }
        (before.concat(), after.concat())
    })
}

proptest! {
    #[test]
    fn what_is_edited_comes_back((before, after) in edited()) {
        encoded(before.as_bytes(), after.as_bytes());
    }

    #[test]
    fn any_bytes_come_back(
        base in prop::collection::vec(0x7e_u8..0x82, 0..600),
        target in prop::collection::vec(0x7e_u8..0x82, 0..600),
        cut in any::<prop::sample::Index>(),
    ) {
        encoded(&base, &target);
        let cut = cut.index(base.len() + 1);
        encoded(&base, &[&base[cut..], &target, &base[..cut]].concat());
    }

    #[test]
    fn an_encoder_keeps_nothing_from_one_delta_to_the_next(pairs in prop::collection::vec(edited(), 1..4)) {
        let mut encoder = Encoder::default();
        for (before, after) in &pairs {
            let again = encoder.encode(before.as_bytes(), after.as_bytes());
            prop_assert_eq!(again, encoded(before.as_bytes(), after.as_bytes()));
        }
    }
}
