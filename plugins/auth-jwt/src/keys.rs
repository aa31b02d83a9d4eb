//! `Keys` holds the keys of one issuer and selects one by `kid` and algorithm (RFC 7517).

use crate::Rejected;
use crate::key::Key;
use crate::token::Parts;

/// As many keys without a `kid` as there may be for one algorithm: the one in use, and the one before or
/// after it. Each is tried, and trying costs.
const NAMELESS_MAX: usize = 2;

/// The keys of one issuer.
#[derive(Debug, Default)]
pub(crate) struct Keys(Vec<(Option<String>, Key)>);

impl Keys {
    /// Adds a key. With a `kid` it is for the tokens that name it; without one it is for the tokens that name
    /// no key that is known.
    pub(crate) fn add(&mut self, kid: Option<String>, key: Key) -> Result<(), String> {
        if kid.is_some() && self.0.iter().any(|(other, _)| *other == kid) {
            return Err("has the same `kid` as another one of this issuer".into());
        }
        let nameless = self.nameless(key.algorithm().name()).count();
        if kid.is_none() && nameless >= NAMELESS_MAX {
            return Err(format!(
                "is one of more than {NAMELESS_MAX} for {} without a `kid`: name them",
                key.algorithm().name()
            ));
        }
        self.0.push((kid, key));
        Ok(())
    }

    pub(crate) const fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is a key with the `kid` of the token.
    pub(crate) fn has_named(&self, token: &Parts<'_>) -> bool {
        token.header.kid.is_some() && self.0.iter().any(|(known, _)| *known == token.header.kid)
    }

    /// Whether one of the keys signed the token.
    pub(crate) fn verify(&self, token: &Parts<'_>) -> Result<(), Rejected> {
        let kid = &token.header.kid;
        if kid.is_some()
            && let Some((_, key)) = self.0.iter().find(|(known, _)| known == kid)
        {
            return key.verify(token);
        }
        let mut outcome = Err(no_key());
        for key in self.nameless(&token.header.alg) {
            outcome = key.verify(token);
            if outcome.is_ok() {
                break;
            }
        }
        outcome
    }

    fn nameless(&self, algorithm: &str) -> impl Iterator<Item = &Key> {
        self.0
            .iter()
            .filter(move |(kid, key)| kid.is_none() && key.algorithm().name() == algorithm)
            .map(|(_, key)| key)
    }
}

/// None of the keys is the token's.
pub(crate) fn no_key() -> Rejected {
    Rejected::invalid("there is no key with its `kid` and `alg`")
}
