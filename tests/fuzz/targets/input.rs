//! Messages of clients that only receive a stream: the requests that carry them, and whose they are.

use std::sync::Arc;

use bytes::Bytes;
use gateway::backplane::input::InputOutcome;
use gateway::connection_id::ConnectionIds;
use gateway::hub::emulation::EmulatedInput;
use gateway::protocol::Encoding;
use gateway::protocol::codec::{Commands, Inbound};
use gateway::protocol::emulation::EmulationRequest;
use gateway::protocol::reply::Emulation;
use serde_json::json;

use super::commands::{self, COMMANDS_MAX};
use super::encode::emulation_of;

const ENCODINGS: [Encoding; 2] = [Encoding::Json, Encoding::Protobuf];

/// The body of a request in either encoding, and the message in it.
pub(super) fn emulation(data: &[u8]) {
    for encoding in ENCODINGS {
        let body = Bytes::copy_from_slice(data);
        let Ok(EmulationRequest { data, .. }) = EmulationRequest::decode(encoding, body) else { continue };
        let mut commands = Commands::of(encoding, Inbound { data, binary: false });
        while let Some(Ok(_)) = commands.next(COMMANDS_MAX) {}
    }
}

pub(super) fn check_emulation(data: &[u8]) {
    for encoding in ENCODINGS {
        let Ok(request) = EmulationRequest::decode(encoding, Bytes::copy_from_slice(data)) else { continue };
        assert!(!request.session.is_empty() && !request.data.is_empty(), "it says what to whom");
        for inner in ENCODINGS {
            commands::check(inner, &request.data);
        }
        let body = emulation_of(&request.node, &request.session, &request.data);
        let again = EmulationRequest::decode(Encoding::Protobuf, body.into());
        assert_eq!(again.as_ref(), Ok(&request), "from {encoding:?} to Protobuf");
        if let Ok(text) = std::str::from_utf8(&request.data) {
            let EmulationRequest { node, session, .. } = &request;
            let body = json!({ "node": node, "session": session, "data": text }).to_string();
            let again = EmulationRequest::decode(Encoding::Json, body.into());
            assert_eq!(again.as_ref(), Ok(&request), "from {encoding:?} to JSON");
        }
    }
}

const NUMBER: u64 = 0x0007_0000_0000_1234;
const BYTES_MAX: usize = 1024;

fn ids() -> ConnectionIds {
    ConnectionIds::new(0x5eed)
}

/// A token of a session, which leads to a connection that has it or has not.
pub(super) fn session(data: &[u8]) {
    if let Ok(token) = std::str::from_utf8(data) {
        let _ = ids().number_of_session(token);
        let _ = ids().number(token);
    }
}

pub(super) fn check_session(data: &[u8]) {
    let own = ids().session(NUMBER, [7, 8]);
    assert_eq!(ids().number_of_session(&own), Some(NUMBER));
    let Ok(token) = std::str::from_utf8(data) else { return };
    if let Some(number) = ids().number_of_session(token) {
        assert_eq!(ids().number(&token[..36]), Some(number), "a token begins with an id");
    }
    let address = Emulation { session: own.clone(), node: "n".into() };
    let input = EmulatedInput::new(Arc::new(address), Bytes::from_static(b"first"));
    // Nobody else has the token, and what is refused is not kept.
    let outcome = input.put(token, Bytes::from_static(b"second"), BYTES_MAX);
    let is_own = token == &*own;
    assert_eq!(outcome, if is_own { InputOutcome::Accepted } else { InputOutcome::NoSession });
    // Messages of the lengths that the bytes say, as far as they fit.
    let mut waiting: Vec<usize> = [5].into_iter().chain(is_own.then_some(6)).collect();
    for length in data.iter().map(|byte| usize::from(*byte)) {
        if length == 0 {
            let taken = input.take().map(|message| message.len());
            assert_eq!(taken, (!waiting.is_empty()).then(|| waiting.remove(0)), "in their order");
            continue;
        }
        let fits = waiting.len() < 64 && waiting.iter().sum::<usize>() + length <= BYTES_MAX;
        let outcome = input.put(&own, vec![b'x'; length].into(), BYTES_MAX);
        assert_eq!(outcome, if fits { InputOutcome::Accepted } else { InputOutcome::Full });
        if fits {
            waiting.push(length);
        }
    }
    assert_eq!(input.has_messages(), !waiting.is_empty());
}
