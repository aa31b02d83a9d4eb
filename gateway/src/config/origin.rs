//! Reads origins of web pages, in the exact form that a browser sends.

use toml::Spanned;
use toml::de::DeValue;

use super::Origins;
use super::read::{Invalid, found};
use super::resolve::all;

const ORIGINS_MAX: usize = 256;
const SHAPE: &str =
    "a scheme, a host and maybe a port such as \"https://app.example:8443\", nothing after it";
const LIST: &str = r#"a list of at most 256 origins such as ["https://app.example"], or ["*"] alone"#;

/// Reads the list of `handshake.origins`.
pub(super) fn list(value: &Spanned<DeValue<'_>>) -> Result<Origins, Vec<Invalid>> {
    let invalid = |span, found, accepted: &str| Invalid { span, found, accepted: accepted.to_owned() };
    let Some(list) = value.get_ref().as_array() else {
        return Err(vec![invalid(None, found(value.get_ref()), LIST)]);
    };
    if list.len() > ORIGINS_MAX {
        return Err(vec![invalid(None, format!("{} origins", list.len()), LIST)]);
    }
    if let [only] = list.get(..).unwrap_or_default()
        && only.get_ref().as_str() == Some("*")
    {
        return Ok(Origins::Any);
    }
    let entry = |entry: &Spanned<DeValue<'_>>| {
        let refuse = |accepted: &str| invalid(Some(entry.span()), found(entry.get_ref()), accepted);
        let text =
            entry.get_ref().as_str().ok_or_else(|| refuse("an origin such as \"https://app.example\""))?;
        normal(text).map_err(refuse)
    };
    all(list.iter().map(entry)).map(Origins::Listed)
}

/// The origin as browsers send it, or what would be accepted instead. The scheme is in lower case, and so is
/// the host of a web page; other schemes have case-sensitive hosts, or none.
pub(super) fn normal(text: &str) -> Result<Box<str>, &'static str> {
    match text {
        "*" => return Err("\"*\" as the only entry of the list"),
        "null" => {
            return Err(
                "an origin that names a page: sandboxed frames and local files of any page send \"null\"",
            );
        }
        _ => {}
    }
    let (scheme, authority) = text.split_once("://").ok_or(SHAPE)?;
    let scheme = scheme.to_ascii_lowercase();
    let scheme_byte = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"+-.".contains(&b);
    if !scheme.starts_with(|c: char| c.is_ascii_lowercase()) || !scheme.bytes().all(scheme_byte) {
        return Err(SHAPE);
    }
    if authority.contains('*') {
        return Err("every origin written out: a pattern would also match hosts of others");
    }
    match &*scheme {
        "http" | "https" => web(&scheme, &authority.to_ascii_lowercase()),
        "file" if authority.is_empty() => Ok("file://".into()),
        "file" => Err("\"file://\", which stands for every file"),
        // A browser extension, or the pages bundled with an application: `app://.`, `capacitor://localhost`.
        _ if authority.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._~%:[]".contains(&b)) => {
            Ok(format!("{scheme}://{authority}").into())
        }
        _ => Err(SHAPE),
    }
}

/// An origin that a plugin may request and be granted, as browsers send it; or what would be accepted
/// instead.
pub(crate) fn http_origin(text: &str) -> Result<Box<str>, &'static str> {
    let origin = normal(text)?;
    let is_web = origin.starts_with("https://") || origin.starts_with("http://");
    is_web.then_some(origin).ok_or("an origin that begins with https:// or http://")
}

fn web(scheme: &str, authority: &str) -> Result<Box<str>, &'static str> {
    if !authority.is_ascii() {
        return Err("the host in the form that browsers send, \"xn--...\"");
    }
    // The brackets of an IPv6 address separate its colons from that of the port.
    let host_end =
        authority.rfind(']').map_or_else(|| authority.find(':').unwrap_or(authority.len()), |end| end + 1);
    let (host, port) = authority.split_at(host_end);
    let address = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    let host_byte = |b: u8| b.is_ascii_alphanumeric() || b"-._".contains(&b);
    match address {
        Some(address) if address.parse::<std::net::Ipv6Addr>().is_ok() => {}
        None if !host.is_empty() && host.bytes().all(host_byte) => {}
        _ => return Err(SHAPE),
    }
    match (scheme, port.strip_prefix(':')) {
        (_, None) if port.is_empty() => {}
        ("http", Some("80")) | ("https", Some("443")) => {
            return Err("the origin without its default port, as browsers send it");
        }
        // Browsers send the port in its shortest form.
        (_, Some(port)) if port.parse::<u16>().is_ok_and(|number| number.to_string() == port) => {}
        _ => return Err(SHAPE),
    }
    Ok(format!("{scheme}://{authority}").into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_origin_is_kept_as_browsers_send_it() {
        for (text, kept) in [
            ("https://app.example", "https://app.example"),
            ("https://App.Example:8443", "https://app.example:8443"),
            ("http://localhost:3000", "http://localhost:3000"),
            ("http://127.0.0.1:8000", "http://127.0.0.1:8000"),
            ("http://[::1]:8000", "http://[::1]:8000"),
            ("http://[::1]", "http://[::1]"),
            ("https://xn--bcher-kva.example", "https://xn--bcher-kva.example"),
            ("capacitor://localhost", "capacitor://localhost"),
            ("chrome-extension://abcdefgh", "chrome-extension://abcdefgh"),
            ("https://a.example:80", "https://a.example:80"),
            ("file://", "file://"),
            ("FILE://", "file://"),
            ("app://.", "app://."),
            ("app://", "app://"),
            ("Ionic://localhost", "ionic://localhost"),
            ("capacitor-electron://-", "capacitor-electron://-"),
            ("tauri://localhost:1420", "tauri://localhost:1420"),
            ("moz-extension://0fb2b4a1-7d6c-4f0e", "moz-extension://0fb2b4a1-7d6c-4f0e"),
            ("safari-web-extension://6A0B6F33-1C5D", "safari-web-extension://6A0B6F33-1C5D"),
        ] {
            assert_eq!(normal(text).as_deref(), Ok(kept), "{text}");
        }
    }

    #[test]
    fn what_no_browser_sends_is_refused() {
        for text in [
            "",
            "*",
            "null",
            "app.example",
            "//app.example",
            "https:app.example",
            "https://",
            "https:///",
            "file:///",
            "file:///home/ann/page.html",
            "file://host",
            "app://./",
            "app://host/path",
            "app://user@host",
            "app://h st",
            "capacitor://*",
            "://",
            "about:blank",
            "https://app.example/",
            "https://app.example/path",
            "https://app.example?x",
            "https://app.example#x",
            "https://user@app.example",
            "https://user:pw@app.example",
            "https://*.example",
            "https://app.example:443",
            "http://app.example:80",
            "https://app.example:",
            "https://app.example:0443",
            "https://app.example:65536",
            "https://app.example:8443:1",
            "https://[::1",
            "https://::1",
            "https://[localhost]",
            "https://bücher.example",
            "https://a b.example",
            " https://app.example",
            "1https://app.example",
        ] {
            assert!(normal(text).is_err(), "{text:?}");
        }
    }
}
