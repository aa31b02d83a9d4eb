//! `Present` holds the members of one channel at this node, and whether it has subscribers if that is told,
//! and tracks what has not been written to its server.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use crate::backplane::redis::presence::occupancy::{Answer, Occupancy, RecordWrite};
use crate::protocol::channel::Channel;
use crate::protocol::push::Member;

/// Maximum number of members of one channel in a write: a script blocks the server.
const AT_ONCE_MAX: usize = 1000;

/// Connections, with the names of their users in Redis.
pub(super) type Concerned = HashMap<Arc<str>, Box<str>>;

/// Whether a channel is in the list of this node's channels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Listed {
    No,
    /// A change is under way, or the list may have been lost.
    Perhaps,
    Yes,
}

/// The next step for a channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Due {
    Nothing,
    /// Add it to the list, which must precede any write, or remove it from the list.
    List,
    /// Write to its server.
    Write,
    /// Drop it: nothing is stored for it, and it has no members.
    Forget,
}

/// The members of one channel.
#[derive(Debug)]
pub(super) struct Present {
    /// By connection id.
    pub(super) members: HashMap<Arc<str>, Arc<Member>>,
    /// Bytes of a list of them.
    pub(super) bytes: usize,
    /// Number of connections by the name of the user in Redis.
    pub(super) users: HashMap<Box<str>, usize>,
    /// Connections that have come or gone since the last write.
    pub(super) unwritten: Concerned,
    /// Whether the entry on the server must be replaced as a whole.
    pub(super) anew: bool,
    /// Whether it is here for its occupancy and never had a member: no entry of members is on the server.
    pub(super) is_bare: bool,
    pub(super) occupancy: Occupancy,
    /// Writes that the server has not answered.
    under_way: Vec<Arc<Concerned>>,
    pub(super) listed: Listed,
    /// Index of the queue it is in.
    pub(super) queued: Option<usize>,
}

/// One write for a channel: complete entries, not changes.
#[derive(Debug)]
pub(crate) struct Write {
    pub(super) channel: Channel,
    pub(super) anew: bool,
    pub(super) came: Vec<Arc<Member>>,
    pub(super) users_came: Vec<Box<str>>,
    pub(super) gone: Vec<Box<str>>,
    pub(super) users_gone: Vec<Box<str>>,
    pub(super) concerned: Arc<Concerned>,
    /// Whether the members are written.
    pub(super) of_members: bool,
    /// What is written to the record of its occupancy.
    pub(super) record: Option<RecordWrite>,
}

/// Name of a member's user in Redis: users count once, anonymous connections one by one.
fn user(member: &Member) -> Box<str> {
    if member.user.is_empty() {
        format!("@{}", member.client).into()
    } else {
        format!("#{}", member.user).into()
    }
}

impl Present {
    /// Creates a channel without members. The first write clears older entries on the server.
    pub(super) fn new(listed: Listed) -> Self {
        Self {
            members: HashMap::new(),
            bytes: 0,
            users: HashMap::new(),
            unwritten: Concerned::new(),
            anew: true,
            is_bare: false,
            occupancy: Occupancy::default(),
            under_way: Vec::new(),
            listed,
            queued: None,
        }
    }

    /// Creates a channel that is here for its occupancy.
    pub(super) fn bare() -> Self {
        Self { anew: false, is_bare: true, ..Self::new(Listed::No) }
    }

    pub(super) fn enter(&mut self, member: &Arc<Member>) {
        let user = user(member);
        if std::mem::take(&mut self.is_bare) {
            self.anew = true;
        }
        self.bytes += member.bytes();
        match self.members.insert(member.client.clone(), member.clone()) {
            Some(before) => self.bytes -= before.bytes(),
            None => *self.users.entry(user.clone()).or_default() += 1,
        }
        self.unwritten.insert(member.client.clone(), user);
    }

    pub(super) fn leave(&mut self, member: &Member) {
        let Some(member) = self.members.remove(&member.client) else { return };
        self.bytes -= member.bytes();
        let member = &*member;
        let user = user(member);
        if let Some(connections) = self.users.get_mut(&user) {
            *connections -= 1;
            if *connections == 0 {
                self.users.remove(&user);
            }
        }
        self.unwritten.insert(member.client.clone(), user);
    }

