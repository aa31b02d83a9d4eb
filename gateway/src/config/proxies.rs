//! [`Proxies`] decides which proxies may state the address of a client, and how they do it.

use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use toml::Spanned;
use toml::de::DeValue;

use super::read::{Invalid, Section, found};
use super::resolve::all;

const NETWORKS_MAX: usize = 256;
const NETWORKS: &str = r#"a list of at most 256 addresses and networks such as ["10.0.0.0/8", "192.0.2.7"]"#;
const TELLS: &str = r#"a list of "proxy-protocol", "forwarded" and "x-forwarded-for""#;

/// The trusted proxies.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Proxies {
    /// Their addresses. An IPv4 address inside an IPv6 address is stored as IPv4.
    pub networks: Arc<[IpNet]>,
    /// How they state the address of a client.
    pub tell: Arc<[Tell]>,
}

/// A way to state the address of a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tell {
    /// A PROXY header, version 1 or 2, before the request.
    ProxyProtocol,
    /// The header `Forwarded` (RFC 7239).
    Forwarded,
    /// The header `X-Forwarded-For`.
    XForwardedFor,
}

impl Proxies {
    /// Whether this address may state addresses of clients.
    pub fn trust(&self, address: IpAddr) -> bool {
        // Without networks there is nothing to look up.
        !self.networks.is_empty() && {
            let address = address.to_canonical();
            self.networks.iter().any(|network| network.contains(&address))
        }
    }

    /// Whether the proxies use this way.
    pub fn tell(&self, tell: Tell) -> bool {
        self.tell.contains(&tell)
    }
}

/// Reads the keys of `listen`.
pub(super) fn proxies(section: &Section<'_, '_>) -> Proxies {
    Proxies {
        networks: section.value("trusted_proxies", |value| list(value, NETWORKS, network)).into(),
        tell: section.value("client_address_from", |value| list(value, TELLS, tell)).into(),
    }
}

fn list<T>(
    value: &Spanned<DeValue<'_>>,
    accepted: &str,
    read: impl Fn(&str) -> Result<T, &'static str>,
) -> Result<Vec<T>, Vec<Invalid>> {
    let invalid = |span, found, accepted: &str| Invalid { span, found, accepted: accepted.to_owned() };
    let Some(list) = value.get_ref().as_array() else {
        return Err(vec![invalid(None, found(value.get_ref()), accepted)]);
    };
    if list.len() > NETWORKS_MAX {
        return Err(vec![invalid(None, format!("{} entries", list.len()), accepted)]);
    }
    let entry = |entry: &Spanned<DeValue<'_>>| {
        let refuse = |accepted: &str| invalid(Some(entry.span()), found(entry.get_ref()), accepted);
        read(entry.get_ref().as_str().ok_or_else(|| refuse(accepted))?).map_err(refuse)
    };
    all(list.iter().map(entry))
}

fn network(text: &str) -> Result<IpNet, &'static str> {
    const SHAPE: &str = "an address or a network such as \"10.0.0.0/8\"";
    let network = match text.parse::<IpAddr>() {
        Ok(address) => IpNet::from(address),
        Err(_) => text.parse().map_err(|_| SHAPE)?,
    };
    if network.addr() != network.network() {
        return Err("a network whose address has no bits behind its prefix, or an address alone");
    }
    // An IPv4 address inside an IPv6 address is treated as that IPv4 address wherever it is compared.
    let (inner, prefix) = (network.addr().to_canonical(), network.prefix_len());
    if inner.is_ipv6() || network.addr().is_ipv4() {
        return Ok(network);
    }
    prefix.checked_sub(96).and_then(|prefix| IpNet::new(inner, prefix).ok()).ok_or(SHAPE)
}

fn tell(text: &str) -> Result<Tell, &'static str> {
    match text {
        "proxy-protocol" => Ok(Tell::ProxyProtocol),
        "forwarded" => Ok(Tell::Forwarded),
        "x-forwarded-for" => Ok(Tell::XForwardedFor),
        _ => Err(r#""proxy-protocol", "forwarded" or "x-forwarded-for""#),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_is_an_address_or_a_prefix() {
        for (text, read) in [
            ("10.0.0.0/8", "10.0.0.0/8"),
            ("192.0.2.7", "192.0.2.7/32"),
            ("0.0.0.0/0", "0.0.0.0/0"),
            ("2001:db8::/32", "2001:db8::/32"),
            ("::1", "::1/128"),
            ("::ffff:192.0.2.0/120", "192.0.2.0/24"),
        ] {
            assert_eq!(network(text).map(|network| network.to_string()).as_deref(), Ok(read), "{text}");
        }
        for text in
            ["", "localhost", "10.0.0.1/8", "10.0.0.0/33", "10/8", "2001:db8::1/32", "[::1]", "10.0.0.0/"]
        {
            assert!(network(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn an_address_is_trusted_in_either_form() {
        let networks = ["192.0.2.0/24", "2001:db8::/64"].map(|text| network(text).expect("a network")).into();
        let proxies = Proxies { networks, tell: Arc::default() };
        for (address, trusted) in [
            ("192.0.2.255", true),
            ("::ffff:192.0.2.1", true),
            ("192.0.3.0", false),
            ("2001:db8::1", true),
            ("2001:db8:0:1::", false),
        ] {
            assert_eq!(proxies.trust(address.parse().expect("an address")), trusted, "{address}");
        }
        assert!(!Proxies::default().trust(IpAddr::from([127, 0, 0, 1])));
    }
}
