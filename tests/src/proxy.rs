//! A network between one client and one server that can be cut, frozen and slowed down.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, sleep, sleep_until};

use crate::port::free_address;

/// Chunks on their way in one direction; a sender waits above it.
const IN_FLIGHT_MAX: usize = 1024;

/// Listens on loopback and passes on what comes. Ends when dropped.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    network: watch::Sender<Network>,
    task: JoinHandle<()>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Network {
    /// Bytes arrive after this time.
    Open(Duration),
    /// Connections stay, bytes do not arrive until this ends.
    Frozen,
    /// Bytes of clients arrive, those of the server do not until this ends.
    Mute,
    /// Connections were reset, new ones are refused.
    Cut,
}

impl Proxy {
    /// Starts in front of a server.
    pub async fn to(server: SocketAddr) -> Self {
        let address = free_address();
        let (network, mut seen) = watch::channel(Network::Open(Duration::ZERO));
        let mut listener = Some(listen(address).await);
        let task = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                if *seen.borrow_and_update() == Network::Cut {
                    listener = None;
                    connections.shutdown().await;
                } else if listener.is_none() {
                    listener = Some(listen(address).await);
                }
                tokio::select! {
                    changed = seen.changed() => if changed.is_err() { return },
                    Some(client) = accept(listener.as_ref()) => {
                        connections.spawn(connection(client, server, seen.clone()));
                    }
                    Some(_) = connections.join_next() => (),
                }
            }
        });
        Self { address, network, task }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Resets every connection and refuses new ones.
    pub fn cut(&self) {
        self.network.send_replace(Network::Cut);
    }

    /// Lets nothing through: connections stay open and new ones are accepted. What was sent arrives when it
    /// heals.
    pub fn freeze(&self) {
        self.network.send_replace(Network::Frozen);
    }

    /// Lets questions through and holds the answers back: they are lost if the client goes before this heals.
    pub fn mute(&self) {
        self.network.send_replace(Network::Mute);
    }

    /// Lets a question and its answer take longer, together by this much.
    pub fn delay(&self, round_trip: Duration) {
        self.network.send_replace(Network::Open(round_trip / 2));
    }

    /// Lets everything through at once.
    pub fn heal(&self) {
        self.network.send_replace(Network::Open(Duration::ZERO));
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn listen(address: SocketAddr) -> TcpListener {
    // Connections of before may linger at the address.
    for _ in 0..100 {
        let socket = TcpSocket::new_v4().expect("a socket can be made");
        socket.set_reuseaddr(true).expect("TCP has this option");
        if socket.bind(address).is_ok() {
            return socket.listen(1024).expect("a bound socket can listen");
        }
        sleep(Duration::from_millis(10)).await;
    }
    panic!("{address} was taken while the proxy did not listen")
}

async fn accept(listener: Option<&TcpListener>) -> Option<TcpStream> {
    listener?.accept().await.ok().map(|(stream, _)| stream)
}

/// Until one side ends, which ends the other. Dropped connections are reset: nobody takes it for an orderly
/// end.
async fn connection(client: TcpStream, server: SocketAddr, mut network: watch::Receiver<Network>) {
    let _ = network.wait_for(|network| *network != Network::Frozen).await;
    let Ok(server) = TcpStream::connect(server).await else { return };
    for stream in [&client, &server] {
        let _ = stream.set_nodelay(true);
        let _ = stream.set_zero_linger();
    }
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    tokio::select! {
        () = pass(from_client, to_server, network.clone(), &[Network::Frozen]) => (),
        () = pass(from_server, to_client, network, &[Network::Frozen, Network::Mute]) => (),
    }
}

/// Nothing passes while the network is one of `closed`.
async fn pass(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut network: watch::Receiver<Network>,
    closed: &[Network],
) {
    let (sender, mut on_the_way) = mpsc::channel::<(Instant, Bytes)>(IN_FLIGHT_MAX);
    let seen = network.clone();
    let reading = async move {
        let mut buffer = vec![0; 64 << 10];
        while let Ok(count @ 1..) = from.read(&mut buffer).await {
            let delay = match *seen.borrow() {
                Network::Open(delay) => delay,
                Network::Frozen | Network::Mute | Network::Cut => Duration::ZERO,
            };
            if sender.send((Instant::now() + delay, Bytes::copy_from_slice(&buffer[..count]))).await.is_err()
            {
                return;
            }
        }
    };
    let writing = async move {
        while let Some((due, bytes)) = on_the_way.recv().await {
            sleep_until(due).await;
            let _ = network.wait_for(|network| !closed.contains(network)).await;
            if to.write_all(&bytes).await.is_err() {
                return;
            }
        }
    };
    tokio::join!(reading, writing);
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "an unmet expectation is a failed test")]
mod tests {
    use super::*;
    use crate::wait::within;

    /// Answers every byte with itself.
    async fn echo() -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let (mut from, mut to) = stream.split();
                    tokio::io::copy(&mut from, &mut to).await
                });
            }
        });
        address
    }

    async fn ask(stream: &mut TcpStream) -> std::io::Result<u8> {
        stream.write_u8(7).await?;
        within("the answer, or the end", stream.read_u8()).await
    }

    #[tokio::test]
    async fn a_network_fails_in_every_way_and_heals() {
        let proxy = Proxy::to(echo().await).await;
        let connect = || TcpStream::connect(proxy.address());
        let mut stream = connect().await.unwrap();
        assert_eq!(ask(&mut stream).await.unwrap(), 7);

        proxy.delay(Duration::from_millis(200));
        let begin = Instant::now();
        assert_eq!(ask(&mut stream).await.unwrap(), 7);
        assert!((200..1000).contains(&begin.elapsed().as_millis()), "{:?}", begin.elapsed());

        proxy.freeze();
        stream.write_u8(8).await.unwrap();
        let mut late = connect().await.unwrap();
        late.write_u8(9).await.unwrap();
        let silent = tokio::time::timeout(Duration::from_millis(100), stream.read_u8()).await;
        assert!(silent.is_err(), "{silent:?}");
        proxy.heal();
        assert_eq!(within("what was sent before", stream.read_u8()).await.unwrap(), 8);
        assert_eq!(within("what was sent before", late.read_u8()).await.unwrap(), 9);

        proxy.mute();
        stream.write_u8(10).await.unwrap();
        let silent = tokio::time::timeout(Duration::from_millis(100), stream.read_u8()).await;
        assert!(silent.is_err(), "{silent:?}");
        proxy.heal();
        assert_eq!(within("the answer that was held back", stream.read_u8()).await.unwrap(), 10);

        proxy.cut();
        within("the reset", stream.read_u8()).await.unwrap_err();
        within("a refusal", async { while connect().await.is_ok() {} }).await;
        proxy.heal();
        let again = crate::wait::eventually("the proxy to listen again", async || connect().await.ok());
        assert_eq!(ask(&mut again.await).await.unwrap(), 7);
    }
}
