//! The least that serves the same: tokio-tungstenite with small buffers, one task per connection, one thread.
//!
//! It knows no commands, no channels, no limits and no plugins: what a client sends comes back to it
//! (`echo`), or goes to everyone (`fanout`).

use std::io::Read as _;
use std::net::Ipv4Addr;

use anyhow::bail;
use futures_util::{SinkExt as _, StreamExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::broadcast::{self, error::RecvError};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::{WebSocketStream, accept_async_with_config};

/// Makes this program the bare server. What follows is its task.
pub(crate) const ARGUMENT: &str = "bare-server";

pub(crate) const ECHO: &str = "echo";
pub(crate) const FAN_OUT: &str = "fanout";

/// With the default buffers it would be slower and take 130 KB per connection.
const BUFFER_BYTES: usize = 4096;

/// Publications that may wait for a connection.
const WAITING_MAX: usize = 1024;

/// Serves until standard input ends.
pub(crate) fn serve(task: &str) -> anyhow::Result<()> {
    let publications = match task {
        ECHO => None,
        FAN_OUT => Some(broadcast::Sender::new(WAITING_MAX)),
        other => bail!("the bare server cannot do `{other}`"),
    };
    std::thread::spawn(|| {
        let _ = std::io::stdin().read(&mut [0]);
        std::process::exit(0);
    });
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        println!("{}", listener.local_addr()?);
        loop {
            let (socket, _) = listener.accept().await?;
            socket.set_nodelay(true)?;
            let publications = publications.clone();
            tokio::spawn(async move {
                // A client that went away is no news.
                let _ = connection(socket, publications).await;
            });
        }
    })
}

type WebSocket = WebSocketStream<TcpStream>;

async fn connection(
    socket: TcpStream,
    publications: Option<broadcast::Sender<Message>>,
) -> anyhow::Result<()> {
    let config = WebSocketConfig::default().read_buffer_size(BUFFER_BYTES).write_buffer_size(BUFFER_BYTES);
    let websocket = accept_async_with_config(socket, Some(config)).await?;
    match publications {
        None => echo(websocket).await,
        Some(publications) => fan_out(websocket, publications).await,
    }
}

async fn echo(mut websocket: WebSocket) -> anyhow::Result<()> {
    while let Some(message) = websocket.next().await {
        let message = message?;
        if message.is_text() {
            websocket.send(message).await?;
        }
    }
    Ok(())
}

async fn fan_out(mut websocket: WebSocket, publications: broadcast::Sender<Message>) -> anyhow::Result<()> {
    let mut subscription = publications.subscribe();
    loop {
        tokio::select! {
            message = websocket.next() => match message.transpose()? {
                Some(message) if message.is_text() => drop(publications.send(message)),
                Some(_) => (),
                None => return Ok(()),
            },
            publication = subscription.recv() => match publication {
                // What waits goes out in one write.
                Ok(first) => {
                    websocket.feed(first).await?;
                    while let Ok(next) = subscription.try_recv() {
                        websocket.feed(next).await?;
                    }
                    websocket.flush().await?;
                }
                Err(RecvError::Lagged(_)) => bail!("a client is too slow"),
                Err(RecvError::Closed) => return Ok(()),
            },
        }
    }
}
