//! A client that speaks JSON or Protobuf, with TLS and compression or without, and counts what goes over the
//! wire.

use std::cell::{Cell, RefCell};
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use anyhow::{anyhow, ensure};
use gateway::protocol::deflate::{Compressor, Decompressor, Window};
use rustls::crypto::ring;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::frame::{self, BINARY, COMPRESSED, TEXT};

/// Larger than any message in here.
const MESSAGE_BYTES_MAX: usize = 64 * 1024;

/// What a client says.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Speech {
    /// Nothing but payloads, as the bare server wants it.
    Bare,
    Json,
    Protobuf,
}

/// How a client talks.
#[derive(Clone, Copy)]
pub(crate) struct Manner {
    pub(crate) speech: Speech,
    pub(crate) tls: bool,
    pub(crate) deflate: bool,
}

impl Manner {
    /// As the bare server wants it.
    pub(crate) const BARE: Self = Self { speech: Speech::Bare, tls: false, deflate: false };

    /// The frame of a publication.
    pub(crate) fn publish(self, channel: &str, data: &str) -> Vec<u8> {
        let message = match self.speech {
            Speech::Bare => data.as_bytes().to_vec(),
            Speech::Json => {
                format!(r#"{{"id":3,"publish":{{"channel":"{channel}","data":{data}}}}}"#).into_bytes()
            }
            Speech::Protobuf => {
                let fields = [field(1, channel.as_bytes()), field(2, data.as_bytes())];
                command(3, 7, &fields.concat())
            }
        };
        self.frame(message)
    }

    fn connect(self) -> Vec<u8> {
        self.frame(match self.speech {
            Speech::Protobuf => command(1, 4, &[]),
            _ => br#"{"id":1,"connect":{}}"#.to_vec(),
        })
    }

    fn subscribe(self, channel: &str) -> Vec<u8> {
        self.frame(match self.speech {
            Speech::Protobuf => command(2, 5, &field(1, channel.as_bytes())),
            _ => format!(r#"{{"id":2,"subscribe":{{"channel":"{channel}"}}}}"#).into_bytes(),
        })
    }

    fn frame(self, mut message: Vec<u8>) -> Vec<u8> {
        let opcode = if self.speech == Speech::Protobuf { BINARY } else { TEXT };
        let smaller = self.deflate && Compressor::new(1).compress(Window::Large, &mut message, 0);
        frame::frame(if smaller { opcode | COMPRESSED } else { opcode }, &message)
    }

    /// The request of the handshake.
    fn handshake(self) -> String {
        let query = if self.speech == Speech::Protobuf { "?format=protobuf" } else { "" };
        let offer = if self.deflate { "Sec-WebSocket-Extensions: permessage-deflate\r\n" } else { "" };
        format!(
            "GET /connection/websocket{query} HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\n\
             Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n{offer}\
             Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        )
    }
}

/// Bytes after their length, which is below 16 KiB.
fn record(bytes: &[u8]) -> Vec<u8> {
    let length = bytes.len();
    let prefix =
        if length < 0x80 { vec![length as u8] } else { vec![length as u8 | 0x80, (length >> 7) as u8] };
    [&prefix, bytes].concat()
}

fn field(tag: u8, bytes: &[u8]) -> Vec<u8> {
    [vec![tag << 3 | 2], record(bytes)].concat()
}

fn command(id: u8, request: u8, fields: &[u8]) -> Vec<u8> {
    record(&[vec![1 << 3, id], field(request, fields)].concat())
}

/// Bytes that some clients sent and received, below TLS.
#[derive(Default)]
pub(crate) struct Wire {
    pub(crate) sent: Cell<u64>,
    pub(crate) received: Cell<u64>,
}

/// What clients need to come to a server.
#[derive(Clone)]
pub(crate) struct Way {
    pub(crate) address: SocketAddr,
    pub(crate) manner: Manner,
    pub(crate) tls: TlsConnector,
    pub(crate) wire: Rc<Wire>,
}

/// TLS that trusts this certificate only.
pub(crate) fn trusting(certificate: CertificateDer<'static>) -> anyhow::Result<TlsConnector> {
    let mut roots = RootCertStore::empty();
    roots.add(certificate)?;
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()));
    let config = builder.with_safe_default_protocol_versions()?.with_root_certificates(roots);
    Ok(TlsConnector::from(Arc::new(config.with_no_client_auth())))
}

trait Io: AsyncRead + AsyncWrite + Unpin {}
impl<T: AsyncRead + AsyncWrite + Unpin> Io for T {}

/// An open WebSocket.
pub(crate) struct Peer {
    stream: Box<dyn Io>,
    manner: Manner,
    buffer: Vec<u8>,
    decompressor: RefCell<Decompressor>,
}

impl Peer {
    /// Connects, and is admitted where there is something to be admitted to.
    pub(crate) async fn connect(way: &Way) -> anyhow::Result<Self> {
        let socket = TcpStream::connect(way.address).await?;
        socket.set_nodelay(true)?;
        let socket = Counted { socket, wire: way.wire.clone() };
        let stream: Box<dyn Io> = if way.manner.tls {
            Box::new(way.tls.connect(ServerName::try_from("localhost")?, socket).await?)
        } else {
            Box::new(socket)
        };
        let manner = way.manner;
        let mut peer = Self { stream, manner, buffer: Vec::new(), decompressor: RefCell::default() };
        peer.send(manner.handshake().as_bytes()).await?;
        let end = loop {
            match memchr::memmem::find(&peer.buffer, b"\r\n\r\n") {
                Some(end) => break end + 4,
                None => peer.read().await?,
            }
        };
        let answer = String::from_utf8_lossy(&peer.buffer[..end]).to_ascii_lowercase();
        ensure!(answer.starts_with("http/1.1 101 "), "the handshake is refused: {answer}");
        ensure!(answer.contains("permessage-deflate") == manner.deflate, "compression: {answer}");
        peer.buffer.drain(..end);
        if manner.speech != Speech::Bare {
            peer.ask(&manner.connect()).await?;
        }
        Ok(peer)
    }

