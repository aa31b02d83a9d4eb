//! [`Grants`]: capabilities that a plugin requests or that the operator grants, and the difference between
//! the two.

use std::fmt::Write as _;

use super::load::{LoadCode, LoadError};

/// Effects that need a grant, by their names in the plugin interface. Those on others, by address,
/// are granted with them, and `refresh-subscription` with `refresh`. `set-payload` and
/// `set-subscription-expiry` are part of the verdict and need none; `emit` is granted by the name of the
/// upstream.
pub const EFFECTS: [&str; 6] =
    ["publish", "subscribe", "unsubscribe", "disconnect", "refresh", "set-attribute"];

/// A set of capabilities: requested by a binary, or granted by the `[grants]` table of its settings file.
/// Empty by default.
///
/// A plugin requests an effect, `buckets` and `key-value` by importing it, and the names of the other lists
/// by what its SDK stamped in. A plugin that imports `http`, `environment` or `emit` without stamped names is
/// loaded: each call without a grant is then refused, because the names it needs may depend on its settings.
/// In `configure` it can declare which origins those settings need, and whether they need `key-value`: see
/// `ask` in the interface.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Grants {
    /// Effects by name, in the order of [`EFFECTS`].
    pub effects: Box<[&'static str]>,
    /// The interface `buckets`.
    pub buckets: bool,
    /// The interface `key-value`.
    pub key_value: bool,
    /// Origins for the interface `http`, such as `https://issuer.example:8443`: scheme and host in lower
    /// case, without the scheme's default port.
    pub http: Box<[Box<str>]>,
    /// Origins for the interface `http` that may resolve to addresses of this machine or a private network.
    /// Never requested.
    pub http_private: Box<[Box<str>]>,
    /// Upstreams by name, for `effects.emit`.
    pub upstreams: Box<[Box<str>]>,
    /// Names of environment variables, for the interface `environment`.
    pub environment: Box<[Box<str>]>,
}

impl Grants {
    /// Adds a requested origin.
    pub fn request_http(&mut self, origin: Box<str>) {
        if !self.http.contains(&origin) {
            let mut http = std::mem::take(&mut self.http).into_vec();
            http.push(origin);
            self.http = http.into();
        }
    }

    /// The requested capabilities that are not `granted`.
    pub fn missing(&self, granted: &Self) -> Self {
        Self {
            effects: without(&self.effects, &granted.effects),
            buckets: self.buckets && !granted.buckets,
            key_value: self.key_value && !granted.key_value,
            http: without(&without(&self.http, &granted.http), &granted.http_private),
            http_private: Box::default(),
            upstreams: without(&self.upstreams, &granted.upstreams),
            environment: without(&self.environment, &granted.environment),
        }
    }

    /// Whether the set is empty.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Names of all capabilities, such as `effects.publish` and `environment JWT_SECRET`.
    pub fn names(&self) -> Vec<String> {
        let mut names: Vec<String> = self.effects.iter().map(|effect| format!("effects.{effect}")).collect();
        names.extend(self.buckets.then(|| "buckets".to_owned()));
        names.extend(self.key_value.then(|| "key-value".to_owned()));
        names.extend(self.http.iter().map(|origin| format!("http {origin}")));
        names.extend(self.http_private.iter().map(|origin| format!("http-private {origin}")));
        names.extend(self.upstreams.iter().map(|upstream| format!("upstream {upstream}")));
        names.extend(self.environment.iter().map(|name| format!("environment {name}")));
        names
    }

    /// Refuses a plugin that requests more than `granted`, with the lines that `settings_file` lacks.
    ///
    /// # Errors
    ///
    /// If it requests more; with the lines to add.
    pub fn check(&self, granted: &Self, settings_file: &str) -> Result<(), LoadError> {
        let missing = self.missing(granted);
        if missing.is_empty() {
            return Ok(());
        }
        let names = sentence_list(&missing.names());
        let (lines, is_change) = missing.lines(granted);
        let verb = if is_change { "make it" } else { "add" };
        let message = format!(
            "asks for {names}, which {settings_file} does not grant; {verb} under [grants]: {}",
            lines.join(", ")
        );
        Err(LoadError::new(LoadCode::NotGranted, message))
    }

