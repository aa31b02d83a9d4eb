//! [`client`] finds the address of a client behind proxies in the headers `Forwarded` (RFC 7239) and
//! `X-Forwarded-For`.
//!
//! Each proxy appends the address that its connection came from, so addresses are read from the right. An
//! entry is as trustworthy as the hop to its right, and the first address that is not a trusted proxy is the
//! client. The client itself wrote everything further left, so that is ignored.

use std::net::{IpAddr, SocketAddr};

use crate::config::{Proxies, Tell};

/// Why the client cannot be identified.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unclear {
    /// A trusted proxy has sent an entry that is not an address.
    Malformed,
    /// Both headers are present and name different clients. A proxy sets one of them; the other may come from
    /// the client.
    Disagree,
}

impl Unclear {
    /// The text for the client.
    pub fn message(self) -> &'static str {
        match self {
            Self::Malformed => {
                "a proxy names something in `Forwarded` or `X-Forwarded-For` that is no address\n"
            }
            Self::Disagree => {
                "`Forwarded` and `X-Forwarded-For` name different clients: in `listen.client_address_from` the operator says \
                 which of the two headers the proxy sets\n"
            }
        }
    }
}

/// The client behind `hop`, which sent a request with these headers, given line by line in their order. It is
/// the hop itself if that is not trusted or names no client.
///
/// # Errors
///
/// If a trusted proxy names the client in a way that cannot be understood.
pub fn client<'h, F, X>(proxies: &Proxies, hop: IpAddr, forwarded: F, for_lines: X) -> Result<IpAddr, Unclear>
where
    F: DoubleEndedIterator<Item = &'h [u8]>,
    X: DoubleEndedIterator<Item = &'h [u8]>,
{
    if !proxies.trust(hop) {
        return Ok(hop);
    }
    let forwarded = match proxies.tell(Tell::Forwarded) {
        true => walk(proxies, hop, forwarded.rev().map(elements))?,
        false => None,
    };
    let for_lines = match proxies.tell(Tell::XForwardedFor) {
        true => walk(proxies, hop, for_lines.rev().map(|line| Ok(items(line))))?,
        false => None,
    };
    match (forwarded, for_lines) {
        (Some(one), Some(other)) if one != other => Err(Unclear::Disagree),
        (Some(client), _) | (None, Some(client)) => Ok(client),
        (None, None) => Ok(hop),
    }
}

/// An entry for a client; `None` if the proxy gives no name.
type Name<'h> = Option<&'h [u8]>;

/// Follows the hops through lines, the last one first. `None` if there is no entry.
fn walk<'h>(
    proxies: &Proxies,
    mut hop: IpAddr,
    lines: impl Iterator<Item = Result<Vec<Name<'h>>, Unclear>>,
) -> Result<Option<IpAddr>, Unclear> {
    let mut named = false;
    for line in lines {
        for name in line?.into_iter().rev() {
            named = true;
            match name.map(node).transpose()?.flatten() {
                Some(address) => hop = address,
                // The hop does not name its client.
                None => return Ok(Some(hop)),
            }
            if !proxies.trust(hop) {
                return Ok(Some(hop));
            }
        }
    }
    Ok(named.then_some(hop))
}

/// The items of a line of `X-Forwarded-For`.
fn items(line: &[u8]) -> Vec<Name<'_>> {
    line.split(|b| *b == b',').map(<[u8]>::trim_ascii).filter(|item| !item.is_empty()).map(Some).collect()
}

/// The values of `for=` in the elements of a line of `Forwarded`, without quotes.
fn elements(line: &[u8]) -> Result<Vec<Name<'_>>, Unclear> {
    let mut names = Vec::new();
    let mut rest = line.trim_ascii();
    while !rest.is_empty() {
        let mut name = None;
        let mut pairs = 0;
        loop {
            rest = rest.trim_ascii_start();
            if !matches!(rest.first(), None | Some(b',' | b';')) {
                let (key, value) = pair(&mut rest)?;
                pairs += 1;
                if key.eq_ignore_ascii_case(b"for") && name.replace(value).is_some() {
                    return Err(Unclear::Malformed);
                }
            }
            match rest.split_first() {
                Some((b';', after)) => rest = after,
                Some((b',', after)) => {
                    rest = after;
                    break;
                }
                None => break,
                Some(_) => return Err(Unclear::Malformed),
            }
        }
        // An empty element does not count.
        if pairs > 0 {
            names.push(name);
        }
    }
    Ok(names)
}

