//! Headers and URLs of handshakes.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::OnceLock;

use bytes::Bytes;
use gateway::config::{Config, Proxies};
use gateway::protocol::Encoding;
use gateway::protocol::codec::{Commands, Inbound};
use gateway::protocol::deflate::Window;
use gateway::transport::forwarded::client;
use gateway::transport::handshake::connect_parameter;
use gateway::transport::websocket::deflate::{Agreed, agree};

use super::commands::{self, COMMANDS_MAX};

/// Bytes of the head of a request that the library reads at most.
const HEAD_BYTES_MAX: usize = 8192;

/// Lines of a header, as far as a request may have them.
fn lines(data: &[u8]) -> impl DoubleEndedIterator<Item = &[u8]> + Clone {
    data[..data.len().min(HEAD_BYTES_MAX)].split(|byte| *byte == b'\n')
}

/// Offers of extensions of WebSocket, in lines.
pub(super) fn offers(data: &[u8]) {
    let _ = agree(lines(data));
}

pub(super) fn check_offers(data: &[u8]) {
    let Some(Agreed { window, answer }) = agree(lines(data)) else { return };
    assert!(data.windows(18).any(|part| part == b"permessage-deflate"), "only what was offered is accepted");
    assert!(answer.contains("server_no_context_takeover") && answer.contains("client_no_context_takeover"));
    let is_small = answer.ends_with("server_max_window_bits=9");
    assert_eq!(is_small, window == Window::Small);
    // What is answered could have been offered.
    let again = agree(std::iter::once(answer.as_bytes())).expect("an answer in the words of an offer");
    assert_eq!(again.window, window);
}

/// The query of a URL with the first message of a client.
pub(super) fn connect(data: &[u8]) {
    let Ok(query) = std::str::from_utf8(data) else { return };
    let Some(message) = connect_parameter(query) else { return };
    let data = Bytes::from(message.into_owned());
    let mut commands = Commands::of(Encoding::Json, Inbound { data, binary: false });
    while let Some(Ok(_)) = commands.next(COMMANDS_MAX) {}
}

pub(super) fn check_connect(data: &[u8]) {
    let Ok(query) = std::str::from_utf8(data) else { return };
    if let Some(message) = connect_parameter(query) {
        commands::check(Encoding::Json, message.as_bytes());
        let encoded: String = message.bytes().map(|byte| format!("%{byte:02x}")).collect();
        for around in [("", ""), ("a=b&", "&cf_connect=another")] {
            let again = format!("{}cf_connect={encoded}{}", around.0, around.1);
            assert_eq!(connect_parameter(&again).as_deref(), Some(&*message), "{again}");
        }
    }
}

/// Clients of a proxy at 10.0.0.1: lines of `Forwarded`, an empty line, and lines of `X-Forwarded-For`.
pub(super) fn forwarded(data: &[u8]) {
    let _ = named_by(proxy(), data);
}

fn proxy() -> IpAddr {
    Ipv4Addr::new(10, 0, 0, 1).into()
}

fn proxies() -> &'static Proxies {
    static PROXIES: OnceLock<Proxies> = OnceLock::new();
    PROXIES.get_or_init(|| {
        let text = "listen.trusted_proxies = ['10.0.0.0/8', 'fd00::/8']\n\
                    listen.client_address_from = ['forwarded', 'x-forwarded-for']";
        Config::parse(text, "hostile headers").expect("a valid configuration").listen.proxies
    })
}

fn named_by(hop: IpAddr, data: &[u8]) -> Option<IpAddr> {
    let data = &data[..data.len().min(HEAD_BYTES_MAX)];
    let end = data.windows(2).position(|pair| pair == b"\n\n").unwrap_or(data.len());
    let (one, other) = data.split_at(end);
    let other = other.strip_prefix(b"\n\n").unwrap_or_default();
    let some = |line: &&[u8]| !line.is_empty();
    client(proxies(), hop, lines(one).filter(some), lines(other).filter(some)).ok()
}

pub(super) fn check_forwarded(data: &[u8]) {
    // What a client says of itself counts for nothing.
    let stranger = IpAddr::from([192, 0, 2, 7]);
    assert_eq!(named_by(stranger, data), Some(stranger));
    let Some(named) = named_by(proxy(), data) else { return };
    // Said once more by the proxy alone, it is the same.
    for said in [format!("for=\"[{named}]\""), format!("\n\n{named}")] {
        let said = if named.is_ipv4() { said.replace(['[', ']'], "") } else { said };
        assert_eq!(named_by(proxy(), said.as_bytes()), Some(named), "{said:?}");
    }
}
