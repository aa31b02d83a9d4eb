//! `read` turns the settings into rules, or lists every error in them.

use gateway_plugin_sdk::{Kind, address};
use serde_json::{Map, Value};

use crate::payload::Path;
use crate::rule::{Action, Rule, When};
use crate::template::{Json, Text};

const MATCHES: &str = "kind, channel, user, authenticated, field with equals";
const ACTIONS: &str = "allow, deny, drop, rewrite, fan_out, direct, reply";
/// As many effects as the gateway allows one call by default.
const FAN_OUT_MAX: usize = 64;

/// Kinds that carry a payload to a place.
const CARRIERS: [Kind; 4] = [Kind::Publish, Kind::Rpc, Kind::Send, Kind::Raw];
/// Kinds whose sender waits for a payload.
const CALLS: [Kind; 2] = [Kind::Rpc, Kind::Raw];

/// The rules of the settings; or every mistake in them.
pub(crate) fn read(mut config: Map<String, Value>) -> Result<Vec<Rule>, String> {
    let mut mistakes = Vec::new();
    let tables = match config.remove("rules") {
        Some(Value::Array(tables)) if !tables.is_empty() => tables,
        _ => {
            mistakes.push("`rules` is missing or empty: a [[config.rules]] table is one rule".to_owned());
            Vec::new()
        }
    };
    mistakes.extend(config.keys().map(|key| format!("unknown key `{key}`; accepted: rules")));
    let mut rules = Vec::new();
    for (index, table) in tables.into_iter().enumerate() {
        let mut reader = Reader::new(index + 1, table, &mut mistakes);
        if let Some(rule) = reader.rule() {
            rules.push(rule);
        }
    }
    match mistakes.as_slice() {
        [] => Ok(rules),
        [one] => Err(one.clone()),
        all => Err(format!("{} mistakes: {}", all.len(), all.join("; "))),
    }
}

/// Takes one rule apart, key by key, and goes on after a mistake.
struct Reader<'m> {
    number: usize,
    table: Map<String, Value>,
    mistakes: &'m mut Vec<String>,
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
        self.mistakes.push(format!("rule {}: {}", self.number, what.as_ref()));
    }

    fn rule(&mut self) -> Option<Rule> {
        let before = self.mistakes.len();
        let mut when = self.when();
        let then = self.action();
        for key in std::mem::take(&mut self.table).into_iter().map(|(key, _)| key) {
            self.mistake(format!("unknown key `{key}`; accepted: {MATCHES}; {ACTIONS}"));
        }
        let then = then?;
        self.restrict_kinds(&mut when, &then);
        (self.mistakes.len() == before).then_some(Rule { when, then })
    }

    // ---- The match part ----

    fn when(&mut self) -> When {
        When {
            kinds: self.kinds(),
            channels: self.channels(),
            user: self.user(),
            authenticated: self.authenticated(),
            field: self.field(),
        }
    }

    fn kinds(&mut self) -> Option<Vec<Kind>> {
        let names = self.texts("kind")?;
        let mut kinds = Vec::new();
        for name in names {
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
        for pattern in &patterns {
            if !address::is_pattern(pattern) {
                self.mistake(format!(
                    "`channel` {pattern:?} is not a channel name, with or without a last `*`"
                ));
            }
        }
        Some(patterns)
    }

    fn user(&mut self) -> Option<String> {
        match self.table.remove("user")? {
            Value::String(pattern) if !pattern.is_empty() => {
                if self.table.get("authenticated") == Some(&Value::Bool(false)) {
                    self.mistake("`user` never matches with `authenticated = false`");
                }
                Some(pattern)
            }
            _ => {
                self.mistake("`user` is a user id, with or without a last `*`");
                None
            }
        }
    }

    fn authenticated(&mut self) -> Option<bool> {
        match self.table.remove("authenticated")? {
            Value::Bool(wanted) => Some(wanted),
            _ => {
                self.mistake("`authenticated` is true or false");
                None
            }
        }
    }

    fn field(&mut self) -> Option<(Path, Value)> {
        match (self.table.remove("field"), self.table.remove("equals")) {
            (None, None) => None,
            (Some(field), Some(value)) => {
                let path = field.as_str().and_then(Path::parse);
                if path.is_none() {
                    self.mistake("`field` is a path such as \"a.b\"");
                }
                Some((path?, value))
            }
            _ => {
                self.mistake("`field` and `equals` go together");
                None
            }
        }
    }

    /// A text or a list of texts, not empty.
    fn texts(&mut self, key: &str) -> Option<Vec<String>> {
        let list = match self.table.remove(key)? {
            Value::Array(items) => items,
            one => vec![one],
        };
        let texts: Option<Vec<String>> = list.iter().map(|item| item.as_str().map(str::to_owned)).collect();
        match texts {
            Some(texts) if !texts.is_empty() => Some(texts),
            _ => {
                self.mistake(format!("`{key}` is a text or a list of texts"));
                None
            }
        }
    }

    // ---- The action ----

    fn action(&mut self) -> Option<Action> {
        let mut found: Vec<(&str, Value)> =
            ACTIONS.split(", ").filter_map(|key| self.table.remove(key).map(|value| (key, value))).collect();
        let Some((key, value)) = found.pop() else {
            self.mistake(format!("has no action; one of: {ACTIONS}"));
            return None;
        };
        if !found.is_empty() {
            let keys: Vec<_> = found.iter().map(|(key, _)| *key).chain([key]).collect();
            self.mistake(format!("has {} actions ({}); exactly one is needed", keys.len(), keys.join(", ")));
            return None;
        }
        match read_action(key, value) {
            Ok(action) => Some(action),
            Err(mistake) => {
                self.mistake(mistake);
                None
            }
        }
    }

    /// A subscribe has nothing to route, and a publish is not answered with a payload: without a `kind` a
    /// rule is about those messages that its action is for.
    fn restrict_kinds(&mut self, when: &mut When, then: &Action) {
        let (name, possible) = match then {
            Action::Allow | Action::Deny(..) | Action::Drop => return,
            Action::Rewrite(_) => ("rewrite", CARRIERS.as_slice()),
            Action::Route(_) => ("fan_out and direct", CARRIERS.as_slice()),
            Action::Reply(_) => ("reply", CALLS.as_slice()),
        };
        let kinds = when.kinds.get_or_insert_with(|| possible.to_vec());
        for kind in kinds.iter().filter(|kind| !possible.contains(kind)) {
            let possible: Vec<_> = possible.iter().map(|kind| kind.name()).collect();
            self.mistakes.push(format!(
                "rule {}: {name} cannot be done to kind `{kind}`; possible: {}",
                self.number,
                possible.join(", ")
            ));
        }
    }
}

