//! Who may come in: admission control, before any work is spent, and the accept loop.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use crate::config::Limits;
use crate::telemetry::metrics::{Refused, WorkerMetrics};

/// How many connections the whole node has and may have.
#[derive(Debug)]
pub struct Admission {
    connections: AtomicUsize,
    connections_max: usize,
    handshakes: AtomicUsize,
    handshakes_max: usize,
    /// Sockets that are being refused and are still open.
    refusals: AtomicUsize,
    refusals_max: usize,
    /// Taken once per handshake and once per end of a connection, never for a message.
    addresses: Mutex<HashMap<IpAddr, usize>>,
    per_address_max: usize,
}

/// Why a connection may not be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// The node is full.
    Node,
    /// The address has too many.
    Address,
}

/// One connection that counts until this is dropped.
#[derive(Debug)]
pub struct ConnectionPermit {
    admission: Arc<Admission>,
    address: IpAddr,
}

/// One handshake that counts until this is dropped.
#[derive(Debug)]
pub struct HandshakePermit {
    admission: Arc<Admission>,
}

/// A socket that is being refused.
#[derive(Debug)]
struct RefusalPermit {
    admission: Arc<Admission>,
}

impl Admission {
    /// Nobody is here yet.
    pub fn new(limits: &Limits) -> Self {
        Self {
            connections: AtomicUsize::new(0),
            connections_max: limits.connections_max,
            handshakes: AtomicUsize::new(0),
            handshakes_max: limits.handshakes_max,
            refusals: AtomicUsize::new(0),
            refusals_max: limits.handshakes_max.min(REFUSALS_MAX),
            addresses: Mutex::default(),
            per_address_max: limits.connections_per_address_max,
        }
    }

    /// Counts a client that begins its handshake. `None` if there are as many as may be.
    pub fn handshake(self: &Arc<Self>) -> Option<HandshakePermit> {
        take_one(&self.handshakes, self.handshakes_max).then(|| HandshakePermit { admission: self.clone() })
    }

    /// Counts a socket that is being refused. `None` if there are as many as may be: it is closed at once.
    fn refusal(self: &Arc<Self>) -> Option<RefusalPermit> {
        take_one(&self.refusals, self.refusals_max).then(|| RefusalPermit { admission: self.clone() })
    }

    /// Whether clients are being told that they are refused.
    pub fn is_refusing(&self) -> bool {
        self.refusals.load(Ordering::Relaxed) > 0
    }

    /// Counts a connection.
    pub fn connect(self: &Arc<Self>, address: IpAddr) -> Result<ConnectionPermit, Refusal> {
        if !take_one(&self.connections, self.connections_max) {
            return Err(Refusal::Node);
        }
        let mut addresses = self.addresses.lock().unwrap_or_else(PoisonError::into_inner);
        let count = addresses.entry(address).or_default();
        if *count >= self.per_address_max {
            self.connections.fetch_sub(1, Ordering::Relaxed);
            return Err(Refusal::Address);
        }
        *count += 1;
        Ok(ConnectionPermit { admission: self.clone(), address })
    }
}

fn take_one(count: &AtomicUsize, max: usize) -> bool {
    count.try_update(Ordering::Relaxed, Ordering::Relaxed, |count| (count < max).then_some(count + 1)).is_ok()
}

impl Drop for ConnectionPermit {
    fn drop(&mut self) {
        self.admission.connections.fetch_sub(1, Ordering::Relaxed);
        let mut addresses = self.admission.addresses.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = addresses.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                addresses.remove(&self.address);
            }
        }
    }
}

impl Drop for HandshakePermit {
    fn drop(&mut self) {
        self.admission.handshakes.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Drop for RefusalPermit {
    fn drop(&mut self) {
        self.admission.refusals.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Sockets that may be open because they are being refused: each has a descriptor until the client has heard of it.
pub const REFUSALS_MAX: usize = 64;

/// How long a client that is refused gets to read that, and to close its side.
const REFUSAL: Duration = Duration::from_millis(200);

/// How long to leave a listener alone that cannot give us a descriptor: some connection must end first.
const OUT_OF_DESCRIPTORS_PAUSE: Duration = Duration::from_millis(50);

/// Accepts for ever. Survives running out of descriptors; the clients wait in the backlog meanwhile. Dropping the future
/// stops it and loses no connection that was handed over.
pub async fn accept(
    listener: &TcpListener,
    admission: Arc<Admission>,
    metrics: &WorkerMetrics,
    serve: impl Fn(TcpStream, SocketAddr, HandshakePermit),
) {
    loop {
        let (socket, address) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                metrics.accept_error(&error);
                if is_exhaustion(&error) {
                    tokio::time::sleep(OUT_OF_DESCRIPTORS_PAUSE).await;
                }
                continue;
            }
        };
        let Some(permit) = admission.handshake() else {
            metrics.refused(Refused::Handshakes, address.ip());
            refuse(socket, &admission, BUSY);
            continue;
        };
        let _ = socket.set_nodelay(true);
        serve(socket, address, permit);
    }
}

/// Whether the next attempt fails as well until something is given back.
fn is_exhaustion(error: &io::Error) -> bool {
    const ENFILE: i32 = 23;
    const EMFILE: i32 = 24;
    const ENOMEM: i32 = 12;
    const ENOBUFS: i32 = 105;
    matches!(error.raw_os_error(), Some(ENFILE | EMFILE | ENOMEM | ENOBUFS))
}

/// Refuses the clients that wait to be accepted by a gateway that goes down.
pub fn refuse_waiting(listener: &TcpListener, admission: &Arc<Admission>, metrics: &WorkerMetrics) {
    let mut context = Context::from_waker(Waker::noop());
    while let Poll::Ready(Ok((socket, address))) = listener.poll_accept(&mut context) {
        metrics.refused(Refused::Draining, address.ip());
        refuse(socket, admission, GOING_DOWN);
    }
}

/// What a client is told whose handshake meets the end of the gateway.
pub const GOING_DOWN: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\nConnection: close\r\n\
    Content-Type: text/plain\r\nContent-Length: 59\r\n\r\nthis gateway is going down: connect again to reach another\n";

/// What a client is told that came while too many are in their handshake.
const BUSY: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\nConnection: close\r\n\
    Content-Type: text/plain\r\nContent-Length: 44\r\n\r\ntoo many clients are in their handshake now\n";

/// Tells a client to come back, without reading its request.
fn refuse(socket: TcpStream, admission: &Arc<Admission>, answer: &'static [u8]) {
    // Into the empty buffer of a new socket: never blocks.
    if socket.try_write(answer).is_ok()
        && let Some(permit) = admission.refusal()
    {
        tokio::task::spawn_local(async move {
            turn_away(socket, &[]).await;
            drop(permit);
        });
    }
}

/// Answers whatever a client asks for, ends our side, and waits a moment until the client has ended its own: to close a socket
/// with unread bytes would reset it, and the client would not see the answer.
pub async fn turn_away(mut socket: TcpStream, answer: &'static [u8]) {
    let told = async {
        socket.write_all(answer).await?;
        socket.shutdown().await?;
        let mut unread = [0; 512];
        while socket.read(&mut unread).await? > 0 {}
        Ok::<_, io::Error>(())
    };
    let _ = tokio::time::timeout(REFUSAL, told).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_is_a_complete_answer() {
        for answer in [BUSY, GOING_DOWN] {
            let answer = std::str::from_utf8(answer).expect("text");
            let (head, body) = answer.split_once("\r\n\r\n").expect("a head and a body");
            assert!(head.ends_with(&format!("Content-Length: {}", body.len())), "{head}");
        }
    }
}
