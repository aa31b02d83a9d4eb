//! Groups network addresses that count as one client.

use std::net::{IpAddr, Ipv6Addr};

/// The address to which limits and rates apply: an IPv4 address itself, or the first 64 bits of an IPv6
/// address, because a provider gives each customer a network of that size. An IPv4 address inside an IPv6
/// address counts as the IPv4 address.
///
/// ```
/// # use gateway_plugin_grammar::source::source;
/// # use std::net::IpAddr;
/// let read = |text: &str| text.parse::<IpAddr>().unwrap();
/// assert_eq!(source(read("2001:db8:1:2:3:4:5:6")), read("2001:db8:1:2::"));
/// ```
pub fn source(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => address.into(),
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX)).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_of_a_customer_is_one_source() {
        for (address, counted) in [
            ("192.0.2.1", "192.0.2.1"),
            ("::ffff:192.0.2.1", "192.0.2.1"),
            ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::"),
            ("2001:db8:1:2::", "2001:db8:1:2::"),
            ("2001:db8:1:3::1", "2001:db8:1:3::"),
            ("::1", "::"),
        ] {
            let read = |text: &str| text.parse::<IpAddr>().expect("an address");
            assert_eq!(source(read(address)), read(counted));
        }
    }
}
