//! An HTTP server behind the gateway: remembers what it was sent and answers what a test wants.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::task::{JoinHandle, JoinSet};

use crate::wait::within_time;

/// The server. Ends when dropped.
#[derive(Debug)]
pub struct Endpoint {
    address: SocketAddr,
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

#[derive(Debug, Default)]
struct Shared {
    received: Mutex<Vec<Received>>,
    arrived: Notify,
}

/// One request.
#[derive(Debug, Clone)]
pub struct Received {
    /// Such as `POST`.
    pub method: String,
    /// With the query.
    pub path: String,
    /// Names in lower case.
    pub headers: BTreeMap<String, String>,
    /// Complete.
    pub body: Vec<u8>,
}

/// What to answer.
#[derive(Debug, Clone, Default)]
pub struct Reply {
    status: u16,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
    after: Duration,
}

impl Reply {
    /// A status without a body.
    pub fn status(status: u16) -> Self {
        Self { status, ..Self::default() }
    }

    /// 200 with JSON.
    pub fn json(value: &serde_json::Value) -> Self {
        Self { body: value.to_string().into_bytes(), ..Self::status(200) }
            .header("content-type", "application/json")
    }

    /// 200 with a body.
    pub fn body(body: Vec<u8>) -> Self {
        Self { body, ..Self::status(200) }
    }

    /// With a header.
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Not before this time has passed.
    pub fn after(self, time: Duration) -> Self {
        Self { after: time, ..self }
    }

    /// Not at all: the request stays without an answer.
    pub fn never() -> Self {
        Self::status(200).after(Duration::from_secs(3600))
    }
}

impl Received {
    /// A header, empty if there is none.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", String::as_str)
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

impl Endpoint {
    /// Starts. `answer` gets a request, and how many came before it.
    pub async fn start(answer: impl Fn(&Received, usize) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("there is a free port");
        let address = listener.local_addr().expect("it was bound");
        let shared = Arc::<Shared>::default();
        let (seen, answer) = (shared.clone(), Arc::new(answer));
        let task = tokio::spawn(async move {
            let mut open = JoinSet::new();
            while let Ok((socket, _)) = listener.accept().await {
                open.spawn(serve(socket, seen.clone(), answer.clone()));
            }
        });
        Self { address, shared, task }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// With a path.
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// What came so far.
    pub fn received(&self) -> Vec<Received> {
        self.shared.lock().clone()
    }

    /// Waits until this many requests came.
    pub async fn wait_for(&self, count: usize) -> Vec<Received> {
        within_time(Duration::from_secs(20), format!("{count} requests at the endpoint"), async {
            loop {
                let arrived = self.shared.arrived.notified();
                let received = self.received();
                if received.len() >= count {
                    return received;
                }
                arrived.await;
            }
        })
        .await
    }
}

impl Drop for Endpoint {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Vec<Received>> {
        self.received.lock().expect("nobody panics with it")
    }
}

async fn serve(
    socket: TcpStream,
    shared: Arc<Shared>,
    answer: Arc<impl Fn(&Received, usize) -> Reply + Send + Sync + 'static>,
) {
    let service = service_fn(|request: hyper::Request<Incoming>| {
        let (shared, answer) = (shared.clone(), answer.clone());
        async move {
            let (head, body) = request.into_parts();
            let body = body.collect().await.map(|body| body.to_bytes().to_vec()).unwrap_or_default();
            let header = |(name, value): (&hyper::header::HeaderName, &hyper::header::HeaderValue)| {
                (name.to_string(), String::from_utf8_lossy(value.as_bytes()).into_owned())
            };
            let received = Received {
                method: head.method.to_string(),
                path: head.uri.to_string(),
                headers: head.headers.iter().map(header).collect(),
                body,
            };
            let before = {
                let mut all = shared.lock();
                all.push(received.clone());
                all.len() - 1
            };
            shared.arrived.notify_waiters();
            let reply = answer(&received, before);
            tokio::time::sleep(reply.after).await;
            let mut response = hyper::Response::builder().status(reply.status);
            for (name, value) in reply.headers {
                response = response.header(name, value);
            }
            Ok::<_, Infallible>(
                response.body(Full::new(Bytes::from(reply.body))).expect("a test's reply is valid"),
            )
        }
    });
    let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(socket), service).await;
}
