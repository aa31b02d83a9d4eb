//! [`imports`] lists the imports of a component, function by function, for its author.

use wasmtime::Engine;
use wasmtime::component::Component;
use wasmtime::component::types::ComponentItem;

use crate::plugin::load::Import;

/// Every interface with the functions that the component imports. Interfaces with only types are left out.
pub(super) fn imports(component: &Component, engine: &Engine) -> Vec<Import> {
    let interfaces = component.component_type();
    let interfaces = interfaces.imports(engine).filter_map(|(name, import)| {
        let ComponentItem::ComponentInstance(instance) = &import.ty else { return None };
        let functions = instance.exports(engine);
        let functions = functions.filter(|(_, export)| matches!(export.ty, ComponentItem::ComponentFunc(_)));
        let functions: Vec<Box<str>> = functions.map(|(function, _)| function.into()).collect();
        (!functions.is_empty()).then(|| Import { interface: name.into(), functions })
    });
    interfaces.collect()
}
