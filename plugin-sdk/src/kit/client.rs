//! `Client` is the state of one connection under test.

use std::collections::BTreeMap;

use super::Effect;
use crate::Identity;

/// A connection as the gateway knows it.
#[derive(Debug, Clone)]
pub(super) struct Client {
    pub(super) number: u64,
    pub(super) id: String,
    pub(super) user: String,
    pub(super) protocol: String,
    pub(super) remote_address: String,
    pub(super) headers: BTreeMap<String, String>,
    pub(super) attributes: BTreeMap<String, String>,
    /// Unix time in milliseconds.
    pub(super) admitted: u64,
}

impl Client {
    pub(super) fn new(number: u64, id: &str, now: u64) -> Self {
        Self {
            number,
            id: id.to_owned(),
            user: String::new(),
            protocol: "centrifuge-json".to_owned(),
            remote_address: "127.0.0.1".to_owned(),
            headers: BTreeMap::new(),
            attributes: BTreeMap::new(),
            admitted: now,
        }
    }

    pub(super) fn admit(&mut self, identity: &Identity) {
        self.user.clone_from(&identity.user);
        for (name, value) in &identity.attributes {
            self.set_attribute(name, value);
        }
    }

    pub(super) fn apply(&mut self, effects: &[Effect]) {
        for effect in effects {
            if let Effect::SetAttribute { name, value } = effect {
                self.set_attribute(name, value);
            }
        }
    }

    pub(super) fn set_attribute(&mut self, name: &str, value: &str) {
        if value.is_empty() {
            self.attributes.remove(name);
        } else {
            self.attributes.insert(name.to_owned(), value.to_owned());
        }
    }
}
