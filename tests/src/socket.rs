//! Bytes on a TCP connection: handshakes and frames exactly as a test wants them, right or wrong.

use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::sleep;

use crate::http::Answer;
use crate::wait::within;

/// A TCP connection to a gateway.
#[derive(Debug)]
pub struct Socket {
    stream: TcpStream,
    /// Read and not yet used.
    buffer: Vec<u8>,
}

/// How a connection ended, as the client sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Closed {
    /// Of the close frame; `None` if the connection ended without one, or with one without a code.
    pub code: Option<u16>,
    /// Of the close frame.
    pub reason: String,
}

impl Closed {
    /// Ended without a close frame.
    pub const WITHOUT_A_WORD: Self = Self { code: None, reason: String::new() };

    /// What the last message of a stream says; `None` if this is another message.
    pub(crate) fn said_by(message: &Value) -> Option<Self> {
        let disconnect = message.pointer("/push/disconnect").or(message.pointer("/disconnect"))?;
        let code = disconnect["code"].as_u64().and_then(|code| code.try_into().ok());
        Some(Self { code, reason: disconnect["reason"].as_str().unwrap_or_default().to_owned() })
    }

    /// What a close frame says.
    pub(crate) fn parse(payload: &[u8]) -> Self {
        Self {
            code: payload.get(..2).map(|code| u16::from_be_bytes([code[0], code[1]])),
            reason: String::from_utf8_lossy(payload.get(2..).unwrap_or_default()).into_owned(),
        }
    }
}

impl Socket {
    /// Connects, and says nothing yet.
    pub async fn connect(address: SocketAddr) -> Self {
        let stream =
            within("a TCP connection", TcpStream::connect(address)).await.expect("the gateway listens");
        stream.set_nodelay(true).expect("TCP has this option");
        Self { stream, buffer: Vec::new() }
    }

    /// The same from this address of the machine.
    pub async fn connect_from(from: IpAddr, address: SocketAddr) -> Self {
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.bind(SocketAddr::new(from, 0)).expect("an address of loopback");
        let stream = within("a TCP connection", socket.connect(address)).await.expect("the gateway listens");
        stream.set_nodelay(true).expect("TCP has this option");
        Self { stream, buffer: Vec::new() }
    }

    /// Connects with so little room for what comes that the system takes next to nothing which is not read.
    pub async fn connect_small(address: SocketAddr) -> Self {
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.set_recv_buffer_size(2048).expect("the system gives at least its least");
        let stream = within("a TCP connection", socket.connect(address)).await.expect("the gateway listens");
        stream.set_nodelay(true).expect("TCP has this option");
        Self { stream, buffer: Vec::new() }
    }

    /// Connects and shakes hands.
    pub async fn open(address: SocketAddr, path: &str) -> Self {
        Self::connect(address).await.shake_hands(path).await
    }

    /// Connects with little room for what comes, and shakes hands.
    pub async fn open_small(address: SocketAddr, path: &str) -> Self {
        Self::connect_small(address).await.shake_hands(path).await
    }

    async fn shake_hands(self, path: &str) -> Self {
        let mut socket = self;
        socket.send(&Handshake::to(path).bytes()).await;
        let answer = socket.answer().await.expect("an answer to the handshake");
        assert_eq!(answer.status, 101, "{}", answer.text());
        socket
    }

    /// Sends bytes. A gateway that has already closed is no mistake here: what it said before is still to be
    /// read.
    pub async fn send(&mut self, bytes: &[u8]) {
        let _ = within("the gateway to take bytes", self.stream.write_all(bytes)).await;
    }

    /// Sends a block again and again, without reading, until the gateway takes nothing for a second or has
    /// taken this many bytes. Returns how many it took. `meanwhile` is called between two writes.
    pub async fn flood(&mut self, block: &[u8], bytes_max: usize, mut meanwhile: impl FnMut()) -> usize {
        let mut sent = 0;
        let mut stuck = Instant::now();
        while stuck.elapsed() < Duration::from_secs(1) && sent < bytes_max {
            match self.stream.try_write(&block[sent % block.len()..]) {
                Ok(count) => {
                    sent += count;
                    stuck = Instant::now();
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => sleep(Duration::from_millis(1)).await,
                Err(_) => break,
            }
            meanwhile();
        }
        sent
    }

    /// Ends the sending side.
    pub async fn finish(&mut self) {
        let _ = self.stream.shutdown().await;
    }

    /// The next HTTP answer; `None` if the connection ends without one.
    pub async fn answer(&mut self) -> Option<Answer> {
        within("an HTTP answer", async {
            let head = loop {
                if let Some(end) = self.buffer.windows(4).position(|window| window == b"\r\n\r\n") {
                    break end + 4;
                }
                if !self.read_more().await {
                    return None;
                }
            };
            let length = Answer::parse(&self.buffer[..head])?
                .header("content-length")
                .map_or(0, |length| length.parse().expect("a Content-Length is a number"));
            while self.buffer.len() < head + length {
                if !self.read_more().await {
                    return None;
                }
            }
            let bytes: Vec<_> = self.buffer.drain(..head + length).collect();
            Answer::parse(&bytes)
        })
        .await
    }

    /// The next frame; `None` at the end of the connection.
    pub async fn frame(&mut self) -> Option<Frame> {
        within("a frame", async {
            loop {
                if let Some((frame, length)) = Frame::parse(&self.buffer) {
                    self.buffer.drain(..length);
                    return Some(frame);
                }
                if !self.read_more().await {
                    return None;
                }
            }
        })
        .await
    }

    /// How the connection ends. What comes before is skipped.
    pub async fn closed(&mut self) -> Closed {
        while let Some(frame) = self.frame().await {
            if frame.opcode == Frame::CLOSE {
                return Closed::parse(&frame.payload);
            }
        }
        Closed::WITHOUT_A_WORD
    }

    /// Waits for the end of the connection, whatever comes before.
    pub async fn ended(&mut self) {
        within("the end of the connection", async { while self.read_more().await {} }).await;
    }

    /// Takes a little of what has come, and throws it away. `None` at the end.
    pub async fn sip(&mut self, bytes_max: usize) -> Option<usize> {
        let mut bytes = vec![0; bytes_max];
        let read = within("something to read", self.stream.read(&mut bytes)).await;
        read.ok().filter(|count| *count > 0)
    }

    /// False at the end.
    async fn read_more(&mut self) -> bool {
        self.stream.read_buf(&mut self.buffer).await.is_ok_and(|count| count > 0)
    }
}

/// A request to become a WebSocket, in parts that can be left out or replaced.
#[derive(Debug, Clone)]
pub struct Handshake {
    /// Such as `GET /path HTTP/1.1`.
    pub line: String,
    headers: Vec<String>,
}

impl Handshake {
    /// A correct one.
    pub fn to(path: &str) -> Self {
        let headers = [
            "Host: gateway.example",
            "Connection: Upgrade",
            "Upgrade: websocket",
            "Sec-WebSocket-Version: 13",
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
        ];
        Self { line: format!("GET {path} HTTP/1.1"), headers: headers.map(str::to_owned).into() }
    }

