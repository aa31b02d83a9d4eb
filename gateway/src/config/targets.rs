//! Reads the targets of an upstream, and how questions are put to them.

use std::time::Duration;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::read::{Invalid, Section, found};
use super::resolve::{KIB, MIB, MINUTE, SECOND};
use crate::egress::Url;

/// Maximum number of targets of an upstream.
pub(super) const TARGETS_MAX: usize = 16;
/// Largest weight of a target.
pub const WEIGHT_MAX: u32 = 1000;
/// Weight of a target whose table names none.
const WEIGHT: u32 = 1;
/// Maximum length of `health_path`.
const PATH_BYTES_MAX: usize = 256;

pub(super) const URL: &str = "a URL such as \"https://hooks.example/orders\"";
const TARGETS: &str =
    "1 to 16 tables such as { url = \"https://a.example\", weight = 80 }, and one with a weight above 0";
const WEIGHTS: &str = "a whole number from 0 to 1000";

/// One of the servers of an upstream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UpstreamTarget {
    /// Where events are posted; questions are posted below it.
    pub url: Url,
    /// Its share of the requests, compared with the weights of the other targets.
    pub weight: u32,
}

/// How questions are put to an upstream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asks {
    /// Time from the question to the answer, with the wait in the queue and retries.
    pub timeout: Duration,
    /// Maximum number of questions that are sent and not answered yet.
    pub in_flight_max: usize,
    /// Maximum number of questions that wait to be sent.
    pub waiting_max: usize,
    /// Maximum bytes of an answer.
    pub answer_bytes_max: usize,
    /// Number of attempts after the first.
    pub retries: u32,
}

impl Asks {
    /// Maximum bytes of the questions that wait or are in flight.
    pub const BYTES_MAX: usize = 16 << 20;

    /// Maximum bytes of memory for questions and their answers.
    pub fn memory_max(&self) -> u64 {
        (self.in_flight_max as u64).saturating_mul(self.answer_bytes_max as u64) + Self::BYTES_MAX as u64
    }
}

/// When a target that fails gets nothing for a while.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TargetBreaker {
    /// Failures in a row that open it; 0 for never.
    pub failures: u32,
    /// Time until the first probe.
    pub pause: Duration,
}

/// Checks of the targets beside the traffic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Health {
    /// A path at the origin of each target.
    pub path: Box<str>,
    /// Time from one check to the next.
    pub interval: Duration,
}

/// A server that gets copies of questions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shadow {
    /// Copies are posted below it.
    pub url: Url,
    /// Percentage of the questions that are copied, 1 to 100.
    pub share: u32,
}

/// The targets in `url` or `targets`. `None` after an error, or if both are missing.
pub(super) fn targets(section: &Section<'_, '_>) -> Option<Box<[UpstreamTarget]>> {
    let single = section.value("url", url);
    let several = section.value("targets", list);
    match (single, several.is_empty()) {
        (Some(_), false) => {
            section.conflict(&["targets", "url"], "targets beside a `url`", "either `url` or `targets`");
            None
        }
        (Some(url), true) => Some([UpstreamTarget { url, weight: WEIGHT }].into()),
        (None, false) => Some(several),
        (None, true) => {
            section.conflict(&["url", "targets"], "no URL", URL);
            None
        }
    }
}

/// How questions are put to the targets.
pub(super) fn asks(section: &Section<'_, '_>) -> Asks {
    Asks {
        timeout: section.duration("ask_timeout", 50..=MINUTE),
        in_flight_max: section.count("asks_in_flight_max", 1..=1024),
        waiting_max: section.count("asks_waiting_max", 1..=65_536),
        answer_bytes_max: section.size("ask_answer_bytes_max", KIB..=16 * MIB),
        retries: u32::try_from(section.number("ask_retries", 0..=5)).unwrap_or(0),
    }
}

pub(super) fn breaker(section: &Section<'_, '_>) -> TargetBreaker {
    let failures = section.number("breaker_failures", 0..=1000);
    let pause = section.duration("breaker_pause", 100..=10 * MINUTE);
    TargetBreaker { failures: u32::try_from(failures).unwrap_or(0), pause }
}

