//! [`Url`] and [`Origin`] say where a request is sent.

use std::fmt;
use std::net::IpAddr;

use hyper::Uri;

/// A scheme, a host and a port: the unit of grants and of connections.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Origin {
    https: bool,
    /// In lower case; an IPv6 address has no brackets.
    host: Box<str>,
    port: u16,
}

impl Origin {
    /// Parses `https://host`, `http://host:8080` and `http://[::1]:8080`; the error says what would be
    /// accepted.
    ///
    /// # Errors
    ///
    /// What would be accepted.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        const SHAPE: &str =
            "an origin such as \"https://idp.example\" or \"http://10.0.0.7:8080\", nothing after it";
        let rest = text.split_once("://").ok_or(SHAPE)?.1;
        if rest.contains(['/', '?', '#']) {
            return Err(SHAPE);
        }
        Url::parse(text).map(|url| url.origin).map_err(|_| SHAPE)
    }

    pub(super) fn of(uri: &Uri) -> Option<Self> {
        let https = match uri.scheme_str()? {
            "http" => false,
            "https" => true,
            _ => return None,
        };
        let host = uri.host()?.trim_start_matches('[').trim_end_matches(']').to_ascii_lowercase();
        let port = match uri.authority()?.as_str().rsplit_once(':') {
            // Unless this is the last part of an IPv6 address.
            Some((_, port)) if !port.ends_with(']') => port.parse().ok()?,
            _ if https => 443,
            _ => 80,
        };
        (!host.is_empty() && port != 0).then(|| Self { https, host: host.into(), port })
    }

    /// Whether the connection is encrypted.
    pub fn is_https(&self) -> bool {
        self.https
    }

    /// A name, or an address without brackets.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The address, if the host is an address rather than a name.
    pub fn address(&self) -> Option<IpAddr> {
        self.host.parse().ok()
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { https, host, port } = self;
        f.write_str(if *https { "https://" } else { "http://" })?;
        if host.contains(':') {
            write!(f, "[{host}]")?;
        } else {
            f.write_str(host)?;
        }
        if *port == if *https { 443 } else { 80 } { Ok(()) } else { write!(f, ":{port}") }
    }
}

/// An absolute HTTP URL. Displayed without its path and query, which may hold a secret.
#[derive(Clone, PartialEq, Eq)]
pub struct Url {
    pub(super) uri: Uri,
    origin: Origin,
}

impl Url {
    /// Parses a URL; the error says what would be accepted.
    ///
    /// # Errors
    ///
    /// What would be accepted.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        const SHAPE: &str = "a URL such as \"https://hooks.example/orders\"";
        if text.contains('#') {
            return Err("a URL without a fragment: it would not be sent");
        }
        let uri: Uri = text.parse().map_err(|_| SHAPE)?;
        if uri.authority().is_some_and(|authority| authority.as_str().contains('@')) {
            return Err("a URL without a user and a password: send them in a header");
        }
        let origin = Origin::of(&uri).ok_or(SHAPE)?;
        Ok(Self { uri, origin })
    }

    /// Its origin.
    pub fn origin(&self) -> &Origin {
        &self.origin
    }

    /// The URL with its path and without its query, for people who may see the configuration.
    pub fn without_query(&self) -> String {
        format!("{}{}", self.origin, self.uri.path())
    }

    /// The same URL with `path` after its path; the query stays. `path` begins with `/` or is empty.
    ///
    /// # Errors
    ///
    /// What would be accepted, if the path would lead to another place than below this URL.
    pub fn below(&self, path: &str) -> Result<Self, &'static str> {
        if path.is_empty() {
            return Ok(self.clone());
        }
        let base = self.uri.path();
        self.at(&format!("{}{}", base.strip_suffix('/').unwrap_or(base), checked(path)?), self.uri.query())
    }

    /// A path of the same origin, without a query.
    ///
    /// # Errors
    ///
    /// What would be accepted, if it is not a path.
    pub fn beside(&self, path: &str) -> Result<Self, &'static str> {
        self.at(checked(path)?, None)
    }

    fn at(&self, path: &str, query: Option<&str>) -> Result<Self, &'static str> {
        let target = query.map_or_else(|| path.to_owned(), |query| format!("{path}?{query}"));
        let mut parts = self.uri.clone().into_parts();
        parts.path_and_query = Some(target.parse().map_err(|_| PATH)?);
        let uri = Uri::from_parts(parts).map_err(|_| PATH)?;
        Ok(Self { uri, origin: self.origin.clone() })
    }
}

