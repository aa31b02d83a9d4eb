//! Translates between messages of the gateway and the bytes of each [`Encoding`]. No other module chooses how
//! a message is encoded.

use bytes::Bytes;

use super::centrifuge::{json, protobuf};
use super::code::Close;
use super::command::{Command, Malformed, Request};
use super::framing::MessageType;
use super::push::{Envelope, Form, Push, PushKind};
use super::reply::Reply;
use super::{Encoding, WireFormat};

/// One complete message of a client: unmasked, and known to be UTF-8 if it is text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inbound {
    /// The bytes. Payloads of commands are slices of them.
    pub data: Bytes,
    /// Whether it came in a binary frame. Only plugins see the difference, in raw mode: commands are decoded
    /// from frames of both types.
    pub binary: bool,
}

/// The commands of one message that have not been run yet: its remaining bytes, and the count so far. They
/// are decoded one by one, so that the rest of a message is never larger than the message.
#[derive(Debug)]
pub struct Commands {
    encoding: Encoding,
    rest: Bytes,
    binary: bool,
    count: usize,
}

impl Commands {
    /// All commands of a message.
    pub fn of(encoding: Encoding, Inbound { data, binary }: Inbound) -> Self {
        Self { encoding, rest: data, binary, count: 0 }
    }

    /// Whether no commands are left.
    pub fn is_done(&self) -> bool {
        self.count > 0 && self.rest.is_empty()
    }

