//! How many bytes of a secret count against a minimum.

/// A run of equal bytes that is at least this long is padding. In a secret made by chance one at an end is as
/// rare as a guess of three of its bytes.
const RUN_MIN: usize = 4;

/// The bytes of a secret that count: without padding at its ends, and of a text that is repeated only once.
/// HMAC itself fills a short key with zeros, so a key with zeros at its end is no other key than the one
/// without them.
///
/// ```
/// # use gateway_plugin_grammar::secret::strength_bytes;
/// assert_eq!(strength_bytes(b"correct horse battery staple"), 28);
/// assert_eq!(strength_bytes(b"short\0\0\0\0\0\0\0\0\0\0\0"), 5);
/// assert_eq!(strength_bytes(b"shortshortshort"), 5);
/// ```
pub fn strength_bytes(secret: &[u8]) -> usize {
    let mut rest = secret;
    loop {
        let before = rest.len();
        if let Some(run) = run(rest.iter()) {
            rest = &rest[run..];
        }
        if let Some(run) = run(rest.iter().rev()) {
            rest = &rest[..rest.len() - run];
        }
        if rest.len() == before {
            return round(rest);
        }
    }
}

/// The length of the padding that these bytes begin with.
fn run<'b>(mut bytes: impl Iterator<Item = &'b u8>) -> Option<usize> {
    let first = bytes.next()?;
    let run = 1 + bytes.take_while(|byte| *byte == first).count();
    (run >= RUN_MIN).then_some(run)
}

/// The length of the shortest text of which these bytes are two rounds or more.
fn round(bytes: &[u8]) -> usize {
    let repeats = |length: &usize| bytes[*length..] == bytes[..bytes.len() - length];
    (1..=bytes.len() / 2).find(repeats).unwrap_or(bytes.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_made_by_chance_or_by_thought_counts_in_full() {
        let all: Vec<u8> = (0..=255).collect();
        for secret in [
            &b""[..],
            b"a",
            b"aab",
            b"\0\0\0x1\0\0\0",
            b"a secret of thirty-two bytes or more",
            b"MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
            b"abcdefgha",
            b"one    two",
            &all[..],
        ] {
            assert_eq!(strength_bytes(secret), secret.len(), "{secret:?}");
        }
    }

    #[test]
    fn padding_and_repetition_count_for_nothing() {
        for (secret, strength) in [
            (&b"secret\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0"[..], 6),
            (b"secret                          ", 6),
            (b"                    secret      ", 6),
            (b"00000000000000000000000000secret", 6),
            (b"secret====----====    \0\0\0\0\0", 6),
            (b"0000000000", 0),
            (b"secretsecretsecretse", 6),
            (b"12345678901234567890123456789012", 10),
            (b"\0\0\0\0abababababababab", 2),
        ] {
            assert_eq!(strength_bytes(secret), strength, "{secret:?}");
        }
    }
}
