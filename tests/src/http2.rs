//! A client of HTTP/2: many requests on one connection of TLS.

use std::net::SocketAddr;

use bytes::Bytes;
use h2::client::{Builder, ResponseFuture, SendRequest};
use h2::{Reason, RecvStream, SendStream};
use hyper::header::HeaderMap;
use hyper::{Method, Request};
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use crate::socket::Closed;
use crate::tls::TlsClient;
use crate::wait::{eventually, within};

/// One connection.
pub struct Http2 {
    requests: SendRequest<Bytes>,
    task: JoinHandle<Result<(), h2::Error>>,
}

/// A request whose response stays open.
pub struct Http2Stream {
    /// What the client sends.
    pub send: SendStream<Bytes>,
    /// The status of the response.
    pub status: u16,
    /// Its headers.
    pub headers: HeaderMap,
    body: RecvStream,
    /// Read and not yet used.
    buffer: Vec<u8>,
    /// The connect reply.
    pub hello: Value,
}

impl Http2 {
    /// Connects. The server has to choose HTTP/2.
    pub async fn connect(client: TlsClient, address: SocketAddr) -> Self {
        // As browsers do: a stream that is not read does not stop the others.
        Self::connect_with(client, address, Builder::new().initial_connection_window_size(8 << 20)).await
    }

    /// The same with other settings of the library.
    pub async fn connect_with(client: TlsClient, address: SocketAddr, builder: &Builder) -> Self {
        let client = client.offering(&["h2", "http/1.1"]);
        let stream = client.connect(address, "localhost").await.expect("a handshake of TLS");
        assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
        let (requests, connection) =
            within("HTTP/2", builder.handshake(stream)).await.expect("a handshake of HTTP/2");
        Self { requests, task: tokio::spawn(connection) }
    }

    /// A request to a path.
    pub fn request(method: &str, path: &str, headers: &[(&'static str, &str)]) -> Request<()> {
        let mut request = Request::builder().method(method).uri(format!("https://localhost{path}"));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(()).expect("a request")
    }

    /// Sends a request; without a body it stays open.
    pub async fn begin(
        &self,
        request: Request<()>,
        body: Option<Bytes>,
    ) -> Result<(ResponseFuture, SendStream<Bytes>), h2::Error> {
        let mut requests = self.requests.clone().ready().await?;
        let (response, mut send) = requests.send_request(request, false)?;
        if let Some(body) = body {
            send.send_data(body, true)?;
        }
        Ok((response, send))
    }

    /// Sends a request and waits for the head of the response.
    pub async fn open(&self, request: Request<()>, body: Option<Bytes>) -> Result<Http2Stream, h2::Error> {
        within("the head of a response", async {
            let (response, send) = self.begin(request, body).await?;
            let (head, body) = response.await?.into_parts();
            let (status, headers) = (head.status.as_u16(), head.headers);
            Ok(Http2Stream { send, status, headers, body, buffer: Vec::new(), hello: Value::Null })
        })
        .await
    }

    /// Sends a request and waits for the whole response.
    pub async fn ask(
        &self,
        method: &str,
        path: &str,
        headers: &[(&'static str, &str)],
        body: &str,
    ) -> (u16, HeaderMap, String) {
        let body = Bytes::copy_from_slice(body.as_bytes());
        let opened = self.open(Self::request(method, path, headers), Some(body)).await;
        let mut stream = opened.expect("a response");
        within("a body", async { while stream.read().await {} }).await;
        (stream.status, stream.headers, String::from_utf8_lossy(&stream.buffer).into_owned())
    }

    /// Opens a stream of server-sent events or of lines, and reads the connect reply.
    pub async fn stream(&self, path: &str) -> Http2Stream {
        let command = json!({ "id": 1, "connect": {} }).to_string();
        let opened = self.open(Self::request("POST", path, &[]), Some(command.into())).await;
        let mut stream = opened.expect("a stream");
        assert_eq!(stream.status, 200);
        let reply = stream.message().await.expect("a reply");
        assert!(reply["connect"].is_object(), "{reply}");
        stream.hello = reply["connect"].clone();
        stream
    }

    /// Sends messages of the client of a stream in a request of its own. Returns the status.
    pub async fn emulate(&self, hello: &Value, data: &str) -> u16 {
        let body = json!({ "session": hello["session"], "node": hello["node"], "data": data }).to_string();
        self.ask("POST", "/emulation", &[("content-type", "application/json")], &body).await.0
    }

    /// Opens a WebSocket (RFC 8441).
    pub async fn websocket(&self, path: &str) -> Http2Stream {
        eventually("the settings of the gateway", async || {
            self.requests.is_extended_connect_protocol_enabled().then_some(())
        })
        .await;
        let mut request = Self::request("CONNECT", path, &[("sec-websocket-version", "13")]);
        assert_eq!(request.method(), Method::CONNECT);
        request.extensions_mut().insert(h2::ext::Protocol::from_static("websocket"));
        self.open(request, None).await.expect("a response")
    }

    /// Waits for the end of the connection.
    pub async fn ended(self) -> Result<(), h2::Error> {
        // Without requests that could be sent, the library closes the connection by itself.
        let Self { requests: _requests, task } = self;
        within("the end of the connection", task).await.expect("no panic")
    }

    /// Whether the connection is over.
    pub fn is_over(&self) -> bool {
        self.task.is_finished()
    }
}

impl Http2Stream {
    /// Whether more bytes came.
    async fn read(&mut self) -> bool {
        let Some(Ok(data)) = self.body.data().await else { return false };
        let _ = self.body.flow_control().release_capacity(data.len());
        self.buffer.extend_from_slice(&data);
        true
    }

    /// Waits until these bytes have come, and drops everything before their end.
    pub async fn find(&mut self, bytes: &[u8]) {
        within("bytes of a stream", async {
            loop {
                let found = self.buffer.windows(bytes.len()).position(|window| window == bytes);
                if let Some(at) = found {
                    self.buffer.drain(..at + bytes.len());
                    return;
                }
                assert!(self.read().await, "the stream has ended: {:?}", self.buffer);
            }
        })
        .await;
    }

    /// The next message that is no ping; `None` if the response has ended.
    pub async fn message(&mut self) -> Option<Value> {
        within("a message of a stream", async {
            loop {
                let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') else {
                    if !self.read().await {
                        return None;
                    }
                    continue;
                };
                let line: Vec<u8> = self.buffer.drain(..=end).collect();
                let text = line.strip_prefix(b"data: ").unwrap_or(&line).trim_ascii();
                if text.is_empty() || text == b"{}" {
                    continue;
                }
                return Some(serde_json::from_slice(text).expect("JSON"));
            }
        })
        .await
    }

    /// How the stream ended: what its last message says.
    pub async fn closed(&mut self) -> Closed {
        let mut last = Closed::WITHOUT_A_WORD;
        while let Some(message) = self.message().await {
            last = Closed::said_by(&message).unwrap_or(last);
        }
        last
    }

    /// Waits for the end of the response, whatever comes before it.
    pub async fn ended(&mut self) {
        within("the end of a stream", async { while self.read().await {} }).await;
    }

    /// Resets the stream.
    pub fn reset(mut self) {
        self.send.send_reset(Reason::CANCEL);
    }
}
