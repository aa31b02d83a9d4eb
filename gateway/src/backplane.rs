//! Between workers, and between nodes.
//!
//! The contract every backplane keeps:
//! - *Delivery*: a publication reaches every worker that announced interest in its channel before it was published, at
//!   most once per worker, or that worker is told that something was lost.
//! - *Order*: per channel and worker, in the order of the offsets.
//! - *Gaps*: a subscriber that tracks its position finds a missing offset at the next publication of the channel; what
//!   was lost in a worker's inbox is found at once by comparing positions.
//! - *Streams*: offsets of a channel start at 1 and rise by 1 within an epoch; a stream that was forgotten starts with a
//!   new epoch. Reading makes none: whoever reads where nothing was published is told offset 0 and an epoch that every
//!   reader is told, and the first publication goes on from there: its epoch has the same [`origin`].
//! - *Answers*: a question is answered at once, or later through the inbox of the worker that asked, exactly once and
//!   within a bounded time. What one connection publishes to one channel keeps its order.

pub mod inbox;
pub mod memory;
mod order;
pub mod redis;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};

use self::inbox::Inbox;
pub use self::order::{Order, Why};
use crate::charge::Charge;
use crate::config::Namespace;
use crate::plugin::event::Client;
use crate::protocol::channel::Channel;
use crate::protocol::code::ReplyError;
use crate::protocol::command::{HistoryQuery, Position};
use crate::protocol::push::{Member, Publication};
use crate::survey::{Finding, Question};

/// How much of a channel is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retention {
    /// Publications at most; 0 for none.
    pub size: usize,
    /// For how long.
    pub ttl: Duration,
    /// In how many copies beside the first before a publication counts as published. Means something with replicas only.
    pub replicas: u16,
}

impl Retention {
    /// What a namespace says.
    pub fn of(namespace: &Namespace) -> Self {
        Self { size: namespace.history_size, ttl: namespace.history_ttl, replicas: namespace.min_replicas }
    }
}

/// Where a stream stands.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Top {
    /// Number of the newest publication; 0 before the first.
    pub offset: u64,
    /// The stream; empty in channels without history.
    pub epoch: Arc<str>,
}

/// How much one answer may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Most {
    /// Publications.
    pub publications: usize,
    /// Their bytes, as [`Publication::bytes`] counts them. A page of history has one publication, whatever its size.
    pub bytes: usize,
}

/// Whether publications fit into one answer, each in its turn.
#[derive(Debug)]
pub struct Fits {
    left: Most,
    first: bool,
}

impl Fits {
    /// Nothing was taken yet.
    pub fn new(most: Most) -> Self {
        Self { left: most, first: true }
    }

    /// Whether there is room for none more, however small.
    pub fn are_full(&self) -> bool {
        self.left.publications == 0
    }

    /// Whether there is room for one more, which is taken then.
    pub fn take(&mut self, publication: &Publication) -> bool {
        let bytes = publication.bytes();
        let fits = self.left.publications > 0 && (self.first || bytes <= self.left.bytes);
        self.first = false;
        self.left.publications = self.left.publications.saturating_sub(1);
        self.left.bytes = self.left.bytes.saturating_sub(bytes);
        fits
    }
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

/// What a publication depends on.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PublishConditions {
    /// It is not published if something was with this key.
    pub once: Option<Idempotency>,
    /// It is not published if the channel has this version or a newer one. Only in channels with history.
    pub version: Option<Version>,
}

/// An idempotency key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Idempotency {
    /// Chosen by the publisher; means something in one channel only.
    pub key: Box<str>,
    /// How long it is remembered after its last use.
    pub ttl: Duration,
}

/// The version of the document that a channel carries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Version {
    /// Rises with every change.
    pub number: u64,
    /// Numbers of one epoch can be compared; those of another one begin anew.
    pub epoch: Box<str>,
}

/// What became of a publication.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Published {
    /// Its place: of the first one, if it was published before with the same key. Where the stream stands, if it was skipped.
    pub top: Top,
    /// Nothing was published, because the channel has this version or a newer one.
    pub skipped: bool,
    /// What a server that was replaced may have to do with it.
    pub repeat: Option<Repeat>,
}

/// What is known of a publication with an idempotency key, where a server that was replaced may have known more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Repeat {
    /// It was published now. Whether it was before, with the same key, only the server knew that was replaced.
    Unsure,
    /// It was published before, at the server that was replaced, and is not in the history any more. Nothing was published
    /// now.
    Lost,
}

