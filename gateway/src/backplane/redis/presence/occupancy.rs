//! `Occupancy` is what this gateway contributes to the question whether a channel is occupied. All gateways
//! together have a record of it on the channel's server: each writes whether it has subscribers, and the
//! reply says what it has to tell.

use std::time::Duration;

use redis::{Cmd, Value};
use tokio::sync::oneshot;

use crate::backplane::redis::format::keys::NODE_KEPT;

/// How long the subscribers of a gateway count without being confirmed.
const KEPT: Duration = Duration::from_secs(120);

/// A gateway that has confirmed its subscribers within this time is not taken over: it may be back. Less than
/// the time after which a gateway is declared dead.
const YOUNG: Duration = Duration::from_millis(2500);

/// See the module. One channel at this gateway.
#[derive(Debug, Default)]
pub(super) struct Occupancy {
    /// Workers with subscribers, one bit each.
    workers: u64,
    /// Whether the record has to be written.
    pub(super) news: bool,
    /// Whether a write was not answered yet.
    is_under_way: bool,
    /// Whether this gateway is one of those that see to it that the observer is told that the channel is
    /// vacated.
    owes: bool,
    /// Whether the channel is occupied, as far as this gateway knows, and no other gateway has taken over its
    /// part since.
    is_certain: bool,
    /// Whether this gateway had subscribers when it was answered last.
    was_here: bool,
    /// Whether the server may have lost the record since the last reply.
    may_be_lost: bool,
    /// Whether a write may have been carried out whose reply was lost.
    is_in_doubt: bool,
    /// Whether the delay is left out, because too many channels wait for theirs.
    pub(super) hurries: bool,
    /// Dead gateways whose part this one takes over. The sender is dropped if that has failed.
    taken_over: Vec<(Box<str>, oneshot::Sender<()>)>,
}

/// A write of the record: a complete statement, not a change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RecordWrite {
    /// Whether this gateway has subscribers.
    pub(crate) is_here: bool,
    /// Whether it knows that the channel is occupied.
    pub(crate) knows: bool,
    /// Whether it has told everything that it was to tell.
    pub(crate) has_told: bool,
    /// How long the channel has to be without subscribers until it is vacated.
    pub(crate) delay: Duration,
    /// Dead gateways whose part it takes over.
    pub(crate) gone: Vec<Box<str>>,
}

/// The reply to a write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RecordReply {
    /// What to tell, in this order.
    pub(crate) tell: Vec<Transition>,
    /// When this gateway has to write again, because it is in charge of telling that the channel is vacated.
    pub(crate) again_in: Option<Duration>,
    /// Whether the channel is occupied.
    pub(crate) is_occupied: bool,
    /// Whether a gateway that was to be taken over has written a moment ago.
    pub(crate) is_young: bool,
}

/// What an observer is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Transition {
    Occupied,
    Vacated,
}

impl RecordWrite {
    /// Builds the command with the digest of the script, for the record `key` on the server with this
    /// replication id.
    pub(crate) fn command(&self, script: &str, key: &str, node: &str, server: &str) -> Cmd {
        let mut command = redis::cmd("EVALSHA");
        command.arg(script).arg(1).arg(key).arg(node).arg(server);
        command.arg(u8::from(self.is_here)).arg(u8::from(self.knows)).arg(u8::from(self.has_told));
        for time in [self.delay, KEPT, NODE_KEPT, YOUNG] {
            command.arg(u64::try_from(time.as_millis()).unwrap_or(u64::MAX));
        }
        for node in &self.gone {
            command.arg(&**node);
        }
        command
    }
}

impl RecordReply {
    /// Reads what the script returns; `None` for anything else.
    pub(crate) fn read(reply: &Value) -> Option<Self> {
        let Value::Array(parts) = reply else { return None };
        let [Value::BulkString(tell), Value::Int(wait), Value::Int(is_occupied), Value::Int(is_young)] =
            parts.as_slice()
        else {
            return None;
        };
        let tell = tell.iter().map(|letter| match letter {
            b'o' => Some(Transition::Occupied),
            b'v' => Some(Transition::Vacated),
            _ => None,
        });
        Some(Self {
            tell: tell.collect::<Option<_>>()?,
            again_in: u64::try_from(*wait).ok().map(Duration::from_millis),
            is_occupied: *is_occupied == 1,
            is_young: *is_young == 1,
        })
    }
}

