//! `read` turns the settings into limits, or lists every error in them.

use std::time::Duration;

use gateway_plugin_sdk::rate::{Bucket, Rate};
use gateway_plugin_sdk::{Kind, address, units};
use serde_json::{Map, Value};

use crate::key::Part;
use crate::limit::{Cost, Excess, Limit};

const KEYS: &str =
    "name, algorithm, limit, period, burst, scope, kind, channel, key, cost, action, missing, dry_run";
/// As many buckets as the gateway takes.
const LIMITS_MAX: usize = 64;
const NAME_BYTES_MAX: usize = 64;
/// The gateway counts in 32 bits.
const MOST: u64 = u32::MAX as u64;

/// The limits of the settings, declared; or every mistake in them.
pub(crate) fn read(mut config: Map<String, Value>) -> Result<Vec<Limit>, String> {
    let mut mistakes = Vec::new();
    let tables = match config.remove("limits") {
        Some(Value::Array(tables)) if !tables.is_empty() => tables,
        _ => {
            mistakes.push("`limits` is missing or empty: a [[config.limits]] table is one limit".to_owned());
            Vec::new()
        }
    };
    if tables.len() > LIMITS_MAX {
        mistakes.push(format!("there are {} limits; at most {LIMITS_MAX} are accepted", tables.len()));
    }
    mistakes.extend(config.keys().map(|key| format!("unknown key `{key}`; accepted: limits")));
    let mut limits: Vec<Limit> = Vec::new();
    let mut names: Vec<(usize, String)> = Vec::new();
    for (number, table) in (1..=LIMITS_MAX).zip(tables) {
        let mut reader = Reader::new(number, table, &mut mistakes);
        let Some(limit) = reader.limit() else { continue };
        if let Some((other, _)) = names.iter().find(|(_, name)| *name == limit.name) {
            reader.mistake(format!("`name` is that of limit {other}, too"));
        }
        names.push((number, limit.name.clone()));
        limits.push(limit);
    }
    match mistakes.as_slice() {
        [] => Ok(limits),
        [one] => Err(one.clone()),
        all => Err(format!("{} mistakes: {}", all.len(), all.join("; "))),
    }
}

/// Takes one limit apart, key by key, and goes on after a mistake.
struct Reader<'m> {
    number: usize,
    table: Map<String, Value>,
    mistakes: &'m mut Vec<String>,
}

/// What a rate is made of.
struct Numbers {
    algorithm: &'static str,
    limit: u64,
    period: Duration,
    burst: Option<u64>,
}

impl<'m> Reader<'m> {
    fn new(number: usize, table: Value, mistakes: &'m mut Vec<String>) -> Self {
        let mut reader = Self { number, table: Map::new(), mistakes };
        match table {
            Value::Object(table) => reader.table = table,
            _ => reader.mistake("not a table"),
        }
        reader
    }

    fn mistake(&mut self, what: impl AsRef<str>) {
        self.mistakes.push(format!("limit {}: {}", self.number, what.as_ref()));
    }

    fn limit(&mut self) -> Option<Limit> {
        let before = self.mistakes.len();
        let name = self.name();
        let numbers = self.numbers();
        let kinds = self.kinds();
        let channels = self.channels();
        let key = self.key();
        let is_for_cluster = self.word("scope", &["node", "cluster"]) == Some("cluster");
        if is_for_cluster && key == [Part::Connection] {
            self.mistake("`scope` is \"cluster\", but a connection is on one node: add a `key`");
        }
        let cost = self.cost(numbers.as_ref());
        let excess = match self.word("action", &["deny", "disconnect"]) {
            Some("disconnect") => Excess::Disconnect,
            _ => Excess::Deny,
        };
        let refuses_missing = self.word("missing", &["skip", "deny"]) == Some("deny");
        let dry_run = self.dry_run();
        for key in std::mem::take(&mut self.table).into_iter().map(|(key, _)| key) {
            self.mistake(format!("unknown key `{key}`; accepted: {KEYS}"));
        }
        if self.mistakes.len() > before {
            return None;
        }
        let (name, rate) = (name?, numbers?.rate());
        let rate = if is_for_cluster { rate.for_cluster() } else { rate };
        let bucket = match Bucket::declare(&name, rate) {
            Ok(bucket) => bucket,
            Err(error) => {
                self.mistake(error.to_string());
                return None;
            }
        };
        Some(Limit { name, bucket, kinds, channels, key, cost, excess, refuses_missing, dry_run })
    }

    // ---- How much ----

    fn name(&mut self) -> Option<String> {
        match self.table.remove("name") {
            Some(Value::String(name)) if (1..=NAME_BYTES_MAX).contains(&name.len()) => Some(name),
            _ => {
                self.mistake(format!(
                    "`name` is a text of 1 to {NAME_BYTES_MAX} bytes, under which what is used is kept"
                ));
                None
            }
        }
    }

    fn numbers(&mut self) -> Option<Numbers> {
        let words = ["token-bucket", "leaky-bucket", "fixed-window", "sliding-window"];
        let algorithm = self.word("algorithm", &words).unwrap_or("token-bucket");
        let limit = self.number("limit", "how much is admitted per period");
        let period = self.period();
        let is_bucket = algorithm.ends_with("bucket");
        let burst = match (self.table.contains_key("burst"), is_bucket) {
            (false, _) => None,
            (true, false) => {
                self.table.remove("burst");
                self.mistake(format!("`burst` belongs to token-bucket and leaky-bucket, not to {algorithm}"));
                None
            }
            (true, true) => self.number("burst", "how much is admitted at once"),
        };
        Some(Numbers { algorithm, limit: limit?, period: period?, burst })
    }

