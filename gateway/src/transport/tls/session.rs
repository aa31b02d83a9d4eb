//! [`Session`] is a socket that speaks TLS. While nothing is under way it owns no buffer: all sessions of a
//! thread decrypt and encrypt in the buffers of the thread.

use std::cell::RefCell;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use rustls::ServerConfig;
use rustls::pki_types::CertificateDer;
use rustls::server::{ServerConnectionData, UnbufferedServerConnection};
use rustls::unbuffered::{
    ConnectionState, EncodeError, EncodeTlsData, EncryptError, InsufficientSizeError, UnbufferedStatus,
    WriteTraffic,
};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tokio::net::TcpStream;

use crate::outbound::SOCKET_BYTES_MAX;
use crate::transport::proxy::Unread;

/// Bytes that may wait for the end of a message of the handshake. The library accepts messages of 64 KiB, and
/// each may begin behind a record of 16 KiB.
const INCOMING_BYTES_MAX: usize = 80 * 1024;
/// Bytes that may wait after the handshake: a record, and the beginning of the next. What a client may still
/// say of the handshake takes some bytes.
const TRAFFIC_BYTES_MAX: usize = 2 * (16 * 1024 + 512);
/// Space for the bytes that are read into a thread's buffer.
const RECEIVED_BYTES: usize = 2 * INCOMING_BYTES_MAX;
/// Least bytes that are read at once: clients send records of their own size, whatever the reader asks for.
const READ_BYTES_MIN: usize = 4096;
/// More than a record needs besides its contents.
const RECORD_BYTES: usize = 64;

thread_local! {
    static BUFFERS: RefCell<Buffers> = RefCell::new(Buffers {
        received: vec![0; RECEIVED_BYTES].into(),
        gathered: Vec::new(),
        encrypted: Vec::new(),
    });
}

/// What the sessions of a thread use in turns, each within one poll.
struct Buffers {
    /// Records, which are decrypted in place.
    received: Box<[u8]>,
    /// Several slices that become one record.
    gathered: Vec<u8>,
    /// Records on their way to the system.
    encrypted: Vec<u8>,
}

/// A socket after its handshake. See the `AsyncRead` and `AsyncWrite` of other sockets; a flush passes on
/// what the system has not taken yet.
pub struct Session {
    socket: TcpStream,
    tls: UnbufferedServerConnection,
    /// The beginning of a record.
    incoming: Vec<u8>,
    /// Decrypted, and more than the reader had space for. The first `used` bytes were read.
    plain: Vec<u8>,
    used: usize,
    /// Encrypted, and not taken by the system: one record of `SOCKET_BYTES_MAX`, and what the library has to
    /// say.
    outgoing: Vec<u8>,
    /// The client has said that it sends no more.
    finished: bool,
    /// The client has been told that nothing more is sent.
    closed: bool,
    /// The client has broken the rules.
    failed: bool,
}

impl Session {
    /// Shakes hands. The error comes with the socket; the client has been sent an alert.
    pub(super) async fn accept(
        config: Arc<ServerConfig>,
        socket: Unread,
    ) -> Result<Box<Self>, (io::Error, TcpStream)> {
        let (incoming, socket) = socket.into_parts();
        let tls = match UnbufferedServerConnection::new(config) {
            Ok(tls) => tls,
            Err(error) => return Err((io::Error::other(error), socket)),
        };
        let (plain, outgoing) = (Vec::new(), Vec::new());
        let mut session = Box::new(Self {
            socket,
            tls,
            incoming,
            plain,
            used: 0,
            outgoing,
            finished: false,
            closed: false,
            failed: false,
        });
        match session.shake_hands().await {
            Ok(()) => {
                // What the handshake needed is more than a connection does.
                session.incoming.shrink_to_fit();
                session.outgoing = Vec::new();
                Ok(session)
            }
            Err(error) => Err((error, session.socket)),
        }
    }

