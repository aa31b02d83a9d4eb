//! [`Admission`] decides whether a client may connect, before the gateway spends work on it; [`accept`] is
//! the accept loop.
//!
//! Limits count clients by [`source`]: an IPv4 address, or the /64 network of an IPv6 address. The address of
//! a client behind a trusted proxy is known only after some bytes of its connection; until then the
//! connection counts towards the limit of the node alone.

mod answer;
mod linger;
mod rates;
mod slots;

use std::collections::HashMap;
use std::convert::Infallible;
use std::io;
use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

pub use self::answer::{TEXT, answer, before_handshake, open_ended};
pub use self::linger::linger;
use self::rates::{Rates, TooFast};
pub use self::slots::{Evicted, Full, Slot, Slots, Standing};
use crate::clock::Clock;
use crate::config::{Config, Proxies};
use crate::telemetry::metrics::{Refused, WorkerMetrics};
pub use gateway_plugin_grammar::source::source;

/// Seconds that a refused client is asked to wait when connections or handshakes have to end first.
const WAIT_FOR_CONNECTIONS: u32 = 5;
const WAIT_FOR_HANDSHAKES: u32 = 1;

/// Counts the connections of the node and enforces their limits.
#[derive(Debug)]
pub struct Admission {
    connections: AtomicUsize,
    connections_max: usize,
    /// Locked once per handshake and once per end of a connection, never for a message.
    sources: Mutex<HashMap<IpAddr, usize>>,
    per_source_max: usize,
    /// Clients that are not admitted yet.
    handshakes: Arc<Slots>,
    rates: Rates,
    /// Clients that are being refused.
    refusals: Refusals,
    proxies: Proxies,
    /// Whether clients expect TLS.
    tls: bool,
    clock: Clock,
}

/// Why a client is refused, and when it may try again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refusal {
    /// The reason, as counted in metrics.
    pub reason: Refused,
    /// Seconds.
    pub retry_after: u32,
}

impl Refusal {
    /// The gateway shuts down during the handshake.
    pub const GOING_DOWN: Self = Self { reason: Refused::Draining, retry_after: 1 };

    /// The HTTP status: 429 if the client or its source network caused the refusal, otherwise 503.
    pub fn status(self) -> u16 {
        match self.reason {
            Refused::AddressCapacity | Refused::AddressHandshakes | Refused::AddressRate => 429,
            _ => 503,
        }
    }

    /// The text for the client.
    pub fn message(self) -> &'static str {
        match self.reason {
            Refused::AddressCapacity => "your address has as many connections as it may\n",
            Refused::AddressHandshakes => "too many clients of your address are in their handshake now\n",
            Refused::AddressRate => "your address connects too often\n",
            Refused::Capacity => "the gateway has as many connections as it may\n",
            Refused::Rate => "too many clients connect now\n",
            Refused::Draining => "this gateway is going down: connect again to reach another\n",
            _ => "too many clients are in their handshake now\n",
        }
    }

    /// A complete HTTP response, for a client whose request is not read.
    pub fn answer(self) -> String {
        answer(self.status(), Some(self.retry_after), TEXT, self.message())
    }
}

/// A new client with its slot among those that are not admitted yet.
#[derive(Debug)]
pub struct Arrival {
    /// Counts the client until it is dropped.
    pub slot: Slot,
    /// Resolves when the slot has gone to another client.
    pub evicted: Evicted,
}

/// Counts one connection until it is dropped.
#[derive(Debug)]
pub struct ConnectionPermit {
    admission: Arc<Admission>,
    source: IpAddr,
}

impl Admission {
    /// No clients yet.
    pub fn new(config: &Config, clock: Clock) -> Self {
        let limits = &config.limits;
        Self {
            connections: AtomicUsize::new(0),
            connections_max: limits.connections_max,
            sources: Mutex::default(),
            per_source_max: limits.connections_per_address_max,
            handshakes: Slots::new(limits.handshakes_max, limits.handshakes_per_address_max),
            rates: Rates::new(limits.connection_rate, limits.connection_rate_per_address),
            refusals: Refusals::new(limits.handshakes_max.min(REFUSALS_MAX)),
            proxies: config.listen.proxies.clone(),
            tls: config.listen.tls.is_some(),
            clock,
        }
    }

    /// Counts a client that begins its handshake. `peer` is the remote address of its socket.
    ///
    /// # Errors
    ///
    /// If all slots are taken, or clients arrive too fast.
    pub fn arrive(&self, peer: IpAddr) -> Result<Arrival, Refusal> {
        self.arrive_on(peer, self.proxies.trust(peer))
    }

    /// Counts a client that begins its handshake on a connection that carries several. `address` is that of
    /// the connection; `trusted` says whether it is a proxy, which will name its client.
    ///
    /// # Errors
    ///
    /// As [`arrive`](Self::arrive).
    pub fn arrive_on(&self, address: IpAddr, trusted: bool) -> Result<Arrival, Refusal> {
        let source = (!trusted).then(|| source(address));
        if let Some(source) = source {
            self.count_arrival(source)?;
        }
        let (slot, evicted) = self.handshakes.take(source).map_err(full)?;
        Ok(Arrival { slot, evicted })
    }