    /// With another first line.
    pub fn line(mut self, line: &str) -> Self {
        self.line = line.to_owned();
        self
    }

    /// With this header line in addition.
    pub fn with(mut self, header: &str) -> Self {
        self.headers.push(header.to_owned());
        self
    }

    /// Without this header.
    pub fn without(mut self, name: &str) -> Self {
        let before = self.headers.len();
        self.headers.retain(|header| header.split(':').next() != Some(name));
        assert_ne!(self.headers.len(), before, "there is no {name}");
        self
    }

    /// With this header line in place of the one of that name.
    pub fn replace(self, header: &str) -> Self {
        let name = header.split(':').next().unwrap_or_default().to_owned();
        self.without(&name).with(header)
    }

    /// What goes over the wire.
    pub fn bytes(&self) -> Vec<u8> {
        format!("{}\r\n{}\r\n\r\n", self.line, self.headers.join("\r\n")).into()
    }
}

/// One WebSocket frame (RFC 6455, 5.2).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// FIN and the three reserved bits, in place: 0x80 for a frame that is all of a message.
    pub bits: u8,
    /// Such as [`Frame::TEXT`].
    pub opcode: u8,
    /// Clients must mask.
    pub masked: bool,
    /// Unmasked.
    pub payload: Vec<u8>,
}

impl Frame {
    /// A text message.
    pub const TEXT: u8 = 1;
    /// A binary message.
    pub const BINARY: u8 = 2;
    /// The end.
    pub const CLOSE: u8 = 8;
    /// Are you there?
    pub const PING: u8 = 9;
    /// Yes.
    pub const PONG: u8 = 10;

    /// A frame as clients send it.
    pub fn new(opcode: u8, payload: impl Into<Vec<u8>>) -> Self {
        Self { bits: 0x80, opcode, masked: true, payload: payload.into() }
    }

    /// A text message.
    pub fn text(text: &str) -> Self {
        Self::new(Self::TEXT, text)
    }

    /// With these FIN and reserved bits.
    pub fn bits(mut self, bits: u8) -> Self {
        self.bits = bits;
        self
    }

    /// As no client may send it.
    pub fn unmasked(mut self) -> Self {
        self.masked = false;
        self
    }

    /// What goes over the wire.
    pub fn bytes(&self) -> Vec<u8> {
        let mask = if self.masked { 0x80 } else { 0 };
        let mut bytes = vec![self.bits | self.opcode];
        let length = self.payload.len();
        match (u8::try_from(length), u16::try_from(length)) {
            (Ok(short @ 0..=125), _) => bytes.push(mask | short),
            (_, Ok(medium)) => {
                bytes.push(mask | 126);
                bytes.extend(medium.to_be_bytes());
            }
            _ => {
                bytes.push(mask | 127);
                bytes.extend((length as u64).to_be_bytes());
            }
        }
        if !self.masked {
            bytes.extend(&self.payload);
            return bytes;
        }
        const KEY: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];
        bytes.extend(KEY);
        bytes.extend(self.payload.iter().zip(KEY.iter().cycle()).map(|(byte, key)| byte ^ key));
        bytes
    }

    /// The frame at the beginning, as servers send it, and its length on the wire. `None` if it is not
    /// complete.
    fn parse(bytes: &[u8]) -> Option<(Self, usize)> {
        let (opcode, header, length) = Self::header(bytes)?;
        let end = header + length;
        let payload = bytes.get(header..end)?.to_vec();
        Some((Self { bits: bytes[0] & 0xf0, opcode, masked: false, payload }, end))
    }

    /// The opcode of such a frame, the length of its header and that of its payload. `None` if the header is
    /// not complete.
    pub(crate) fn header(bytes: &[u8]) -> Option<(u8, usize, usize)> {
        let [first, second, rest @ ..] = bytes else { return None };
        assert_eq!(second & 0x80, 0, "a server does not mask");
        let (length, header) = match second {
            126 => (u64::from(u16::from_be_bytes(rest.get(..2)?.try_into().ok()?)), 4),
            127 => (u64::from_be_bytes(rest.get(..8)?.try_into().ok()?), 10),
            short => (u64::from(*short), 2),
        };
        Some((first & 0x0f, header, usize::try_from(length).ok()?))
    }
}
