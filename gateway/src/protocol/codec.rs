//! Translates between messages of the gateway and the bytes of each [`Protocol`]. No other module chooses an
//! encoding by protocol.

use bytes::Bytes;

use super::command::{Command, Malformed, Request};
use super::frame::{self, Opcode};
use super::push::{Form, Push, PushKind};
use super::reply::Reply;
use super::{Protocol, centrifuge};

/// One complete message of a client: unmasked, and known to be UTF-8 if it is text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inbound {
    /// The bytes. Payloads of commands are slices of them.
    pub data: Bytes,
    /// Whether it came in a binary frame.
    pub binary: bool,
}

/// The commands of one message that have not been run yet: its remaining bytes, and the count so far. They
/// are decoded one by one, so that the rest of a message is never larger than the message.
#[derive(Debug)]
pub struct Commands {
    protocol: Protocol,
    rest: Bytes,
    binary: bool,
    count: usize,
}

impl Commands {
    /// All commands of a message.
    pub fn of(protocol: Protocol, Inbound { data, binary }: Inbound) -> Self {
        Self { protocol, rest: data, binary, count: 0 }
    }

    /// Whether no commands are left.
    pub fn is_done(&self) -> bool {
        self.count > 0 && self.rest.is_empty()
    }

    /// The next command, `None` after the last. An error ends the message: more than `commands_max` commands
    /// in it, no command at all, or malformed bytes.
    pub fn next(&mut self, commands_max: usize) -> Option<Result<Command, Malformed>> {
        let next = match self.protocol {
            Protocol::CentrifugeJson => centrifuge::json::next_command(&mut self.rest),
            Protocol::Raw if self.count == 0 => {
                let data = std::mem::take(&mut self.rest);
                Some(Ok(Command { id: 0, request: Request::Raw { data, binary: self.binary } }))
            }
            Protocol::Raw => None,
        };
        match next {
            None if self.count == 0 => Some(Err(Malformed::Empty)),
            Some(Ok(_)) if self.count == commands_max => Some(Err(Malformed::TooMany)),
            next => {
                self.count += 1;
                next
            }
        }
    }
}

/// Appends the WebSocket frame of one reply and returns its range in `out`; `None` if the protocol cannot
/// express it.
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

/// The frame of a push. Called once per form by [`Push::frame`].
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

/// Sent as a text frame if it is valid UTF-8: a plugin may answer text with bytes that a text frame must not
/// carry.
fn raw_message(data: &[u8], out: &mut Vec<u8>) -> std::ops::Range<usize> {
    let opcode = if std::str::from_utf8(data).is_ok() { Opcode::Text } else { Opcode::Binary };
    frame::write(out, opcode, |out| out.extend_from_slice(data))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn commands(text: &str) -> Result<Vec<Command>, Malformed> {
        let data = Bytes::copy_from_slice(text.as_bytes());
        let mut commands = Commands::of(Protocol::CentrifugeJson, Inbound { data, binary: false });
        std::iter::from_fn(|| commands.next(8)).take(20).collect()
    }

    #[test]
    fn a_message_has_commands_but_not_too_many() {
        assert_eq!(commands("{}\n\n{}\n").expect("valid").len(), 2);
        assert_eq!(commands(&"{}\n".repeat(8)).expect("valid").len(), 8);
        assert_eq!(commands(&"{}\n".repeat(9)), Err(Malformed::TooMany));
        assert_eq!(commands(""), Err(Malformed::Empty));
        assert_eq!(commands("\n \n"), Err(Malformed::Empty));
    }

    #[test]
    fn what_is_left_of_a_message_is_a_part_of_it() {
        let data = Bytes::from_static(b"{\"id\":1,\"rpc\":{}}\n{\"id\":2,\"rpc\":{}}");
        let mut commands = Commands::of(Protocol::CentrifugeJson, Inbound { data, binary: false });
        assert_eq!(commands.next(8).expect("one").expect("valid").id, 1);
        assert_eq!(commands.rest, "{\"id\":2,\"rpc\":{}}");
        assert!(!commands.is_done());
        assert_eq!(commands.next(8).expect("another").expect("valid").id, 2);
        assert!(commands.is_done() && commands.next(8).is_none());
    }

    #[test]
    fn a_raw_message_is_one_command_also_when_it_is_empty() {
        for data in ["", "x\ny"] {
            let data = Bytes::from_static(data.as_bytes());
            let mut commands = Commands::of(Protocol::Raw, Inbound { data: data.clone(), binary: true });
            let raw = Request::Raw { data, binary: true };
            assert_eq!(commands.next(8), Some(Ok(Command { id: 0, request: raw })));
            assert!(commands.is_done() && commands.next(8).is_none());
        }
    }
}