    /// Users of connections that the server may not know yet.
    pub(super) fn unwritten_users(&self) -> Vec<Box<str>> {
        let all = self.under_way.iter().flat_map(|concerned| concerned.iter()).chain(&self.unwritten);
        let here = all.filter(|(client, _)| self.members.contains_key(*client));
        here.map(|(_, user)| user.clone()).collect()
    }

    pub(super) fn due(&self) -> Due {
        match self.listed {
            Listed::No if self.is_left() => Due::Forget,
            Listed::No | Listed::Perhaps => Due::List,
            Listed::Yes if self.has_news() => Due::Write,
            Listed::Yes if self.is_left() => Due::List,
            Listed::Yes => Due::Nothing,
        }
    }

    /// Whether something must be written.
    pub(super) fn has_news(&self) -> bool {
        self.members_changed() || self.occupancy.is_due()
    }

    fn members_changed(&self) -> bool {
        self.anew || !self.unwritten.is_empty()
    }

    /// Whether a write has not been answered.
    pub(super) fn is_under_way(&self) -> bool {
        !self.under_way.is_empty() || self.occupancy.is_under_way()
    }

    /// Whether it has no members and no writes under way, and its occupancy does not need this node.
    pub(super) fn is_left(&self) -> bool {
        self.members.is_empty() && self.under_way.is_empty() && !self.occupancy.is_needed()
    }

    /// Whether all that is left to do is to tell, after the delay, that the channel is vacated.
    pub(super) fn only_waits(&self) -> bool {
        self.members.is_empty() && self.due() == Due::Nothing && self.occupancy.only_waits()
    }

    /// Treats nothing as written.
    pub(super) fn write_anew(&mut self) {
        self.anew = !self.is_bare;
        self.occupancy.write_anew();
        self.unwritten = self.members.values().map(|member| (member.client.clone(), user(member))).collect();
    }

    /// Takes the next write. [`Present::answered`] must follow.
    pub(super) fn write(&mut self, channel: &Channel, vacated_delay: Duration) -> Write {
        let of_members = self.members_changed();
        let record = self.occupancy.is_due().then(|| self.occupancy.write(vacated_delay));
        let concerned: Concerned = if self.unwritten.len() <= AT_ONCE_MAX {
            std::mem::take(&mut self.unwritten)
        } else {
            let some: Vec<_> = self.unwritten.keys().take(AT_ONCE_MAX).cloned().collect();
            some.iter().filter_map(|client| self.unwritten.remove_entry(client)).collect()
        };
        let (mut came, mut gone) = (Vec::new(), Vec::new());
        let (mut users_came, mut users_gone) = (Vec::new(), Vec::new());
        for (client, user) in &concerned {
            match self.members.get(client) {
                Some(member) => came.push(member.clone()),
                None => gone.push(Box::from(&**client)),
            }
            if self.users.contains_key(user) {
                users_came.push(user.clone());
            } else {
                users_gone.push(user.clone());
            }
        }
        let concerned = Arc::new(concerned);
        if of_members {
            self.under_way.push(concerned.clone());
        }
        let anew = std::mem::take(&mut self.anew);
        let channel = channel.clone();
        Write { channel, anew, came, users_came, gone, users_gone, concerned, of_members, record }
    }

    /// Ends a write. `written` is false if it failed or may have failed.
    pub(super) fn answered(&mut self, write: &Write, written: bool) {
        if let Some(record) = &write.record {
            // A write with a reply has none any more.
            self.occupancy.answered(record, Answer::Lost);
        }
        if !write.of_members {
            return;
        }
        self.under_way.retain(|concerned| !Arc::ptr_eq(concerned, &write.concerned));
        if written {
            return;
        }
        if write.anew {
            // The repeated write also clears what other writes have stored by then.
            self.write_anew();
        } else {
            let concerned = write.concerned.iter();
            self.unwritten.extend(concerned.map(|(client, user)| (client.clone(), user.clone())));
        }
    }
}
