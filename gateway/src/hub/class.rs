//! [`Classes`] numbers groups of subscribers that plugins distinguish by attributes of their connections.

use std::collections::HashMap;
use std::sync::Arc;

/// The combinations of attribute values among the connections of a worker. A class exists while it has a
/// connection, so there are never more classes than connections.
#[derive(Debug)]
pub struct Classes {
    /// The attributes that form classes.
    attributes: Arc<[Box<str>]>,
    /// Indexed by class. Class 0 is for connections without any of the attributes, and always exists.
    all: Vec<Class>,
    numbers: HashMap<Arc<[Box<str>]>, u32>,
    free: Vec<u32>,
}

#[derive(Debug, Default)]
struct Class {
    /// In the order of the attributes; empty where a connection lacks one.
    values: Arc<[Box<str>]>,
    members: usize,
}

impl Default for Classes {
    fn default() -> Self {
        Self::of(Arc::default())
    }
}

impl Classes {
    /// Classes by these attributes.
    pub(super) fn of(attributes: Arc<[Box<str>]>) -> Self {
        Self { attributes, all: vec![Class::default()], numbers: HashMap::new(), free: Vec::new() }
    }

    pub(super) fn attributes(&self) -> &Arc<[Box<str>]> {
        &self.attributes
    }

    /// The values of a class, in the order of the attributes. Empty for connections without any of them.
    pub fn values(&self, class: u32) -> &[Box<str>] {
        &self.all[class as usize].values
    }

    /// Adds a connection with these attributes to its class.
    pub(super) fn acquire<'a>(&mut self, get: impl Fn(&str) -> Option<&'a str>) -> u32 {
        let values: Arc<[Box<str>]> =
            self.attributes.iter().map(|name| get(name).unwrap_or_default().into()).collect();
        if values.iter().all(|value| value.is_empty()) {
            return 0;
        }
        let number = match self.numbers.get(&values) {
            Some(number) => *number,
            None => {
                let number = self.free.pop().unwrap_or_else(|| {
                    self.all.push(Class::default());
                    self.all.len() as u32 - 1
                });
                self.all[number as usize].values = values.clone();
                self.numbers.insert(values, number);
                number
            }
        };
        self.all[number as usize].members += 1;
        number
    }

    /// Removes a connection from its class.
    pub(super) fn release(&mut self, class: u32) {
        let Some(left) = self.all.get_mut(class as usize).filter(|_| class > 0) else { return };
        left.members -= 1;
        if left.members == 0 {
            self.numbers.remove(&std::mem::take(&mut left.values));
            self.free.push(class);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_class_is_a_number_while_somebody_is_in_it() {
        let mut classes = Classes::of(["role".into(), "tier".into()].into());
        let moderator = |name: &str| (name == "role").then_some("moderator");
        let first = classes.acquire(moderator);
        assert_eq!(classes.values(first), [Box::<str>::from("moderator"), "".into()]);
        assert_eq!(classes.acquire(moderator), first);
        assert_eq!(classes.acquire(|_| None), 0);
        assert_eq!(classes.acquire(|name| (name == "other").then_some("x")), 0);
        let both = classes.acquire(|_| Some("x"));
        assert_ne!(both, first);
        classes.release(first);
        assert_eq!(classes.acquire(moderator), first, "one was still there");
        classes.release(first);
        classes.release(first);
        classes.release(0);
        assert_eq!(classes.acquire(|_| Some("y")), first, "numbers are used again");
        assert_eq!(classes.all.len(), 3);
    }
}
