//! `ApiKey` checks whether a request carries the key of the API.

use hmac::{Hmac, Mac};
use hyper::HeaderMap;
use hyper::header::AUTHORIZATION;
use sha2::Sha256;

use crate::config::Secret;

/// The digest of the API key.
pub(super) struct ApiKey(Option<Vec<u8>>);

impl ApiKey {
    /// Without a key, every request is refused.
    pub(super) fn new(key: Option<&Secret>) -> Self {
        Self(key.map(|key| digest(key.expose().as_bytes()).finalize().into_bytes().to_vec()))
    }

    /// Whether one of `X-API-Key: KEY` and `Authorization: apikey KEY` has the key: a proxy may have added
    /// another one.
    pub(super) fn accepts(&self, headers: &HeaderMap) -> bool {
        let Some(expected) = &self.0 else { return false };
        let plain = headers.get_all("x-api-key").iter().map(|value| value.as_bytes());
        let scheme = headers.get_all(AUTHORIZATION).iter().filter_map(|value| {
            let (scheme, key) = value.as_bytes().split_at_checked(b"apikey ".len())?;
            scheme.eq_ignore_ascii_case(b"apikey ").then_some(key)
        });
        // Digests of equal length are compared in constant time, so the duration reveals nothing about the
        // key.
        plain.chain(scheme).any(|key| digest(key).verify_slice(expected).is_ok())
    }
}

fn digest(key: &[u8]) -> Hmac<Sha256> {
    Hmac::new_from_slice(b"gateway admin api key").expect("a key of any length").chain_update(key)
}

#[cfg(test)]
mod tests {
    use hyper::header::{HeaderName, HeaderValue};

    use super::*;

    fn accepts(key: Option<&str>, name: &'static str, value: &str) -> bool {
        let value = HeaderValue::from_str(value).expect("a header");
        let headers = HeaderMap::from_iter([(HeaderName::from_static(name), value)]);
        ApiKey::new(key.map(Secret::new).as_ref()).accepts(&headers)
    }

    #[test]
    fn the_key_comes_in_either_header() {
        let key = Some("correct-horse");
        assert!(accepts(key, "x-api-key", "correct-horse"));
        assert!(accepts(key, "authorization", "apikey correct-horse"));
        assert!(accepts(key, "authorization", "ApiKey correct-horse"));
    }

    #[test]
    fn anything_else_is_refused() {
        let key = Some("correct-horse");
        for value in
            ["", "correct", "correct-horse ", "correct-horsf", "Correct-horse", "apikey correct-horse"]
        {
            // HTTP itself drops the space at the end of a value.
            assert!(!accepts(key, "x-api-key", value) || value.ends_with(' '), "{value:?}");
        }
        for value in ["correct-horse", "apikey", "apikey ", "bearer correct-horse", "apikey  correct-horse"] {
            assert!(!accepts(key, "authorization", value), "{value:?}");
        }
        assert!(!accepts(key, "cookie", "correct-horse"));
    }

    #[test]
    fn a_header_that_comes_twice_is_seen_twice() {
        let (wrong, right) = (HeaderValue::from_static("wrong"), HeaderValue::from_static("correct-horse"));
        for values in [[wrong.clone(), right.clone()], [right, wrong.clone()], [wrong.clone(), wrong]] {
            let mut headers = HeaderMap::new();
            for value in &values {
                headers.append("x-api-key", value.clone());
            }
            let key = ApiKey::new(Some(&Secret::new("correct-horse")));
            assert_eq!(key.accepts(&headers), values.iter().any(|value| value == "correct-horse"));
        }
    }

    #[test]
    fn without_a_key_nothing_is_accepted() {
        assert!(!accepts(None, "x-api-key", ""));
        assert!(!accepts(None, "x-api-key", "anything"));
        assert!(!ApiKey::new(None).accepts(&HeaderMap::new()));
    }
}
