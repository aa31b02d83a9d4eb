//! Connects to PostgreSQL over a connection of `egress`, encrypted if the URL says so.

use std::future::{Future, poll_fn};
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio_postgres::config::SslMode;
use tokio_postgres::tls::{ChannelBinding, NoTls, TlsConnect, TlsStream};
use tokio_postgres::{AsyncMessage, Client, Config, Connection};

use crate::config::Outbox;
use crate::consumer::partition::Partition;
use crate::egress::{Dialer, Encrypted};

/// The task that reads and writes a connection. Dropping it ends both.
pub(super) struct Driver(JoinHandle<()>);

impl Drop for Driver {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Connects, and notifies `announced` from then on when a row is announced for this partition.
pub(super) async fn open(
    partition: &Partition,
    outbox: &Outbox,
    announced: Arc<Notify>,
    number: &str,
) -> Result<(Client, Driver), Box<str>> {
    let login = &outbox.login;
    let dialer = Dialer::new(login.tls_authority.as_deref());
    let socket = partition.answer(dialer.connect(&outbox.host, outbox.port)).await?;
    let mut config = Config::new();
    config.dbname(&*outbox.database).application_name(format!("gateway {}", partition.name));
    if !login.username.is_empty() {
        config.user(&*login.username);
    }
    if let Some(password) = &login.password {
        config.password(password.expose());
    }
    if outbox.tls {
        config.ssl_mode(SslMode::Require);
        let tls = Encrypting { dialer, host: outbox.host.clone() };
        let (client, connection) = partition.answer(text(config.connect_raw(socket, tls))).await?;
        Ok((client, drive(connection, announced, number)))
    } else {
        config.ssl_mode(SslMode::Disable);
        let (client, connection) = partition.answer(text(config.connect_raw(socket, NoTls))).await?;
        Ok((client, drive(connection, announced, number)))
    }
}

fn drive<S, T>(mut connection: Connection<S, T>, announced: Arc<Notify>, number: &str) -> Driver
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let number = number.to_owned();
    Driver(tokio::spawn(async move {
        // Errors reach whoever waits for an answer.
        while let Some(Ok(message)) = poll_fn(|cx| connection.poll_message(cx)).await {
            if let AsyncMessage::Notification(notification) = message
                && (notification.payload().is_empty() || notification.payload() == number)
            {
                announced.notify_one();
            }
        }
        // The loop looks, and finds that the connection has ended.
        announced.notify_one();
    }))
}

/// An answer whose error says what the server said.
pub(super) async fn text<T>(
    answer: impl Future<Output = Result<T, tokio_postgres::Error>>,
) -> Result<T, Box<str>> {
    answer.await.map_err(|error| match (error.as_db_error(), std::error::Error::source(&error)) {
        (Some(error), _) => error.message().into(),
        (None, Some(source)) => format!("{error}: {source}").into(),
        (None, None) => error.to_string().into(),
    })
}

/// Encrypts a connection after the server has agreed to it.
struct Encrypting {
    dialer: Dialer,
    host: Box<str>,
}

impl TlsConnect<TcpStream> for Encrypting {
    type Stream = Secured;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Secured>> + Send>>;

    fn connect(self, socket: TcpStream) -> Self::Future {
        Box::pin(async move {
            let encrypted = self.dialer.encrypt(&self.host, socket).await;
            encrypted.map(Secured).map_err(|why| io::Error::other(why.into_string()))
        })
    }
}

/// A connection that TLS protects, for the client of PostgreSQL.
struct Secured(Encrypted);

impl TlsStream for Secured {
    fn channel_binding(&self) -> ChannelBinding {
        ChannelBinding::none()
    }
}

impl AsyncRead for Secured {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().0).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Secured {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().0).poll_write(cx, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().0).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().0).poll_shutdown(cx)
    }
}
