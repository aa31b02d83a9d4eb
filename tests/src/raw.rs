//! A client in raw mode: an application's own messages, and nothing around them. Also what every client is
//! built on.

use std::net::SocketAddr;

use futures_util::{SinkExt as _, StreamExt as _};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::handshake::client::Request;
use tokio_tungstenite::tungstenite::http::{HeaderName, HeaderValue};
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{WebSocketStream, client_async_with_config};

use crate::gateway::Gateway;
use crate::socket::Closed;
use crate::wait::within;

/// A WebSocket to `/connection/raw`, or to wherever.
#[derive(Debug)]
pub struct RawClient {
    stream: WebSocketStream<TcpStream>,
}

impl RawClient {
    /// Connects, and is admitted at once.
    pub async fn connect(gateway: &Gateway) -> Self {
        Self::open(gateway.address(), "/connection/raw", &[]).await.expect("the handshake is accepted")
    }

    /// Connects with a bearer token.
    pub async fn connect_with(gateway: &Gateway, token: &str) -> Self {
        let header = format!("Bearer {token}");
        let headers = [("authorization", &*header)];
        Self::open(gateway.address(), "/connection/raw", &headers).await.expect("the handshake is accepted")
    }

    /// Connects to a path with more headers; the status if the handshake is refused.
    pub async fn open(address: SocketAddr, path: &str, headers: &[(&str, &str)]) -> Result<Self, u16> {
        let mut request: Request =
            format!("ws://{address}{path}").into_client_request().expect("a well-formed address");
        for (name, value) in headers {
            let name = HeaderName::from_bytes(name.as_bytes()).expect("a well-formed name");
            request.headers_mut().insert(name, HeaderValue::from_str(value).expect("a well-formed value"));
        }
        within("a WebSocket handshake", async {
            let socket = TcpStream::connect(address).await.expect("the gateway listens");
            socket.set_nodelay(true).expect("TCP has this option");
            // Thousands of clients live in one test.
            let config = WebSocketConfig::default().read_buffer_size(4096);
            match client_async_with_config(request, socket, Some(config)).await {
                Ok((stream, _)) => Ok(Self { stream }),
                Err(Error::Http(response)) => Err(response.status().as_u16()),
                Err(error) => panic!("the handshake with {address}{path} failed: {error}"),
            }
        })
        .await
    }

    /// Sends a text message.
    pub async fn send(&mut self, text: &str) {
        self.send_message(Message::text(text)).await;
    }

    /// Sends a message. One that can not go out any more is not a mistake of the test:
    /// [`closed`](Self::closed) tells why.
    pub async fn send_message(&mut self, message: Message) {
        let _ = within("the gateway to take a message", self.stream.send(message)).await;
    }

    /// The next text message.
    pub async fn text(&mut self) -> String {
        match self.message().await {
            Message::Text(text) => text.to_string(),
            other => panic!("expected text and not {other:?}"),
        }
    }

    /// The next message.
    pub async fn message(&mut self) -> Message {
        self.next("a message")
            .await
            .unwrap_or_else(|closed| panic!("expected a message, but was closed: {closed:?}"))
    }

    /// Sends and waits for the answer.
    pub async fn ask(&mut self, text: &str) -> String {
        self.send(text).await;
        self.text().await
    }

    /// How the connection ends. Messages that come before are a mistake.
    pub async fn closed(&mut self) -> Closed {
        match self.next("the end of the connection").await {
            Ok(message) => panic!("expected the end and not {message:?}"),
            Err(closed) => closed,
        }
    }

    /// The next message, or the end. WebSocket pings are answered on the way.
    pub async fn next(&mut self, what: &str) -> Result<Message, Closed> {
        within(what, self.receive()).await
    }

    /// The same, however long it takes.
    pub(crate) async fn receive(&mut self) -> Result<Message, Closed> {
        loop {
            return match self.stream.next().await {
                Some(Ok(Message::Close(frame))) => {
                    // Answers the close, so that the gateway need not linger.
                    let _ = self.stream.flush().await;
                    Err(frame.map_or(Closed::WITHOUT_A_WORD, |frame| Closed {
                        code: Some(frame.code.into()),
                        reason: frame.reason.to_string(),
                    }))
                }
                Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_))) => continue,
                Some(Ok(message)) => Ok(message),
                Some(Err(_)) | None => Err(Closed::WITHOUT_A_WORD),
            };
        }
    }

    /// Closes with code 1000 and waits for the answer.
    pub async fn close(mut self) {
        let _ = within("the end", self.stream.close(None)).await;
        while self.next("the end of the connection").await.is_ok() {}
    }

    /// The stream itself.
    pub fn into_stream(self) -> WebSocketStream<TcpStream> {
        self.stream
    }
}
