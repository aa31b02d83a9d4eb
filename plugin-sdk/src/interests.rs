use crate::Kind;

/// What a plugin wants to see, said once in [`Plugin::configure`](crate::Plugin::configure).
///
/// A plugin that says nothing sees every message. Each thing it does not ask for is work that the gateway need not do:
/// a message that no plugin wants costs nothing in the chain. Only [`on_message`](crate::Plugin::on_message) is
/// concerned; the other hooks always run.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Interests {
    kinds: Option<Vec<Kind>>,
    channels: Option<Vec<String>>,
    payload_not_needed: bool,
}

impl Interests {
    /// Only these kinds reach [`on_message`](crate::Plugin::on_message).
    pub fn kinds(&mut self, kinds: impl IntoIterator<Item = Kind>) -> &mut Self {
        self.kinds = Some(kinds.into_iter().collect());
        self
    }

    /// Only messages on channels that match one of these patterns reach [`on_message`](crate::Plugin::on_message).
    ///
    /// A pattern is a channel name in which a last `*` stands for any rest. Messages without a channel always arrive.
    pub fn channels<S: Into<String>>(&mut self, patterns: impl IntoIterator<Item = S>) -> &mut Self {
        self.channels = Some(patterns.into_iter().map(Into::into).collect());
        self
    }

    /// Messages arrive with an empty payload.
    pub fn without_payload(&mut self) -> &mut Self {
        self.payload_not_needed = true;
        self
    }

    /// The kinds asked for; `None` for all.
    pub fn asked_kinds(&self) -> Option<&[Kind]> {
        self.kinds.as_deref()
    }

    /// The channel patterns asked for; `None` for all.
    pub fn asked_channels(&self) -> Option<&[String]> {
        self.channels.as_deref()
    }

    /// Whether payloads are wanted.
    pub const fn wants_payload(&self) -> bool {
        !self.payload_not_needed
    }
}