impl Repeat {
    /// The word for it in the API.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Unsure => "unsure",
            Self::Lost => "lost",
        }
    }
}

impl From<Top> for Published {
    fn from(top: Top) -> Self {
        Self { top, ..Self::default() }
    }
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
    /// What it depends on; nothing for most.
    pub terms: Option<Box<PublishConditions>>,
    /// Who pays for it until it was delivered.
    pub charge: Option<Charge>,
}

/// Who wants to know, and so where an answer goes that comes later.
#[derive(Debug)]
pub enum ReplyTo {
    /// The connection with this number, which knows its question by this ticket: through the inbox of its worker.
    Connection(u64, u32),
    /// Somebody outside the workers, who may have gone by then.
    Task(oneshot::Sender<Response>),
    /// Nobody: a failure is logged.
    Nobody,
}

/// What became of a question.
#[derive(Debug)]
pub enum Outcome<T> {
    /// The answer.
    Ready(Result<T, ReplyError>),
    /// It will come to the [`ReplyTo`].
    Pending,
}

/// An answer that came later.
#[derive(Debug)]
pub enum Response {
    /// To [`Backplane::add_interest`].
    Announced(Result<(), ReplyError>),
    /// To [`Backplane::publish`].
    Published(Result<Published, ReplyError>),
    /// To [`Backplane::history`].
    History(Result<Page, ReplyError>),
    /// To [`Backplane::recover`].
    Recovered(Result<Recovery, ReplyError>),
    /// To [`Backplane::presence`].
    Present(Result<Vec<Arc<Member>>, ReplyError>),
    /// To [`Backplane::count`].
    Counted(Result<Count, ReplyError>),
}

/// How many are in a channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Count {
    /// Connections.
    pub connections: usize,
    /// Users, each once; an anonymous connection counts as a user of its own.
    pub users: usize,
}

/// A gateway among those that share a backplane.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// Random, for each process.
    pub id: Box<str>,
    /// For people: machine and address.
    pub name: Box<str>,
    /// Of the gateway.
    pub version: Box<str>,
    /// When it began, in Unix time in milliseconds by its clock of that time.
    pub started: u64,
    /// How long it has run, in milliseconds, whatever clocks say.
    pub uptime: u64,
    /// In what its rules, limits and plugins differ from those of this gateway, as sentences.
    pub differs: Vec<Box<str>>,
}

/// Other gateways that were asked something.
#[derive(Debug)]
pub struct Others {
    /// Those that are alive, as far as is known.
    pub asked: Vec<Node>,
    /// What they answer, with their names, as it comes. Dropping it ends the question; it ends by itself if nothing can come.
    pub answers: mpsc::Receiver<(Box<str>, Finding)>,
}

impl Others {
    /// Nobody answers.
    pub fn nobody() -> Self {
        Self { asked: Vec::new(), answers: mpsc::channel(1).1 }
    }
}

/// Why a backplane does not do all it should. `Err` holds a sentence for operators.
pub type Health = Result<(), Arc<str>>;

/// See the module. `at` is the time since the start of the process: a backplane reads no clock.
pub trait Backplane: Send + Sync {
    /// Whether it may answer later than now. Then every subscriber announces itself, not only the first of a worker,
    /// because the announcement of the first may still be under way.
    fn answers_later(&self) -> bool;

    /// A worker has a subscriber in a channel. From the answer on the worker gets everything that is published there.
    fn add_interest(&self, worker: usize, channel: &Channel, reply_to: ReplyTo) -> Outcome<()>;

    /// A worker has no subscriber in a channel any more.
    fn remove_interest(&self, worker: usize, channel: &Channel);

