//! Refusals for answers that the gateway cannot carry out because of client input.
//!
//! Such an answer does not count as a failure of the plugin. Otherwise clients could open the breaker of a
//! plugin that passes on client input or names from tokens. The gateway refuses the event instead and logs
//! the reason. The gateway and the test kit of the SDK share this code.

use std::fmt;

use crate::{address, json};

/// The code of a connection that is closed because of its credential.
const INVALID_TOKEN: u32 = 3500;
/// The code of a request that is refused because of what is in it.
const BAD_REQUEST: u32 = 107;

/// A refusal that takes the place of an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// The code for the client.
    pub code: u32,
    /// The reason for the client.
    pub reason: String,
    /// The log line, a warning.
    pub line: String,
}

/// Checks the user of an admission. Messages to a user, and effects such as a disconnect, use the address of
/// the user.
///
/// # Errors
///
/// Refuses a client whose user has no valid address.
pub fn user(user: &str) -> Result<(), Refused> {
    address::check_user(user).map_err(|why| Refused {
        code: INVALID_TOKEN,
        reason: why.to_string(),
        line: format!("a client it accepts is refused, because nothing could reach this user: {why}"),
    })
}

/// The refusal of an event whose answer contains JSON that receivers may reject. `what` names the part, such
/// as `a payload`.
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
