//! What is put to a backend, and what it answers, in the shapes of Centrifugo's proxy: [`Question`] becomes
//! the body of a request, and the body of the response becomes an [`Answer`]. Pure: no I/O, no clock, no
//! tokio.
//!
//! `gateway/docs/backends.md` has every field. A field of an answer is applied, refused, or left out with a
//! log line; the table is in [`answer`].

pub mod answer;
mod object;
mod question;

pub use self::answer::{Answer, Connected, Limits, Overrides, Published, Refreshed, Subscribed};
pub use self::question::Question;

/// What is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Whether a client is admitted, and as whom.
    Connect,
    /// Whether a connection that expires may stay.
    Refresh,
    /// Whether a client may subscribe.
    Subscribe,
    /// Whether a subscription that expires may stay.
    SubRefresh,
    /// Whether a client may publish.
    Publish,
    /// The result of a call.
    Rpc,
    /// A message without a reply.
    Send,
    /// A message in raw mode.
    Message,
}

impl Kind {
    /// Every value.
    pub const ALL: [Self; 8] = [
        Self::Connect,
        Self::Refresh,
        Self::Subscribe,
        Self::SubRefresh,
        Self::Publish,
        Self::Rpc,
        Self::Send,
        Self::Message,
    ];

    /// What follows the URL of the upstream.
    pub const fn path(self) -> &'static str {
        match self {
            Self::Connect => "/connect",
            Self::Refresh => "/refresh",
            Self::Subscribe => "/subscribe",
            Self::SubRefresh => "/sub_refresh",
            Self::Publish => "/publish",
            Self::Rpc => "/rpc",
            Self::Send => "/send",
            Self::Message => "/message",
        }
    }

    /// The name in settings and log lines.
    pub fn as_str(self) -> &'static str {
        &self.path()[1..]
    }

    /// Whether a backend that gets the request twice does nothing twice: it is asked for a decision, and not
    /// to do something.
    pub const fn is_repeatable(self) -> bool {
        match self {
            Self::Connect | Self::Refresh | Self::Subscribe | Self::SubRefresh => true,
            Self::Publish | Self::Rpc | Self::Send | Self::Message => false,
        }
    }
}
