//! Requests that carry commands for a connection whose client only receives a stream: [`EmulationRequest`].

use bytes::Bytes;

use super::Encoding;
use super::centrifuge::{json, protobuf};
use super::command::Malformed;

/// Commands for a connection that cannot carry them itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EmulationRequest {
    /// The gateway that has the connection, as the connect reply named it.
    pub node: Box<str>,
    /// The secret of the connection, from the same reply.
    pub session: Box<str>,
    /// A message in the encoding of the connection.
    pub data: Bytes,
}

impl EmulationRequest {
    /// Decodes the body of a request: an object whose `data` is a text, or a message of Protobuf.
    ///
    /// # Errors
    ///
    /// If the body is malformed, or names no session, or carries nothing.
    pub fn decode(encoding: Encoding, body: Bytes) -> Result<Self, Malformed> {
        let request = match encoding {
            Encoding::Protobuf => protobuf::emulation(body)?,
            Encoding::Json | Encoding::Raw | Encoding::Unidirectional => json::emulation(&body)?,
        };
        if request.session.is_empty() || request.data.is_empty() {
            Err(Malformed::Empty)
        } else {
            Ok(request)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decode(encoding: Encoding, body: &[u8]) -> Result<EmulationRequest, Malformed> {
        EmulationRequest::decode(encoding, Bytes::copy_from_slice(body))
    }

    #[test]
    fn both_encodings_name_the_connection_and_carry_a_message() {
        let expected = EmulationRequest {
            node: "n".into(),
            session: "s".into(),
            data: Bytes::from_static(b"{\"id\":1}\n{}"),
        };
        let json = br#"{"session":"s","node":"n","data":"{\"id\":1}\n{}","more":1}"#;
        assert_eq!(decode(Encoding::Json, json), Ok(expected.clone()));
        let record = b"\x0a\x01n\x12\x01s\x1a\x0b{\"id\":1}\n{}";
        assert_eq!(decode(Encoding::Protobuf, record), Ok(expected));
        let plain = decode(Encoding::Json, br#"{"session":"s","data":"7"}"#).expect("valid");
        assert_eq!((&*plain.node, &plain.data[..]), ("", &b"7"[..]));
    }

    #[test]
    fn a_request_without_a_session_or_without_a_message_is_malformed() {
        for body in ["", "[]", "7", r#"{"session":1,"data":"x"}"#, r#"{"session":"s","data":{}}"#] {
            assert_eq!(decode(Encoding::Json, body.as_bytes()), Err(Malformed::Syntax), "{body}");
        }
        for body in ["{}", "null", r#"{"data":"x"}"#, r#"{"session":"s"}"#, r#"{"session":"s","data":null}"#]
        {
            assert_eq!(decode(Encoding::Json, body.as_bytes()), Err(Malformed::Empty), "{body}");
        }
        assert_eq!(decode(Encoding::Protobuf, b"\x0a\x01n\x12\x01s"), Err(Malformed::Empty));
        assert_eq!(decode(Encoding::Protobuf, b"\x0a\x05n"), Err(Malformed::Syntax));
    }
}
