//! Messages with commands, in JSON and in Protobuf.

use bytes::Bytes;
use gateway::protocol::Encoding;
use gateway::protocol::codec::{Commands, Inbound};
use gateway::protocol::command::{Command, Malformed};

use super::encode::{json_of, protobuf_of};

/// Commands that a message may carry.
pub(super) const COMMANDS_MAX: usize = 64;

/// Everything in a message, as the session takes it out.
pub(super) fn read(encoding: Encoding, data: &[u8]) -> Vec<Result<Command, Malformed>> {
    let inbound = Inbound { data: Bytes::copy_from_slice(data), binary: encoding == Encoding::Protobuf };
    let mut commands = Commands::of(encoding, inbound);
    let mut all = Vec::new();
    while let Some(next) = commands.next(COMMANDS_MAX) {
        let is_last = next.is_err();
        all.push(next);
        assert!(all.len() <= COMMANDS_MAX + 1, "no message goes on beyond its bound");
        if is_last {
            break;
        }
    }
    assert!(!all.is_empty(), "a message says something, or is malformed");
    all
}

/// The same without keeping any, as a worker that carries out one after the other.
fn pass(encoding: Encoding, data: &[u8]) {
    let inbound = Inbound { data: Bytes::copy_from_slice(data), binary: false };
    let mut commands = Commands::of(encoding, inbound);
    while let Some(Ok(_)) = commands.next(COMMANDS_MAX) {}
}

pub(super) fn json(data: &[u8]) {
    pass(Encoding::Json, data);
    pass(Encoding::Unidirectional, data);
}

pub(super) fn protobuf(data: &[u8]) {
    pass(Encoding::Protobuf, data);
}

pub(super) fn check_json(data: &[u8]) {
    check(Encoding::Json, data);
    let alone = read(Encoding::Unidirectional, data);
    assert_eq!(alone.len(), 1, "a client that only listens says one thing");
    check_all(&alone);
}

pub(super) fn check_protobuf(data: &[u8]) {
    check(Encoding::Protobuf, data);
}

/// Reads a message, and checks everything in it.
pub(super) fn check(encoding: Encoding, data: &[u8]) {
    let all = read(encoding, data);
    assert_eq!(all, read(encoding, data), "the same bytes mean the same");
    check_all(&all);
}

fn check_all(all: &[Result<Command, Malformed>]) {
    for command in all.iter().flatten() {
        for (encoding, written) in
            [(Encoding::Json, json_of(command)), (Encoding::Protobuf, protobuf_of(command))]
        {
            let Some(written) = written else { continue };
            let again = read(encoding, &written);
            let shown = String::from_utf8_lossy(&written);
            assert_eq!(again, [Ok(command.clone())], "written in {encoding:?}: {shown:?}");
        }
    }
}
