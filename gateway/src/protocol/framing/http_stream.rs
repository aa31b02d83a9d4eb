//! Delimits messages in the body of an HTTP response.

use std::ops::Range;

use super::MessageType;

/// Appends the message that `encode` appends, and LF after a text. A text holds no other LF: the encoders
/// write none, and payloads are checked for it. A binary message begins with its own length.
///
/// Returns the range of the message inside `out`; `None` if there is no message.
pub(super) fn write(
    out: &mut Vec<u8>,
    encode: impl FnOnce(&mut Vec<u8>) -> Option<MessageType>,
) -> Option<Range<usize>> {
    let start = out.len();
    match encode(out)? {
        MessageType::Text => out.push(b'\n'),
        MessageType::Binary => (),
        MessageType::Ping => return None,
    }
    Some(start..out.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_ends_with_a_line_feed_and_a_record_with_itself() {
        let mut out = Vec::new();
        let mut message = |message_type, bytes: &[u8]| {
            write(&mut out, |out| {
                out.extend_from_slice(bytes);
                Some(message_type)
            })
        };
        let text = message(MessageType::Text, b"{}").expect("a message");
        let record = message(MessageType::Binary, b"\x02\x08\x01").expect("a message");
        assert_eq!(message(MessageType::Ping, b""), None);
        assert_eq!(&out[text], b"{}\n");
        assert_eq!(&out[record], b"\x02\x08\x01");
        assert_eq!(write(&mut out, |_| None), None);
    }
}
