//! `Present` holds the members of one channel on a single node.

use std::collections::HashMap;
use std::sync::Arc;

use crate::backplane::Count;
use crate::protocol::push::Member;

/// The members of one channel, counted as they join and leave.
#[derive(Default)]
pub(super) struct Present {
    /// By connection id.
    members: HashMap<Arc<str>, Arc<Member>>,
    /// Number of connections of each user.
    users: HashMap<Arc<str>, usize>,
    /// Number of anonymous connections.
    anonymous: usize,
    /// Bytes of a list of all members.
    bytes: usize,
}

impl Present {
    pub(super) fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    pub(super) fn add(&mut self, member: &Arc<Member>) {
        self.remove(member);
        self.bytes += member.bytes();
        if member.user.is_empty() {
            self.anonymous += 1;
        } else {
            *self.users.entry(member.user.clone()).or_default() += 1;
        }
        self.members.insert(member.client.clone(), member.clone());
    }

    pub(super) fn remove(&mut self, member: &Member) {
        let Some(member) = self.members.remove(&member.client) else { return };
        self.bytes -= member.bytes();
        if member.user.is_empty() {
            self.anonymous -= 1;
        } else if let Some(connections) = self.users.get_mut(&member.user) {
            *connections -= 1;
            if *connections == 0 {
                self.users.remove(&member.user);
            }
        }
    }

    /// Every anonymous connection counts as one user.
    pub(super) fn count(&self) -> Count {
        Count { connections: self.members.len(), users: self.users.len() + self.anonymous }
    }

    /// Lists all members, if the list is not too long.
    pub(super) fn list(&self, bytes_max: usize) -> Option<Vec<Arc<Member>>> {
        (self.bytes <= bytes_max).then(|| self.members.values().cloned().collect())
    }
}
