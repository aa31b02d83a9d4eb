//! Between the vocabulary and the bytes of a protocol. The closed set of protocols meets here and nowhere else.

use bytes::Bytes;

use super::command::{Command, Malformed, Request};
use super::frame::{self, Opcode};
use super::push::{Form, Push, PushKind};
use super::reply::Reply;
use super::{Protocol, centrifuge};

/// One message as it came from a client: complete, unmasked, and text known to be UTF-8.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inbound {
    /// The bytes. Payloads of commands are slices of them.
    pub data: Bytes,
    /// Whether it came as binary.
    pub binary: bool,
}

/// Hands the commands of one message to `each`, in order, until there are no more or `each` says to stop. A malformed
/// command ends the message.
pub fn decode(
    protocol: Protocol,
    inbound: Inbound,
    commands_max: usize,
    mut each: impl FnMut(Command) -> std::ops::ControlFlow<()>,
) -> Result<(), Malformed> {
    match protocol {
        Protocol::CentrifugeJson => centrifuge::json::decode(&inbound.data, commands_max, each),
        Protocol::Raw => {
            let Inbound { data, binary } = inbound;
            let _ = each(Command { id: 0, request: Request::Raw { data, binary } });
            Ok(())
        }
    }
}

/// Appends the WebSocket frame of one reply and returns where it lies in `out`; `None` if the protocol has no words
/// for it.
pub fn encode_reply(protocol: Protocol, reply: &Reply, out: &mut Vec<u8>) -> Option<std::ops::Range<usize>> {
    match (protocol, reply) {
        (Protocol::CentrifugeJson, Reply::Raw { .. }) => None,
        (Protocol::CentrifugeJson, reply) => {
            Some(frame::write(out, Opcode::Text, |out| centrifuge::json::encode_reply(reply, out)))
        }
        (Protocol::Raw, Reply::Raw { data, binary: true }) => {
            Some(frame::write(out, Opcode::Binary, |out| out.extend_from_slice(data)))
        }
        (Protocol::Raw, Reply::Raw { data, binary: false }) => Some(raw_message(data, out)),
        (Protocol::Raw, Reply::Message { data }) => Some(raw_message(data, out)),
        (Protocol::Raw, Reply::Ping) => Some(frame::write(out, Opcode::Ping, |_| ())),
        (Protocol::Raw, _) => None,
    }
}

/// The frame of something that goes to many. Called once per form by [`Push::frame`].
pub(super) fn push_frame(push: &Push, form: Form) -> Bytes {
    match form {
        Form::Channel(Protocol::CentrifugeJson) => {
            frame::frame(Opcode::Text, |out| centrifuge::json::encode_push(push, out))
        }
        Form::Direct(Protocol::CentrifugeJson) => match &push.kind {
            PushKind::Publication { publication, .. } => {
                frame::frame(Opcode::Text, |out| centrifuge::json::encode_message(publication, out))
            }
            PushKind::Join(_) | PushKind::Leave(_) => Bytes::new(),
        },
        Form::Channel(Protocol::Raw) | Form::Direct(Protocol::Raw) => match &push.kind {
            PushKind::Publication { publication, .. } => {
                let mut out = Vec::with_capacity(publication.data.len() + 16);
                let range = raw_message(&publication.data, &mut out);
                Bytes::from(out).slice(range)
            }
            PushKind::Join(_) | PushKind::Leave(_) => Bytes::new(),
        },
    }
}

/// Goes out as text if it is text: a plugin may answer a text with bytes that no text frame may carry.
fn raw_message(data: &[u8], out: &mut Vec<u8>) -> std::ops::Range<usize> {
    let opcode = if std::str::from_utf8(data).is_ok() { Opcode::Text } else { Opcode::Binary };
    frame::write(out, opcode, |out| out.extend_from_slice(data))
}
