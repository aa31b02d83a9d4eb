//! Which addresses of the network are counted as one client.

use std::net::{IpAddr, Ipv6Addr};

/// The address that caps, rates and limits count for: an IPv4 address by itself; of an IPv6 address the first
/// 64 bits, because a customer of a provider has a whole network of that size. An IPv4 address inside an IPv6
/// address is that IPv4 address.
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
