//! Links the socket interfaces of WASI with functions that always fail.
//!
//! A runtime such as that of Python imports them because its C library contains them, used or not: the import
//! alone says nothing about the plugin. A call ends with an error message.

use std::borrow::Cow;

use wasmtime::component::types::ComponentItem;
use wasmtime::component::{Component, Linker, ResourceType};
use wasmtime::{Error, Result, format_err};
use wasmtime_wasi::p2::{DynInputStream, DynOutputStream, DynPollable};

use super::call::State;

/// Beginning of the interface names in a component's imports.
pub(super) const PACKAGE: &str = "wasi:sockets/";

/// A resource of these interfaces. No function makes one.
struct Never;

/// The linker with the socket functions that the component imports.
///
/// # Errors
///
/// If a name cannot be linked.
pub(super) fn refuse<'a>(linker: &'a Linker<State>, component: &Component) -> Result<Cow<'a, Linker<State>>> {
    let mut linker = Cow::Borrowed(linker);
    let interfaces = component.component_type();
    for (name, import) in interfaces.imports(component.engine()) {
        let ComponentItem::ComponentInstance(interface) = &import.ty else { continue };
        if !name.starts_with(PACKAGE) {
            continue;
        }
        let mut instance = linker.to_mut().instance(name)?;
        for (item, export) in interface.exports(component.engine()) {
            match export.ty {
                ComponentItem::ComponentFunc(_) => instance.func_new(item, |_, _, _, _| Err(no_network()))?,
                ComponentItem::Resource(_) => instance.resource(item, resource(item), |_, _| Ok(()))?,
                _ => {}
            }
        }
    }
    Ok(linker)
}

fn no_network() -> Error {
    format_err!("plugins have no network: they reach the origins of their grants through gateway:plugin/http")
}

/// Resources of other interfaces keep the types that these have in `wasi`.
fn resource(name: &str) -> ResourceType {
    match name {
        "pollable" => ResourceType::host::<DynPollable>(),
        "input-stream" => ResourceType::host::<DynInputStream>(),
        "output-stream" => ResourceType::host::<DynOutputStream>(),
        "error" => ResourceType::host::<Error>(),
        _ => ResourceType::host::<Never>(),
    }
}
