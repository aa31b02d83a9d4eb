//! Decodes what comes from Redis and encodes it again, for tests that replay hostile bytes from outside of
//! this crate.

use bytes::Bytes;

use crate::backplane::redis::format::wire::{self, Message};

/// Whether these bytes are a message of another gateway.
pub fn is_message(bytes: &Bytes) -> bool {
    wire::decode(bytes).is_some()
}

/// What this gateway would write for the message in these bytes. `None` if there is none, and for a kind
/// unknown to this version.
pub fn message(bytes: &Bytes) -> Option<Vec<u8>> {
    Some(match wire::decode(bytes)? {
        Message::Publication { address, publication, epoch } => {
            let mut written = wire::head(address.as_ref());
            written.extend_from_slice(format!("{},{epoch};", publication.offset).as_bytes());
            let (info, tags) = (publication.info.as_deref(), publication.tags.as_deref());
            written.extend_from_slice(&wire::body(&publication.data, publication.json, info, tags));
            written
        }
        Message::Presence { address, member, came } => wire::presence(&member, came, address.as_ref()),
        Message::Order { node, address, order } => wire::order(node, &address, &order),
        Message::Question { node, id, question } => wire::question(node, id, &question),
        Message::Answer { to, id, from, finding } => wire::answer(to, id, from, &finding),
        Message::Input(input) => wire::input(&input),
        Message::InputOutcome(outcome) => wire::input_outcome(&outcome),
        Message::Look { node } => wire::look(node),
        Message::Unknown => return None,
    })
}

/// The same for a member in a list of presence.
pub fn member(bytes: &Bytes) -> Option<Vec<u8>> {
    wire::read_member(bytes).map(|member| wire::member_bytes(&member))
}
