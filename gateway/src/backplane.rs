//! Between workers, and later between nodes.
//!
//! The contract every backplane keeps:
//! - *Delivery*: a publication reaches every worker that announced interest in its channel before it was published, at
//!   most once per worker, or that worker is told that something was lost.
//! - *Order*: per channel and worker, in the order of the offsets.
//! - *Gaps*: a subscriber that tracks its position finds a missing offset at the next publication of the channel; what
//!   was lost in a worker's inbox is found at once by comparing positions.
//! - *Streams*: offsets of a channel start at 1 and rise by 1 within an epoch; a stream that was forgotten starts with a
//!   new epoch.

pub mod memory;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::hub::peer::Order;
use crate::protocol::channel::Channel;
use crate::protocol::code::ReplyError;
use crate::protocol::command::{HistoryQuery, Position};
use crate::protocol::push::{Member, Publication};

/// How much of a channel is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retention {
    /// Publications at most; 0 for none.
    pub size: usize,
    /// For how long.
    pub ttl: Duration,
}

/// Where a stream stands.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Top {
    /// Number of the newest publication; 0 before the first.
    pub offset: u64,
    /// The stream; empty in channels without history.
    pub epoch: Arc<str>,
}

/// Part of a channel's history, and where its stream stands, read at one moment.
#[derive(Debug, Clone, Default)]
pub struct Page {
    /// In the order asked for.
    pub publications: Vec<Arc<Publication>>,
    /// Where the stream stands.
    pub top: Top,
}

/// What a client missed, and where its stream stands, read at one moment.
#[derive(Debug, Clone, Default)]
pub struct Recovery {
    /// Oldest first; `None` if something of it is not there any more.
    pub missed: Option<Vec<Arc<Publication>>>,
    /// Where the stream stands.
    pub top: Top,
}

/// A publication on its way.
#[derive(Debug)]
pub struct NewPublication<'a> {
    /// Where to.
    pub channel: &'a Channel,
    /// What.
    pub data: Bytes,
    /// Whether it is JSON on one line.
    pub json: bool,
    /// Who published it, if a client did.
    pub info: Option<Arc<Member>>,
    /// How much of the channel is kept.
    pub retention: Retention,
}

/// See the module. `at` is the time since the start of the process: a backplane reads no clock.
pub trait Backplane: Send + Sync {
    /// A worker has a first subscriber in a channel.
    fn announce(&self, worker: usize, channel: &Channel) -> Result<(), ReplyError>;

    /// A worker has no subscriber in a channel any more.
    fn renounce(&self, worker: usize, channel: &Channel);

    /// Numbers, keeps and spreads a publication.
    fn publish(&self, publication: NewPublication<'_>, at: Duration) -> Result<Top, ReplyError>;

    /// Reads history. `since` of another epoch is error 112.
    fn history(
        &self,
        channel: &Channel,
        query: &HistoryQuery,
        publications_max: usize,
        retention: Retention,
        at: Duration,
    ) -> Result<Page, ReplyError>;

    /// Everything after a position, if nothing of it is missing.
    fn recover(
        &self,
        channel: &Channel,
        since: &Position,
        publications_max: usize,
        retention: Retention,
        at: Duration,
    ) -> Result<Recovery, ReplyError>;

    /// Where a channel's stream stands, if it has one.
    fn top(&self, channel: &Channel) -> Option<Top>;

    /// A connection came to a channel with presence. `announce` tells the others.
    fn enter(&self, channel: &Channel, member: &Arc<Member>, keep: bool, announce: bool);

    /// A connection left a channel.
    fn leave(&self, channel: &Channel, member: &Arc<Member>, keep: bool, announce: bool);

    /// Who is in a channel.
    fn presence(&self, channel: &Channel) -> Vec<Arc<Member>>;

    /// Orders something of the connections of an address (a user or a connection), but of the one with the number
    /// `except`. Error 111 if workers have too much to do to hear of it.
    fn order(&self, address: &Channel, except: Option<u64>, order: &Order) -> Result<(), ReplyError>;

    /// Forgets what has expired. To be called every few seconds.
    fn sweep(&self, at: Duration);

    /// How many channels are known.
    fn channels(&self) -> usize;
}
