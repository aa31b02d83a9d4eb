//! WebSocket frames in both directions, and compressed messages.

use std::cell::RefCell;
use std::rc::Rc;

use bytes::Bytes;
use gateway::hub::connection_handle::{ConnectionHandle, Unflushed};
use gateway::protocol::code::Close;
use gateway::protocol::codec::Inbound;
use gateway::protocol::deflate::{Compressor, Decompressor, Fault, Window};
use gateway::protocol::framing::{FrameMaker, MessageType};
use gateway::protocol::{Encoding, Framing};
use gateway::telemetry::metrics::{ControlFrame, Metrics};
use gateway::transport::Transport as _;
use gateway::transport::websocket::deflate::Decompression;
use gateway::transport::websocket::{READ_BUFFER_BYTES, ReadBuffer, Step, WebSocket};

/// The largest message of a client.
pub(super) const MESSAGE_BYTES_MAX: usize = 64 * 1024;

const OUTBOUND_BYTES_MAX: usize = 64 * 1024;

/// What came out of a socket.
#[derive(Debug, PartialEq, Eq)]
enum Seen {
    Message(Inbound),
    Ping,
    Pong,
    Closed(Close),
    Violation(Close),
}

thread_local! {
    // One for a worker.
    static BUFFER: Rc<RefCell<ReadBuffer>> = Rc::default();
    static DECOMPRESSION: Rc<Decompression> = Rc::new(Decompression::new(Metrics::new(1), 0));
    static DECOMPRESSOR: RefCell<Decompressor> = RefCell::default();
}

/// The bytes of a socket. The first one says whether the client may compress, and how many bytes come at
/// once.
fn split(data: &[u8]) -> (bool, usize, &[u8]) {
    let Some((first, bytes)) = data.split_first() else { return (false, READ_BUFFER_BYTES, data) };
    let at_once = match first >> 1 {
        0 => READ_BUFFER_BYTES,
        count => usize::from(count),
    };
    (first & 1 == 1, at_once, bytes)
}

/// Reads bytes as the driver does, some at once, and passes on what comes out until the connection ends.
fn read(is_compressed: bool, at_once: usize, bytes: &[u8], mut see: impl FnMut(Seen)) {
    let buffer = BUFFER.with(Rc::clone);
    let format = Encoding::Raw.over(Framing::WebSocket);
    let unflushed = Rc::new(Unflushed::counting(OUTBOUND_BYTES_MAX));
    let handle = Rc::new(ConnectionHandle::new(1, "1".into(), format, OUTBOUND_BYTES_MAX, &unflushed));
    let decompression = is_compressed.then(|| DECOMPRESSION.with(Rc::clone));
    let mut socket = WebSocket::new(handle.clone(), buffer.clone(), b"", MESSAGE_BYTES_MAX, decompression);
    for part in bytes.chunks(at_once) {
        {
            let mut buffer = buffer.borrow_mut();
            buffer.space(READ_BUFFER_BYTES)[..part.len()].copy_from_slice(part);
            buffer.filled(part.len());
        }
        loop {
            let seen = match socket.step() {
                Step::Message(message) => Seen::Message(message),
                Step::Control(ControlFrame::Ping) => Seen::Ping,
                Step::Control(ControlFrame::Pong) => Seen::Pong,
                Step::More => continue,
                Step::Wait => break,
                Step::Closed(close) => Seen::Closed(close),
                Step::Violation(close) => Seen::Violation(close),
            };
            let is_over = matches!(seen, Seen::Closed(_) | Seen::Violation(_));
            see(seen);
            if is_over {
                buffer.borrow_mut().clear();
                return;
            }
        }
        socket.stash();
        // What answers pings leaves as fast as it comes.
        handle.outbound.take();
    }
}

pub(super) fn websocket(data: &[u8]) {
    let (is_compressed, at_once, bytes) = split(data);
    read(is_compressed, at_once, bytes, drop);
}

pub(super) fn check_websocket(data: &[u8]) {
    let (is_compressed, at_once, bytes) = split(data);
    let all = |at_once| {
        let mut all = Vec::new();
        read(is_compressed, at_once, bytes, |seen| all.push(seen));
        all
    };
    let seen = all(at_once);
    assert_eq!(seen, all(READ_BUFFER_BYTES), "however the network splits the bytes");
    for seen in seen {
        match seen {
            Seen::Message(Inbound { data, binary }) => {
                assert!(data.len() <= MESSAGE_BYTES_MAX);
                assert!(binary || std::str::from_utf8(&data).is_ok(), "text is UTF-8");
            }
            Seen::Closed(close) | Seen::Violation(close) => {
                assert!(close.reason.len() <= 123, "the reason fits into a frame: {close:?}");
            }
            Seen::Ping | Seen::Pong => (),
        }
    }
}

/// A framing and a type of message, chosen by the first byte, and the message.
fn outgoing(data: &[u8]) -> (Framing, MessageType, &[u8]) {
    let (first, message) = data.split_first().map_or((0, data), |(first, message)| (*first, message));
    let is_text = first & 0x80 == 0 && std::str::from_utf8(message).is_ok() && !message.contains(&b'\n');
    let framing = match first % 5 {
        0 => Framing::WebSocket,
        1 => Framing::WebSocketDeflate(Window::Small),
        2 => Framing::WebSocketDeflate(Window::Large),
        // Events are text.
        4 if is_text => Framing::EventStream,
        _ => Framing::HttpStream,
    };
    (framing, if is_text { MessageType::Text } else { MessageType::Binary }, message)
}

