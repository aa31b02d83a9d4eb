//! Random bytes and texts for secrets, from the operating system.

use anyhow::anyhow;
use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;

/// Random bytes from the system.
pub(crate) fn random_bytes<const N: usize>() -> anyhow::Result<[u8; N]> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes)
        .map_err(|error| anyhow!("failed to get random bytes from the system: {error}"))?;
    Ok(bytes)
}

/// A random text of 32 characters that is valid in a header and in a shell.
pub(crate) fn random_text() -> anyhow::Result<String> {
    Ok(BASE64_URL_SAFE_NO_PAD.encode(random_bytes::<24>()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_random_text_is_long_and_plain() {
        let (one, other) = (random_text().expect("random"), random_text().expect("random"));
        assert_eq!(one.len(), 32);
        assert_ne!(one, other);
        assert!(one.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_'));
    }
}
