//! How user ids appear in the log, see `log.users`. Every line of the gateway that names a user, or an
//! address that may be one, takes it from here.

use std::borrow::Cow;
use std::hash::{BuildHasher as _, RandomState};
use std::sync::OnceLock;

/// How user ids appear in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogUsers {
    /// As they are.
    Plain,
    /// As a short keyed hash with a key of this process: lines about one user can be matched.
    Hashed,
    /// Not at all.
    None,
}

/// Stands before a hash, and alone for an id that is left out.
const MARK: &str = "~";

/// The choice of the process, once the log is initialized.
static CHOSEN: OnceLock<Shown> = OnceLock::new();

/// Sets how user ids appear. Only the first call has an effect; before it they appear as they are.
pub fn set(users: LogUsers) {
    let _ = CHOSEN.set(Shown::new(users));
}

/// A user id for a field of a line; `None` for an anonymous client, and if ids are left out.
pub fn user(user: &str) -> Option<Cow<'_, str>> {
    CHOSEN.get().map_or_else(|| (!user.is_empty()).then_some(Cow::Borrowed(user)), |shown| shown.user(user))
}

/// An address: the id after `#` appears like every user id.
pub fn address(address: &str) -> Cow<'_, str> {
    CHOSEN.get().map_or(Cow::Borrowed(address), |shown| shown.address(address))
}

/// A text about this user, such as the reason of a failure or the name of a channel: the id in it appears
/// like every user id.
pub fn text<'a>(text: &'a str, user: &str) -> Cow<'a, str> {
    CHOSEN.get().map_or(Cow::Borrowed(text), |shown| shown.text(text, user))
}

struct Shown {
    users: LogUsers,
    /// With a random key.
    key: RandomState,
}

impl Shown {
    fn new(users: LogUsers) -> Self {
        Self { users, key: RandomState::new() }
    }

    fn user<'a>(&self, user: &'a str) -> Option<Cow<'a, str>> {
        match self.users {
            _ if user.is_empty() => None,
            LogUsers::Plain => Some(Cow::Borrowed(user)),
            LogUsers::Hashed => Some(Cow::Owned(self.instead(user))),
            LogUsers::None => None,
        }
    }

    fn address<'a>(&self, address: &'a str) -> Cow<'a, str> {
        match address.strip_prefix('#') {
            Some(user) if self.users != LogUsers::Plain => format!("#{}", self.instead(user)).into(),
            _ => Cow::Borrowed(address),
        }
    }

    /// Only whole words: the id `7` is not a part of `index 17`.
    fn text<'a>(&self, text: &'a str, user: &str) -> Cow<'a, str> {
        let mut shown = self.address(text);
        if self.users == LogUsers::Plain || user.is_empty() {
            return shown;
        }
        let mut from = 0;
        while let Some(at) = shown[from..].find(user).map(|at| from + at) {
            let end = at + user.len();
            let continues = |neighbour: Option<char>| neighbour.is_some_and(char::is_alphanumeric);
            if continues(shown[..at].chars().next_back()) || continues(shown[end..].chars().next()) {
                from = end;
                continue;
            }
            let instead = self.instead(user);
            from = at + instead.len();
            shown.to_mut().replace_range(at..end, &instead);
        }
        shown
    }

    fn instead(&self, user: &str) -> String {
        match self.users {
            // 48 bits: enough to tell users apart, and short.
            LogUsers::Hashed => format!("{MARK}{:012x}", self.key.hash_one(user) >> 16),
            LogUsers::Plain | LogUsers::None => MARK.to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plain_id_is_written_as_it_is() {
        let shown = Shown::new(LogUsers::Plain);
        assert_eq!(shown.user("ann").as_deref(), Some("ann"));
        assert_eq!(shown.user(""), None);
        assert_eq!(shown.address("#ann"), "#ann");
        assert_eq!(shown.text("no such user ann", "ann"), "no such user ann");
    }

    #[test]
    fn a_hash_is_the_same_everywhere_and_differs_by_user_and_process() {
        let (shown, other) = (Shown::new(LogUsers::Hashed), Shown::new(LogUsers::Hashed));
        let ann = shown.user("ann").expect("it is named");
        assert_eq!(ann.len(), MARK.len() + 12);
        assert_eq!(shown.address("#ann"), format!("#{ann}"));
        assert_eq!(shown.text("inbox:ann", "ann"), format!("inbox:{ann}"));
        assert_ne!(Some(&ann), shown.user("bob").as_ref());
        assert_ne!(Some(&ann), other.user("ann").as_ref());
    }

    #[test]
    fn an_id_that_is_left_out_is_nowhere() {
        let shown = Shown::new(LogUsers::None);
        assert_eq!(shown.user("ann"), None);
        assert_eq!(shown.address("#ann"), "#~");
        assert_eq!(shown.text("#ann", ""), "#~");
        assert_eq!(shown.text("ann: no such user ann", "ann"), "~: no such user ~");
    }

    #[test]
    fn what_is_no_user_id_stays() {
        let shown = Shown::new(LogUsers::None);
        assert_eq!(shown.address("chat:room"), "chat:room");
        assert_eq!(shown.address("@41f7"), "@41f7");
        assert_eq!(shown.text("annotation of ann", "ann"), "annotation of ~");
        assert_eq!(shown.text("index 17 of 7", "7"), "index 17 of ~");
        assert_eq!(shown.text("élan", "lan"), "élan");
    }
}