impl Occupancy {
    /// A worker has a subscriber. True if it is the first of this gateway.
    pub(super) fn came(&mut self, worker: usize) -> bool {
        let is_first = self.workers == 0;
        self.workers |= 1 << worker;
        self.news |= is_first;
        is_first
    }

    /// A worker has no subscriber any more. True if no other worker has one.
    pub(super) fn left(&mut self, worker: usize) -> bool {
        let was_here = self.is_here();
        self.workers &= !(1 << worker);
        let is_last = was_here && !self.is_here();
        self.news |= is_last;
        is_last
    }

    /// Whether this gateway has subscribers.
    pub(super) fn is_here(&self) -> bool {
        self.workers != 0
    }

    /// Takes over the part of a dead gateway.
    pub(super) fn take_over(&mut self, node: &str, done: oneshot::Sender<()>) {
        self.taken_over.retain(|(known, _)| **known != *node);
        self.taken_over.push((node.into(), done));
        self.news = true;
    }

    /// Whether the record must be written now. One write at a time: a reply says what the next one states.
    pub(super) fn is_due(&self) -> bool {
        self.news && !self.is_under_way
    }

    /// Whether something would be lost without this gateway.
    pub(super) fn is_needed(&self) -> bool {
        self.is_here() || self.owes || self.is_in_doubt || self.is_under_way || !self.taken_over.is_empty()
    }

    /// Whether a write was not answered yet.
    pub(super) fn is_under_way(&self) -> bool {
        self.is_under_way
    }

    /// Whether there is nothing to do but to wait for the end of the delay: another gateway can do that, too.
    pub(super) fn only_waits(&self) -> bool {
        !self.is_here() && !self.news && !self.is_under_way && self.taken_over.is_empty()
    }

    /// The server may have lost the record.
    pub(super) fn write_anew(&mut self) {
        self.may_be_lost = true;
        self.news |= self.is_needed();
    }

    /// Another gateway may have taken over the part of this one.
    pub(super) fn distrust(&mut self) {
        self.is_certain = false;
    }

    /// Takes the next write. [`Occupancy::answered`] must follow.
    pub(super) fn write(&mut self, delay: Duration) -> RecordWrite {
        (self.news, self.is_under_way) = (false, true);
        let is_here = self.is_here();
        // Without subscribers there may be no record because another gateway has told the end of the channel.
        let owes = self.owes && (self.was_here || self.may_be_lost);
        RecordWrite {
            is_here,
            knows: if is_here { self.is_certain } else { owes },
            has_told: !self.is_in_doubt,
            delay: if self.hurries { Duration::ZERO } else { delay },
            gone: self.taken_over.iter().map(|(node, _)| node.clone()).collect(),
        }
    }

    /// Ends a write. Returns what to tell.
    pub(super) fn answered(&mut self, write: &RecordWrite, reply: Answer) -> Vec<Transition> {
        self.is_under_way = false;
        let reply = match reply {
            Answer::Reply(reply) => reply,
            Answer::Refused => {
                self.news = true;
                return Vec::new();
            }
            Answer::Lost => {
                (self.news, self.is_in_doubt) = (true, true);
                return Vec::new();
            }
        };
        (self.is_in_doubt, self.may_be_lost) = (false, false);
        (self.is_certain, self.was_here) = (reply.is_occupied, write.is_here);
        self.owes = reply.is_occupied && (write.is_here || reply.again_in.is_some());
        // The next write confirms what is told now.
        self.news |= !reply.tell.is_empty();
        let taken = |node: &str| write.gone.iter().any(|gone| **gone == *node);
        let (ended, left): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.taken_over).into_iter().partition(|(node, _)| taken(node));
        self.taken_over = left;
        if !reply.is_young {
            for (_, done) in ended {
                let _ = done.send(());
            }
        }
        reply.tell
    }
}

/// What became of a write.
#[derive(Debug)]
pub(crate) enum Answer {
    Reply(RecordReply),
    /// It was not carried out.
    Refused,
    /// It may have been carried out or not.
    Lost,
}
