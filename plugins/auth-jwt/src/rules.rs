//! `Rules` checks type, times and required claims of a token (RFC 7519, section 4.1).

use std::collections::BTreeMap;

use serde_json::Value;

use crate::Rejected;
use crate::claims::{ClaimPath, Claims};
use crate::token::Header;

/// How long before its beginning, beyond the leeway and in seconds, a token is worth coming back with.
const EARLY_MAX: u64 = 60;

/// What the settings demand of every token beside its signature.
#[derive(Debug)]
pub(crate) struct Rules {
    /// What `typ` may be, in lower case and without `application/`; anything if this is empty.
    pub(crate) types: Vec<String>,
    /// By how much the clock of the issuer may differ, in seconds.
    pub(crate) leeway: u64,
    pub(crate) exp_required: bool,
    /// How many seconds after `iat` a token is good at most.
    pub(crate) age_max: Option<u64>,
    pub(crate) required_claims: Vec<ClaimPath>,
    /// A claim has to be this value, or a list that holds it.
    pub(crate) required_values: BTreeMap<ClaimPath, Value>,
}

impl Rules {
    pub(crate) fn check_header(&self, header: &Header) -> Result<(), Rejected> {
        let typ = header.typ.as_deref().unwrap_or_default().to_ascii_lowercase();
        let typ = typ.strip_prefix("application/").unwrap_or(&typ);
        if self.types.is_empty() || self.types.iter().any(|accepted| accepted == typ) {
            Ok(())
        } else {
            Err(Rejected::invalid("`typ` in the header is not one that is accepted"))
        }
    }

    /// When the token ends: Unix time in seconds, `None` for never. `now` is Unix time in milliseconds.
    pub(crate) fn check(&self, claims: &Claims, now: u64) -> Result<Option<u64>, Rejected> {
        let now = now / 1000;
        let (exp, nbf, iat) = (claims.seconds("exp")?, claims.seconds("nbf")?, claims.seconds("iat")?);
        if let Some(missing) = self.required_claims.iter().find(|path| claims.get(path).is_none()) {
            return Err(Rejected::Invalid(format!("claim `{missing}` is missing")));
        }
        for (path, wanted) in &self.required_values {
            let fits = match claims.get(path) {
                Some(Value::Array(items)) => items.contains(wanted),
                other => other == Some(wanted),
            };
            if !fits {
                return Err(Rejected::Invalid(format!("claim `{path}` is not what is required")));
            }
        }
        if let Some(start) = nbf {
            self.has_begun(start, now, "not valid yet (`nbf`)")?;
        }
        if exp.is_none() && self.exp_required {
            return Err(Rejected::invalid("claim `exp` is missing"));
        }
        let aged = match (self.age_max, iat) {
            (None, _) => None,
            (Some(_), None) => {
                return Err(Rejected::invalid("claim `iat` is missing, and `age_max` needs it"));
            }
            (Some(age_max), Some(iat)) => {
                self.has_begun(iat, now, "issued in the future (`iat`)")?;
                Some(iat + age_max)
            }
        };
        let end = [exp, aged].into_iter().flatten().min();
        end.map(|end| self.not_over(end, now)).transpose()
    }

    /// [`check`](Self::check) for the moment at which a connection is to end, if a claim says one.
    pub(crate) fn check_expire_at(&self, claims: &Claims, now: u64) -> Result<Option<Option<u64>>, Rejected> {
        match claims.seconds("expire_at")? {
            None => Ok(None),
            Some(0) => Ok(Some(None)),
            Some(end) => Ok(Some(Some(self.not_over(end, now / 1000)?))),
        }
    }

    /// A clock that is ahead by more than the leeway: by little it will have been right in a moment, by much
    /// it is wrong.
    fn has_begun(&self, start: u64, now: u64, why: &str) -> Result<(), Rejected> {
        match start.saturating_sub(now + self.leeway) {
            0 => Ok(()),
            seconds @ 1..=EARLY_MAX => Err(Rejected::Early(format!("{why}: good in {seconds} s"))),
            _ => Err(Rejected::invalid(why)),
        }
    }

    /// When something ends. What is over by this clock and not yet by one that is behind lasts until then.
    fn not_over(&self, end: u64, now: u64) -> Result<u64, Rejected> {
        match end + self.leeway {
            _ if now < end => Ok(end),
            late if now < late => Ok(late),
            _ => Err(Rejected::Expired),
        }
    }
}
