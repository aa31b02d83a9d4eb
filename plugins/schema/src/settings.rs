//! The `[config]` table: as written, and the rules that it becomes. All errors are reported at once.

use gateway_plugin_sdk::settings::Errors;
use gateway_plugin_sdk::{Kind, address, settings};
use jsonschema::{Draft, PatternOptions, Validator};
use serde_json::Value;

use crate::rule::{Action, Rule};

/// As many schemas as a message is compared with at most.
const SCHEMAS_MAX: usize = 64;
const LIST_MAX: usize = 64;

/// Longest text about a schema that is wrong, in bytes.
const WHY_BYTES_MAX: usize = 300;

/// What `$schema` may be.
const DRAFT: &str = "https://json-schema.org/draft/2020-12/schema";

/// The table as written.
#[settings]
pub struct Settings {
    schemas: Vec<SchemaSettings>,
    /// For all schemas.
    #[serde(default)]
    dry_run: bool,
}

/// One of `schemas`.
#[settings]
struct SchemaSettings {
    #[serde(default)]
    channels: Vec<String>,
    #[serde(default = "publish")]
    kinds: Vec<String>,
    #[serde(default)]
    methods: Vec<String>,
    schema: Option<Value>,
    schema_json: Option<String>,
    #[serde(default)]
    action: Action,
    #[serde(default)]
    dry_run: bool,
}

fn publish() -> Vec<String> {
    vec![Kind::Publish.name().into()]
}

impl Settings {
    /// The rules; or everything that is wrong with the settings.
    pub(crate) fn check(self) -> Result<Vec<Rule>, String> {
        let errors = Errors::default();
        let count = self.schemas.len();
        if count == 0 {
            errors.add("schemas", "is empty: write a [[config.schemas]]");
        }
        if count > SCHEMAS_MAX {
            errors.add("schemas", format!("has {count} members: at most {SCHEMAS_MAX} are accepted"));
        }
        let mut rules = Vec::with_capacity(count.min(SCHEMAS_MAX));
        for (index, one) in self.schemas.into_iter().enumerate().take(SCHEMAS_MAX) {
            let dry_run = self.dry_run || one.dry_run;
            let error = |key: &str, why: String| errors.add(&format!("schemas[{index}].{key}"), why);
            if let Some(rule) = one.check(dry_run, &error) {
                rules.push(rule);
            }
        }
        errors.finish(rules)
    }
}

impl SchemaSettings {
    fn check(self, dry_run: bool, error: &dyn Fn(&str, String)) -> Option<Rule> {
        for (key, list) in [("channels", &self.channels), ("methods", &self.methods)] {
            if list.len() > LIST_MAX {
                error(key, format!("has {} members: at most {LIST_MAX} are accepted", list.len()));
            }
        }
        for pattern in self.channels.iter().filter(|pattern| !address::is_pattern(pattern)) {
            error("channels", format!("has {pattern:?}, which is no channel name that may end in `*`"));
        }
        if self.kinds.is_empty() {
            error("kinds", "is empty: leave it out for publications".into());
        }
        let mut kinds = Vec::new();
        for name in &self.kinds {
            match Kind::from_name(name) {
                Some(kind) => kinds.push(kind),
                None => error(
                    "kinds",
                    format!("has {name:?}, which is none of {}", Kind::ALL.map(Kind::name).join(", ")),
                ),
            }
        }
        if !self.methods.is_empty() && !kinds.contains(&Kind::Rpc) {
            error("methods", "needs the kind rpc: nothing else has a method".into());
        }
        let (key, schema) = match (self.schema, self.schema_json) {
            (Some(table), None) => ("schema", Ok(table)),
            (None, Some(text)) => {
                ("schema_json", serde_json::from_str(&text).map_err(|error| format!("is not JSON: {error}")))
            }
            _ => ("schema", Err("or else `schema_json` is needed, and only one of them".into())),
        };
        let compiled = schema.and_then(|schema: Value| Ok((compile(&schema)?, schema)));
        let (validator, schema) = compiled.map_err(|why| error(key, why)).ok()?;
        let (channels, methods, action) = (self.channels, self.methods, self.action);
        Some(Rule { channels, kinds, methods, action, dry_run, validator, schema })
    }
}

fn compile(schema: &Value) -> Result<Validator, String> {
    match schema.get("$schema") {
        None => (),
        Some(Value::String(draft)) if draft.trim_end_matches('#') == DRAFT => (),
        Some(_) => return Err(format!("has a `$schema` that is not {DRAFT}")),
    }
    jsonschema::options()
        .with_draft(Draft::Draft202012)
        .should_validate_formats(true)
        // References reach no further than the schema itself.
        .offline()
        // Without look-around and back-references: time grows with the length of a text and no faster.
        .with_pattern_options(PatternOptions::regex())
        .build(schema)
        .map_err(|error| {
            let (place, why) = (error.instance_path().as_str().to_owned(), error.to_string());
            let why = &why[..why.floor_char_boundary(WHY_BYTES_MAX)];
            match place.is_empty() {
                true => format!("is no schema: {why}"),
                false => format!("is no schema at {place}: {why}"),
            }
        })
}
