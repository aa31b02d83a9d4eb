//! The members of one channel at this node, and what of that its server does not know yet.

use std::collections::HashMap;
use std::sync::Arc;

use crate::protocol::channel::Channel;
use crate::protocol::push::Member;

/// Members of one channel that are written at once: a script holds everybody else up.
const AT_ONCE_MAX: usize = 1000;

/// Connections, with what their users are called in Redis.
pub(super) type Concerned = HashMap<Arc<str>, Box<str>>;

/// Whether the list of this node's channels has a channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Listed {
    No,
    /// It is being changed, or may have been lost.
    Perhaps,
    Yes,
}

/// What is to be done about a channel next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Due {
    Nothing,
    /// The list has to have it before anything is written, or has it for nothing.
    List,
    /// Its server is to be told something.
    Write,
    /// There is no trace of it, and nobody in it.
    Forget,
}

/// The members of one channel.
#[derive(Debug)]
pub(super) struct Present {
    /// By the id of their connection.
    pub(super) members: HashMap<Arc<str>, Arc<Member>>,
    /// Of a list of them, in bytes.
    pub(super) bytes: usize,
    /// By what a user is called in Redis, with how many connections.
    pub(super) users: HashMap<Box<str>, usize>,
    /// Connections that have come or gone.
    pub(super) unwritten: Concerned,
    /// Nothing of what the server has is right.
    pub(super) anew: bool,
    /// What the server was told, and has not answered.
    under_way: Vec<Arc<Concerned>>,
    pub(super) listed: Listed,
    /// The number of the queue in which it stands.
    pub(super) queued: Option<usize>,
}

/// What a server is to be told of one channel: how things are, not what has changed.
#[derive(Debug)]
pub(crate) struct Write {
    pub(super) channel: Channel,
    pub(super) anew: bool,
    pub(super) came: Vec<Arc<Member>>,
    pub(super) users_came: Vec<Box<str>>,
    pub(super) gone: Vec<Box<str>>,
    pub(super) users_gone: Vec<Box<str>>,
    pub(super) concerned: Arc<Concerned>,
}

/// Users are counted once, and anonymous connections one by one.
fn user(member: &Member) -> Box<str> {
    if member.user.is_empty() {
        format!("@{}", member.client).into()
    } else {
        format!("#{}", member.user).into()
    }
}

impl Present {
    /// Nobody is known yet. The first write clears what may lie there from before.
    pub(super) fn new(listed: Listed) -> Self {
        Self {
            members: HashMap::new(),
            bytes: 0,
            users: HashMap::new(),
            unwritten: Concerned::new(),
            anew: true,
            under_way: Vec::new(),
            listed,
            queued: None,
        }
    }

    pub(super) fn enter(&mut self, member: &Arc<Member>) {
        let user = user(member);
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

    /// The users of connections that the server may not know of yet.
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

    /// Whether the server has to be told something.
    pub(super) fn has_news(&self) -> bool {
        self.anew || !self.unwritten.is_empty()
    }

    /// Whether something is being written that the server has not answered.
    pub(super) fn is_under_way(&self) -> bool {
        !self.under_way.is_empty()
    }

    /// Nobody is in it, and nobody is being written.
    pub(super) fn is_left(&self) -> bool {
        self.members.is_empty() && self.under_way.is_empty()
    }

    /// Nothing is taken for known to the server.
    pub(super) fn write_anew(&mut self) {
        self.anew = true;
        self.unwritten = self.members.values().map(|member| (member.client.clone(), user(member))).collect();
    }

    /// What the server is to be told next. [`Present::answered`] follows.
    pub(super) fn write(&mut self, channel: &Channel) -> Write {
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
        self.under_way.push(concerned.clone());
        let anew = std::mem::take(&mut self.anew);
        Write { channel: channel.clone(), anew, came, users_came, gone, users_gone, concerned }
    }

    /// The server has carried a write out, or nobody knows whether it has.
    pub(super) fn answered(&mut self, write: &Write, written: bool) {
        self.under_way.retain(|concerned| !Arc::ptr_eq(concerned, &write.concerned));
        if written {
            return;
        }
        if write.anew {
            // What other parts of it have written by then is cleared too when this one is repeated.
            self.write_anew();
        } else {
            let concerned = write.concerned.iter();
            self.unwritten.extend(concerned.map(|(client, user)| (client.clone(), user.clone())));
        }
    }
}