/// Takes `KEY=VALUE` and the following blanks from the beginning of `rest`.
fn pair<'h>(rest: &mut &'h [u8]) -> Result<(&'h [u8], &'h [u8]), Unclear> {
    let equals = rest.iter().position(|b| b"=,;\" ".contains(b)).ok_or(Unclear::Malformed)?;
    let (key, value) = rest.split_at(equals);
    let value = value.strip_prefix(b"=").ok_or(Unclear::Malformed)?;
    let (value, after) = match value.strip_prefix(b"\"") {
        Some(quoted) => {
            // No address contains a quote or a backslash: an escaped one does not end the value, and needs no
            // unescaping.
            let mut escaped = false;
            let end = quoted.iter().position(|b| match (escaped, b) {
                (false, b'"') => true,
                (before, b) => {
                    escaped = !before && *b == b'\\';
                    false
                }
            });
            let end = end.ok_or(Unclear::Malformed)?;
            (&quoted[..end], &quoted[end + 1..])
        }
        None => {
            let end = value.iter().position(|b| b",;\" \t".contains(b)).unwrap_or(value.len());
            value.split_at(end)
        }
    };
    *rest = after.trim_ascii_start();
    Ok((key, value))
}

/// The address of a node (RFC 7239, 6), with or without a port. `None` for a node without an address.
fn node(name: &[u8]) -> Result<Option<IpAddr>, Unclear> {
    let name = std::str::from_utf8(name).map_err(|_| Unclear::Malformed)?;
    if name.eq_ignore_ascii_case("unknown") || name.starts_with('_') || name.starts_with("unix:") {
        return Ok(None);
    }
    let bracketed = |name: &str| name.strip_prefix('[')?.strip_suffix(']')?.parse().map(IpAddr::V6).ok();
    let alone = |name: &str| bracketed(name).or_else(|| name.parse().ok());
    let address = alone(name).or_else(|| name.parse::<SocketAddr>().ok().map(|address| address.ip()));
    // A port may be an obfuscated identifier.
    let hidden = || alone(name.split_once(":_").filter(|(_, port)| !port.is_empty())?.0);
    address.or_else(hidden).map(|address| Some(address.to_canonical())).ok_or(Unclear::Malformed)
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOTH: [Tell; 2] = [Tell::Forwarded, Tell::XForwardedFor];

    fn find(tell: &[Tell], forwarded: &[&str], for_lines: &[&str]) -> Result<String, Unclear> {
        let networks = ["10.0.0.0/8", "2001:db8:ffff::/48"].map(|text| text.parse().expect("a network"));
        let proxies = Proxies { networks: networks.into(), tell: tell.into() };
        let hop = IpAddr::from([10, 0, 0, 1]);
        client(
            &proxies,
            hop,
            forwarded.iter().map(|line| line.as_bytes()),
            for_lines.iter().map(|line| line.as_bytes()),
        )
        .map(|address| address.to_string())
    }

    #[track_caller]
    fn for_lines(lines: &[&str], expected: &str) {
        assert_eq!(find(&BOTH, &[], lines).as_deref(), Ok(expected), "{lines:?}");
    }

    #[track_caller]
    fn forwarded(lines: &[&str], expected: &str) {
        assert_eq!(find(&BOTH, lines, &[]).as_deref(), Ok(expected), "{lines:?}");
    }

    #[test]
    fn the_first_from_the_right_that_is_not_trusted_is_the_client() {
        for_lines(&["192.0.2.1"], "192.0.2.1");
        for_lines(&["6.6.6.6, 192.0.2.1"], "192.0.2.1");
        for_lines(&["6.6.6.6, 192.0.2.1, 10.0.0.2,10.9.9.9"], "192.0.2.1");
        for_lines(&["6.6.6.6", "192.0.2.1"], "192.0.2.1");
        for_lines(&["10.0.0.3, 192.0.2.1", "10.0.0.2"], "192.0.2.1");
        for_lines(&["10.0.0.3, 10.0.0.2"], "10.0.0.3");
        for_lines(&["::ffff:10.0.0.2, 2001:db8:ffff::2"], "10.0.0.2");
        for_lines(&[], "10.0.0.1");
        for_lines(&["", " , ", "192.0.2.1, ,"], "192.0.2.1");
    }

    #[test]
    fn what_a_client_has_written_changes_nothing() {
        for lies in
            ["nonsense", "10.0.0.9", "::1", "\u{fffd}", "unknown", "6.6.6.6, 10.0.0.1", "\"", "for=", ",,,"]
        {
            for_lines(&[&format!("{lies}, 192.0.2.1")], "192.0.2.1");
            for_lines(&[lies, "192.0.2.1"], "192.0.2.1");
            forwarded(&[lies, "for=192.0.2.1"], "192.0.2.1");
        }
    }

    #[test]
    fn an_address_is_understood_in_every_form() {
        for (name, address) in [
            ("192.0.2.1:47011", "192.0.2.1"),
            ("2001:db8::1", "2001:db8::1"),
            ("[2001:db8::1]", "2001:db8::1"),
            ("[2001:DB8::1]:80", "2001:db8::1"),
            ("[2001:db8::1]:_port", "2001:db8::1"),
            ("::ffff:192.0.2.1", "192.0.2.1"),
            ("192.0.2.1:_x", "192.0.2.1"),
        ] {
            for_lines(&[name], address);
            forwarded(&[&format!("for=\"{name}\"")], address);
        }
    }

    #[test]
    fn a_hop_that_does_not_say_whom_it_speaks_for_is_the_client() {
        for name in ["unknown", "Unknown", "_hidden", "unix:"] {
            for_lines(&[&format!("192.0.2.1, {name}")], "10.0.0.1");
            for_lines(&[&format!("192.0.2.1, {name}, 10.0.0.2")], "10.0.0.2");
            forwarded(&[&format!("for=192.0.2.1, for={name}")], "10.0.0.1");
        }
        forwarded(&["for=192.0.2.1, proto=https"], "10.0.0.1");
    }

    #[test]
    fn elements_have_pairs_and_quotes() {
        forwarded(&["for=192.0.2.1"], "192.0.2.1");
        forwarded(&["For=192.0.2.1;proto=http;by=203.0.113.43"], "192.0.2.1");
        forwarded(&["proto=http ; FOR=\"192.0.2.1\" ; host=\"a, for=6.6.6.6\""], "192.0.2.1");
        forwarded(&["for=6.6.6.6, for=\"[2001:db8:cafe::17]:4711\""], "2001:db8:cafe::17");
        forwarded(&["for=192.0.2.1, for=10.0.0.7;by=10.0.0.1"], "192.0.2.1");
        forwarded(&["for=6.6.6.6;x=\"\\\", for=7.7.7.7\", for=192.0.2.1"], "192.0.2.1");
        forwarded(&[", for=192.0.2.1,"], "192.0.2.1");
    }

    #[test]
    fn a_quote_that_a_client_leaves_open_does_not_swallow_what_a_proxy_appends() {
        for line in [
            "for=\"6.6.6.6, for=192.0.2.1",
            "for=6.6.6.6;x=\"a, for=192.0.2.1",
            "for=\"6.6.6.6, for=\"[2001:db8::1]:80\"",
            "for=6.6.6.6;by=\"\\, for=\"192.0.2.1\"",
        ] {
            assert_eq!(find(&BOTH, &[line], &[]), Err(Unclear::Malformed), "{line}");
        }
    }

    #[test]
    fn what_is_no_address_is_unclear() {
        for name in [
            "nonsense",
            "192.0.2.256",
            "192.0.2.1:99999",
            "[192.0.2.1]",
            "[::1",
            "fe80::1%eth0",
            "192.0.2.1 x",
            ":_x",
        ] {
            assert_eq!(find(&BOTH, &[], &[name]), Err(Unclear::Malformed), "{name}");
        }
        for line in [
            "for",
            "for=1.1.1.1;for=2.2.2.2",
            "=1.1.1.1, x",
            "for=1.1.1.1 for=2.2.2.2",
            "192.0.2.1",
            "for=\"\"",
        ] {
            assert_eq!(find(&BOTH, &[line], &[]), Err(Unclear::Malformed), "{line}");
        }
    }

    #[test]
    fn both_headers_have_to_agree_unless_one_is_left_out() {
        let (one, other) = (&["for=192.0.2.1"][..], &["6.6.6.6"][..]);
        assert_eq!(find(&BOTH, one, &["7.7.7.7, 192.0.2.1"]).as_deref(), Ok("192.0.2.1"));
        assert_eq!(find(&BOTH, one, other), Err(Unclear::Disagree));
        assert_eq!(find(&[Tell::Forwarded], one, other).as_deref(), Ok("192.0.2.1"));
        assert_eq!(find(&[Tell::XForwardedFor], one, other).as_deref(), Ok("6.6.6.6"));
        assert_eq!(find(&[Tell::ProxyProtocol], one, other).as_deref(), Ok("10.0.0.1"));
    }
}