    /// Counts a client for its own address, once a trusted proxy has named it.
    ///
    /// # Errors
    ///
    /// If the client has its share of slots, or connects too fast.
    pub fn identify(&self, slot: &Slot, client: IpAddr) -> Result<(), Refusal> {
        let source = source(client);
        self.count_arrival(source)?;
        slot.count_for(source).map_err(full)
    }

    /// Counts a further request on a connection, at the rates of new connections.
    ///
    /// # Errors
    ///
    /// If the client, or all of them, send too many.
    pub fn count_request(&self, client: IpAddr) -> Result<(), Refusal> {
        self.count_arrival(source(client))
    }

    fn count_arrival(&self, source: IpAddr) -> Result<(), Refusal> {
        let (reason, wait) = match self.rates.take(source, self.clock.now().at) {
            Ok(()) => return Ok(()),
            Err(TooFast::Node(wait)) => (Refused::Rate, wait),
            Err(TooFast::Source(wait)) => (Refused::AddressRate, wait),
        };
        let seconds = wait.as_millis().div_ceil(1000);
        Err(Refusal { reason, retry_after: u32::try_from(seconds).unwrap_or(u32::MAX) })
    }

    /// Refuses a client without reading its request.
    fn turn_away(&self, socket: TcpStream, refusal: Refusal) {
        if let Some(closing) = self.refusals.tell(socket, &before_handshake(self.tls, refusal.answer())) {
            tokio::task::spawn_local(closing);
        }
    }

    /// Whether refusals are still being sent.
    pub fn is_refusing(&self) -> bool {
        self.refusals.are_being_sent()
    }

    /// Counts a connection.
    ///
    /// # Errors
    ///
    /// If there are as many connections as the gateway, or one client, may have.
    pub fn connect(self: &Arc<Self>, client: IpAddr) -> Result<ConnectionPermit, Refusal> {
        let refuse = |reason| Refusal { reason, retry_after: WAIT_FOR_CONNECTIONS };
        if !take_one(&self.connections, self.connections_max) {
            return Err(refuse(Refused::Capacity));
        }
        let source = source(client);
        let mut sources = self.sources.lock().unwrap_or_else(PoisonError::into_inner);
        let count = sources.entry(source).or_default();
        if *count >= self.per_source_max {
            self.connections.fetch_sub(1, Ordering::Relaxed);
            return Err(refuse(Refused::AddressCapacity));
        }
        *count += 1;
        Ok(ConnectionPermit { admission: self.clone(), source })
    }
}

fn full(full: Full) -> Refusal {
    let reason = match full {
        Full::All => Refused::Handshakes,
        Full::Source => Refused::AddressHandshakes,
    };
    Refusal { reason, retry_after: WAIT_FOR_HANDSHAKES }
}

fn take_one(count: &AtomicUsize, max: usize) -> bool {
    count.try_update(Ordering::Relaxed, Ordering::Relaxed, |count| (count < max).then_some(count + 1)).is_ok()
}

impl Drop for ConnectionPermit {
    fn drop(&mut self) {
        self.admission.connections.fetch_sub(1, Ordering::Relaxed);
        let mut sources = self.admission.sources.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = sources.get_mut(&self.source) {
            *count -= 1;
            if *count == 0 {
                sources.remove(&self.source);
            }
        }
    }
}

/// Pause after a listener ran out of descriptors: a connection must end first.
const OUT_OF_DESCRIPTORS_PAUSE: Duration = Duration::from_millis(50);

/// Sockets that are accepted before the connections accepted so far get their turn. A client may have sent
/// its request already, but the gateway only notices that when it reads.
const ACCEPTS_MAX: usize = 16;

/// Accepts forever. When the process has no free descriptors, clients wait in the backlog. Dropping the
/// future stops it and loses no connection that was handed over.
pub async fn accept(
    listener: &TcpListener,
    admission: Arc<Admission>,
    metrics: &WorkerMetrics,
    serve: impl Fn(TcpStream, IpAddr, Arrival),
) -> Infallible {
    let mut accepted = 0_usize;
    loop {
        accepted = accepted.wrapping_add(1);
        if accepted.is_multiple_of(ACCEPTS_MAX) {
            tokio::task::yield_now().await;
        }
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
        // A socket that listens for IPv6 reports IPv4 clients as mapped addresses.
        let peer = address.ip().to_canonical();
        match admission.arrive(peer) {
            Ok(arrival) => {
                let _ = socket.set_nodelay(true);
                serve(socket, peer, arrival);
            }
            Err(refusal) => {
                metrics.refused(refusal.reason, peer);
                admission.turn_away(socket, refusal);
            }
        }
    }
}

