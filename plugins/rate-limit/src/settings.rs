//! `read` turns the settings into limits, or lists every error in them.

use std::time::Duration;

use gateway_plugin_sdk::rate::{Bucket, Rate};
use gateway_plugin_sdk::settings::{Errors, Field, Table};
use gateway_plugin_sdk::units;
use serde_json::{Map, Value};

use crate::key::Part;
use crate::limit::{Cost, Excess, Limit};

/// As many buckets as the gateway takes.
const LIMITS_MAX: usize = 64;
const NAME_BYTES_MAX: usize = 64;
/// The gateway counts in 32 bits.
const MOST: u64 = u32::MAX as u64;

/// The limits of the settings, declared; or every error in them.
pub(crate) fn read(config: Map<String, Value>) -> Result<Vec<Limit>, String> {
    let errors = Errors::default();
    let mut table = Table::new(config, &errors);
    let tables = table.tables("limits").or_default();
    if tables.is_empty() && errors.is_empty() {
        table.error("limits", "is missing or empty: a [[config.limits]] table is one limit");
    }
    if tables.len() > LIMITS_MAX {
        table.error("limits", format!("has {} members: at most {LIMITS_MAX} are accepted", tables.len()));
    }
    table.finish();
    let mut limits: Vec<Limit> = Vec::new();
    let mut names: Vec<(String, String)> = Vec::new();
    for table in tables.into_iter().take(LIMITS_MAX) {
        let path = table.path_of("name");
        let Some(limit) = read_limit(table, &errors) else { continue };
        if let Some((other, _)) = names.iter().find(|(_, name)| *name == limit.name) {
            errors.add(&path, format!("is the same as `{other}`"));
        }
        names.push((path, limit.name.clone()));
        limits.push(limit);
    }
    errors.finish(limits)
}

fn read_limit(mut table: Table<'_>, errors: &Errors) -> Option<Limit> {
    let before = errors.len();
    let name = name(&mut table);
    let numbers = Numbers::read(&mut table);
    let kinds = table.kinds("kind").optional();
    let channels = table.patterns("channel").optional();
    let key = table.list("key", Part::ACCEPTED, Part::parse).or(vec![Part::Connection]);
    let is_for_cluster = table.word("scope", &["node", "cluster"]).optional() == Some("cluster");
    if is_for_cluster && key == [Part::Connection] {
        table.error("scope", "is \"cluster\", but a connection is on one node: add a `key`");
    }
    let cost = cost(&mut table, numbers.as_ref());
    let excess = match table.word("action", &["deny", "disconnect"]).optional() {
        Some("disconnect") => Excess::Disconnect,
        _ => Excess::Deny,
    };
    let refuses_missing = table.word("missing", &["skip", "deny"]).optional() == Some("deny");
    let dry_run = table.flag("dry_run").or_default();
    let name_path = table.path_of("name");
    table.finish();
    if errors.len() > before {
        return None;
    }
    let (name, rate) = (name?, numbers?.rate());
    let rate = if is_for_cluster { rate.for_cluster() } else { rate };
    let bucket = match Bucket::declare(&name, rate) {
        Ok(bucket) => bucket,
        Err(error) => {
            errors.add(&name_path, format!("is refused by the gateway: {error}"));
            return None;
        }
    };
    Some(Limit { name, bucket, kinds, channels, key, cost, excess, refuses_missing, dry_run })
}

fn name(table: &mut Table<'_>) -> Option<String> {
    let accepted = format!("a text of 1 to {NAME_BYTES_MAX} bytes, under which what is used is kept");
    let name = table.read("name", accepted, |name| {
        name.as_str().filter(|name| (1..=NAME_BYTES_MAX).contains(&name.len())).map(str::to_owned)
    });
    name.required()
}

fn cost(table: &mut Table<'_>, numbers: Option<&Numbers>) -> Cost {
    let accepted = format!("a whole number from 1 to {MOST}, or \"bytes\"");
    let cost = table.read("cost", accepted, |cost| {
        if cost == "bytes" {
            return Some(Cost::Bytes);
        }
        let cost = cost.as_u64().and_then(|cost| u32::try_from(cost).ok());
        cost.filter(|cost| *cost > 0).map(Cost::Fixed)
    });
    let cost = cost.or(Cost::Fixed(1));
    let Some(numbers) = numbers else { return cost };
    match (cost, numbers.at_once()) {
        (Cost::Fixed(cost), at_once) if u64::from(cost) > at_once => {
            let message = format!("is {cost}, but no more than {at_once} is ever admitted at once");
            table.error("cost", message);
        }
        (Cost::Bytes, 1) => {
            table.error("cost", "is in bytes, but only one is admitted at once: add a `burst`");
        }
        _ => {}
    }
    cost
}

/// What a rate is made of.
struct Numbers {
    algorithm: &'static str,
    limit: u64,
    period: Duration,
    burst: Option<u64>,
}

impl Numbers {
    fn read(table: &mut Table<'_>) -> Option<Self> {
        let words = ["token-bucket", "leaky-bucket", "fixed-window", "sliding-window"];
        let algorithm = table.word("algorithm", &words).or("token-bucket");
        let limit = amount(table, "limit", "admitted per period").required();
        let period = period(table);
        let burst = if algorithm.ends_with("bucket") {
            amount(table, "burst", "admitted at once").optional()
        } else {
            if table.take("burst").is_some() {
                let message = format!("belongs to token-bucket and leaky-bucket, not to {algorithm}");
                table.error("burst", message);
            }
            None
        };
        Some(Self { algorithm, limit: limit?, period: period?, burst })
    }

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

/// A number of messages; or a number or size of bytes, if `cost` says that bytes are counted.
fn amount<'e>(table: &mut Table<'e>, key: &str, meaning: &str) -> Field<'e, u64> {
    let counts_bytes = table.get("cost").is_some_and(|cost| cost == "bytes");
    let accepted = format!(
        "how much is {meaning}, from 1 to {MOST}, or a size such as \"64KiB\" where `cost` is \"bytes\""
    );
    table.read(key, accepted, |value| {
        let size = || value.as_str().filter(|_| counts_bytes).and_then(units::size);
        let amount = value.as_u64().or_else(size);
        amount.filter(|amount| (1..=MOST).contains(amount))
    })
}

fn period(table: &mut Table<'_>) -> Option<Duration> {
    let accepted = "a text like \"500ms\", \"1s\", \"5m\", \"1h\" or \"1d\", up to \"49d\"";
    let period = table.read("period", accepted, |period| {
        let period = period.as_str().and_then(units::duration);
        // The gateway counts milliseconds in 32 bits.
        period.filter(|period| (1..=u128::from(MOST)).contains(&period.as_millis()))
    });
    period.required()
}
