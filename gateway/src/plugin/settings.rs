//! [`Settings`]: the settings file of a plugin, with its own configuration, its grants, its limits, its
//! failure policy and its circuit breaker.

mod breaker;
mod grants;

use std::fmt;
use std::ops::RangeInclusive;
use std::time::Duration;

use gateway_plugin_grammar::nearest::nearest;
use gateway_plugin_grammar::units;
use toml::{Table, Value};

use super::breaker::BreakerSettings;
use super::failure::FailurePolicy;
use super::grants::Grants;
use super::state::{Bounds, PluginState};

/// Default number of instances of a plugin that may wait.
const HTTP_INSTANCES: usize = 4;

/// A checked settings file. Without a file, all fields have their defaults.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// The `[config]` table as JSON, which the plugin gets in `configure`. `{}` if there is none.
    pub config: Box<str>,
    /// The `[grants]` table: capabilities of the plugin.
    pub grants: Grants,
    /// The `[limits]` table.
    pub limits: Limits,
    /// The `[state]` table: bounds of the plugin's state in the gateway.
    pub state: Bounds,
    /// `instances` of the `[http]` table: how many instances of a plugin that sends HTTP requests may wait at
    /// the same time.
    pub http_instances: usize,
    /// Treatment of events when the plugin fails.
    pub failure: FailurePolicy,
    /// The `[breaker]` table: when the breaker opens.
    pub breaker: BreakerSettings,
}

/// Limits of one instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Longest time of one call. Time during which the system runs other threads is excluded as far as it can
    /// be measured.
    pub deadline: Duration,
    /// Longest time to instantiate and configure.
    pub configure_deadline: Duration,
    /// Memory of one instance in bytes.
    pub memory: usize,
    /// Effects in one call; also addresses of a route, and channels and attributes of an identity.
    pub effects_max: usize,
    /// Bytes that one call may hand over, in effects and in its verdict together.
    pub effect_bytes_max: usize,
    /// Log lines per second of all instances together.
    pub log_lines_per_second: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            deadline: Duration::from_millis(5),
            configure_deadline: Duration::from_secs(1),
            memory: 32 << 20,
            effects_max: 64,
            effect_bytes_max: 256 << 10,
            log_lines_per_second: 20,
        }
    }
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            config: "{}".into(),
            grants: Grants::default(),
            limits: Limits::default(),
            state: PluginState::BOUNDS,
            http_instances: HTTP_INSTANCES,
            failure: FailurePolicy::default(),
            breaker: BreakerSettings::default(),
        }
    }
}

/// All errors of a settings file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SettingsErrors(Vec<SettingError>);

/// One error.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SettingError {
    /// The key with its table, such as `limits.deadline`; empty if the file is not valid TOML.
    pub key: Box<str>,
    /// The value and the accepted ones.
    pub text: Box<str>,
}

impl SettingsErrors {
    /// In the order of the keys of this module's documentation, unknown keys last.
    pub fn iter(&self) -> impl Iterator<Item = &SettingError> {
        self.0.iter()
    }
}

impl fmt::Display for SettingsErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, SettingError { key, text }) in self.0.iter().enumerate() {
            let separator = if number == 0 { "" } else { "; " };
            let colon = if key.is_empty() { "" } else { ": " };
            write!(f, "{separator}{key}{colon}{text}")?;
        }
        Ok(())
    }
}

impl std::error::Error for SettingsErrors {}

impl Settings {
    /// Reads a settings file. All errors are reported together.
    ///
    /// # Errors
    ///
    /// All errors of the file, each with its key.
    pub fn parse(file: &[u8]) -> Result<Self, SettingsErrors> {
        let mut reader = Reader::default();
        let settings = reader.settings(file);
        if reader.errors.is_empty() { Ok(settings) } else { Err(SettingsErrors(reader.errors)) }
    }
}

/// Takes known keys out of tables; what is left is unknown.
#[derive(Default)]
struct Reader {
    errors: Vec<SettingError>,
}

