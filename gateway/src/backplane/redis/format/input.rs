//! Encodes messages of clients for connections of other gateways, and what became of them.

use bytes::Bytes;

use crate::backplane::input::InputOutcome;
use crate::backplane::redis::format::wire::fields::{Fields, number, put, put_number, text};

/// Tags of both.
mod tag {
    /// The gateway that a message of a client reached first.
    pub(super) const FROM: u8 = 1;
    /// Its number for it.
    pub(super) const ID: u8 = 2;
    /// The gateway that has the connection.
    pub(super) const TO: u8 = 3;
    pub(super) const SESSION: u8 = 4;
    pub(super) const DATA: u8 = 5;
    /// What became of it.
    pub(super) const OUTCOME: u8 = 6;
}

/// A message of a client on its way to its connection.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct RemoteInput {
    pub(crate) from: u64,
    pub(crate) id: u64,
    pub(crate) to: u64,
    pub(crate) session: Box<str>,
    pub(crate) data: Bytes,
}

/// What became of it, for the gateway `from`.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct RemoteOutcome {
    pub(crate) from: u64,
    pub(crate) id: u64,
    pub(crate) outcome: InputOutcome,
}

pub(crate) fn put_input(bytes: &mut Vec<u8>, input: &RemoteInput) {
    put_number(bytes, tag::FROM, input.from);
    put_number(bytes, tag::ID, input.id);
    put_number(bytes, tag::TO, input.to);
    put(bytes, tag::SESSION, input.session.as_bytes());
    put(bytes, tag::DATA, &input.data);
}

pub(crate) fn put_outcome(bytes: &mut Vec<u8>, result: &RemoteOutcome) {
    put_number(bytes, tag::FROM, result.from);
    put_number(bytes, tag::ID, result.id);
    let outcome = match result.outcome {
        InputOutcome::Accepted => 0,
        InputOutcome::NoSession => 1,
        InputOutcome::Full => 2,
    };
    put(bytes, tag::OUTCOME, &[outcome]);
}

/// `None` for invalid bytes. `message` is the whole message: the data is a slice of it.
pub(crate) fn read_input(message: &Bytes, bytes: &[u8]) -> Option<RemoteInput> {
    let mut fields = Fields::filling(bytes);
    let (mut from, mut id, mut to, mut session, mut data) = (None, None, None, None, None);
    while let Some((tag, value)) = fields.next()? {
        match tag {
            tag::FROM => from = Some(number(value)?),
            tag::ID => id = Some(number(value)?),
            tag::TO => to = Some(number(value)?),
            tag::SESSION => session = Some(text(value)?.into()),
            tag::DATA => data = Some(message.slice_ref(value)),
            _ => (),
        }
    }
    Some(RemoteInput { from: from?, id: id?, to: to?, session: session?, data: data? })
}

/// `None` for invalid bytes, `Some(None)` for a result unknown to this version.
pub(crate) fn read_outcome(bytes: &[u8]) -> Option<Option<RemoteOutcome>> {
    let mut fields = Fields::filling(bytes);
    let (mut from, mut id, mut outcome) = (None, None, None);
    while let Some((tag, value)) = fields.next()? {
        match tag {
            tag::FROM => from = Some(number(value)?),
            tag::ID => id = Some(number(value)?),
            tag::OUTCOME => outcome = Some(value),
            _ => (),
        }
    }
    let outcome = match outcome? {
        [0] => InputOutcome::Accepted,
        [1] => InputOutcome::NoSession,
        [2] => InputOutcome::Full,
        _ => return Some(None),
    };
    Some(Some(RemoteOutcome { from: from?, id: id?, outcome }))
}