pub(super) fn health(section: &Section<'_, '_>) -> Option<Health> {
    let accepted = "a path that begins with `/`, or \"\"";
    let path = section.simple("health_path", &accepted, |value| match value.as_str()? {
        "" => Some(None),
        path => {
            let some = Url::parse("http://a.example").ok()?;
            (path.len() <= PATH_BYTES_MAX && some.beside(path).is_ok()).then(|| Some(path.into()))
        }
    });
    let interval = section.duration("health_interval", SECOND..=10 * MINUTE);
    path.map(|path| Health { path, interval })
}

pub(super) fn shadow(section: &Section<'_, '_>) -> Option<Shadow> {
    let url = section.value("shadow", url);
    let share = u32::try_from(section.number("shadow_share", 0..=100)).unwrap_or(0);
    url.filter(|_| share > 0).map(|url| Shadow { url, share })
}

/// A URL; `None` for an empty text.
fn url(value: &Spanned<DeValue<'_>>) -> Result<Option<Url>, Vec<Invalid>> {
    let invalid = |accepted: &str| {
        // The path may contain a secret.
        let found =
            if value.get_ref().is_str() { "something else".to_owned() } else { found(value.get_ref()) };
        vec![Invalid { span: Some(value.span()), found, accepted: accepted.to_owned() }]
    };
    match value.get_ref().as_str().ok_or_else(|| invalid(URL))? {
        "" => Ok(None),
        text => Url::parse(text).map(Some).map_err(invalid),
    }
}

fn list(value: &Spanned<DeValue<'_>>) -> Result<Box<[UpstreamTarget]>, Vec<Invalid>> {
    let invalid = |span, found: String, accepted: &str| {
        vec![Invalid { span: Some(span), found, accepted: accepted.to_owned() }]
    };
    let Some(entries) = value.get_ref().as_array() else {
        return Err(invalid(value.span(), found(value.get_ref()), TARGETS));
    };
    if entries.len() > TARGETS_MAX {
        return Err(invalid(value.span(), format!("a list of {}", entries.len()), TARGETS));
    }
    let (mut targets, mut invalids) = (Vec::new(), Vec::new());
    for entry in entries {
        match entry.get_ref().as_table() {
            Some(table) => match target(table, entry) {
                Ok(target) => targets.push(target),
                Err(more) => invalids.extend(more),
            },
            // It may be a URL, and its path a secret.
            None => invalids.extend(invalid(entry.span(), "something else".to_owned(), TARGETS)),
        }
    }
    if !invalids.is_empty() {
        return Err(invalids);
    }
    if !targets.is_empty() && targets.iter().all(|target| target.weight == 0) {
        return Err(invalid(value.span(), "no weight above 0".to_owned(), TARGETS));
    }
    Ok(targets.into())
}

fn target(table: &DeTable<'_>, entry: &Spanned<DeValue<'_>>) -> Result<UpstreamTarget, Vec<Invalid>> {
    let invalid = |span, found: String, accepted: &str| {
        vec![Invalid { span: Some(span), found, accepted: accepted.to_owned() }]
    };
    if let Some((key, _)) = table.iter().find(|(key, _)| !["url", "weight"].contains(&key.get_ref().as_ref()))
    {
        return Err(invalid(key.span(), format!("the key {:?}", key.get_ref()), "`url` and `weight`"));
    }
    let missing = || invalid(entry.span(), "a target without a URL".to_owned(), URL);
    let url = table.get("url").map(url).transpose()?.flatten().ok_or_else(missing)?;
    let weight = match table.get("weight") {
        None => WEIGHT,
        Some(value) => {
            weight(value.get_ref()).ok_or_else(|| invalid(value.span(), found(value.get_ref()), WEIGHTS))?
        }
    };
    Ok(UpstreamTarget { url, weight })
}

fn weight(value: &DeValue<'_>) -> Option<u32> {
    let number = value.as_integer()?;
    u32::from_str_radix(number.as_str(), number.radix()).ok().filter(|weight| *weight <= WEIGHT_MAX)
}
