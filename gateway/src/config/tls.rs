//! Reads the settings of TLS of a listener. `transport::tls` reads and checks the files that they name.

use std::path::{Path, PathBuf};

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::read::{Invalid, Section, found, quoted};
use super::resolve::all;
use super::{CertificateFiles, ClientCertificates, Tls, TlsVersion};

/// The table of the public listener.
const PUBLIC: &str = "listen.tls";

/// Maximum number of certificates of a listener.
const CERTIFICATES_MAX: usize = 64;

const CERTIFICATES: &str =
    "a list of at most 64 tables such as { certificate = \"site.pem\", key = \"site.key\" }";

/// Reads the table `tls` of a listener's table; `path` is the path of both. `None` without a certificate.
/// Only the public listener speaks HTTP/2.
pub(super) fn tls(listener: &Section<'_, '_>, path: &'static str, folder: &Path) -> Option<Tls> {
    let section = listener.section("tls", path);
    let certificates = section.value("certificates", |value| certificates(value, folder));
    let authority = section.simple("client_ca", &"the path of a file, or \"\"", |value| {
        let text = value.as_str().filter(|text| !text.contains('\0'))?;
        Some((!text.is_empty()).then(|| folder.join(text)))
    });
    let accepted = r#""none", "optional" or "required""#;
    let asked = section.simple("client_certificate", &accepted, |value| match value.as_str()? {
        "none" => Some(None),
        "optional" => Some(Some(false)),
        "required" => Some(Some(true)),
        _ => None,
    });
    let min_version = section.simple("min_version", &r#""1.2" or "1.3""#, |value| match value.as_str()? {
        "1.2" => Some(TlsVersion::V12),
        "1.3" => Some(TlsVersion::V13),
        _ => None,
    });
    let http2 = path == PUBLIC && section.flag("http2");
    let client_certificates = match (asked, authority) {
        (None, None) => ClientCertificates::None,
        (Some(false), Some(authority)) => ClientCertificates::Optional { authority },
        (Some(true), Some(authority)) => ClientCertificates::Required { authority },
        (Some(_), None) => {
            section.conflict(
                &["client_certificate", "client_ca"],
                "client certificates without an authority to verify them",
                "\"none\", or this one together with `client_ca`",
            );
            ClientCertificates::None
        }
        (None, Some(_)) => {
            section.conflict(
                &["client_ca", "client_certificate"],
                "an authority for certificates that the gateway does not request",
                "\"\", or this one together with `client_certificate`",
            );
            ClientCertificates::None
        }
    };
    if certificates.is_empty() && section.is_changed() {
        section.conflict(
            &["certificates"],
            "settings of TLS without a certificate",
            "at least one certificate with its key, or no settings of TLS",
        );
    }
    section.finish();
    (!certificates.is_empty()).then_some(Tls { certificates, client_certificates, min_version, http2 })
}

fn certificates(value: &Spanned<DeValue<'_>>, folder: &Path) -> Result<Vec<CertificateFiles>, Vec<Invalid>> {
    let invalid = |span, found| Invalid { span, found, accepted: CERTIFICATES.to_owned() };
    let Some(list) = value.get_ref().as_array() else {
        return Err(vec![invalid(None, found(value.get_ref()))]);
    };
    if list.len() > CERTIFICATES_MAX {
        return Err(vec![invalid(None, format!("{} certificates", list.len()))]);
    }
    all(list.iter().map(|entry| {
        let table = entry.get_ref().as_table();
        let table = table.ok_or_else(|| invalid(Some(entry.span()), found(entry.get_ref())))?;
        let files = files(table, folder);
        files.map_err(|found| invalid(Some(entry.span()), found))
    }))
}

/// The two files of a certificate. The error is what was found instead.
fn files(table: &DeTable<'_>, folder: &Path) -> Result<CertificateFiles, String> {
    if let Some(key) = table.keys().find(|key| !["certificate", "key"].contains(&key.get_ref().as_ref())) {
        return Err(format!("the key {} in a certificate", quoted(key.get_ref())));
    }
    let file = |key: &str| -> Result<PathBuf, String> {
        let value = table.get(key).ok_or_else(|| format!("a certificate without `{key}`"))?;
        let text = value.get_ref().as_str().filter(|text| !text.is_empty() && !text.contains('\0'));
        let text = text.ok_or_else(|| format!("`{key}`, which is {}", found(value.get_ref())))?;
        Ok(folder.join(text))
    };
    Ok(CertificateFiles { certificate: file("certificate")?, key: file("key")? })
}
