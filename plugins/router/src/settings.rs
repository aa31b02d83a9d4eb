//! `read` turns the settings into rules, or lists every error in them.

use gateway_plugin_sdk::Kind;
use gateway_plugin_sdk::settings::{Errors, Table};
use serde_json::{Map, Value};

use crate::payload::Path;
use crate::rule::{Action, Rule, When};
use crate::template::{Json, Text};

const ACTIONS: [&str; 7] = ["allow", "deny", "drop", "rewrite", "fan_out", "direct", "reply"];
/// As many effects as the gateway allows one call by default.
const FAN_OUT_MAX: usize = 64;

/// Kinds that carry a payload to a place.
const CARRIERS: [Kind; 4] = [Kind::Publish, Kind::Rpc, Kind::Send, Kind::Raw];
/// Kinds whose sender waits for a payload.
const CALLS: [Kind; 2] = [Kind::Rpc, Kind::Raw];

/// The rules of the settings; or every error in them.
pub(crate) fn read(config: Map<String, Value>) -> Result<Vec<Rule>, String> {
    let errors = Errors::default();
    let mut table = Table::new(config, &errors);
    let tables = table.tables("rules").or_default();
    if tables.is_empty() && errors.is_empty() {
        table.error("rules", "is missing or empty: a [[config.rules]] table is one rule");
    }
    table.finish();
    let rules = tables.into_iter().filter_map(read_rule).collect();
    errors.finish(rules)
}

/// The rule of a table. `None` if an error was recorded.
fn read_rule(mut table: Table<'_>) -> Option<Rule> {
    let mut when = When {
        kinds: table.kinds("kind").optional(),
        channels: table.patterns("channel").optional(),
        user: user(&mut table),
        authenticated: table.flag("authenticated").optional(),
        field: field(&mut table),
    };
    let then = action(&mut table);
    if let Some(then) = &then {
        restrict_kinds(&table, &mut when, then);
    }
    table.finish();
    Some(Rule { when, then: then? })
}

// ---- The match part ----

fn user(table: &mut Table<'_>) -> Option<String> {
    let never_matches = table.get("authenticated") == Some(&Value::Bool(false));
    let accepted = "a user id, with or without a last `*`";
    let user =
        table.read("user", accepted, |user| user.as_str().filter(|user| !user.is_empty()).map(str::to_owned));
    let user = user.optional();
    if user.is_some() && never_matches {
        table.error("user", "never matches with `authenticated = false`");
    }
    user
}

fn field(table: &mut Table<'_>) -> Option<(Path, Value)> {
    let is_alone = table.get("field").is_some() != table.get("equals").is_some();
    let path = table.read("field", "a path such as \"a.b\"", |path| path.as_str().and_then(Path::parse));
    let (path, value) = (path.optional(), table.take("equals"));
    if is_alone {
        table.error("field", "and `equals` go together");
    }
    Some((path?, value?))
}

// ---- The action ----

fn action(table: &mut Table<'_>) -> Option<Action> {
    let found: Vec<(&str, Value)> =
        ACTIONS.into_iter().filter_map(|key| table.take(key).map(|value| (key, value))).collect();
    if found.len() > 1 {
        let keys: Vec<_> = found.iter().map(|(key, _)| *key).collect();
        let (count, keys) = (keys.len(), keys.join(", "));
        table.error_here(format!("has {count} actions ({keys}); exactly one is needed"));
        return None;
    }
    let Some((key, value)) = found.into_iter().next() else {
        table.error_here(format!("has no action; one of: {}", ACTIONS.join(", ")));
        return None;
    };
    read_action(key, value).map_err(|error| table.error(key, error)).ok()
}

