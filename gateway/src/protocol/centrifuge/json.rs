//! The JSON encoding of the Centrifuge protocol: objects separated by LF, payloads embedded as JSON, zero
//! values left out.

mod decode;
mod encode;

pub(in crate::protocol) use decode::next_command;
pub(in crate::protocol) use encode::{encode_message, encode_push, encode_reply};