/// Whether the next attempt fails as well until some resource is freed.
fn is_exhaustion(error: &io::Error) -> bool {
    const ENFILE: i32 = 23;
    const EMFILE: i32 = 24;
    const ENOMEM: i32 = 12;
    const ENOBUFS: i32 = 105;
    matches!(error.raw_os_error(), Some(ENFILE | EMFILE | ENOMEM | ENOBUFS))
}

/// Refuses clients in the backlog while the gateway shuts down.
pub fn refuse_waiting(listener: &TcpListener, admission: &Admission, metrics: &WorkerMetrics) {
    let mut context = Context::from_waker(Waker::noop());
    while let Poll::Ready(Ok((socket, address))) = listener.poll_accept(&mut context) {
        metrics.refused(Refusal::GOING_DOWN.reason, address.ip().to_canonical());
        admission.turn_away(socket, Refusal::GOING_DOWN);
    }
}

/// Sockets kept open for refusals: each needs a descriptor until the client has read the response.
pub const REFUSALS_MAX: usize = 64;

/// Sends refusals without reading the requests.
#[derive(Debug)]
pub struct Refusals {
    closing: Arc<Semaphore>,
    closing_max: usize,
}

impl Refusals {
    /// None yet. At most `closing_max` sockets linger; further ones are closed at once, so that a flood holds
    /// no descriptors.
    pub fn new(closing_max: usize) -> Self {
        Self { closing: Arc::new(Semaphore::new(closing_max)), closing_max }
    }

    /// Writes a response. The returned future closes the socket within a second, so that the client can read
    /// it.
    pub fn tell(&self, socket: TcpStream, answer: &[u8]) -> Option<impl Future<Output = ()> + Send + use<>> {
        // Fits into the empty buffer of a new socket, so it never blocks.
        socket.try_write(answer).ok()?;
        let permit = self.closing.clone().try_acquire_owned().ok()?;
        Some(async move {
            linger(socket).await;
            drop(permit);
        })
    }

    /// Whether some sockets are still closing.
    pub fn are_being_sent(&self) -> bool {
        self.closing.available_permits() < self.closing_max
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [Refused; 7] = [
        Refused::AddressCapacity,
        Refused::AddressHandshakes,
        Refused::AddressRate,
        Refused::Capacity,
        Refused::Draining,
        Refused::Handshakes,
        Refused::Rate,
    ];

    #[test]
    fn a_refusal_is_a_complete_answer_of_its_own() {
        let mut bodies = std::collections::BTreeSet::new();
        for reason in ALL {
            let answer = Refusal { reason, retry_after: 7 }.answer();
            let (head, body) = answer.split_once("\r\n\r\n").expect("a head and a body");
            assert!(head.ends_with(&format!("Content-Length: {}", body.len())), "{head}");
            assert!(head.contains("\r\nRetry-After: 7\r\n") && head.contains("\r\nConnection: close\r\n"));
            bodies.insert(body.to_owned());
        }
        assert_eq!(bodies.len(), ALL.len());
    }

    fn admission(config: &str) -> Arc<Admission> {
        let config = Config::parse(config, "test.toml").expect("valid");
        Arc::new(Admission::new(&config, Clock::start()))
    }

    fn address(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn connections_of_a_network_of_a_customer_are_counted_together() {
        let admission = admission("limits.connections_per_address_max = 2");
        let connect = |text| admission.connect(address(text)).map_err(|refusal| refusal.reason);
        let first = connect("2001:db8::1").expect("a place");
        let _second = connect("2001:db8::ffff:2").expect("a place");
        assert_eq!(connect("2001:db8:0:0:1::").expect_err("no place"), Refused::AddressCapacity);
        let _neighbour = connect("2001:db8:0:1::1").expect("a place");
        drop(first);
        let _third = connect("2001:db8::3").expect("a place again");
        let _v4 = connect("192.0.2.1").expect("a place");
        let _mapped = connect("::ffff:192.0.2.1").expect("a place");
        assert_eq!(connect("192.0.2.1").expect_err("no place"), Refused::AddressCapacity);
    }

    #[test]
    fn a_proxy_is_not_counted_for_its_clients() {
        let admission = admission(
            "listen.trusted_proxies = ['192.0.2.0/24']\n\
             limits = { handshakes_per_address_max = 1, connection_rate_per_address = 1, connection_burst_per_address = 2 }",
        );
        let proxy = address("192.0.2.7");
        let arrivals: Vec<_> = (0..10).map(|_| admission.arrive(proxy).expect("a place")).collect();
        for (n, arrival) in arrivals[..5].iter().enumerate() {
            let client = IpAddr::from([198, 51, 100, n as u8]);
            admission.identify(&arrival.slot, client).expect("a client of its own");
            arrival.slot.serve();
        }
        let again = admission.identify(&arrivals[5].slot, address("198.51.100.0"));
        assert_eq!(again.map_err(|refusal| refusal.reason), Err(Refused::AddressHandshakes));
        let again = admission.identify(&arrivals[6].slot, address("198.51.100.0"));
        assert_eq!(again, Err(Refusal { reason: Refused::AddressRate, retry_after: 1 }));
    }
}
