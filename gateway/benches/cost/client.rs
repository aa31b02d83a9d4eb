//! A client that waits: opens connections and asks one thing at a time.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};

use crate::frame::{self, Frames};

/// How long anything may take on this machine before something is wrong.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// Where the Centrifuge protocol is spoken, and where applications speak their own.
pub(crate) const CENTRIFUGE: &str = "/connection/websocket";
pub(crate) const RAW: &str = "/connection/raw";

/// An open WebSocket.
pub(crate) struct Client {
    socket: TcpStream,
    frames: Frames,
}

impl Client {
    /// Connects and shakes hands.
    pub(crate) fn open(address: SocketAddr, path: &str) -> anyhow::Result<Self> {
        let mut socket = TcpStream::connect_timeout(&address, PATIENCE)?;
        socket.set_nodelay(true)?;
        socket.set_read_timeout(Some(PATIENCE))?;
        write!(
            socket,
            "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        )?;
        let mut answer = Vec::new();
        let mut buffer = [0; 1024];
        while !answer.ends_with(b"\r\n\r\n") {
            match socket.read(&mut buffer)? {
                0 => bail!("closed in the handshake: {}", String::from_utf8_lossy(&answer)),
                count => answer.extend_from_slice(&buffer[..count]),
            }
        }
        let answer = String::from_utf8_lossy(&answer);
        ensure!(answer.starts_with("HTTP/1.1 101 "), "the handshake is refused: {answer}");
        Ok(Self { socket, frames: Frames::default() })
    }

    /// Connects and is admitted, in the Centrifuge protocol.
    pub(crate) fn admitted(address: SocketAddr) -> anyhow::Result<Self> {
        let mut client = Self::open(address, CENTRIFUGE)?;
        client.ask(r#"{"id":1,"connect":{}}"#)?;
        Ok(client)
    }

    /// Sends a text message and waits for the answer, which must not be an error.
    pub(crate) fn ask(&mut self, text: &str) -> anyhow::Result<String> {
        self.socket.write_all(&frame::text(text))?;
        let mut answer = None;
        let mut buffer = [0; 4096];
        while answer.is_none() {
            let count = self.socket.read(&mut buffer).with_context(|| format!("no answer to {text}"))?;
            ensure!(count > 0, "closed instead of an answer to {text}");
            self.frames.take(&buffer[..count], |payload| {
                answer = Some(String::from_utf8_lossy(payload).into_owned());
                Ok(())
            })?;
        }
        let answer = answer.unwrap_or_default();
        ensure!(!answer.contains(r#""error""#), "{text} is answered with {answer}");
        Ok(answer)
    }

    /// Says good-bye and waits until the server has closed.
    pub(crate) fn close(mut self) -> anyhow::Result<()> {
        self.socket.write_all(&frame::close())?;
        let mut buffer = [0; 512];
        while self.socket.read(&mut buffer).context("the server does not close")? > 0 {}
        Ok(())
    }

    /// The socket itself. Nothing may be on its way.
    pub(crate) fn into_socket(self) -> TcpStream {
        self.socket
    }
}
