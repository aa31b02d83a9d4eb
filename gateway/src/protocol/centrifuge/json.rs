//! The JSON encoding of the Centrifuge protocol: objects separated by LF, payloads embedded as JSON, zero
//! values left out.

mod decode;
mod encode;

pub(in crate::protocol) use decode::{connect, emulation, next_command};
pub(in crate::protocol) use encode::{
    Data, encode_event, encode_message, encode_message_event, encode_push, encode_push_event, encode_reply,
};
