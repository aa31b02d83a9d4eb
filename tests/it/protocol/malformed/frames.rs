//! Bytes after a good handshake that break the WebSocket protocol.

use gateway_tests::{Closed, Frame, Gateway, Socket};

use super::{Verdicts, gateway, still_serves};

/// `limits.message_bytes_max` as it is by default.
const MAX: usize = 64 << 10;

fn close(code: u16, reason: &[u8]) -> Frame {
    Frame::new(Frame::CLOSE, [&code.to_be_bytes(), reason].concat())
}

/// A frame that announces this many bytes and brings none.
fn announced(opcode: u8, length: u64) -> Vec<u8> {
    let mut bytes = vec![0x80 | opcode, 0xff];
    bytes.extend(length.to_be_bytes());
    bytes.extend([0; 4]);
    bytes
}

/// What is wrong, what is sent, and the code that the gateway closes with.
fn cases() -> Vec<(String, Vec<u8>, u16)> {
    let mut cases: Vec<(String, Vec<u8>, u16)> = Vec::new();
    let mut case = |what: &str, bytes: Vec<u8>, code: u16| cases.push((what.to_owned(), bytes, code));
    let text = || Frame::text("hello");
    let unfinished = || text().bits(0);
    let continuation = |payload: &[u8]| Frame::new(0, payload);

    for opcode in [Frame::TEXT, Frame::BINARY, Frame::PING, Frame::PONG, Frame::CLOSE, 0] {
        case(&format!("opcode {opcode} without a mask"), Frame::new(opcode, "").unmasked().bytes(), 1002);
    }
    for bits in [0xc0, 0xa0, 0x90, 0xf0, 0x40] {
        case(&format!("reserved bits {bits:#x}"), text().bits(bits).bytes(), 1002);
    }
    for opcode in [3, 4, 5, 6, 7, 11, 12, 13, 14, 15] {
        case(&format!("reserved opcode {opcode}"), Frame::new(opcode, "x").bytes(), 1002);
    }
    for opcode in [Frame::CLOSE, Frame::PING, Frame::PONG] {
        case(&format!("control frame {opcode} in pieces"), Frame::new(opcode, "").bits(0).bytes(), 1002);
        case(&format!("a long control frame {opcode}"), Frame::new(opcode, vec![b'x'; 126]).bytes(), 1002);
    }
    case("a continuation of nothing", continuation(b"x").bytes(), 1002);
    case("a message in a message", [unfinished().bytes(), text().bytes()].concat(), 1002);
    case(
        "a continuation too many",
        [unfinished().bytes(), continuation(b"").bytes(), continuation(b"").bytes()].concat(),
        1002,
    );

    for (what, payload) in [
        ("a byte that never occurs", &b"\xff"[..]),
        ("an overlong slash", b"\xc0\xaf"),
        ("a surrogate", b"\xed\xa0\x80"),
        ("beyond Unicode", b"\xf4\x90\x80\x80"),
        ("half a character", b"abc\xe2\x82"),
        ("a continuation byte alone", b"a\x80b"),
    ] {
        case(&format!("text with {what}"), Frame::new(Frame::TEXT, payload).bytes(), 1007);
        let first = Frame::new(Frame::TEXT, "fine so far ").bits(0).bytes();
        case(&format!("text in pieces with {what}"), [first, continuation(payload).bytes()].concat(), 1007);
    }

    case("a byte too many", Frame::new(Frame::BINARY, vec![0; MAX + 1]).bytes(), 1009);
    case("a byte too many announced", announced(Frame::TEXT, MAX as u64 + 1), 1009);
    case("4 GiB announced", announced(Frame::BINARY, 1 << 32), 1009);
    case("8 EiB announced", announced(Frame::BINARY, (1 << 63) - 1), 1009);
    let half = vec![0; MAX / 2 + 1];
    let halves =
        [Frame::new(Frame::BINARY, half.clone()).bits(0).bytes(), continuation(&half).bytes()].concat();
    case("pieces that are too large together", halves, 1009);

    case("a close with half a code", Frame::new(Frame::CLOSE, [3]).bytes(), 1002);
    for code in [0, 1, 999, 1004, 1005, 1006, 1015, 1016, 2999, 5000, 65535] {
        case(&format!("a close with code {code}"), close(code, b"").bytes(), 1002);
    }
    case("a close with a reason that is no text", close(1000, b"\xff").bytes(), 1007);
    cases
}

async fn open(gateway: &Gateway) -> Socket {
    Socket::open(gateway.address(), "/connection/raw").await
}

#[tokio::test]
async fn every_bad_frame_gets_its_close_code() {
    let gateway = gateway().await;
    let mut verdicts = Verdicts::default();
    for (what, bytes, expected) in cases() {
        let mut socket = open(&gateway).await;
        socket.send(&bytes).await;
        verdicts.expect(&what, &socket.closed().await.code, &Some(expected));
        // The gateway does not wait for what else such a client has to say.
        socket.finish().await;
        socket.ended().await;
        still_serves(&gateway).await;
    }
    verdicts.all_of(55);
}

#[tokio::test]
async fn the_largest_message_is_one_byte_smaller_than_the_one_that_is_refused() {
    let gateway = gateway().await;
    let mut socket = open(&gateway).await;
    let largest = Frame::new(Frame::BINARY, vec![7; MAX]);
    socket.send(&largest.bytes()).await;
    assert_eq!(socket.frame().await.unwrap().payload, largest.payload);
    socket.send(&Frame::new(Frame::BINARY, vec![7; MAX + 1]).bytes()).await;
    assert_eq!(socket.closed().await, Closed { code: Some(1009), reason: "message too big".into() });
}

#[tokio::test]
async fn pings_are_answered_also_in_the_middle_of_a_message() {
    let gateway = gateway().await;
    let mut socket = open(&gateway).await;
    socket.send(&Frame::new(Frame::TEXT, "a").bits(0).bytes()).await;
    socket.send(&Frame::new(Frame::PING, "are you there?").bytes()).await;
    let pong = socket.frame().await.unwrap();
    assert_eq!((pong.opcode, &*pong.payload), (Frame::PONG, &b"are you there?"[..]));
    socket.send(&Frame::new(Frame::PONG, "unasked").bytes()).await;
    socket.send(&Frame::new(0, "b").bytes()).await;
    assert_eq!(socket.frame().await.unwrap().payload, b"ab");
}

#[tokio::test]
async fn clients_that_vanish_in_the_middle_of_a_frame_leave_nothing_behind() {
    let gateway = gateway().await;
    still_serves(&gateway).await;
    let descriptors = gateway.descriptors();
    let whole = Frame::text("a message that is not all there").bytes();
    for length in 0..whole.len() {
        let mut socket = open(&gateway).await;
        socket.send(&whole[..length]).await;
    }
    gateway_tests::eventually("all sockets to be closed", async || {
        (gateway.descriptors() <= descriptors).then_some(())
    })
    .await;
    still_serves(&gateway).await;
}
