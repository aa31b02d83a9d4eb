//! A client that does not wait: one of many on a runtime of this program.

use std::cell::RefCell;
use std::io;
use std::net;
use std::rc::Rc;

use anyhow::bail;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;

use crate::client::Client;
use crate::frame::Frames;

/// The place into which all connections read, one after the other.
pub(crate) type Scratch = Rc<RefCell<Box<[u8]>>>;

pub(crate) fn scratch() -> Scratch {
    Rc::new(RefCell::new(vec![0; 64 * 1024].into()))
}

/// An open WebSocket, or another connection with messages, on a runtime.
pub(crate) struct Connection {
    stream: TcpStream,
    frames: Frames,
    scratch: Scratch,
}

impl Connection {
    /// Takes a client over. To be called on the runtime.
    pub(crate) fn new(client: Client, scratch: &Scratch) -> anyhow::Result<Self> {
        Self::over(client.into_socket(), Frames::default(), scratch)
    }

    /// Takes over a socket on which nothing is on its way. To be called on the runtime.
    pub(crate) fn over(socket: net::TcpStream, frames: Frames, scratch: &Scratch) -> anyhow::Result<Self> {
        socket.set_nonblocking(true)?;
        let stream = TcpStream::from_std(socket)?;
        Ok(Self { stream, frames, scratch: scratch.clone() })
    }

    /// Writes frames as they are.
    pub(crate) async fn send(&mut self, frames: &[u8]) -> anyhow::Result<()> {
        Ok(self.stream.write_all(frames).await?)
    }

    /// Waits for bytes and hands over the payloads of all frames in them; there may be none that is complete.
    pub(crate) async fn receive(
        &mut self,
        each: impl FnMut(&[u8]) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        loop {
            self.stream.readable().await?;
            let mut scratch = self.scratch.borrow_mut();
            match self.stream.try_read(&mut scratch) {
                Ok(0) => bail!("the server closed"),
                Ok(count) => return self.frames.take(&scratch[..count], each),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => (),
                Err(error) => return Err(error.into()),
            }
        }
    }
}
