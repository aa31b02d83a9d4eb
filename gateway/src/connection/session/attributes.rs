//! Sets the attributes, names with values, that plugins keep on a connection.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::Session;
use crate::revocation::is_reserved;

/// Most bytes of attributes, names and values, on one connection.
const ATTRIBUTES_BYTES_MAX: usize = 16 * 1024;

impl Session {
    pub(super) fn set_attribute(&self, name: Box<str>, value: Box<str>) {
        let changed = name.clone();
        let mut client = self.client.borrow_mut();
        if client.attributes.get(&name).map_or("", |known| known) == &*value {
            return;
        }
        let set = set_attribute(&mut Arc::make_mut(&mut client).attributes, name, value);
        drop(client);
        if set {
            self.worker.hub.borrow_mut().attribute_changed(self.handle.number, &changed);
            self.register();
        } else {
            let why = "the connection has as many bytes of attributes as it may";
            self.worker.metrics().effect_refused("set-attribute", &self.handle.id, why);
        }
    }

    /// Registers an admitted client with the backplane if plugins have `on-disconnect`, so that another
    /// gateway can run the hook if this one dies.
    pub(super) fn register(&self) {
        if let Some(admitted) = self.admitted
            && self.worker.registers_clients()
        {
            self.worker.backplane.register(&self.client.borrow(), admitted.unix);
        }
    }
}

/// Sets an attribute; an empty value removes it. False if it does not fit. Those about the token always fit:
/// they are small, and what plugins keep must not hide which token the client has.
pub(super) fn set_attribute(
    attributes: &mut BTreeMap<Box<str>, Box<str>>,
    name: Box<str>,
    value: Box<str>,
) -> bool {
    if value.is_empty() {
        attributes.remove(&name);
        return true;
    }
    let others = attributes.iter().filter(|(other, _)| **other != name);
    let bytes: usize = others.map(|(name, value)| name.len() + value.len()).sum();
    let fits = is_reserved(&name) || bytes + name.len() + value.len() <= ATTRIBUTES_BYTES_MAX;
    if fits {
        attributes.insert(name, value);
    }
    fits
}