fn read_action(key: &str, value: Value) -> Result<Action, String> {
    match (key, value) {
        ("allow", Value::Bool(true)) => Ok(Action::Allow),
        ("drop", Value::Bool(true)) => Ok(Action::Drop),
        ("allow" | "drop", _) => Err(format!("`{key}` is true or left out")),
        ("deny", Value::Object(refusal)) => deny(refusal),
        ("rewrite", Value::Object(fields)) if !fields.is_empty() => rewrite(fields),
        ("fan_out", Value::Array(templates)) => fan_out(&templates),
        ("direct", Value::String(template)) => direct(&template),
        ("reply", value) => Json::parse(value).map(Action::Reply),
        ("deny", _) => Err("`deny` is a table: { code = 103, reason = \"read only\" }".into()),
        ("rewrite", _) => {
            Err("`rewrite` is a table of fields and values: { \"from.user\" = \"{user}\" }".into())
        }
        ("fan_out", _) => Err("`fan_out` is a list of addresses: [\"logs:{channel}\"]".into()),
        (_, _) => Err("`direct` is an address that begins with # or @: \"#{payload.to}\"".into()),
    }
}

fn deny(mut refusal: Map<String, Value>) -> Result<Action, String> {
    let code =
        refusal.remove("code").and_then(|code| code.as_u64()).and_then(|code| u32::try_from(code).ok());
    let reason = refusal.remove("reason");
    match (code, reason, refusal.keys().next()) {
        (_, _, Some(key)) => Err(format!("unknown key `{key}` in `deny`; accepted: code, reason")),
        (Some(code @ (100..=1999 | 3000..=4999)), Some(Value::String(reason)), None) => {
            Ok(Action::Deny(code, reason))
        }
        _ => Err("`deny` needs a code (100-1999 for an error reply, 3000-4999 to close) and a reason".into()),
    }
}

fn rewrite(fields: Map<String, Value>) -> Result<Action, String> {
    let mut parsed: Vec<(Path, Json)> = Vec::new();
    for (name, value) in fields {
        let path =
            Path::parse(&name).ok_or_else(|| format!("`rewrite` {name:?} is not a path such as \"a.b\""))?;
        if let Some((other, _)) = parsed.iter().find(|(other, _)| other.overlaps(&path)) {
            return Err(format!("`rewrite` sets both `{other}` and `{path}`"));
        }
        parsed.push((path, Json::parse(value)?));
    }
    Ok(Action::Rewrite(parsed))
}

fn fan_out(templates: &[Value]) -> Result<Action, String> {
    if !(1..=FAN_OUT_MAX).contains(&templates.len()) {
        return Err(format!("`fan_out` has {} addresses; 1 to {FAN_OUT_MAX} are accepted", templates.len()));
    }
    let texts = templates.iter().map(|template| match template {
        Value::String(source) => address_template(source),
        _ => Err("`fan_out` is a list of addresses: [\"logs:{channel}\"]".into()),
    });
    texts.collect::<Result<_, _>>().map(Action::Route)
}

fn direct(source: &str) -> Result<Action, String> {
    let text = address_template(source)?;
    if text.prefix().starts_with(['#', '@']) {
        Ok(Action::Route(vec![text]))
    } else {
        Err(format!("`direct` {source:?} begins with neither # (a user) nor @ (a connection)"))
    }
}

fn address_template(source: &str) -> Result<Text, String> {
    let text = Text::parse(source)?;
    if text.can_be_address() { Ok(text) } else { Err(format!("{source:?} never makes a valid address")) }
}