    /// The next command, `None` after the last. An error ends the message: more than `commands_max` commands
    /// in it, no command at all, or malformed bytes.
    pub fn next(&mut self, commands_max: usize) -> Option<Result<Command, Malformed>> {
        let next = match self.encoding {
            Encoding::Json => json::next_command(&mut self.rest),
            Encoding::Protobuf => protobuf::next_command(&mut self.rest),
            Encoding::Raw if self.count == 0 => {
                let data = std::mem::take(&mut self.rest);
                Some(Ok(Command { id: 0, request: Request::Raw { data, binary: self.binary } }))
            }
            Encoding::Unidirectional if self.count == 0 => {
                Some(json::connect(&std::mem::take(&mut self.rest)))
            }
            Encoding::Raw | Encoding::Unidirectional => None,
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

/// Appends one reply. `None` if the encoding cannot express it.
pub fn encode_reply(encoding: Encoding, reply: &Reply, out: &mut Vec<u8>) -> Option<MessageType> {
    match (encoding, reply) {
        (Encoding::Json | Encoding::Protobuf | Encoding::Unidirectional, Reply::Raw { .. }) => None,
        (Encoding::Json, reply) => {
            json::encode_reply(reply, out);
            Some(MessageType::Text)
        }
        (Encoding::Protobuf, reply) => {
            protobuf::encode_reply(reply, out);
            Some(MessageType::Binary)
        }
        (Encoding::Raw, Reply::Raw { data, binary: true }) => {
            out.extend_from_slice(data);
            Some(MessageType::Binary)
        }
        (Encoding::Raw, Reply::Raw { data, binary: false } | Reply::Message { data }) => {
            Some(raw_message(data, out))
        }
        (Encoding::Raw, Reply::Ping) => Some(MessageType::Ping),
        (Encoding::Raw, _) => None,
        (Encoding::Unidirectional, reply) => {
            json::encode_event(reply, out);
            Some(MessageType::Text)
        }
    }
}

/// The bytes that end a connection with a code and a reason. Empty if the format cannot express it.
pub fn encode_close(format: WireFormat, close: &Close) -> Bytes {
    format.framing.close(close).unwrap_or_else(|| {
        let mut out = Vec::new();
        let disconnect = Reply::Disconnected { close: close.clone() };
        let frame = format.framing.write(&mut out, |out| encode_reply(format.encoding, &disconnect, out));
        frame.map_or_else(Bytes::new, |range| Bytes::from(out).slice(range))
    })
}

/// Appends a push, with a delta in place of the payload of a publication if there is one. `None` if the
/// encoding cannot express it. Called once per form by [`Push::frame`] and
/// [`Following::frame`](super::push::Following::frame).
pub(super) fn encode_push(
    push: &Push,
    form: Form,
    delta: Option<&[u8]>,
    out: &mut Vec<u8>,
) -> Option<MessageType> {
    let data = match (form.envelope, delta) {
        (_, Some(delta)) => json::Data::Delta(delta),
        (Envelope::ChannelText, None) => json::Data::Text,
        (Envelope::Channel | Envelope::Direct, None) => json::Data::Value,
    };
    match (form.format.encoding, form.envelope, &push.kind) {
        (Encoding::Raw, _, PushKind::Publication { publication, .. }) => {
            Some(raw_message(&publication.data, out))
        }
        (Encoding::Raw, _, PushKind::Join(_) | PushKind::Leave(_))
        | (_, Envelope::Direct, PushKind::Join(_) | PushKind::Leave(_)) => None,
        (Encoding::Json, Envelope::Channel | Envelope::ChannelText, _) => {
            json::encode_push(push, data, out);
            Some(MessageType::Text)
        }
        (Encoding::Json, Envelope::Direct, PushKind::Publication { publication, .. }) => {
            json::encode_message(publication, out);
            Some(MessageType::Text)
        }
        (Encoding::Protobuf, Envelope::Channel | Envelope::ChannelText, _) => {
            protobuf::encode_push(push, delta, out);
            Some(MessageType::Binary)
        }
        (Encoding::Protobuf, Envelope::Direct, PushKind::Publication { publication, .. }) => {
            protobuf::encode_message(publication, out);
            Some(MessageType::Binary)
        }
        (Encoding::Unidirectional, Envelope::Channel | Envelope::ChannelText, _) => {
            json::encode_push_event(push, data, out);
            Some(MessageType::Text)
        }
        (Encoding::Unidirectional, Envelope::Direct, PushKind::Publication { publication, .. }) => {
            json::encode_message_event(publication, out);
            Some(MessageType::Text)
        }
    }
}

/// Sent as text if it is valid UTF-8: a plugin may answer text with bytes that a text message must not carry.
fn raw_message(data: &[u8], out: &mut Vec<u8>) -> MessageType {
    out.extend_from_slice(data);
    if std::str::from_utf8(data).is_ok() { MessageType::Text } else { MessageType::Binary }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::Framing;
    use crate::protocol::channel::Channel;
    use crate::protocol::code::Unsubscribe;

    fn commands(text: &str) -> Result<Vec<Command>, Malformed> {
        let data = Bytes::copy_from_slice(text.as_bytes());
        let mut commands = Commands::of(Encoding::Json, Inbound { data, binary: false });
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
        let mut commands = Commands::of(Encoding::Json, Inbound { data, binary: false });
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
            let mut commands = Commands::of(Encoding::Raw, Inbound { data: data.clone(), binary: true });
            let raw = Request::Raw { data, binary: true };
            assert_eq!(commands.next(8), Some(Ok(Command { id: 0, request: raw })));
            assert!(commands.is_done() && commands.next(8).is_none());
        }
    }

    #[test]
    fn a_client_that_only_listens_says_one_thing_and_gets_pushes_without_a_reply_around_them() {
        let data = Bytes::from_static(br#"{"token":"t"}"#);
        let mut commands = Commands::of(Encoding::Unidirectional, Inbound { data, binary: false });
        let Some(Ok(Command { id: 1, request: Request::Connect(connect) })) = commands.next(8) else {
            panic!()
        };
        assert_eq!(&*connect.token, "t");
        assert!(commands.is_done() && commands.next(8).is_none());
        let mut wrong = Commands::of(Encoding::Unidirectional, Inbound { data: Bytes::new(), binary: false });
        assert_eq!(wrong.next(8), Some(Err(Malformed::Syntax)));

        let encoded = |reply: &Reply| {
            let mut out = Vec::new();
            assert_eq!(encode_reply(Encoding::Unidirectional, reply, &mut out), Some(MessageType::Text));
            String::from_utf8(out).expect("JSON is UTF-8")
        };
        assert_eq!(encoded(&Reply::Ping), "{}");
        let message = Reply::Message { data: Bytes::from_static(b"1") };
        assert_eq!(encoded(&message), r#"{"message":{"data":1}}"#);
        let channel = Channel::parse("news").expect("valid");
        let why = Unsubscribe::BY_SERVER;
        assert!(
            encoded(&Reply::UnsubscribedByServer { channel, why })
                .starts_with(r#"{"channel":"news","unsubscribe":{"code":2000"#)
        );
    }

    #[test]
    fn where_there_is_no_close_frame_the_last_message_says_why() {
        let close = |encoding: Encoding, framing| encode_close(encoding.over(framing), &Close::SHUTDOWN);
        assert_eq!(close(Encoding::Json, Framing::WebSocket)[0], 0x88);
        assert_eq!(
            close(Encoding::Json, Framing::HttpStream),
            "{\"push\":{\"disconnect\":{\"code\":3001,\"reason\":\"shutdown\"}}}\n"
        );
        assert_eq!(
            close(Encoding::Unidirectional, Framing::EventStream),
            "data: {\"disconnect\":{\"code\":3001,\"reason\":\"shutdown\"}}\n\n"
        );
        let record = close(Encoding::Protobuf, Framing::HttpStream);
        assert_eq!(&record[..], b"\x11\x22\x0f\x5a\x0d\x08\xb9\x17\x12\x08shutdown");
    }
}
