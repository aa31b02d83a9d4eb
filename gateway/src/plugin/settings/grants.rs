//! The `[grants]` table.

use toml::{Table, Value};

use super::Reader;
use crate::config;
use crate::plugin::grants::{self, EFFECTS, Grants};

/// Most names in one list, beyond any list written by hand.
const NAMES_MAX: usize = 256;

impl Reader {
    pub(super) fn grants(&mut self, mut table: Table) -> Grants {
        let effects = self.names(&mut table, "effects", |name| {
            grants::effect(name).ok_or_else(|| match name {
                "set-payload" | "set-subscription-expiry" => {
                    format!("nothing: {name} is a part of answering and needs no grant")
                }
                "refresh-subscription" => "\"refresh\": it covers subscriptions too".to_owned(),
                "emit" => "upstreams = [\"NAME\"] instead: what is emitted is granted by upstream".to_owned(),
                _ => format!("one of {}", quoted(&EFFECTS)),
            })
        });
        let origin = |origin: &str| config::http_origin(origin).map_err(str::to_owned);
        let http = self.names(&mut table, "http", origin);
        let http_private = self.names(&mut table, "http-private", origin);
        let upstreams = self.names(&mut table, "upstreams", |name| {
            let accepted =
                || "the name of an upstream: at most 64 letters, digits, `-`, `_` and `.`".to_owned();
            grants::is_upstream_name(name).then(|| name.into()).ok_or_else(accepted)
        });
        let environment = self.names(&mut table, "environment", |name| {
            let accepted =
                || "the name of an environment variable: letters, digits and `_`, no digit first".to_owned();
            grants::is_environment_name(name).then(|| name.into()).ok_or_else(accepted)
        });
        let granted = Grants {
            effects: EFFECTS.into_iter().filter(|effect| effects.contains(effect)).collect(),
            buckets: self.switch(&mut table, "buckets"),
            key_value: self.switch(&mut table, "key-value"),
            http: http.into(),
            http_private: http_private.into(),
            upstreams: upstreams.into(),
            environment: environment.into(),
        };
        self.nothing_left(
            "grants.",
            &table,
            "effects, buckets, key-value, http, http-private, upstreams, environment",
        );
        granted
    }

    /// A list of texts. `read` returns the value to keep, or the accepted form as an error.
    fn names<T: PartialEq>(
        &mut self,
        table: &mut Table,
        key: &str,
        read: impl Fn(&str) -> Result<T, String>,
    ) -> Vec<T> {
        let Some(value) = table.remove(key) else { return Vec::new() };
        let key = format!("grants.{key}");
        let Value::Array(values) = &value else {
            self.error(&key, format!("is {value}; expected a list of texts"));
            return Vec::new();
        };
        if values.len() > NAMES_MAX {
            self.error(&key, format!("has {} entries; expected at most {NAMES_MAX}", values.len()));
            return Vec::new();
        }
        let mut kept = Vec::with_capacity(values.len());
        for (number, value) in values.iter().enumerate() {
            match value.as_str().map(&read) {
                Some(Ok(name)) if kept.contains(&name) => {}
                Some(Ok(name)) => kept.push(name),
                Some(Err(accepted)) => {
                    self.error(&format!("{key}[{number}]"), format!("is {value}; expected {accepted}"));
                }
                None => self.error(&format!("{key}[{number}]"), format!("is {value}; expected a text")),
            }
        }
        kept
    }

    fn switch(&mut self, table: &mut Table, key: &str) -> bool {
        match table.remove(key) {
            None => false,
            Some(Value::Boolean(yes)) => yes,
            Some(other) => {
                self.error(&format!("grants.{key}"), format!("is {other}; expected true or false"));
                false
            }
        }
    }
}

fn quoted(names: &[&str]) -> String {
    names.iter().map(|name| format!("{name:?}")).collect::<Vec<_>>().join(", ")
}
