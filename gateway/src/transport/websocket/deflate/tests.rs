//! Negotiation, and messages through the WebSocket library.

use proptest::prelude::*;

use super::super::{ReadBuffer, Step, WebSocket};
use super::*;
use crate::hub::connection_handle::{ConnectionHandle, Unflushed};
use crate::protocol::deflate::Compressor;
use crate::protocol::{Encoding, Framing};
use crate::telemetry::metrics::ControlFrame;
use crate::transport::Transport as _;

const BYTES_MAX: usize = 1000;

/// What is answered to the lines of a header; empty for no compression.
fn answer(lines: &[&str]) -> &'static str {
    agree(lines.iter().map(|line| line.as_bytes())).map_or("", |agreed| agreed.answer)
}

#[test]
fn offers_of_browsers_and_libraries_are_accepted() {
    for offer in [
        "permessage-deflate",
        "permessage-deflate; client_max_window_bits",
        "permessage-deflate; client_max_window_bits=8",
        "permessage-deflate;client_max_window_bits=\"15\"",
        "permessage-deflate; server_no_context_takeover; client_no_context_takeover",
        "\t permessage-deflate ;  client_no_context_takeover ; client_max_window_bits = 10 ",
    ] {
        assert_eq!(answer(&[offer]), ANSWER, "{offer}");
    }
}

#[test]
fn a_client_that_asks_for_a_window_gets_it_or_a_smaller_one() {
    let answer_to = |bits: &str| answer(&[&format!("permessage-deflate; server_max_window_bits={bits}")]);
    assert_eq!(answer_to("15"), ANSWER_LARGE);
    assert_eq!(answer_to("\"15\""), ANSWER_LARGE);
    for bits in ["9", "10", "11", "12", "13", "14", "\"9\""] {
        assert_eq!(answer_to(bits), ANSWER_SMALL, "{bits}");
    }
    assert_eq!(answer_to("8"), "", "the library has no such window");
    let window = |answer: &str| agree(std::iter::once(answer.as_bytes())).map(|agreed| agreed.window);
    assert_eq!(
        [ANSWER, ANSWER_LARGE, ANSWER_SMALL].map(window),
        [Window::Large, Window::Large, Window::Small].map(Some)
    );
}

#[test]
fn an_offer_with_a_parameter_that_is_unknown_malformed_or_repeated_is_declined() {
    for parameters in [
        "unknown",
        "unknown=1",
        "",
        "=",
        "server_no_context_takeover=true",
        "client_no_context_takeover=",
        "server_max_window_bits",
        "server_max_window_bits=",
        "server_max_window_bits=7",
        "server_max_window_bits=16",
        "server_max_window_bits=09",
        "server_max_window_bits=+9",
        "server_max_window_bits=9 9",
        "server_max_window_bits=\"9",
        "server_max_window_bits=100000000000000000000",
        "client_max_window_bits=0",
        "client_max_window_bits=16",
        "client_max_window_bits=",
        "Client_Max_Window_Bits",
        "client_max_window_bits; client_max_window_bits",
        "client_max_window_bits; client_max_window_bits=9",
        "server_no_context_takeover; server_no_context_takeover",
        "server_max_window_bits=9; server_max_window_bits=10",
    ] {
        assert_eq!(answer(&[&format!("permessage-deflate; {parameters}")]), "", "{parameters}");
    }
}

#[test]
fn the_first_acceptable_offer_counts_and_other_extensions_are_ignored() {
    for lines in [
        &[][..],
        &[""],
        &[",,"],
        &["x-webkit-deflate-frame", "mux; max-channels=4"],
        &["permessage-deflate-2"],
        &["mux; a=\"permessage-deflate, permessage-deflate\""],
    ] {
        assert_eq!(answer(lines), "", "{lines:?}");
    }
    for lines in [
        &["permessage-deflate; server_max_window_bits=9, permessage-deflate"][..],
        &["permessage-deflate; unknown, permessage-deflate; server_max_window_bits=10"],
        &[
            "mux, x; a=\"b\\\", c\"",
            "permessage-deflate; server_max_window_bits=8",
            ", permessage-deflate; server_max_window_bits=9",
        ],
    ] {
        assert_eq!(answer(lines), ANSWER_SMALL, "{lines:?}");
    }
}

