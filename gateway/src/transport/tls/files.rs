//! Reads certificates, keys and authorities, and checks that they can serve clients.

use std::collections::HashMap;
use std::fmt;
use std::fs::File;
use std::io::Read as _;
use std::path::Path;
use std::sync::Arc;

use rustls::RootCertStore;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::{self, PemObject as _};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::parse_x509_certificate;
use x509_parser::time::ASN1Time;

use crate::config::{ClientCertificates, ConfigError, ConfigErrors, Tls};
use crate::telemetry::metrics::{ServedCertificate, TlsListener};

/// Largest file.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// The contents of all files of a listener.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Contents {
    /// For each certificate its own file and that of its key.
    certificates: Vec<(Vec<u8>, Vec<u8>)>,
    authority: Option<Vec<u8>>,
}

/// The errors of the files of a listener.
struct Faults {
    listener: TlsListener,
    all: Vec<ConfigError>,
}

impl Faults {
    fn new(listener: TlsListener) -> Self {
        Self { listener, all: Vec::new() }
    }

    /// The value, or `None` and the error is noted.
    fn note<T>(&mut self, file: &Path, key: &str, result: Result<T, String>) -> Option<T> {
        let add = |message| {
            self.all.push(ConfigError {
                origin: file.display().to_string(),
                position: None,
                key: Some(format!("{}.tls.{key}", self.listener.as_str())),
                message,
            });
        };
        result.map_err(add).ok()
    }

    fn finish(self) -> Result<(), ConfigErrors> {
        if self.all.is_empty() { Ok(()) } else { Err(ConfigErrors::new(self.all)) }
    }
}

fn authority(settings: &Tls) -> Option<&Path> {
    match &settings.client_certificates {
        ClientCertificates::None => None,
        ClientCertificates::Optional { authority } | ClientCertificates::Required { authority } => {
            Some(authority)
        }
    }
}

impl Contents {
    /// Reads all files.
    pub(super) fn read(listener: TlsListener, settings: &Tls) -> Result<Self, ConfigErrors> {
        let mut faults = Faults::new(listener);
        let mut contents = Self { certificates: Vec::new(), authority: None };
        for files in &settings.certificates {
            let certificate =
                faults.note(&files.certificate, "certificates", read(&files.certificate)).unwrap_or_default();
            let key = faults.note(&files.key, "certificates", read(&files.key)).unwrap_or_default();
            contents.certificates.push((certificate, key));
        }
        if let Some(file) = authority(settings) {
            contents.authority = faults.note(file, "client_ca", read(file));
        }
        faults.finish()?;
        Ok(contents)
    }

    /// Parses and checks them. `now` is Unix time in seconds.
    pub(super) fn parse(
        &self,
        listener: TlsListener,
        settings: &Tls,
        provider: &CryptoProvider,
        now: i64,
    ) -> Result<(Certificates, Option<RootCertStore>), ConfigErrors> {
        let mut faults = Faults::new(listener);
        let mut certificates = Certificates::default();
        for (files, (certificate, key)) in settings.certificates.iter().zip(&self.certificates) {
            let chain = faults.note(&files.certificate, "certificates", chain(certificate));
            let private = faults.note(&files.key, "certificates", private_key(key));
            let Some(chain) = chain else { continue };
            let about = faults.note(&files.certificate, "certificates", about(&chain[0], now));
            if let (Some(about), Some(private)) = (about, private) {
                let key = CertifiedKey::from_der(chain, private, provider);
                let key = key.map_err(|error| unfit(&error, &files.certificate));
                if let Some(key) = faults.note(&files.key, "certificates", key) {
                    certificates.add(about, &Arc::new(key));
                }
            }
        }
        let roots = authority(settings).zip(self.authority.as_deref());
        let roots = roots.and_then(|(file, bytes)| faults.note(file, "client_ca", roots_of(bytes)));
        faults.finish()?;
        Ok((certificates, roots))
    }
}

fn read(path: &Path) -> Result<Vec<u8>, String> {
    let failed = |error: std::io::Error| {
        format!("cannot be read: {error}; is the path right, and may the gateway's user read it?")
    };
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(failed)?;
    file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err("is larger than 1 MiB: this is neither a certificate nor a key".to_owned());
    }
    Ok(bytes)
}