    /// `None`, with the mistake told, if it is left out or wrong.
    fn number(&mut self, key: &str, meaning: &str) -> Option<u64> {
        let counts_bytes = self.table.get("cost").is_some_and(|cost| cost == "bytes");
        let value = self.table.remove(key).unwrap_or_default();
        let size = value.as_str().and_then(units::size);
        let number = if counts_bytes { size } else { None }.or(value.as_u64());
        let number = number.filter(|number| (1..=MOST).contains(number));
        if number.is_none() {
            self.mistake(match size {
                Some(_) if !counts_bytes => {
                    format!("`{key}` is {value}, a size, which counts only where `cost` is \"bytes\"")
                }
                _ => format!("`{key}` is {meaning}: 1 to {MOST}"),
            });
        }
        number
    }

    fn period(&mut self) -> Option<Duration> {
        let period = self.table.remove("period");
        let period = period.as_ref().and_then(Value::as_str).and_then(units::duration);
        // The gateway counts milliseconds in 32 bits.
        let period = period.filter(|period| (1..=u128::from(MOST)).contains(&period.as_millis()));
        if period.is_none() {
            self.mistake(
                "`period` is a text like \"500ms\", \"1s\", \"5m\", \"1h\" or \"1d\", up to \"49d\"",
            );
        }
        period
    }

    fn cost(&mut self, numbers: Option<&Numbers>) -> Cost {
        let cost = match self.table.remove("cost") {
            None => Cost::Fixed(1),
            Some(Value::String(word)) if word == "bytes" => Cost::Bytes,
            Some(value) => match value.as_u64().and_then(|cost| u32::try_from(cost).ok()) {
                Some(cost) if cost > 0 => Cost::Fixed(cost),
                _ => {
                    self.mistake(format!("`cost` is a number from 1 to {MOST}, or \"bytes\""));
                    Cost::Fixed(1)
                }
            },
        };
        let Some(numbers) = numbers else { return cost };
        match (cost, numbers.at_once()) {
            (Cost::Fixed(cost), at_once) if u64::from(cost) > at_once => {
                self.mistake(format!(
                    "`cost` is {cost}, but no more than {at_once} is ever admitted at once"
                ));
            }
            (Cost::Bytes, 1) => {
                self.mistake("`cost` is in bytes, but only one is admitted at once: add a `burst`");
            }
            _ => {}
        }
        cost
    }

    // ---- Of what, and for whom ----

    fn kinds(&mut self) -> Option<Vec<Kind>> {
        let mut kinds = Vec::new();
        for name in self.texts("kind")? {
            match Kind::from_name(&name) {
                Some(kind) => kinds.push(kind),
                None => {
                    let accepted = Kind::ALL.map(Kind::name).join(", ");
                    self.mistake(format!("unknown kind `{name}`; accepted: {accepted}"));
                }
            }
        }
        Some(kinds)
    }

    fn channels(&mut self) -> Option<Vec<String>> {
        let patterns = self.texts("channel")?;
        for pattern in patterns.iter().filter(|pattern| !address::is_pattern(pattern)) {
            self.mistake(format!("`channel` {pattern:?} is not a channel name, with or without a last `*`"));
        }
        Some(patterns)
    }

    fn key(&mut self) -> Vec<Part> {
        let Some(texts) = self.texts("key") else { return vec![Part::Connection] };
        let mut parts = Vec::new();
        for text in texts {
            match Part::parse(&text) {
                Some(part) => parts.push(part),
                None => self.mistake(format!("unknown part `{text}` of `key`; accepted: {}", Part::ACCEPTED)),
            }
        }
        parts
    }

    fn dry_run(&mut self) -> bool {
        match self.table.remove("dry_run") {
            None => false,
            Some(Value::Bool(dry_run)) => dry_run,
            Some(_) => {
                self.mistake("`dry_run` is true or false");
                false
            }
        }
    }

    /// One of some words. `None` if it is left out, or wrong.
    fn word(&mut self, key: &str, words: &[&'static str]) -> Option<&'static str> {
        let value = self.table.remove(key)?;
        let word = words.iter().copied().find(|word| value.as_str() == Some(word));
        if word.is_none() {
            self.mistake(format!("`{key}` is {value}; accepted: {}", words.join(", ")));
        }
        word
    }

    /// A text or a list of texts, not empty. `None` if it is left out, or wrong.
    fn texts(&mut self, key: &str) -> Option<Vec<String>> {
        let list = match self.table.remove(key)? {
            Value::Array(items) => items,
            one => vec![one],
        };
        let texts: Option<Vec<String>> = list.iter().map(|item| item.as_str().map(str::to_owned)).collect();
        if texts.as_ref().is_none_or(Vec::is_empty) {
            self.mistake(format!("`{key}` is a text or a list of texts"));
            return None;
        }
        texts
    }
}

impl Numbers {
    /// How much is admitted at once.
    fn at_once(&self) -> u64 {
        self.burst.unwrap_or(if self.algorithm == "leaky-bucket" { 1 } else { self.limit })
    }

    fn rate(&self) -> Rate {
        let Self { limit, period, .. } = *self;
        let rate = match self.algorithm {
            "leaky-bucket" => Rate::leaky_bucket(limit, period),
            "fixed-window" => Rate::fixed_window(limit, period),
            "sliding-window" => Rate::sliding_window(limit, period),
            _ => Rate::token_bucket(limit, period),
        };
        self.burst.map_or(rate, |burst| rate.burst(burst))
    }
}