/// A subscribe has nothing to route, and a publish is not answered with a payload: without a `kind` a rule is
/// about those messages that its action is for.
fn restrict_kinds(table: &Table<'_>, when: &mut When, then: &Action) {
    let (name, possible) = match then {
        Action::Allow | Action::Deny(..) | Action::Drop => return,
        Action::Rewrite(_) => ("rewrite", CARRIERS.as_slice()),
        Action::Route(_) => ("fan_out and direct", CARRIERS.as_slice()),
        Action::Reply(_) => ("reply", CALLS.as_slice()),
    };
    let kinds = when.kinds.get_or_insert_with(|| possible.to_vec());
    for kind in kinds.iter().filter(|kind| !possible.contains(kind)) {
        let possible: Vec<_> = possible.iter().map(|kind| kind.name()).collect();
        let possible = possible.join(", ");
        table.error("kind", format!("has `{kind}`, to which {name} cannot be done; possible: {possible}"));
    }
}

/// The action; or what is wrong with it, as the rest of a sentence that begins with its key.
fn read_action(key: &str, value: Value) -> Result<Action, String> {
    match (key, value) {
        ("allow", Value::Bool(true)) => Ok(Action::Allow),
        ("drop", Value::Bool(true)) => Ok(Action::Drop),
        ("allow" | "drop", _) => Err("is true or left out".into()),
        ("deny", Value::Object(refusal)) => deny(refusal),
        ("rewrite", Value::Object(fields)) if !fields.is_empty() => rewrite(fields),
        ("fan_out", Value::Array(templates)) => fan_out(&templates),
        ("direct", Value::String(template)) => direct(&template),
        ("reply", value) => Json::parse(value).map(Action::Reply),
        ("deny", _) => Err("is a table: { code = 103, reason = \"read only\" }".into()),
        ("rewrite", _) => Err("is a table of fields and values: { \"from.user\" = \"{user}\" }".into()),
        ("fan_out", _) => Err("is a list of addresses: [\"logs:{channel}\"]".into()),
        (_, _) => Err("is an address that begins with # or @: \"#{payload.to}\"".into()),
    }
}

fn deny(mut refusal: Map<String, Value>) -> Result<Action, String> {
    let code =
        refusal.remove("code").and_then(|code| code.as_u64()).and_then(|code| u32::try_from(code).ok());
    let reason = refusal.remove("reason");
    match (code, reason, refusal.keys().next()) {
        (_, _, Some(key)) => Err(format!("has the unknown key `{key}`; accepted: code, reason")),
        (Some(code @ (100..=1999 | 3000..=4999)), Some(Value::String(reason)), None) => {
            Ok(Action::Deny(code, reason))
        }
        _ => Err("needs a code (100-1999 for an error reply, 3000-4999 to close) and a reason".into()),
    }
}

fn rewrite(fields: Map<String, Value>) -> Result<Action, String> {
    let mut parsed: Vec<(Path, Json)> = Vec::new();
    for (name, value) in fields {
        let path =
            Path::parse(&name).ok_or_else(|| format!("has {name:?}, which is no path such as \"a.b\""))?;
        if let Some((other, _)) = parsed.iter().find(|(other, _)| other.overlaps(&path)) {
            return Err(format!("sets both `{other}` and `{path}`"));
        }
        parsed.push((path, Json::parse(value)?));
    }
    Ok(Action::Rewrite(parsed))
}

fn fan_out(templates: &[Value]) -> Result<Action, String> {
    if !(1..=FAN_OUT_MAX).contains(&templates.len()) {
        return Err(format!("has {} addresses; 1 to {FAN_OUT_MAX} are accepted", templates.len()));
    }
    let texts = templates.iter().map(|template| match template {
        Value::String(source) => address_template(source),
        _ => Err("is a list of addresses: [\"logs:{channel}\"]".into()),
    });
    texts.collect::<Result<_, _>>().map(Action::Route)
}

fn direct(source: &str) -> Result<Action, String> {
    let text = address_template(source)?;
    if text.prefix().starts_with(['#', '@']) {
        Ok(Action::Route(vec![text]))
    } else {
        Err(format!("has {source:?}, which begins with neither # (a user) nor @ (a connection)"))
    }
}

fn address_template(source: &str) -> Result<Text, String> {
    let text = Text::parse(source)?;
    if text.can_be_address() {
        Ok(text)
    } else {
        Err(format!("has {source:?}, which never makes a valid address"))
    }
}