/// A frame as clients send it. `first` has FIN, the reserved bits and the opcode.
fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![first];
    match payload.len() {
        short @ 0..=125 => frame.push(0x80 | short as u8),
        medium => {
            frame.push(0x80 | 126);
            frame.extend((medium as u16).to_be_bytes());
        }
    }
    const KEY: [u8; 4] = [0xc1, 0x42, 0x87, 0xff];
    frame.extend(KEY);
    frame.extend(payload.iter().zip(KEY.iter().cycle()).map(|(byte, key)| byte ^ key));
    frame
}

fn compressed(payload: &[u8]) -> Vec<u8> {
    let mut payload = payload.to_vec();
    assert!(Compressor::new(6).compress(Window::Large, &mut payload, 0), "it becomes smaller");
    payload
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Got {
    Text(Vec<u8>),
    Binary(Vec<u8>),
    Ping,
    Pong,
    Closed,
    Violation(u16),
}

/// What the gateway makes of bytes that come in pieces of this size.
fn receive(bytes: &[u8], piece: usize, metrics: Option<&Arc<Metrics>>) -> Vec<Got> {
    let unflushed = Rc::new(Unflushed::default());
    let format = Encoding::Raw.over(Framing::WebSocketDeflate(Window::Large));
    let handle = Rc::new(ConnectionHandle::new(1, "id".into(), format, 10_000, &unflushed));
    let buffer = Rc::new(RefCell::new(ReadBuffer::default()));
    let decompression = metrics.map(|metrics| Rc::new(Decompression::new(metrics.clone(), 0)));
    let mut websocket = WebSocket::new(handle, buffer.clone(), &[], BYTES_MAX, decompression);
    let mut got = Vec::new();
    for piece in bytes.chunks(piece) {
        buffer.borrow_mut().space(piece.len()).copy_from_slice(piece);
        buffer.borrow_mut().filled(piece.len());
        loop {
            got.push(match websocket.step() {
                Step::Message(Inbound { data, binary: false }) => Got::Text(data.into()),
                Step::Message(Inbound { data, binary: true }) => Got::Binary(data.into()),
                Step::Control(ControlFrame::Ping) => Got::Ping,
                Step::Control(ControlFrame::Pong) => Got::Pong,
                Step::Violation(close) => {
                    got.push(Got::Violation(close.code));
                    return got;
                }
                Step::Closed(_) => {
                    got.push(Got::Closed);
                    return got;
                }
                Step::Wait => break,
                Step::More => continue,
            });
        }
    }
    got
}

/// The same for pieces of every size.
fn received(frames: &[Vec<u8>]) -> Vec<Got> {
    let (bytes, metrics) = (frames.concat(), Metrics::new(1));
    let whole = receive(&bytes, bytes.len(), Some(&metrics));
    for piece in 1..bytes.len().min(200) {
        assert_eq!(receive(&bytes, piece, Some(&metrics)), whole, "in pieces of {piece} bytes");
    }
    whole
}

const LONG: [u8; 600] = [b'a'; 600];

#[test]
fn messages_are_restored_wherever_frames_and_pieces_end() {
    let binary = [0xff; 300];
    let text = compressed(&LONG);
    let got = received(&[
        frame(0xc1, &text),
        frame(0x81, b"plain"),
        frame(0xc2, &compressed(&binary)),
        frame(0x82, &binary),
        // In fragments, with a ping in between. Only the first one is marked.
        frame(0x41, &text[..1]),
        frame(0x89, b"ping"),
        frame(0x00, &[]),
        frame(0x00, &text[1..3]),
        frame(0x80, &text[3..]),
        frame(0x01, b"pl"),
        frame(0x80, b"ain"),
        // An empty message, and an empty first fragment.
        frame(0xc1, &[0]),
        frame(0x42, &[]),
        frame(0x80, &[0]),
        frame(0x82, &[0; 127]),
        frame(0xc1, &text),
    ]);
    let (long, binary, plain) =
        (Got::Text(LONG.into()), Got::Binary(binary.into()), Got::Text("plain".into()));
    let expected = [
        long.clone(),
        plain.clone(),
        binary.clone(),
        binary,
        Got::Ping,
        long.clone(),
        plain,
        Got::Text(Vec::new()),
        Got::Binary(Vec::new()),
        Got::Binary(vec![0; 127]),
        long,
    ];
    assert_eq!(got, expected);
}

#[test]
fn reserved_bits_are_refused_everywhere_else() {
    let text = compressed(&LONG);
    for (what, frames) in [
        ("a continuation", vec![frame(0x41, &text[..1]), frame(0xc0, &text[1..])]),
        ("a continuation of a plain message", vec![frame(0x01, b"a"), frame(0xc0, b"b")]),
        ("a message in a message", vec![frame(0x01, b"a"), frame(0xc1, &text)]),
        ("a ping", vec![frame(0xc9, b"")]),
        ("a close", vec![frame(0xc8, b"")]),
        ("a reserved opcode", vec![frame(0xc3, b"")]),
        ("another bit", vec![frame(0xa1, &text)]),
        ("another bit as well", vec![frame(0xd1, &text)]),
    ] {
        assert_eq!(received(&frames), [Got::Violation(1002)], "{what}");
    }
    let bytes = frame(0xc1, &text);
    assert_eq!(receive(&bytes, bytes.len(), None), [Got::Violation(1002)], "without an agreement");
}

#[test]
fn bad_messages_end_the_connection_with_a_code_that_fits() {
    for (what, frames, code) in [
        ("garbage", vec![frame(0xc1, b"garbage")], 1002),
        ("an end too early", vec![frame(0xc1, &compressed(&LONG)[..4])], 1002),
        ("something after the end", vec![frame(0xc1, &[0x03, 0x00, 0x01])], 1002),
        ("nothing", vec![frame(0xc1, &[])], 1002),
        ("text that is not UTF-8", vec![frame(0xc1, &compressed(&[0xff; 100]))], 1007),
        (
            "half a character",
            vec![frame(0xc1, &compressed("é".repeat(50).as_bytes().split_last().expect("some").1))],
            1007,
        ),
        ("too large", vec![frame(0xc2, &compressed(&[7; BYTES_MAX + 1]))], 1009),
        ("a bomb", vec![frame(0xc2, &compressed(&[7; 500_000]))], 1009),
        ("too large before", vec![frame(0xc2, &[7; BYTES_MAX + 1])], 1009),
    ] {
        assert_eq!(received(&frames), [Got::Violation(code)], "{what}");
    }
    assert_eq!(received(&[frame(0xc2, &compressed(&[7; BYTES_MAX]))]), [Got::Binary(vec![7; BYTES_MAX])]);
}

#[test]
fn a_client_that_may_not_compress_costs_one_word() {
    assert_eq!(size_of::<Option<Box<Incoming>>>(), size_of::<usize>());
    assert!(size_of::<Incoming>() <= 64, "{}", size_of::<Incoming>());
}

proptest! {
    #[test]
    fn any_frames_are_read_alike_in_pieces_and_at_once(
        frames in prop::collection::vec((any::<u8>(), prop::collection::vec(any::<u8>(), 0..300)), 1..6),
        piece in 1_usize..50,
    ) {
        let bytes = frames.iter().map(|(first, payload)| frame(*first, payload)).collect::<Vec<_>>().concat();
        let metrics = Metrics::new(1);
        let whole = receive(&bytes, bytes.len(), Some(&metrics));
        prop_assert_eq!(receive(&bytes, piece, Some(&metrics)), whole);
    }
}