    /// The keys of a settings file that grant this in addition to `granted`, and whether one of them already
    /// exists.
    fn lines(&self, granted: &Self) -> (Vec<String>, bool) {
        let mut lines = Vec::new();
        let mut is_change = false;
        let mut list = |key: &str, missing: Vec<&str>, granted: Vec<&str>| {
            if missing.is_empty() {
                return;
            }
            is_change |= !granted.is_empty();
            let mut line = format!("{key} = [");
            for (number, name) in granted.iter().chain(&missing).enumerate() {
                let _ = write!(line, "{}{name:?}", if number == 0 { "" } else { ", " });
            }
            lines.push(line + "]");
        };
        list("effects", self.effects.to_vec(), granted.effects.to_vec());
        list("http", texts(&self.http), texts(&granted.http));
        list("upstreams", texts(&self.upstreams), texts(&granted.upstreams));
        list("environment", texts(&self.environment), texts(&granted.environment));
        lines.extend(self.buckets.then(|| "buckets = true".to_owned()));
        lines.extend(self.key_value.then(|| "key-value = true".to_owned()));
        (lines, is_change)
    }
}

/// The effect of this name, if it needs a grant.
pub fn effect(name: &str) -> Option<&'static str> {
    EFFECTS.into_iter().find(|effect| *effect == name)
}

/// The effect of a function of the interface, if it needs a grant: on the client of the event, or on others
/// by address.
pub fn effect_of(function: &str) -> Option<&'static str> {
    match function {
        "refresh-subscription" => effect("refresh"),
        _ => effect(function.strip_suffix("-address").unwrap_or(function)),
    }
}

/// Whether this is a valid name of an environment variable.
pub fn is_environment_name(name: &str) -> bool {
    let byte = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    (1..=128).contains(&name.len())
        && name.bytes().all(byte)
        && !name.starts_with(|c: char| c.is_ascii_digit())
}

/// Whether this is a valid name of an upstream.
pub fn is_upstream_name(name: &str) -> bool {
    let byte = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
    (1..=64).contains(&name.len()) && name.bytes().all(byte)
}

fn without<T: Clone + PartialEq>(all: &[T], some: &[T]) -> Box<[T]> {
    all.iter().filter(|one| !some.contains(one)).cloned().collect()
}

fn texts(names: &[Box<str>]) -> Vec<&str> {
    names.iter().map(|name| &**name).collect()
}

/// `a, b and c`.
fn sentence_list(names: &[String]) -> String {
    match names {
        [] => String::new(),
        [only] => only.clone(),
        [rest @ .., last] => format!("{} and {last}", rest.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn effects(names: &[&str]) -> Grants {
        Grants { effects: names.iter().filter_map(|name| effect(name)).collect(), ..Grants::default() }
    }

    #[test]
    fn a_refusal_names_what_is_missing_and_the_lines_that_grant_it() {
        let asked = Grants {
            buckets: true,
            environment: ["JWT_SECRET".into()].into(),
            http: ["https://issuer.example".into()].into(),
            ..effects(&["publish", "subscribe"])
        };
        let refused = |granted: &Grants| asked.check(granted, "10-x.toml").expect_err("more is asked for");
        let error = refused(&Grants { http: asked.http.clone(), ..Grants::default() });
        assert_eq!(error.code(), LoadCode::NotGranted);
        assert_eq!(
            error.message(),
            "asks for effects.publish, effects.subscribe, buckets and environment JWT_SECRET, which 10-x.toml does not \
             grant; add under [grants]: effects = [\"publish\", \"subscribe\"], environment = [\"JWT_SECRET\"], \
             buckets = true"
        );
        let granted = Grants { effects: effects(&["disconnect", "subscribe"]).effects, ..asked.clone() };
        assert_eq!(
            refused(&granted).message(),
            "asks for effects.publish, which 10-x.toml does not grant; make it under [grants]: effects = \
             [\"disconnect\", \"subscribe\", \"publish\"]",
            "a second key of that name would be a mistake"
        );
    }

    #[test]
    fn what_is_granted_and_not_asked_for_is_no_mistake() {
        let granted = Grants { key_value: true, ..effects(&["publish"]) };
        assert_eq!(Grants::default().check(&granted, "a.toml"), Ok(()));
        assert_eq!(effects(&["publish"]).check(&granted, "a.toml"), Ok(()));
    }

    /// A change that adds an effect to the interface has to decide here whether it needs a grant.
    #[test]
    fn every_effect_of_the_interface_needs_a_grant_or_is_known_to_need_none() {
        const WITHOUT_GRANT: [&str; 3] = ["set-payload", "set-subscription-expiry", "emit"];
        let wit = include_str!("../../../plugin-sdk/wit/v0.1/gateway-plugin.wit");
        let interface = wit.split_once("interface effects {").expect("it is there").1;
        let interface = interface.split_once("\n}").expect("it ends").0;
        let functions: Vec<&str> =
            interface.lines().filter_map(|line| Some(line.trim().split_once(": func(")?.0)).collect();
        assert!(functions.contains(&"set-payload"));
        for function in &functions {
            assert!(effect_of(function).is_some() || WITHOUT_GRANT.contains(function), "{function}");
        }
        assert!(EFFECTS.iter().all(|effect| functions.contains(effect)));
    }
}
