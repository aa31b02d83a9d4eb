//! Reads the upstreams, which receive events and answer questions.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use gateway_plugin_grammar::secret::strength_bytes;
use toml::Spanned;
use toml::de::DeValue;

use super::external::external_secret;
use super::read::{Document, Invalid, Section};
use super::resolve::{GIB, KIB, MIB, MINUTE, SECOND};
use super::{SigningKey, Upstream, UpstreamTarget, targets};

/// Maximum number of upstreams.
const UPSTREAMS_MAX: usize = 64;
/// Maximum length of their names.
const NAME_BYTES_MAX: usize = 64;
/// Minimum and maximum length of a key, in bytes.
const KEY_BYTES: std::ops::RangeInclusive<usize> = 16..=256;

const SECRET: &str =
    "\"env:NAME\" or \"file:PATH\" of a secret with 16 to 256 bytes, or \"\" to sign nothing";

/// Reads every table `[upstreams.NAME]`.
pub(super) fn upstreams(
    document: &Document<'_>,
    folder: &Path,
    environment: &dyn Fn(&str) -> Option<String>,
) -> BTreeMap<Box<str>, Upstream> {
    let shape = document.section("upstream");
    if shape.is_changed() {
        shape.misnamed("upstream", "one table for each upstream, such as [upstreams.orders]");
    }
    // These values are never used: only defaults for missing keys are read from this table, which names no
    // target.
    let _ = (shape.value("url", |_| Ok(())), shape.value("targets", |_| Ok(())));
    read(&shape, folder, environment, None);
    shape.finish();
    let mut upstreams = BTreeMap::new();
    for (name, section) in document.sections("upstreams", "upstream") {
        let allowed = |b: u8| b.is_ascii_alphanumeric() || b"_-.".contains(&b);
        if name.is_empty() || name.len() > NAME_BYTES_MAX || !name.bytes().all(allowed) {
            section.misnamed(name, "a name of 1 to 64 letters, digits, `_`, `-` and `.`");
        } else if upstreams.len() == UPSTREAMS_MAX {
            section.misnamed(name, "at most 64 upstreams");
        }
        let upstream = read(&section, folder, environment, targets::targets(&section));
        section.finish();
        upstreams.extend(upstream.map(|upstream| (name.into(), upstream)));
    }
    upstreams
}

/// `None` without a target.
fn read(
    section: &Section<'_, '_>,
    folder: &Path,
    environment: &dyn Fn(&str) -> Option<String>,
    targets: Option<Box<[UpstreamTarget]>>,
) -> Option<Upstream> {
    let asks = targets::asks(section);
    let breaker = targets::breaker(section);
    let (health, shadow) = (targets::health(section), targets::shadow(section));
    let secret = section.value("secret", |value| secret(value, folder, environment));
    let timeout = section.duration("timeout", 100..=MINUTE);
    let retries = section.number("retries", 0..=100);
    let retry_pause_min = section.duration("retry_pause_min", 10..=MINUTE);
    let retry_pause_max = section.duration("retry_pause_max", SECOND..=60 * MINUTE);
    let in_flight_max = section.count("in_flight_max", 1..=64);
    let queue_events_max = section.count("queue_events_max", 1..=1_000_000);
    let queue_bytes_max = section.size("queue_bytes_max", 64 * KIB..=4 * GIB);
    let dead_letter = section.simple("dead_letter", &"the path of a file, or \"\"", |value| {
        let path = value.as_str().filter(|path| !path.contains('\0'))?;
        Some((!path.is_empty()).then(|| folder.join(PathBuf::from(path))))
    });
    let dead_letter_bytes_max = section.size("dead_letter_bytes_max", 64 * KIB..=64 * GIB);
    let batch_events_max = section.count("batch_events_max", 0..=1000);
    let batch_bytes_max = section.size("batch_bytes_max", KIB..=16 * MIB);
    let batch_wait = section.duration("batch_wait", 0..=MINUTE);
    let spool_bytes_max = section.size("spool_bytes_max", MIB..=64 * GIB);
    Some(Upstream {
        targets: targets?,
        asks,
        breaker,
        health,
        shadow,
        secret,
        timeout,
        retries: u32::try_from(retries).unwrap_or(u32::MAX),
        retry_pause_min,
        retry_pause_max,
        in_flight_max,
        queue_events_max,
        queue_bytes_max,
        dead_letter,
        dead_letter_bytes_max,
        batch_events_max,
        batch_bytes_max,
        batch_wait,
        spool_bytes_max,
    })
}

/// Some tools omit the padding, or set unused bits in the last character.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_allow_trailing_bits(true)
        .with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// Reads the secret from the place that the value names. No message repeats any part of it.
fn secret(
    value: &Spanned<DeValue<'_>>,
    folder: &Path,
    environment: &dyn Fn(&str) -> Option<String>,
) -> Result<Option<SigningKey>, Vec<Invalid>> {
    let Some(secret) = external_secret(value, folder, environment, "a secret", SECRET)? else {
        return Ok(None);
    };
    let invalid = |found: String| vec![Invalid { span: None, found, accepted: SECRET.to_owned() }];
    let key = match secret.strip_prefix("whsec_") {
        Some(encoded) => BASE64
            .decode(encoded)
            .map_err(|_| invalid("a secret that begins with whsec_ but is not base64 after it".to_owned()))?,
        None => secret.as_bytes().to_vec(),
    };
    if !KEY_BYTES.contains(&key.len()) {
        return Err(invalid(format!("a secret of {} bytes", key.len())));
    }
    let counted = strength_bytes(&key);
    if counted < *KEY_BYTES.start() {
        return Err(invalid(format!("a secret of {counted} bytes without padding and repetition")));
    }
    Ok(Some(SigningKey(key.into())))
}