    /// Numbers, keeps and spreads a publication, if its terms are met. An error whose words do not say otherwise means that
    /// it was not published.
    fn publish(&self, publication: NewPublication<'_>, reply_to: ReplyTo, at: Duration)
    -> Outcome<Published>;

    /// Reads history, and may end before what was asked for does: never with nothing where there is something. `since` of
    /// another epoch is error 112.
    fn history(
        &self,
        channel: &Channel,
        query: &HistoryQuery,
        most: Most,
        retention: Retention,
        reply_to: ReplyTo,
        at: Duration,
    ) -> Outcome<Page>;

    /// For a subscriber whose worker has announced itself: everything after its position, if nothing of it is missing
    /// and it is not more than may be given, or without a position only where the stream stands. Everything after that reaches the worker.
    fn recover(
        &self,
        channel: &Channel,
        since: Option<&Position>,
        most: Most,
        retention: Retention,
        reply_to: ReplyTo,
        at: Duration,
    ) -> Outcome<Recovery>;

    /// Where a channel's stream stands as far as this node has seen, if it has one.
    fn top(&self, channel: &Channel) -> Option<Top>;

    /// A connection came to a channel with presence. `announce` tells the others.
    fn presence_add(&self, channel: &Channel, member: &Arc<Member>, keep: bool, announce: bool);

    /// A connection left a channel.
    fn presence_remove(&self, channel: &Channel, member: &Arc<Member>, keep: bool, announce: bool);

    /// Who is in a channel. Error 106 if their bytes, as [`Member::bytes`] counts them, are more than `bytes_max`.
    fn presence(&self, channel: &Channel, bytes_max: usize, reply_to: ReplyTo) -> Outcome<Vec<Arc<Member>>>;

    /// How many are in a channel.
    fn count(&self, channel: &Channel, reply_to: ReplyTo) -> Outcome<Count>;

    /// Orders something of the connections of an address (a user or a connection), but of the one with the number
    /// `except`. Error 111 if workers have too much to do to hear of it, 100 if other nodes cannot.
    fn order(&self, address: &Channel, except: Option<u64>, order: &Order) -> Result<(), ReplyError>;

    /// A client is here since this Unix time in milliseconds, or plugins know something else of it: should this gateway die,
    /// another one tells its plugins that the client has gone. A backplane of one node has nobody for that.
    fn register(&self, client: &Arc<Client>, since: u64) {
        let _ = (client, since);
    }

    /// The plugins of this gateway know that a client has gone, or do not want to.
    fn deregister(&self, client: &Client) {
        let _ = client;
    }

    /// The other gateways that are alive, as far as is known. A backplane of one node has none.
    fn others(&self) -> Vec<Node> {
        Vec::new()
    }

    /// Puts a question to the other gateways that are alive, as far as is known. A backplane of one node has none.
    fn ask_others(&self, question: &Question) -> Others {
        let _ = question;
        Others::nobody()
    }

    /// Forgets what has expired. To be called every few seconds.
    fn sweep(&self, at: Duration);

    /// How many channels are known.
    fn channels(&self) -> usize;

    /// Whether it does all it should.
    fn health(&self) -> Health;

    /// What does not fit the configuration, although it works: sentences for operators. A backplane of one node has none.
    fn warnings(&self) -> Vec<Box<str>> {
        Vec::new()
    }
}

/// What is said where too many are in a channel.
pub(crate) const TOO_MANY_MEMBERS: &str = "too many to be listed: they can be counted (presence_stats)";

const TOO_MUCH_TO_DELIVER: &str =
    "nothing was published, because subscribers have too much on its way to them: try again";

/// Nothing is published that a worker of this node has no room for: its publisher is told instead of those who would miss it.
fn find_room(inboxes: &[Arc<Inbox>], workers: u64, bytes: usize) -> Result<(), ReplyError> {
    let mut left = workers;
    while left != 0 {
        let worker = left.trailing_zeros() as usize;
        left &= left - 1;
        if inboxes.get(worker).is_some_and(|inbox| !inbox.has_room(bytes)) {
            return Err(ReplyError::TOO_MANY_REQUESTS.because(TOO_MUCH_TO_DELIVER));
        }
    }
    Ok(())
}

/// What the epochs have in common that are told before the first publication of a stream and in it: a stream in Redis is named
/// after whoever stands before it (`ORIGIN.HOUR`, then `ORIGIN-RANDOM`), one in memory has the same name all the time. Streams
/// that do not follow from each other have different ones.
pub(crate) fn origin(epoch: &str) -> &str {
    epoch.split(['.', '-']).next().unwrap_or(epoch)
}

/// Whether whoever stands at this offset of this epoch has everything up to another place. Nothing is missing where nothing was
/// published yet: that was told, maybe late, before the stream began.
pub(crate) fn has_reached(offset: u64, epoch: &str, other: u64, other_epoch: &str) -> bool {
    if epoch == other_epoch { offset >= other } else { other == 0 && origin(epoch) == origin(other_epoch) }
}

/// The end of SplitMix64: every bit of the number decides about every bit of the result, and no two numbers become one.
pub(crate) fn mix(number: u64) -> u64 {
    let mut mixed = number ^ (number >> 30);
    mixed = mixed.wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}
