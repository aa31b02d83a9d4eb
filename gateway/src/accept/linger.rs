//! [`linger`] closes a socket so that the client can still read the last response.

use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::time::timeout;

/// How long a client gets to read an answer and to close its side.
const LIMIT: Duration = Duration::from_secs(1);

/// Shuts down the gateway's side and reads until the client has closed its own: closing a socket with unread
/// bytes would reset it, and the client might never see the response. Gives up after a second.
pub async fn linger(mut socket: impl AsyncRead + AsyncWrite + Unpin) {
    let ended = async {
        socket.shutdown().await?;
        let mut unread = [0; 1024];
        while socket.read(&mut unread).await? > 0 {}
        Ok::<_, std::io::Error>(())
    };
    let _ = timeout(LIMIT, ended).await;
}
