//! A client that only receives a stream over HTTP, and sends its commands in requests of their own.

use std::net::SocketAddr;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};

use crate::http::{Answer, request};
use crate::socket::Closed;
use crate::wait::within;

/// A response that stays open. Its messages are JSON, as lines or as server-sent events.
#[derive(Debug)]
pub struct Stream {
    socket: TcpStream,
    address: SocketAddr,
    head: String,
    /// Read and not yet used.
    buffer: Vec<u8>,
    /// Read and not yet decoded, if a proxy has made chunks of the response.
    chunks: Option<Vec<u8>>,
    /// The connect reply.
    pub hello: Value,
}

impl Stream {
    /// Opens a stream by a POST of the first message. The error is the response if it is none.
    pub async fn post(
        address: SocketAddr,
        path: &str,
        headers: &[&str],
        body: &[u8],
    ) -> Result<Self, Box<Answer>> {
        let mut head =
            format!("POST {path} HTTP/1.1\r\nHost: {address}\r\nContent-Length: {}\r\n", body.len());
        for header in headers {
            head.extend([header, "\r\n"]);
        }
        Self::open(address, [(head + "\r\n").as_bytes(), body].concat()).await
    }

    /// Opens a stream by a GET, with the first message in the URL.
    pub async fn get(
        address: SocketAddr,
        path: &str,
        headers: &[&str],
        message: &str,
    ) -> Result<Self, Box<Answer>> {
        let encoded: String = message.bytes().map(|byte| format!("%{byte:02x}")).collect();
        let query = if message.is_empty() { String::new() } else { format!("?cf_connect={encoded}") };
        let mut head = format!("GET {path}{query} HTTP/1.1\r\nHost: {address}\r\n");
        for header in headers {
            head.extend([header, "\r\n"]);
        }
        Self::open(address, (head + "\r\n").into_bytes()).await
    }

    /// Opens a stream with these bytes.
    pub async fn open(address: SocketAddr, bytes: Vec<u8>) -> Result<Self, Box<Answer>> {
        within("a stream", async {
            let mut socket = TcpStream::connect(address).await.expect("the gateway listens");
            socket.set_nodelay(true).expect("TCP has this option");
            let _ = socket.write_all(&bytes).await;
            let (head, buffer, hello) = (String::new(), Vec::new(), Value::Null);
            let mut stream = Self { socket, address, head, buffer, chunks: None, hello };
            let end = loop {
                let end = stream.buffer.windows(4).position(|window| window == b"\r\n\r\n");
                match end {
                    Some(end) => break end + 4,
                    None => {
                        assert!(stream.read().await, "no response to {:?}", String::from_utf8_lossy(&bytes))
                    }
                }
            };
            stream.head = String::from_utf8_lossy(&stream.buffer[..end]).into_owned();
            if stream.head.starts_with("HTTP/1.1 200") {
                stream.buffer.drain(..end);
                if stream.header("transfer-encoding") == Some("chunked") {
                    stream.chunks = Some(std::mem::take(&mut stream.buffer));
                }
                return Ok(stream);
            }
            while stream.read().await {}
            Err(Box::new(Answer::parse(&stream.buffer).expect("a complete response")))
        })
        .await
    }

    /// Connects over HTTP streaming, or over server-sent events, with this connect request.
    pub async fn connect(address: SocketAddr, path: &str, connect: Value) -> Self {
        let command = json!({ "id": 1, "connect": connect }).to_string();
        let opened = Self::post(address, path, &[], command.as_bytes()).await;
        let mut stream = opened.unwrap_or_else(|answer| panic!("{}: {}", answer.status, answer.text()));
        let reply = stream.message().await.expect("a reply");
        assert!(reply["connect"].is_object(), "{reply}");
        stream.hello = reply["connect"].clone();
        stream
    }

