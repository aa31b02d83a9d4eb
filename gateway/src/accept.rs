//! Who may come in: admission control, before any work is spent, and the accept loop.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::AsyncWriteExt;
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

impl Admission {
    /// Nobody is here yet.
    pub fn new(limits: &Limits) -> Self {
        Self {
            connections: AtomicUsize::new(0),
            connections_max: limits.connections_max,
            handshakes: AtomicUsize::new(0),
            handshakes_max: limits.handshakes_max,
            addresses: Mutex::default(),
            per_address_max: limits.connections_per_address_max,
        }
    }

    /// Counts a client that begins its handshake. `None` if there are as many as may be.
    pub fn handshake(self: &Arc<Self>) -> Option<HandshakePermit> {
        take_one(&self.handshakes, self.handshakes_max).then(|| HandshakePermit { admission: self.clone() })
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

/// How long to leave a listener alone that cannot give us a descriptor: some connection must end first.
const OUT_OF_DESCRIPTORS_PAUSE: Duration = Duration::from_millis(50);

/// Accepts for ever. Survives running out of descriptors; the clients wait in the backlog meanwhile. Dropping the future
/// stops it and loses no connection that was handed over.
pub async fn accept(
    listener: TcpListener,
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
            refuse(socket);
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

/// What a client is told that came while too many are in their handshake.
const ANSWER: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\nConnection: close\r\n\
    Content-Type: text/plain\r\nContent-Length: 44\r\n\r\ntoo many clients are in their handshake now\n";

/// Tells a client to come back, without reading its request.
fn refuse(mut socket: TcpStream) {
    // Into the empty buffer of a new socket: never blocks.
    if socket.try_write(ANSWER).is_ok() {
        tokio::task::spawn_local(async move {
            let _ = tokio::time::timeout(Duration::from_millis(200), socket.shutdown()).await;
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_refusal_is_a_complete_answer() {
        let answer = std::str::from_utf8(ANSWER).expect("text");
        let (head, body) = answer.split_once("\r\n\r\n").expect("a head and a body");
        assert!(head.ends_with(&format!("Content-Length: {}", body.len())), "{head}");
    }
}
