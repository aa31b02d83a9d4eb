//! Makes events of messages (HTML, 9.2: server-sent events).

use std::ops::Range;

use super::MessageType;

/// Appends an event whose data is the message that `encode` appends. The message is a text on one line: the
/// encoders write no LF, and payloads are checked for it.
///
/// Returns the range of the event inside `out`; `None` if there is no message.
pub(super) fn write(
    out: &mut Vec<u8>,
    encode: impl FnOnce(&mut Vec<u8>) -> Option<MessageType>,
) -> Option<Range<usize>> {
    let start = out.len();
    out.extend_from_slice(b"data: ");
    let message = encode(out)?;
    debug_assert_eq!(message, MessageType::Text, "events are text");
    out.extend_from_slice(b"\n\n");
    Some(start..out.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_message_is_the_data_of_one_event() {
        let mut out = Vec::new();
        let mut event = |text: &str| {
            write(&mut out, |out| {
                out.extend_from_slice(text.as_bytes());
                Some(MessageType::Text)
            })
        };
        let (first, second) = (event("{}").expect("a message"), event("{\"id\":1}").expect("a message"));
        assert_eq!(&out[first], b"data: {}\n\n");
        assert_eq!(&out[second], b"data: {\"id\":1}\n\n");
        assert_eq!(write(&mut out, |_| None), None);
    }
}