fn chain(bytes: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(bytes).collect();
    let chain = chain.map_err(|error| format!("is not valid PEM: {error}"))?;
    if chain.is_empty() {
        let expected = "a block that begins with -----BEGIN CERTIFICATE-----";
        return Err(format!(
            "holds no certificate in PEM: expected {expected}; does it hold the key, or DER instead of PEM?"
        ));
    }
    Ok(chain)
}

fn private_key(bytes: &[u8]) -> Result<PrivateKeyDer<'static>, String> {
    PrivateKeyDer::from_pem_slice(bytes).map_err(|error| match error {
        pem::Error::NoItemsFound if String::from_utf8_lossy(bytes).contains("ENCRYPTED") => {
            "is protected by a passphrase: store the key without one, readable for the gateway's user only"
                .to_owned()
        }
        pem::Error::NoItemsFound => {
            "holds no private key in PEM: expected a block that begins with -----BEGIN PRIVATE KEY-----"
                .to_owned()
        }
        error => format!("is not valid PEM: {error}"),
    })
}

fn roots_of(bytes: &[u8]) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    for certificate in chain(bytes)? {
        roots.add(certificate).map_err(|error| {
            format!("holds a certificate that cannot be an authority: {error}; remove or replace it")
        })?;
    }
    Ok(roots)
}

/// Why a certificate and a key cannot be used together.
fn unfit(error: &rustls::Error, certificate: &Path) -> String {
    let certificate = certificate.display();
    match error {
        rustls::Error::InconsistentKeys(_) => {
            format!(
                "is not the key of the certificate in {certificate}: name the two files that were made together"
            )
        }
        error => format!("cannot be used with {certificate}: {error}; use an ECDSA, Ed25519 or RSA key"),
    }
}

/// Names and validity of a certificate.
struct About {
    /// In lower case; some begin with `*.`.
    names: Vec<Box<str>>,
    /// Unix time in seconds.
    not_after: i64,
}

fn about(der: &CertificateDer<'_>, now: i64) -> Result<About, String> {
    let (_, certificate) = parse_x509_certificate(der)
        .map_err(|error| format!("holds a certificate that cannot be read: {error}"))?;
    let validity = certificate.validity();
    if validity.not_after.timestamp() < now {
        let until = show(validity.not_after);
        return Err(format!("expired on {until}: renew it, and check the clock of this machine"));
    }
    if validity.not_before.timestamp() > now {
        let from = show(validity.not_before);
        return Err(format!("is not valid before {from}: wait, or check the clock of this machine"));
    }
    Ok(About { names: names(&certificate), not_after: validity.not_after.timestamp() })
}

fn show(time: ASN1Time) -> String {
    time.to_rfc2822().unwrap_or_else(|_| time.timestamp().to_string())
}

fn names(certificate: &X509Certificate<'_>) -> Vec<Box<str>> {
    let Ok(Some(names)) = certificate.subject_alternative_name() else { return Vec::new() };
    let names = names.value.general_names.iter();
    let names = names.filter_map(|name| match name {
        GeneralName::DNSName(name) => Some(name.to_ascii_lowercase().into_boxed_str()),
        _ => None,
    });
    names.collect()
}

/// Chooses the certificate for a client by the name it asks for.
#[derive(Default)]
pub(super) struct Certificates {
    first: Option<Arc<CertifiedKey>>,
    by_name: HashMap<Box<str>, Arc<CertifiedKey>>,
    served: Vec<ServedCertificate>,
}

impl Certificates {
    fn add(&mut self, about: About, key: &Arc<CertifiedKey>) {
        let index = self.served.len();
        let name = about.names.first().cloned().unwrap_or_default();
        self.served.push(ServedCertificate { index, name, not_after: about.not_after });
        self.first.get_or_insert_with(|| key.clone());
        for name in about.names {
            self.by_name.entry(name).or_insert_with(|| key.clone());
        }
    }

    /// What the metrics show of them.
    pub(super) fn served(&self) -> Arc<[ServedCertificate]> {
        self.served.clone().into()
    }

    fn choose(&self, name: Option<&str>) -> Option<&Arc<CertifiedKey>> {
        let named = name.and_then(|name| {
            let name = name.to_ascii_lowercase();
            let wildcard = || self.by_name.get(&*format!("*.{}", name.split_once('.')?.1));
            self.by_name.get(&*name).or_else(wildcard)
        });
        named.or(self.first.as_ref())
    }
}

impl fmt::Debug for Certificates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Certificates").field("served", &self.served).finish_non_exhaustive()
    }
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.choose(hello.server_name()).cloned()
    }
}