impl Reader {
    fn settings(&mut self, file: &[u8]) -> Settings {
        let mut settings = Settings::default();
        let text = match std::str::from_utf8(file) {
            Ok(text) => text,
            Err(_) => {
                self.error("", "is not UTF-8 text; expected TOML");
                return settings;
            }
        };
        let mut table: Table = match toml::from_str(text) {
            Ok(table) => table,
            Err(error) => {
                let before = error.span().map_or("", |span| &text[..span.start]);
                let line = before.matches('\n').count() + 1;
                let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
                self.error("", format!("is not TOML: line {line}, column {column}: {}", error.message()));
                return settings;
            }
        };
        if let Some(config) = self.table(&mut table, "config")
            && let Some(json) = self.json("config", Value::Table(config))
        {
            settings.config = json.to_string().into();
        }
        if let Some(grants) = self.table(&mut table, "grants") {
            settings.grants = self.grants(grants);
        }
        if let Some(limits) = self.table(&mut table, "limits") {
            settings.limits = self.limits(limits);
        }
        if let Some(state) = self.table(&mut table, "state") {
            settings.state = self.state(state);
        }
        if let Some(mut http) = self.table(&mut table, "http") {
            settings.http_instances = self.number_in("http", &mut http, "instances", HTTP_INSTANCES, 1..=64);
            self.nothing_left("http.", &http, "instances");
        }
        match table.remove("failure") {
            None => {}
            Some(Value::String(word)) if word == "closed" => settings.failure = FailurePolicy::Closed,
            Some(Value::String(word)) if word == "open" => settings.failure = FailurePolicy::Open,
            Some(other) => self.error("failure", format!("is {other}; expected \"closed\" or \"open\"")),
        }
        if let Some(breaker) = self.table(&mut table, "breaker") {
            settings.breaker = self.breaker(breaker);
        }
        self.nothing_left("", &table, "[config], [grants], [limits], [state], [http], failure, [breaker]");
        settings
    }

    fn limits(&mut self, mut table: Table) -> Limits {
        let default = Limits::default();
        let limits = Limits {
            deadline: self.duration(&mut table, "deadline", default.deadline, 1..=10_000),
            configure_deadline: self.duration(
                &mut table,
                "configure_deadline",
                default.configure_deadline,
                1..=60_000,
            ),
            memory: self.bytes(&mut table, "memory", default.memory, 1 << 20..=4 << 30),
            effects_max: self.number(&mut table, "effects_max", default.effects_max, 0..=10_000),
            effect_bytes_max: self.bytes(
                &mut table,
                "effect_bytes_max",
                default.effect_bytes_max,
                1 << 10..=64 << 20,
            ),
            log_lines_per_second: self.number(
                &mut table,
                "log_lines_per_second",
                default.log_lines_per_second,
                0..=10_000,
            ),
        };
        self.nothing_left(
            "limits.",
            &table,
            "deadline, configure_deadline, memory, effects_max, effect_bytes_max, log_lines_per_second",
        );
        limits
    }

    fn state(&mut self, mut table: Table) -> Bounds {
        let default = PluginState::BOUNDS;
        let bounds = Bounds {
            entries_max: self.number_in(
                "state",
                &mut table,
                "entries_max",
                default.entries_max,
                16..=100_000_000,
            ),
            bytes_max: self.bytes_in(
                "state",
                &mut table,
                "bytes_max",
                default.bytes_max,
                64 << 10..=64 << 30,
            ),
        };
        self.nothing_left("state.", &table, "entries_max, bytes_max");
        bounds
    }

    fn duration(
        &mut self,
        table: &mut Table,
        key: &str,
        default: Duration,
        milliseconds: RangeInclusive<u64>,
    ) -> Duration {
        self.duration_in("limits", table, key, default, milliseconds)
    }

    fn duration_in(
        &mut self,
        name: &str,
        table: &mut Table,
        key: &str,
        default: Duration,
        milliseconds: RangeInclusive<u64>,
    ) -> Duration {
        let Some(value) = table.remove(key) else { return default };
        let range = Duration::from_millis(*milliseconds.start())..=Duration::from_millis(*milliseconds.end());
        let parsed = value.as_str().and_then(units::duration).filter(|time| range.contains(time));
        parsed.unwrap_or_else(|| {
            let (least, most) = (milliseconds.start(), milliseconds.end() / 1000);
            let text = format!(
                "is {value}; expected a text like \"5ms\" or \"1s\", from \"{least}ms\" to \"{most}s\""
            );
            self.error(&format!("{name}.{key}"), text);
            default
        })
    }