const PATH: &str = "a path that begins with `/`, without a query and without segments such as `..`";

fn checked(path: &str) -> Result<&str, &'static str> {
    let is_dots = |segment: &str| {
        let plain = segment.to_ascii_lowercase().replace("%2e", ".");
        plain == "." || plain == ".."
    };
    let fits = path.starts_with('/') && !path.contains(['?', '#', '\\']) && !path.split('/').any(is_dots);
    if fits { Ok(path) } else { Err(PATH) }
}

impl fmt::Debug for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/...", self.origin)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn origin(text: &str) -> String {
        Origin::parse(text).expect(text).to_string()
    }

    #[test]
    fn an_origin_has_one_spelling() {
        for (text, shown) in [
            ("https://Idp.Example", "https://idp.example"),
            ("https://idp.example:443", "https://idp.example"),
            ("http://idp.example:443", "http://idp.example:443"),
            ("http://127.0.0.1:9000", "http://127.0.0.1:9000"),
            ("http://[::1]:80", "http://[::1]"),
        ] {
            assert_eq!(origin(text), shown);
            assert_eq!(Origin::parse(text), Origin::parse(shown));
        }
        assert_ne!(Origin::parse("http://a.example"), Origin::parse("https://a.example"));
        assert_ne!(Origin::parse("http://a.example"), Origin::parse("http://a.example."));
    }

    #[test]
    fn what_is_more_or_less_than_an_origin_is_refused() {
        for bad in [
            "",
            "a.example",
            "//a.example",
            "ftp://a.example",
            "https://",
            "https://a.example/",
            "https://a?b",
            "https://u@a.example",
            "https://a.example#b",
            "https://a:0",
            "https://a:99999",
            "https://ä.example",
            "https://*.example/",
            "https://a b",
        ] {
            assert!(Origin::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_path_is_appended_and_leads_nowhere_else() {
        let below = |url: &str, path: &str| {
            Url::parse(url).expect(url).below(path).map(|url| url.uri.to_string()).map_err(|_| ())
        };
        for (url, path, result) in [
            ("http://a.example", "/connect", "http://a.example/connect"),
            ("http://a.example/", "/connect", "http://a.example/connect"),
            ("http://a.example/hook/", "/rpc/a.b", "http://a.example/hook/rpc/a.b"),
            ("http://a.example/hook?key=7", "/rpc/%2f", "http://a.example/hook/rpc/%2f?key=7"),
            ("http://a.example/hook?key=7", "", "http://a.example/hook?key=7"),
        ] {
            assert_eq!(below(url, path).as_deref(), Ok(result));
        }
        for path in
            ["connect", "/a?b", "/a#b", "/../a", "/a/..", "/%2e%2E/a", "/.", "/a b", "/\\a", "/a\r\nb"]
        {
            assert!(below("http://a.example/hook", path).is_err(), "{path}");
        }
        let url = Url::parse("http://A.example:80/hook?key=7").expect("valid");
        assert_eq!(url.without_query(), "http://a.example/hook");
        assert_eq!(url.beside("/health").expect("a path").uri.to_string(), "http://A.example:80/health");
    }

    #[test]
    fn a_url_does_not_show_its_path() {
        let url = Url::parse("https://hooks.example/secret?key=1").expect("valid");
        assert_eq!(format!("{url:?}"), "https://hooks.example/...");
        for bad in ["/orders", "https://u:p@hooks.example/", "https://hooks.example/#a", "mailto:a@b"] {
            assert!(Url::parse(bad).is_err(), "{bad}");
        }
    }
}