    async fn shake_hands(&mut self) -> io::Result<()> {
        loop {
            let Self { tls, incoming, plain, outgoing, .. } = self;
            let take = |record: &[u8]| plain.extend_from_slice(record);
            let processed = process(tls, incoming, take, outgoing);
            let sent = self.socket.write_all(&self.outgoing).await;
            self.outgoing.clear();
            let Processed { used, finished } = processed?;
            sent?;
            self.incoming.drain(..used);
            self.finished = finished;
            if !self.tls.is_handshaking() {
                return Ok(());
            }
            if finished || self.incoming.len() >= INCOMING_BYTES_MAX {
                return Err(io::ErrorKind::InvalidData.into());
            }
            self.incoming.reserve(READ_BYTES_MIN);
            if self.socket.read_buf(&mut self.incoming).await? == 0 {
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "closed in the handshake"));
            }
        }
    }

    /// The certificates of the client, which were verified.
    pub(super) fn peer_certificates(&self) -> &[CertificateDer<'static>] {
        self.tls.peer_certificates().unwrap_or_default()
    }

    /// The application protocol that was agreed (RFC 7301).
    pub(super) fn alpn_protocol(&self) -> Option<&[u8]> {
        self.tls.alpn_protocol()
    }

    /// Gives the reader what is decrypted already. False if there is nothing.
    fn give(&mut self, into: &mut ReadBuf<'_>) -> bool {
        let waits = &self.plain[self.used..];
        if waits.is_empty() {
            return false;
        }
        let count = waits.len().min(into.remaining());
        into.put_slice(&waits[..count]);
        self.used += count;
        if self.used == self.plain.len() {
            (self.plain, self.used) = (Vec::new(), 0);
        }
        true
    }

    /// Reads from the system, and decrypts what is complete.
    fn poll_receive(
        &mut self,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
        received: &mut [u8],
    ) -> Poll<io::Result<()>> {
        let begun = self.incoming.len();
        if begun >= INCOMING_BYTES_MAX {
            self.failed = true;
            return Poll::Ready(Err(io::ErrorKind::InvalidData.into()));
        }
        let end = received.len().min(begun + into.remaining().max(READ_BYTES_MIN));
        let mut space = ReadBuf::new(&mut received[begun..end]);
        ready!(Pin::new(&mut self.socket).poll_read(cx, &mut space))?;
        let count = space.filled().len();
        received[..begun].copy_from_slice(&self.incoming);
        if count == 0 {
            let error =
                io::Error::new(io::ErrorKind::UnexpectedEof, "closed without the alert `close_notify`");
            return Poll::Ready(Err(error));
        }
        let bytes = &mut received[..begun + count];
        let Self { tls, plain, outgoing, .. } = self;
        let take = |record: &[u8]| {
            // In order: nothing overtakes what waits.
            let fits = if plain.is_empty() { record.len().min(into.remaining()) } else { 0 };
            into.put_slice(&record[..fits]);
            plain.extend_from_slice(&record[fits..]);
        };
        let processed = process(tls, bytes, take, outgoing);
        self.answer();
        match processed {
            Ok(Processed { used, finished }) => {
                self.finished |= finished;
                let rest = &bytes[used..];
                if rest.len() > TRAFFIC_BYTES_MAX {
                    self.failed = true;
                    self.incoming = Vec::new();
                    return Poll::Ready(Err(io::ErrorKind::InvalidData.into()));
                }
                // Nothing counts after the end.
                self.incoming = if self.finished { Vec::new() } else { rest.to_vec() };
                Poll::Ready(Ok(()))
            }
            Err(error) => {
                self.failed = true;
                self.incoming = Vec::new();
                Poll::Ready(Err(error))
            }
        }
    }

    /// Sends what the library has answered to a message of the handshake, or an alert. This must not take the
    /// place of the task that waits to write; what the system does not take now goes with the next write.
    fn answer(&mut self) {
        if !self.outgoing.is_empty()
            && let Ok(sent) = self.socket.try_write(&self.outgoing)
        {
            self.sent(sent);
        }
    }

    fn sent(&mut self, count: usize) {
        self.outgoing.drain(..count);
        if self.outgoing.is_empty() {
            self.outgoing = Vec::new();
        }
    }

    /// Passes on what the system has not taken yet.
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.outgoing.is_empty() {
            match ready!(Pin::new(&mut self.socket).poll_write(cx, &self.outgoing))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                count => self.sent(count),
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Encrypts, and keeps what the system does not take. Nothing is kept from before.
    fn poll_encrypted(
        &mut self,
        cx: &mut Context<'_>,
        bytes: &[u8],
        encrypted: &mut Vec<u8>,
    ) -> io::Result<usize> {
        let bytes = &bytes[..bytes.len().min(SOCKET_BYTES_MAX)];
        encrypted.clear();
        self.with_traffic(encrypted, bytes.len(), |traffic, room| traffic.encrypt(bytes, room))?;
        let mut sent = 0;
        while sent < encrypted.len() {
            match Pin::new(&mut self.socket).poll_write(cx, &encrypted[sent..])? {
                Poll::Ready(0) => return Err(io::ErrorKind::WriteZero.into()),
                Poll::Ready(count) => sent += count,
                Poll::Pending => break,
            }
        }
        self.outgoing.extend_from_slice(&encrypted[sent..]);
        Ok(bytes.len())
    }

    /// Appends what `encrypt` makes of so many bytes in the space that it is given. It is called again if it
    /// needs more.
    fn with_traffic(
        &mut self,
        encrypted: &mut Vec<u8>,
        bytes: usize,
        mut encrypt: impl FnMut(&mut Traffic<'_>, &mut [u8]) -> Result<usize, EncryptError>,
    ) -> io::Result<()> {
        if self.failed || self.closed {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        loop {
            // Whatever has come is processed; but the library may have to send something before.
            let UnbufferedStatus { state, .. } = self.tls.process_tls_records(&mut self.incoming);
            match state.map_err(invalid)? {
                ConnectionState::EncodeTlsData(mut data) => encode(&mut data, encrypted),
                ConnectionState::TransmitTlsData(data) => data.done(),
                ConnectionState::PeerClosed => self.finished = true,
                ConnectionState::WriteTraffic(mut traffic) => {
                    let at = encrypted.len();
                    encrypted.resize(at + bytes + RECORD_BYTES, 0);
                    loop {
                        match encrypt(&mut traffic, &mut encrypted[at..]) {
                            Ok(count) => {
                                encrypted.truncate(at + count);
                                return Ok(());
                            }
                            Err(EncryptError::InsufficientSize(InsufficientSizeError { required_size })) => {
                                encrypted.resize(at + required_size, 0);
                            }
                            Err(error) => return Err(io::Error::other(error)),
                        }
                    }
                }
                _ => return Err(io::ErrorKind::BrokenPipe.into()),
            }
        }
    }
}

type Traffic<'c> = WriteTraffic<'c, ServerConnectionData>;

/// What came of some bytes.
struct Processed {
    /// So many were used.
    used: usize,
    /// The client has said that it sends no more.
    finished: bool,
}

/// Lets the library work until it needs more bytes. `take` gets what clients have sent, and `outgoing` what
/// the library wants to send, with an alert in it if there is an error.
fn process(
    tls: &mut UnbufferedServerConnection,
    bytes: &mut [u8],
    mut take: impl FnMut(&[u8]),
    outgoing: &mut Vec<u8>,
) -> io::Result<Processed> {
    let mut processed = Processed { used: 0, finished: false };
    loop {
        let UnbufferedStatus { discard, state } = tls.process_tls_records(&mut bytes[processed.used..]);
        processed.used += discard;
        let state = match state {
            Ok(state) => state,
            Err(error) => {
                let alert = tls.process_tls_records(&mut bytes[processed.used..]).state;
                if let Ok(ConnectionState::EncodeTlsData(mut alert)) = alert {
                    encode(&mut alert, outgoing);
                }
                return Err(invalid(error));
            }
        };
        match state {
            ConnectionState::ReadTraffic(mut traffic) => {
                while let Some(record) = traffic.next_record() {
                    let record = record.map_err(invalid)?;
                    processed.used += record.discard;
                    take(record.payload);
                }
            }
            ConnectionState::EncodeTlsData(mut data) => encode(&mut data, outgoing),
            ConnectionState::TransmitTlsData(data) => data.done(),
            ConnectionState::PeerClosed => processed.finished = true,
            ConnectionState::Closed => {
                processed.finished = true;
                return Ok(processed);
            }
            ConnectionState::BlockedHandshake | ConnectionState::WriteTraffic(_) => return Ok(processed),
            // Nobody has allowed data before the handshake.
            _ => return Err(io::ErrorKind::InvalidData.into()),
        }
    }
}

/// Appends a record of the library's own.
fn encode(data: &mut EncodeTlsData<'_, ServerConnectionData>, outgoing: &mut Vec<u8>) {
    let at = outgoing.len();
    loop {
        match data.encode(&mut outgoing[at..]) {
            Ok(count) => return outgoing.truncate(at + count),
            Err(EncodeError::InsufficientSize(InsufficientSizeError { required_size })) => {
                outgoing.resize(at + required_size, 0);
            }
            Err(EncodeError::AlreadyEncoded) => return,
        }
    }
}

fn invalid(error: rustls::Error) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

impl AsyncRead for Session {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = into.filled().len();
        while into.remaining() > 0 {
            if this.give(into) || into.filled().len() > before || this.finished {
                break;
            }
            if this.failed {
                return Poll::Ready(Err(io::ErrorKind::InvalidData.into()));
            }
            ready!(BUFFERS.with_borrow_mut(|buffers| this.poll_receive(cx, into, &mut buffers.received)))?;
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Session {
    /// Takes what fits into a record.
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if bytes.is_empty() {
            return Poll::Ready(Ok(0));
        }
        ready!(this.poll_send(cx))?;
        Poll::Ready(BUFFERS.with_borrow_mut(|buffers| this.poll_encrypted(cx, bytes, &mut buffers.encrypted)))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        ready!(this.poll_send(cx))?;
        Poll::Ready(BUFFERS.with_borrow_mut(|Buffers { gathered, encrypted, .. }| {
            gathered.clear();
            for slice in slices {
                let room = SOCKET_BYTES_MAX - gathered.len();
                gathered.extend_from_slice(&slice[..slice.len().min(room)]);
            }
            if gathered.is_empty() { Ok(0) } else { this.poll_encrypted(cx, gathered, encrypted) }
        }))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_send(cx))?;
        Pin::new(&mut this.socket).poll_flush(cx)
    }

    /// Tells the client that nothing more comes, and then the system.
    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if !this.closed && !this.failed {
            let mut last = std::mem::take(&mut this.outgoing);
            let told = this.with_traffic(&mut last, 0, |traffic, room| traffic.queue_close_notify(room));
            (this.outgoing, this.closed) = (last, true);
            told?;
        }
        ready!(this.poll_send(cx))?;
        match ready!(Pin::new(&mut this.socket).poll_shutdown(cx)) {
            Err(error) if error.kind() == io::ErrorKind::NotConnected => Poll::Ready(Ok(())),
            done => Poll::Ready(done),
        }
    }
}

#[cfg(test)]
mod tests;
