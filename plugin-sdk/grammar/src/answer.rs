//! What becomes of an answer that the gateway cannot carry out because of what somebody else sent.
//!
//! It is no failure of the plugin: one that passes on what clients send, or names from tokens, would let
//! clients open its breaker. The event is refused instead, and the log says why. The gateway and the test kit
//! of the SDK do the same.

use std::fmt;

use crate::{address, json};

/// The code of a connection that is closed because of its credential.
const INVALID_TOKEN: u32 = 3500;
/// The code of a request that is refused because of what is in it.
const BAD_REQUEST: u32 = 107;

/// A refusal that takes the place of an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// What the client is refused with.
    pub code: u32,
    /// What it is told.
    pub reason: String,
    /// What the log says, as a warning.
    pub line: String,
}

/// Looks at the user that a client is to be admitted as: what is said to a user goes by the address, and so
/// does the order to disconnect one.
///
/// # Errors
///
/// The refusal of a client that nothing could reach.
pub fn user(user: &str) -> Result<(), Refused> {
    address::check_user(user).map_err(|why| Refused {
        code: INVALID_TOKEN,
        reason: why.to_string(),
        line: format!("a client it accepts is refused, because nothing could reach this user: {why}"),
    })
}

/// The refusal of an event that was answered with JSON that receivers stumble over. `what` it is:
/// `a payload`.
pub fn unfit(what: impl fmt::Display, unfit: json::Unfit) -> Refused {
    let reason = format!("{what} is JSON {unfit}");
    Refused { code: BAD_REQUEST, line: format!("what it answers is refused: {reason}"), reason }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_cannot_be_reached_and_what_cannot_be_read_is_refused_with_a_reason() {
        assert_eq!(user("ann"), Ok(()));
        let refused = user("a\nb").expect_err("it has no address");
        assert_eq!((refused.code, &*refused.reason), (3500, "the user id has control characters"));
        let refused = unfit("a payload", json::Unfit::TooDeep);
        assert_eq!(
            (refused.code, &*refused.reason),
            (107, "a payload is JSON nested deeper than 120 levels")
        );
        assert!(refused.line.ends_with(&refused.reason));
    }
}