    /// A header of the response.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().skip(1).find_map(|line| {
            let (key, value) = line.split_once(':')?;
            key.eq_ignore_ascii_case(name).then_some(value.trim())
        })
    }

    /// Whether more bytes came.
    async fn read(&mut self) -> bool {
        loop {
            if let Some(chunks) = &mut self.chunks
                && let Some((begin, end)) = first_chunk(chunks)
            {
                self.buffer.extend_from_slice(&chunks[begin..end]);
                chunks.drain(..end + 2);
                return end > begin;
            }
            let into = self.chunks.as_mut().unwrap_or(&mut self.buffer);
            if !self.socket.read_buf(into).await.is_ok_and(|count| count > 0) {
                return false;
            }
            if self.chunks.is_none() {
                return true;
            }
        }
    }

    /// The next line, without its end; `None` if the response has ended.
    pub async fn line(&mut self) -> Option<String> {
        within("a line of the stream", self.receive()).await
    }

    /// The same, however long it takes. Dropping the future loses nothing.
    async fn receive(&mut self) -> Option<String> {
        loop {
            if let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.buffer.drain(..=end).collect();
                return Some(String::from_utf8(line[..end].to_vec()).expect("text"));
            }
            if !self.read().await {
                assert!(self.buffer.is_empty(), "half a line: {:?}", String::from_utf8_lossy(&self.buffer));
                return None;
            }
        }
    }

    /// Does nothing for this long but answer pings, in requests. Returns how many came; nothing else may
    /// come.
    pub async fn idle(&mut self, time: Duration) -> usize {
        let end = Instant::now() + time;
        let mut pings = 0;
        while let Ok(line) = timeout_at(end, self.receive()).await {
            match line.as_deref() {
                Some("{}" | "data: {}") => {
                    pings += 1;
                    let answer = self.send("{}").await;
                    assert_eq!(answer.status, 204, "{}", answer.text());
                }
                Some("") => (),
                other => panic!("expected nothing but pings and not {other:?}"),
            }
        }
        pings
    }

    /// The next record of Protobuf with its length before it; `None` if the response has ended.
    pub async fn record(&mut self) -> Option<Vec<u8>> {
        within("a record of the stream", async {
            loop {
                if let Some(end) = end_of_record(&self.buffer) {
                    return Some(self.buffer.drain(..end).collect());
                }
                if !self.read().await {
                    assert!(self.buffer.is_empty(), "half a record: {:?}", self.buffer);
                    return None;
                }
            }
        })
        .await
    }

    /// The next message; `None` if the response has ended.
    pub async fn message(&mut self) -> Option<Value> {
        let events = self.header("content-type") == Some("text/event-stream");
        loop {
            let line = self.line().await?;
            let text = match line.strip_prefix("data: ") {
                Some(data) if events => data,
                None if events => {
                    assert_eq!(line, "", "between events");
                    continue;
                }
                _ => &line,
            };
            return Some(serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}")));
        }
    }

    /// The next message that is no ping.
    pub async fn next(&mut self) -> Option<Value> {
        loop {
            let message = self.message().await?;
            if message != json!({}) {
                return Some(message);
            }
        }
    }

    /// How the stream ended: what its last message says.
    pub async fn closed(&mut self) -> Closed {
        let mut last = Closed::WITHOUT_A_WORD;
        while let Some(message) = self.message().await {
            last = Closed::said_by(&message).unwrap_or(last);
        }
        last
    }

    /// Sends a message in a request of its own, to a gateway at this address.
    pub async fn send_by(&self, address: SocketAddr, message: &str) -> Answer {
        emulate(address, &self.hello["session"], &self.hello["node"], message).await
    }

    /// The same to the gateway of the stream.
    pub async fn send(&self, message: &str) -> Answer {
        self.send_by(self.address, message).await
    }

    /// Carries out a command.
    pub async fn ask(&mut self, id: u32, command: &str, parameters: Value) -> Value {
        let answer = self.send(&json!({ "id": id, command: parameters }).to_string()).await;
        assert_eq!(answer.status, 204, "{}", answer.text());
        loop {
            let message = self.message().await.expect("a reply");
            if message["id"] == id {
                return message;
            }
        }
    }
}

/// An emulation request with these fields.
pub async fn emulate(address: SocketAddr, session: &Value, node: &Value, data: &str) -> Answer {
    let body = json!({ "session": session, "node": node, "data": data }).to_string();
    request(address, "POST", "/emulation", &["Content-Type: application/json"], body.as_bytes()).await
}

/// Where the contents of the first chunk (RFC 9112, 7.1) begin and end, if all of it has come. The last one
/// is empty.
fn first_chunk(bytes: &[u8]) -> Option<(usize, usize)> {
    let line = bytes.windows(2).position(|window| window == b"\r\n")?;
    let size = std::str::from_utf8(&bytes[..line]).ok().and_then(|size| usize::from_str_radix(size, 16).ok());
    let (begin, size) = (line + 2, size.expect("the size of a chunk"));
    (bytes.len() >= begin + size + 2).then_some((begin, begin + size))
}

/// Where the first record ends, if all of it has come.
fn end_of_record(bytes: &[u8]) -> Option<usize> {
    let mut length = 0;
    for (at, byte) in bytes.iter().enumerate() {
        length |= usize::from(byte & 0x7f) << (7 * at);
        if byte & 0x80 == 0 {
            let end = at + 1 + length;
            return (bytes.len() >= end).then_some(end);
        }
    }
    None
}