/// The bytes on the wire of a message, after others.
fn framed(framing: Framing, message_type: MessageType, message: &[u8]) -> Option<Vec<u8>> {
    let maker = FrameMaker::new(6, 64);
    let mut out = b"before".to_vec();
    let range = maker.write(framing, &mut out, |out| {
        out.extend_from_slice(message);
        Some(message_type)
    })?;
    assert_eq!((&out[..6], range.end), (&b"before"[..], out.len()));
    Some(out[range].to_vec())
}

pub(super) fn frame(data: &[u8]) {
    let (framing, message_type, message) = outgoing(data);
    framed(framing, message_type, message);
}

pub(super) fn check_frame(data: &[u8]) {
    let (framing, message_type, message) = outgoing(data);
    let frame = framed(framing, message_type, message);
    match framing {
        Framing::WebSocket | Framing::WebSocketDeflate(_) => {
            let (first, payload) = unframe(&frame.expect("a frame"));
            let opcode = if message_type == MessageType::Text { 1 } else { 2 };
            assert_eq!(first & 0xbf, 0x80 | opcode, "one frame, and the type of the message");
            let is_compressed = first & 0x40 != 0;
            assert!(!is_compressed || framing != Framing::WebSocket && payload.len() < message.len());
            if is_compressed {
                let plain = DECOMPRESSOR.with_borrow_mut(|all| all.decompress(&payload, message.len()));
                assert_eq!(plain.as_deref(), Ok(message));
            } else {
                assert_eq!(payload, message);
            }
        }
        Framing::HttpStream if message_type == MessageType::Text => {
            assert_eq!(frame, Some([message, b"\n"].concat()));
        }
        Framing::HttpStream => assert_eq!(frame.as_deref(), Some(message)),
        Framing::EventStream => assert_eq!(frame, Some([b"data: ", message, b"\n\n"].concat())),
    }
    let close = Close::custom(3000, &String::from_utf8_lossy(message));
    let (first, payload) = unframe(&Framing::WebSocket.close(&close).expect("a frame"));
    assert_eq!((first, payload.len()), (0x88, 2 + close.reason.len()));
    assert!(payload.len() <= 125 && std::str::from_utf8(&payload[2..]).is_ok());
}

/// The first byte and the payload of the one frame in these bytes, which a server has written.
fn unframe(frame: &[u8]) -> (u8, Vec<u8>) {
    let (length, payload) = match frame[1] {
        126 => (u64::from(u16::from_be_bytes([frame[2], frame[3]])), &frame[4..]),
        127 => (u64::from_be_bytes(frame[2..10].try_into().expect("eight bytes")), &frame[10..]),
        length => (length.into(), &frame[2..]),
    };
    let shortest = match length {
        0..=125 => 2,
        126..=0xffff => 4,
        _ => 10,
    };
    assert_eq!((payload.len() as u64, frame.len() - payload.len()), (length, shortest));
    (frame[0], payload.to_vec())
}

/// The bound of a decompressed message, and a compressed one.
fn compressed(data: &[u8]) -> (usize, &[u8]) {
    let (first, message) = data.split_first().map_or((0, data), |(first, message)| (*first, message));
    // From nothing to the largest message.
    (usize::from(first) * MESSAGE_BYTES_MAX / 255, message)
}

pub(super) fn inflate(data: &[u8]) {
    let (bytes_max, message) = compressed(data);
    let _ = DECOMPRESSOR.with_borrow_mut(|all| all.decompress(message, bytes_max));
}

pub(super) fn check_inflate(data: &[u8]) {
    let (bytes_max, message) = compressed(data);
    let decompress = |message: &[u8], bytes_max| -> Result<Bytes, Fault> {
        DECOMPRESSOR.with_borrow_mut(|all| all.decompress(message, bytes_max))
    };
    let plain = decompress(message, bytes_max);
    assert_eq!(plain, decompress(message, bytes_max), "nothing is left of the message before");
    match plain {
        Ok(plain) => {
            assert!(plain.len() <= bytes_max, "{} bytes, and not {bytes_max}", plain.len());
            let exactly = decompress(message, plain.len());
            assert_eq!(exactly.as_ref(), Ok(&plain), "exactly as large as permitted");
            if let Some(less) = plain.len().checked_sub(1) {
                assert_eq!(decompress(message, less), Err(Fault::TooLarge));
            }
            for window in [Window::Small, Window::Large] {
                let mut again = plain.to_vec();
                if Compressor::new(1).compress(window, &mut again, 0) {
                    assert_eq!(decompress(&again, plain.len()).as_ref(), Ok(&plain));
                }
            }
        }
        Err(Fault::TooLarge) => {
            let more = decompress(message, MESSAGE_BYTES_MAX);
            assert!(more.is_err() || more.is_ok_and(|plain| plain.len() > bytes_max));
        }
        Err(Fault::Malformed) => (),
    }
}
