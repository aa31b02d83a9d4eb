//! Ports for servers that are stopped and started again.

use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};

/// Below the ports that systems give to outgoing connections: while a server is down, none of them takes its
/// place.
const FIRST: u16 = 10_000;
const COUNT: u16 = 22_000;

/// An address on loopback where nobody listens.
pub fn free_address() -> SocketAddr {
    for _ in 0..1000 {
        let random = RandomState::new().build_hasher().finish() % u64::from(COUNT);
        let port = FIRST + u16::try_from(random).expect("less than the count");
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        if TcpListener::bind(address).is_ok() {
            return address;
        }
    }
    panic!("no port of {FIRST} to {} is free", FIRST + COUNT)
}
