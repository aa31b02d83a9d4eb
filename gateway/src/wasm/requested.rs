//! Reads the capabilities that a plugin requests, from the functions it imports and from the names stamped in
//! by its SDK.

use wasmtime::Engine;
use wasmtime::component::Component;
use wasmtime::component::types::ComponentItem;

use super::inspect::{PACKAGE, Stamp};
use crate::config;
use crate::plugin::grants::{self, Grants};
use crate::plugin::load::{LoadCode, LoadError};

/// Reads the imports of a compiled component.
///
/// Tools that build components drop unused functions, so the imported functions are those in use.
pub(super) fn requested_grants(
    component: &Component,
    engine: &Engine,
    stamp: &Stamp,
) -> Result<Grants, LoadError> {
    let mut asked = stamped(stamp)?;
    let mut effects = Vec::new();
    for (name, import) in component.component_type().imports(engine) {
        let ComponentItem::ComponentInstance(instance) = &import.ty else { continue };
        let interface = name.split('@').next().and_then(|name| name.strip_prefix(PACKAGE)?.strip_prefix('/'));
        let mut functions = instance.exports(engine);
        let mut functions = functions
            .by_ref()
            .filter(|(_, export)| matches!(export.ty, ComponentItem::ComponentFunc(_)))
            .map(|(function, _)| function);
        match interface {
            Some("effects") => effects.extend(functions.filter_map(grants::effect_of)),
            Some("buckets") => asked.buckets |= functions.next().is_some(),
            // A plugin that imports `ask` requests it in `configure`, if its settings need it.
            Some("key-value") => asked.key_value |= !functions.any(|function| function == "ask"),
            _ => {}
        }
    }
    asked.effects = grants::EFFECTS.into_iter().filter(|effect| effects.contains(effect)).collect();
    Ok(asked)
}

/// The names come from an untrusted file and are used in messages and comparisons.
fn stamped(stamp: &Stamp) -> Result<Grants, LoadError> {
    let origin = |text: &str| config::http_origin(text).ok();
    let named = |is_valid: fn(&str) -> bool| move |text: &str| is_valid(text).then(|| text.into());
    Ok(Grants {
        http: names(&stamp.http, "origin", origin)?,
        upstreams: names(&stamp.upstreams, "upstream", named(grants::is_upstream_name))?,
        environment: names(&stamp.environment, "environment variable", named(grants::is_environment_name))?,
        ..Grants::default()
    })
}

fn names(
    asked: &[Box<str>],
    what: &str,
    read: impl Fn(&str) -> Option<Box<str>>,
) -> Result<Box<[Box<str>]>, LoadError> {
    let mut names: Vec<Box<str>> = Vec::new();
    for text in asked {
        let name = read(text).ok_or_else(|| {
            let text: String = text.chars().take(100).collect();
            let message = format!("asks for the {what} {text:?}, which is not the name of one; rebuild it");
            LoadError::new(LoadCode::Malformed, message)
        })?;
        if !names.contains(&name) {
            names.push(name);
        }
    }
    Ok(names.into())
}
