//! The Protobuf encoding of the Centrifuge protocol: messages after their length, payloads as bytes.

mod decode;
mod encode;

pub(in crate::protocol) use decode::{emulation, next_command};
pub(in crate::protocol) use encode::{encode_message, encode_push, encode_reply};
