//! A server whose behaviour a test changes while it runs.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::sleep;

use crate::egress::tests::server::answer;

/// What a server does with a request.
#[derive(Clone)]
pub(super) enum Reply {
    /// Answers with this status and body.
    Status(u16, &'static str),
    /// Answers 200 so much later.
    After(Duration),
    /// Answers 200 with so many bytes, without announcing their number.
    Long(usize),
    /// Announces more than it sends, and closes the connection.
    Cut,
    /// Answers what is not HTTP.
    Garbage,
    /// Answers nothing and keeps the connection.
    Never,
}

pub(super) struct Backend {
    address: SocketAddr,
    /// Chooses a reply by the request, and the number of requests before it.
    reply: Shared<Choice>,
    seen: Shared<Vec<String>>,
    task: JoinHandle<()>,
}

type Shared<T> = Arc<Mutex<T>>;
type Choice = Box<dyn Fn(&str, usize) -> Reply + Send>;

impl Backend {
    pub(super) async fn start(reply: Reply) -> Self {
        Self::with(move |_, _| reply.clone()).await
    }

    pub(super) async fn with(reply: impl Fn(&str, usize) -> Reply + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let reply: Shared<Choice> = Arc::new(Mutex::new(Box::new(reply)));
        let seen = Shared::<Vec<String>>::default();
        let (replies, all) = (reply.clone(), seen.clone());
        let task = tokio::spawn(async move {
            let mut open = JoinSet::new();
            while let Ok((socket, _)) = listener.accept().await {
                let (replies, all) = (replies.clone(), all.clone());
                let choose = move |request: String| {
                    let mut all = all.lock().unwrap();
                    let reply = replies.lock().unwrap()(&request, all.len());
                    all.push(request);
                    reply
                };
                open.spawn(serve(socket, choose));
            }
        });
        Self { address, reply, seen, task }
    }

    /// Replies so from the next request on.
    pub(super) fn set(&self, reply: Reply) {
        *self.reply.lock().unwrap() = Box::new(move |_, _| reply.clone());
    }

    pub(super) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// The requests so far, with their bodies.
    pub(super) fn seen(&self) -> Vec<String> {
        self.seen.lock().unwrap().clone()
    }

    pub(super) fn count(&self) -> usize {
        self.seen.lock().unwrap().len()
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A URL where nobody listens.
pub(super) async fn nobody() -> String {
    let vacant = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    format!("http://{vacant}/")
}

async fn serve(mut socket: TcpStream, choose: impl Fn(String) -> Reply) {
    while let Some(request) = read(&mut socket).await {
        let sent = match choose(request) {
            Reply::Status(status, body) => socket.write_all(&answer(status, "", body)).await,
            Reply::After(time) => {
                sleep(time).await;
                socket.write_all(&answer(200, "", "late")).await
            }
            Reply::Long(bytes) => {
                let chunk = format!("{bytes:x}\r\n{}\r\n0\r\n\r\n", "x".repeat(bytes));
                let head = "HTTP/1.1 200 x\r\ntransfer-encoding: chunked\r\n\r\n";
                socket.write_all(format!("{head}{chunk}").as_bytes()).await
            }
            Reply::Cut => {
                let _ = socket.write_all(b"HTTP/1.1 200 x\r\ncontent-length: 100\r\n\r\n{\"half\":").await;
                return;
            }
            Reply::Garbage => socket.write_all(b"SSH-2.0-OpenSSH\r\n\r\n").await,
            Reply::Never => Ok(()),
        };
        if sent.is_err() {
            return;
        }
    }
}

/// The next request of a connection.
async fn read(socket: &mut TcpStream) -> Option<String> {
    let mut bytes = Vec::new();
    loop {
        let text = String::from_utf8_lossy(&bytes);
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok());
            if body.len() >= length.unwrap_or(0) {
                return Some(text.into_owned());
            }
        }
        if socket.read_buf(&mut bytes).await.ok()? == 0 {
            return None;
        }
    }
}
