//! Addresses: of clients in PROXY headers, and of receivers, which are the names of channels.

use std::net::IpAddr;

use gateway::protocol::Encoding;
use gateway::protocol::channel::{CHANNEL_BYTES_MAX, Channel, Target};
use gateway::protocol::command::{Command, Request};
use gateway::transport::proxy::{self, BYTES_MAX, Preamble, Whom};

use super::commands::read;
use super::encode::{json_of, protobuf_of};

pub(super) fn proxy(data: &[u8]) {
    let _ = proxy::parse(data);
}

pub(super) fn check_proxy(data: &[u8]) {
    let Ok(Preamble::Header { length, whom }) = proxy::parse(data) else {
        // More bytes make no header of what is none.
        if proxy::parse(data) == Ok(Preamble::Absent) {
            assert_eq!(proxy::parse(&[data, b"\r\n"].concat()), Ok(Preamble::Absent));
        }
        assert!(proxy::parse(data) != Ok(Preamble::Partial) || data.len() < BYTES_MAX, "it ends somewhere");
        return;
    };
    assert!(length <= data.len() && length <= BYTES_MAX, "a header of {length} bytes in {}", data.len());
    assert_eq!(proxy::parse(&data[..length]), Ok(Preamble::Header { length, whom }), "without what follows");
    assert_eq!(proxy::parse(&data[..length - 1]), Ok(Preamble::Partial), "without its last byte");
    if let Whom::Client(address) = whom {
        for header in [line(address), binary(address)] {
            let again = Preamble::Header { length: header.len(), whom };
            assert_eq!(proxy::parse(&header), Ok(again), "{header:?}");
        }
    }
}

/// A header of version 1.
fn line(address: IpAddr) -> Vec<u8> {
    let (family, server) = if address.is_ipv4() { ("TCP4", "192.0.2.1") } else { ("TCP6", "::1") };
    format!("PROXY {family} {address} {server} 1 65535\r\n").into_bytes()
}

/// A header of version 2.
fn binary(address: IpAddr) -> Vec<u8> {
    let (family, client) = match address {
        IpAddr::V4(address) => (0x11, address.octets().to_vec()),
        IpAddr::V6(address) => (0x21, address.octets().to_vec()),
    };
    // The address of the server, and two ports.
    let rest = vec![0; client.len() + 4];
    let size = (client.len() + rest.len()) as u16;
    [&b"\r\n\r\n\0\r\nQUIT\n\x21"[..], &[family], &size.to_be_bytes(), &client, &rest].concat()
}

pub(super) fn channel(data: &[u8]) {
    if let Ok(name) = std::str::from_utf8(data) {
        let _ = Channel::parse(name);
    }
}

pub(super) fn check_channel(data: &[u8]) {
    let Ok(name) = std::str::from_utf8(data) else { return };
    let Ok(channel) = Channel::parse(name) else { return };
    assert_eq!(channel.as_str(), name);
    assert!((1..=CHANNEL_BYTES_MAX).contains(&name.len()));
    assert!(!name.chars().any(char::is_control), "it stands in lines and in keys");
    match channel.target() {
        Target::Channel => {
            assert!(name.bytes().all(|byte| byte.is_ascii_graphic() && !b"\"\\*{}".contains(&byte)));
            assert!(channel.is_covered_by("*") && !channel.is_covered_by("#*"));
        }
        Target::User(user) => {
            assert_eq!(Channel::of_user(user).as_ref(), Some(&channel));
            assert!(channel.is_covered_by("#*") && !channel.is_covered_by("*"));
        }
        Target::Connection(id) => {
            assert_eq!(name, format!("@{id}"));
            assert!(channel.is_covered_by("@*") && !channel.is_covered_by("*"));
        }
    }
    assert!(channel.is_covered_by(name));
    if let Some(namespace) = channel.namespace() {
        assert!(name.starts_with(&format!("{namespace}:")) && !namespace.contains(':'));
        assert!(channel.is_covered_by(&format!("{namespace}:*")));
    }
    let command = Command { id: 1, request: Request::Presence { channel: Ok(channel) } };
    let json = json_of(&command).expect("a name in JSON");
    let protobuf = protobuf_of(&command).expect("a name in Protobuf");
    assert_eq!(read(Encoding::Json, &json), [Ok(command.clone())]);
    assert_eq!(read(Encoding::Protobuf, &protobuf), [Ok(command)]);
}