    /// Subscribes, where there is something to subscribe to.
    pub(crate) async fn subscribe(&mut self, channel: &str) -> anyhow::Result<()> {
        if self.manner.speech == Speech::Bare {
            return Ok(());
        }
        let command = self.manner.subscribe(channel);
        self.ask(&command).await
    }

    /// Sends a command and waits for the reply, which must not be an error.
    pub(crate) async fn ask(&mut self, frame: &[u8]) -> anyhow::Result<()> {
        self.send(frame).await?;
        let (speech, mut answered) = (self.manner.speech, false);
        while !answered {
            let check = |message: &[u8]| {
                let refused = match speech {
                    Speech::Bare => false,
                    Speech::Json => memchr::memmem::find(message, br#""error""#).is_some(),
                    // After the length and the id: the field of an error.
                    Speech::Protobuf => {
                        message.iter().skip_while(|byte| **byte & 0x80 != 0).nth(3) == Some(&0x12)
                    }
                };
                ensure!(!refused, "a command is answered with {}", String::from_utf8_lossy(message));
                answered = true;
                Ok(())
            };
            self.receive(check).await?;
        }
        Ok(())
    }

    async fn send(&mut self, bytes: &[u8]) -> anyhow::Result<()> {
        self.stream.write_all(bytes).await?;
        Ok(self.stream.flush().await?)
    }

    async fn read(&mut self) -> anyhow::Result<()> {
        self.buffer.reserve(4096);
        ensure!(self.stream.read_buf(&mut self.buffer).await? > 0, "the server closed");
        Ok(())
    }

    /// Waits for a message, and hands over all that are complete.
    pub(crate) async fn receive(
        &mut self,
        mut each: impl FnMut(&[u8]) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        loop {
            let mut used = 0;
            while let Some((first, header, length)) = header(&self.buffer[used..])
                && let Some(payload) = self.buffer.get(used + header..used + header + length)
            {
                ensure!(
                    [TEXT, BINARY].contains(&(first & 0xf)),
                    "the server sent something else: {first:#x}"
                );
                if first & COMPRESSED == 0 {
                    each(payload)?;
                } else {
                    let plain = self.decompressor.borrow_mut().decompress(payload, MESSAGE_BYTES_MAX);
                    each(&plain.map_err(|_| anyhow!("a compressed message is malformed"))?)?;
                }
                used += header + length;
            }
            self.buffer.drain(..used);
            if used > 0 {
                return Ok(());
            }
            self.read().await?;
        }
    }
}

/// The first byte of a frame of a server, the length of its header and that of its payload.
fn header(bytes: &[u8]) -> Option<(u8, usize, usize)> {
    match bytes {
        [first, 126, high, low, ..] => Some((*first, 4, usize::from(u16::from_be_bytes([*high, *low])))),
        [first, length @ 0..=125, ..] => Some((*first, 2, usize::from(*length))),
        _ => None,
    }
}

/// Counts below TLS.
struct Counted {
    socket: TcpStream,
    wire: Rc<Wire>,
}

impl AsyncRead for Counted {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = into.filled().len();
        ready!(Pin::new(&mut this.socket).poll_read(cx, into))?;
        let count = into.filled().len() - before;
        this.wire.received.set(this.wire.received.get() + count as u64);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Counted {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let count = ready!(Pin::new(&mut this.socket).poll_write(cx, bytes))?;
        this.wire.sent.set(this.wire.sent.get() + count as u64);
        Poll::Ready(Ok(count))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().socket).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().socket).poll_shutdown(cx)
    }
}
