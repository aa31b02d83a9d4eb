//! [`ClientCertificate`]: what plugins learn of the certificate of a client.

use std::fmt::Write as _;
use std::net::IpAddr;

use rustls::pki_types::CertificateDer;
use sha2::{Digest as _, Sha256};
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::objects::{oid_registry, oid2abbrev};
use x509_parser::parse_x509_certificate;
use x509_parser::x509::{AttributeTypeAndValue, X509Name};

/// Longest subject and longest list of names: each connection keeps them. A longer one is left out; plugins
/// still have the fingerprint.
const TEXT_BYTES_MAX: usize = 4096;

/// The certificate of a client, verified in the handshake.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientCertificate {
    fingerprint: Box<str>,
    subject: Option<Box<str>>,
    names: Option<Box<str>>,
}

impl ClientCertificate {
    /// `None` if it cannot be read, which its verification has excluded.
    pub(super) fn parse(der: &CertificateDer<'_>) -> Option<Self> {
        let (_, certificate) = parse_x509_certificate(der).ok()?;
        let fits =
            |text: String| (!text.is_empty() && text.len() <= TEXT_BYTES_MAX).then(|| text.into_boxed_str());
        let mut fingerprint = String::with_capacity(64);
        for byte in Sha256::digest(der) {
            let _ = write!(fingerprint, "{byte:02x}");
        }
        Some(Self {
            fingerprint: fingerprint.into(),
            subject: fits(subject(certificate.subject())),
            names: fits(names(&certificate)),
        })
    }

    /// The names and values of the headers under which plugins find it. All names begin with
    /// [`CERTIFICATE_HEADERS`](crate::config::CERTIFICATE_HEADERS).
    pub fn headers(&self) -> impl Iterator<Item = (Box<str>, Box<str>)> + use<'_> {
        let all = [
            ("x-client-cert-fingerprint", Some(&self.fingerprint)),
            ("x-client-cert-subject", self.subject.as_ref()),
            ("x-client-cert-san", self.names.as_ref()),
        ];
        all.into_iter().filter_map(|(name, value)| Some((name.into(), value?.clone())))
    }
}

/// The subject as in RFC 4514: the most specific part first.
fn subject(name: &X509Name<'_>) -> String {
    let parts: Vec<_> = name.iter_rdn().collect();
    let part = |attributes: Vec<String>| attributes.join("+");
    let parts = parts.into_iter().rev().map(|rdn| part(rdn.iter().map(attribute).collect()));
    parts.collect::<Vec<_>>().join(",")
}

fn attribute(attribute: &AttributeTypeAndValue<'_>) -> String {
    let kind = oid2abbrev(attribute.attr_type(), oid_registry());
    let kind = kind.map_or_else(|_| attribute.attr_type().to_id_string(), str::to_owned);
    let Ok(value) = attribute.as_str() else {
        let hex: String = attribute.as_slice().iter().map(|byte| format!("{byte:02x}")).collect();
        return format!("{kind}=#{hex}");
    };
    let mut text = format!("{kind}=");
    let last = value.chars().count().saturating_sub(1);
    for (at, letter) in value.chars().enumerate() {
        let edge = at == 0 && matches!(letter, ' ' | '#') || at == last && letter == ' ';
        if letter.is_control() {
            for byte in letter.encode_utf8(&mut [0; 4]).bytes() {
                let _ = write!(text, "\\{byte:02x}");
            }
            continue;
        }
        if edge || matches!(letter, '"' | '+' | ',' | ';' | '<' | '>' | '\\') {
            text.push('\\');
        }
        text.push(letter);
    }
    text
}

/// The alternative names, such as `DNS:a.example, URI:spiffe://b`.
fn names(certificate: &X509Certificate<'_>) -> String {
    let Ok(Some(names)) = certificate.subject_alternative_name() else { return String::new() };
    let names = names.value.general_names.iter().filter_map(|name| match name {
        GeneralName::DNSName(name) => Some(format!("DNS:{}", plain(name))),
        GeneralName::URI(uri) => Some(format!("URI:{}", plain(uri))),
        GeneralName::RFC822Name(address) => Some(format!("email:{}", plain(address))),
        GeneralName::IPAddress(bytes) => Some(format!("IP:{}", address(bytes)?)),
        _ => None,
    });
    names.collect::<Vec<_>>().join(", ")
}

/// A name in which nothing looks like the beginning of the next one.
fn plain(name: &str) -> String {
    let mut text = String::with_capacity(name.len());
    for byte in name.bytes() {
        if byte.is_ascii_graphic() && byte != b',' {
            text.push(char::from(byte));
        } else {
            let _ = write!(text, "%{byte:02X}");
        }
    }
    text
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => <[u8; 4]>::try_from(bytes).ok().map(IpAddr::from),
        _ => <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from),
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use rcgen::{CertificateParams, DnType, KeyPair, SanType};

    use super::*;

    fn headers(params: &CertificateParams) -> Vec<(Box<str>, Box<str>)> {
        let certificate = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
        ClientCertificate::parse(certificate.der()).unwrap().headers().collect()
    }

    #[test]
    fn a_certificate_becomes_headers() {
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::OrganizationName, "Example, Inc.");
        params.distinguished_name.push(DnType::CommonName, "device 7");
        params.subject_alt_names = vec![
            SanType::DnsName("a.example".try_into().unwrap()),
            SanType::URI("spiffe://b, DNS:admin.example".try_into().unwrap()),
            SanType::IpAddress([192, 0, 2, 7].into()),
        ];
        let headers = headers(&params);
        assert!(headers.iter().all(|(name, _)| name.starts_with(crate::config::CERTIFICATE_HEADERS)));
        let values: Vec<_> = headers.iter().map(|(_, value)| &**value).collect();
        let [fingerprint, subject, names] = values[..] else { panic!("{values:?}") };
        assert!(fingerprint.len() == 64 && fingerprint.bytes().all(|byte| byte.is_ascii_hexdigit()));
        assert_eq!(subject, "CN=device 7,O=Example\\, Inc.");
        assert_eq!(names, "DNS:a.example, URI:spiffe://b%2C%20DNS:admin.example, IP:192.0.2.7");
    }

    #[test]
    fn a_text_that_is_too_long_is_left_out() {
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, "x".repeat(TEXT_BYTES_MAX));
        let headers = headers(&params);
        let names: Vec<&str> = headers.iter().map(|(name, _)| &**name).collect();
        assert_eq!(names, ["x-client-cert-fingerprint"]);
    }
}