    fn bytes(&mut self, table: &mut Table, key: &str, default: usize, range: RangeInclusive<u64>) -> usize {
        self.bytes_in("limits", table, key, default, range)
    }

    fn bytes_in(
        &mut self,
        name: &str,
        table: &mut Table,
        key: &str,
        default: usize,
        range: RangeInclusive<u64>,
    ) -> usize {
        let Some(value) = table.remove(key) else { return default };
        let parsed = value.as_str().and_then(units::size).filter(|bytes| range.contains(bytes));
        parsed.and_then(|bytes| usize::try_from(bytes).ok()).unwrap_or_else(|| {
            let (least, most) = (units::show_size(*range.start()), units::show_size(*range.end()));
            let text = format!(
                "is {value}; expected a text like \"64KiB\" or \"32MiB\", from \"{least}\" to \"{most}\""
            );
            self.error(&format!("{name}.{key}"), text);
            default
        })
    }

    fn number<N: TryFrom<i64>>(
        &mut self,
        table: &mut Table,
        key: &str,
        default: N,
        range: RangeInclusive<i64>,
    ) -> N {
        self.number_in("limits", table, key, default, range)
    }

    fn number_in<N: TryFrom<i64>>(
        &mut self,
        name: &str,
        table: &mut Table,
        key: &str,
        default: N,
        range: RangeInclusive<i64>,
    ) -> N {
        let Some(value) = table.remove(key) else { return default };
        let parsed =
            value.as_integer().filter(|number| range.contains(number)).and_then(|n| N::try_from(n).ok());
        parsed.unwrap_or_else(|| {
            let text = format!("is {value}; expected a number from {} to {}", range.start(), range.end());
            self.error(&format!("{name}.{key}"), text);
            default
        })
    }

    fn table(&mut self, table: &mut Table, key: &str) -> Option<Table> {
        match table.remove(key)? {
            Value::Table(inner) => Some(inner),
            other => {
                self.error(key, format!("is {other}; expected a table [{key}]"));
                None
            }
        }
    }

    /// What was not taken out of a table is unknown. `known` lists its keys, separated by commas.
    fn nothing_left(&mut self, prefix: &str, table: &Table, known: &str) {
        for key in table.keys() {
            let names = known.split(", ").map(|name| name.trim_matches(['[', ']']));
            let near =
                nearest(key, names).map(|near| format!("the nearest is `{near}`; ")).unwrap_or_default();
            let own =
                if prefix.is_empty() { "; settings of the plugin itself belong under [config]" } else { "" };
            let text = format!("is not a known key; {near}accepted: {known}{own}");
            self.error(&format!("{prefix}{key}"), text);
        }
    }

    /// TOML has dates and numbers that JSON lacks: dates become text, infinite numbers are an error.
    fn json(&mut self, key: &str, value: Value) -> Option<serde_json::Value> {
        use serde_json::Value as Json;
        Some(match value {
            Value::String(text) => Json::String(text),
            Value::Integer(number) => number.into(),
            Value::Boolean(yes) => Json::Bool(yes),
            Value::Datetime(date) => Json::String(date.to_string()),
            Value::Float(number) => match serde_json::Number::from_f64(number) {
                Some(number) => Json::Number(number),
                None => {
                    self.error(key, format!("is {number}; expected a finite number"));
                    return None;
                }
            },
            Value::Array(values) => {
                let items = values.into_iter().enumerate();
                let items = items.filter_map(|(n, value)| self.json(&format!("{key}[{n}]"), value));
                Json::Array(items.collect())
            }
            Value::Table(table) => {
                let entries = table.into_iter();
                let entries = entries.filter_map(|(name, value)| {
                    let value = self.json(&format!("{key}.{name}"), value)?;
                    Some((name, value))
                });
                Json::Object(entries.collect())
            }
        })
    }

    fn error(&mut self, key: &str, text: impl Into<Box<str>>) {
        self.errors.push(SettingError { key: key.into(), text: text.into() });
    }
}

#[cfg(test)]
mod tests;
