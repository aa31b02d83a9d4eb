//! The [`Backplane`] carries publications between workers and between nodes.
//!
//! Every backplane keeps this contract:
//! - *Delivery*: a publication reaches every worker that added interest in its channel before it was
//!   published, at most once per worker; otherwise the worker is notified of a loss.
//! - *Order*: a worker receives the publications of a channel in the order of their offsets.
//! - *Gaps*: a subscriber that tracks its position finds a missing offset at the next publication of the
//!   channel. Losses in a worker's inbox are found at once by comparing positions.
//! - *Patterns*: interest in a pattern is interest in the [feed](Channel::feed) of its namespace.
//!   Publications that `patterns` marks reach the workers with interest in it as [`Delivery::Feed`], in the
//!   order of their channel and at most once. A loss is not noticed, because patterns have no streams.
//! - *Streams*: offsets of a channel start at 1 and rise by 1 within an epoch; a stream that was forgotten
//!   starts with a new epoch. Reading creates no stream: a read of an empty channel returns offset 0 and an
//!   epoch that is the same for every reader. The first publication continues from there: its epoch has the
//!   same [`origin`].
//! - *Responses*: a request is answered at once, or later through the inbox of the worker that sent it,
//!   exactly once and within a bounded time. Publications of one connection to one channel keep their order.

pub mod inbox;
pub mod input;
pub mod memory;
pub mod occupancy;
mod order;
pub mod redis;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};

use self::inbox::{Delivery, Inbox};
use self::input::{Input, InputOutcome};
pub use self::order::{Only, Order, SubscribeOptions, Why};
use crate::ask::Answer;
pub use crate::ask::Overrides;
use crate::charge::Charge;
use crate::config::Namespace;
use crate::connection_id::ConnectionIds;
use crate::plugin::event::Client;
use crate::protocol::channel::Channel;
use crate::protocol::code::ReplyError;
use crate::protocol::command::{HistoryQuery, Position};
use crate::protocol::emulation::EmulationRequest;
use crate::protocol::push::{Member, Publication};
use crate::protocol::tags::Tags;
use crate::survey::{Finding, Question};

/// How often [`Backplane::tick`] must be called.
pub const TICK: Duration = Duration::from_millis(100);

/// How many publications of a channel are kept, and for how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retention {
    /// Maximum number of publications; 0 keeps none.
    pub size: usize,
    /// How long a publication is kept.
    pub ttl: Duration,
    /// Number of replicas that must have a publication, in addition to the master, before it counts as
    /// published. Used only with replicas.
    pub replicas: u16,
}

impl Retention {
    /// The retention that a namespace configures.
    pub fn of(namespace: &Namespace) -> Self {
        Self { size: namespace.history_size, ttl: namespace.history_ttl, replicas: namespace.min_replicas }
    }
}

/// Limits of one response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Most {
    /// Maximum number of publications.
    pub publications: usize,
    /// Maximum bytes, as [`Publication::bytes`] counts them. A page of history has at least one publication,
    /// whatever its size.
    pub bytes: usize,
}

/// The error of a publication whose result is unknown.
pub const PERHAPS_PUBLISHED: &str = "there was no answer: this may have been published or not; to publish it again is safe with the \
    same `idempotency_key` only";

/// Counts publications against the limits of one response.
#[derive(Debug)]
pub struct Fits {
    left: Most,
    first: bool,
}

impl Fits {
    /// With nothing taken yet.
    pub fn new(most: Most) -> Self {
        Self { left: most, first: true }
    }

    /// Whether no further publication fits, however small.
    pub fn are_full(&self) -> bool {
        self.left.publications == 0
    }

    /// Takes a publication if there is room; returns whether it fits.
    pub fn take(&mut self, publication: &Publication) -> bool {
        let bytes = publication.bytes();
        let fits = self.left.publications > 0 && (self.first || bytes <= self.left.bytes);
        self.first = false;
        self.left.publications = self.left.publications.saturating_sub(1);
        self.left.bytes = self.left.bytes.saturating_sub(bytes);
        fits
    }
}

/// A request for a part of a channel's history.
#[derive(Debug, Clone, Copy)]
pub struct HistoryRequest<'a> {
    /// The channel.
    pub channel: &'a Channel,
    /// Which part of it.
    pub query: &'a HistoryQuery,
    /// Limits of the response.
    pub most: Most,
    /// The retention of the channel.
    pub retention: Retention,
}

/// A request for the publications that a subscriber has missed.
#[derive(Debug, Clone, Copy)]
pub struct RecoverRequest<'a> {
    /// The channel.
    pub channel: &'a Channel,
    /// The position of the subscriber; `None` for only the top of the stream.
    pub since: Option<&'a Position>,
    /// Whether only the newest publications count, not all after the position.
    pub latest: bool,
    /// Limits of the response.
    pub most: Most,
    /// The retention of the channel.
    pub retention: Retention,
}

/// Part of a channel's history and the top of its stream, read at one moment.
#[derive(Debug, Clone, Default)]
pub struct Page {
    /// In the requested order.
    pub publications: Vec<Arc<Publication>>,
    /// Top of the stream: the position of its newest publication. The offset is 0 before the first, and the
    /// epoch empty in channels without history.
    pub top: Position,
}

/// The publications a client missed and the top of the stream, read at one moment.
#[derive(Debug, Clone, Default)]
pub struct Recovery {
    /// Oldest first; `None` if some of them are not kept any more. If only the newest ones count: newest
    /// first, without any if the subscriber has seen the newest, and `None` if that one is not kept any more.
    pub missed: Option<Vec<Arc<Publication>>>,
    /// Top of the stream.
    pub top: Position,
}

/// Conditions for a publication.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PublishConditions {
    /// Publish only if nothing was published with this key.
    pub idempotency: Option<Idempotency>,
    /// Publish only if the channel has an older version. Only in channels with history.
    pub version: Option<Version>,
}

/// An idempotency key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Idempotency {
    /// Chosen by the publisher, unique within one channel.
    pub key: Box<str>,
    /// How long the key is remembered after its last use.
    pub ttl: Duration,
}

/// The version of the document that a channel carries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Version {
    /// Rises with every change.
    pub number: u64,
    /// Numbers within one epoch can be compared; a new epoch starts anew.
    pub epoch: Box<str>,
}

/// Result of a publish request.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Published {
    /// Position of the publication; of the first one if it was published before with the same key. Top of the
    /// stream if it was skipped.
    pub top: Position,
    /// Nothing was published, because the channel has this version or a newer one.
    pub skipped: bool,
    /// Nothing was published now, because it was published before with the same key.
    pub repeated: bool,
    /// Doubt caused by the replacement of a server.
    pub repeat: Option<Repeat>,
}

/// What is known of a publication with an idempotency key if a replaced server may have known more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Repeat {
    /// It was published now. Only the replaced server knew whether it was published before with the same key.
    Unsure,
    /// It was published before, at the replaced server, and is not in the history any more. Nothing was
    /// published now.
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

impl From<Position> for Published {
    fn from(top: Position) -> Self {
        Self { top, ..Self::default() }
    }
}

/// A publication to be published.
#[derive(Debug)]
pub struct NewPublication<'a> {
    /// Its channel.
    pub channel: &'a Channel,
    /// Its payload.
    pub data: Bytes,
    /// Whether the payload is JSON on one line.
    pub json: bool,
    /// The client that published it, if a client did.
    pub info: Option<Arc<Member>>,
    /// Its tags.
    pub tags: Option<Arc<Tags>>,
    /// The retention of the channel.
    pub retention: Retention,
    /// Deliver it to the subscribers of patterns, too.
    pub patterns: bool,
    /// Deliver it without a number, and keep it nowhere, whatever the retention of the channel.
    pub skip_history: bool,
    /// Its conditions; `None` for most publications.
    pub conditions: Option<Box<PublishConditions>>,
    /// The account charged until it is delivered.
    pub charge: Option<Charge>,
}

/// Where a later response is sent.
#[derive(Debug)]
pub enum ReplyTo {
    /// The connection with this number, through the inbox of its worker. It knows the request by this request
    /// id.
    Connection(u64, u32),
    /// A task outside the workers, which may have ended by then.
    Task(oneshot::Sender<Response>),
    /// Nowhere: a failure is logged.
    Nobody,
    /// To another one, after a function has learned of a publication that was accepted.
    After(Box<(AfterPublished, Self)>),
}

/// Learns that a publication was accepted.
pub struct AfterPublished(Box<dyn FnOnce(&Published) + Send + Sync>);

impl ReplyTo {
    /// Sends the response here, after `learn` was called if it says that a publication was accepted. Not if
    /// the outcome of the request is ready at once.
    #[must_use]
    pub fn after(self, learn: Box<dyn FnOnce(&Published) + Send + Sync>) -> Self {
        Self::After(Box::new((AfterPublished(learn), self)))
    }

    /// Whether nobody waits for the response.
    pub fn is_nobody(&self) -> bool {
        match self {
            Self::Nobody => true,
            Self::After(after) => after.1.is_nobody(),
            Self::Connection(..) | Self::Task(_) => false,
        }
    }
}

impl AfterPublished {
    pub(crate) fn learn(self, published: &Published) {
        self.0(published);
    }
}

impl fmt::Debug for AfterPublished {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AfterPublished")
    }
}

/// Outcome of a request.
#[derive(Debug)]
pub enum Outcome<T> {
    /// The response.
    Ready(Result<T, ReplyError>),
    /// The response will be sent to the [`ReplyTo`].
    Pending,
}

/// A response that came later.
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
    /// To [`Backplane::remove_history`].
    HistoryRemoved(Result<(), ReplyError>),
    /// Of an upstream; `None` if there is no usable answer. Not of a backplane, but on the same way.
    Upstream(Option<Box<Answer>>),
}

/// Number of connections and users in a channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Count {
    /// Connections.
    pub connections: usize,
    /// Users, each counted once; every anonymous connection counts as one user.
    pub users: usize,
}

/// A gateway among those that share a backplane.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// Random identifier of the process.
    pub id: Box<str>,
    /// Name for people: machine and address.
    pub name: Box<str>,
    /// Version of the gateway.
    pub version: Box<str>,
    /// Start time, in Unix time in milliseconds, by the gateway's clock at that time.
    pub started: u64,
    /// Uptime in milliseconds, independent of clock changes.
    pub uptime: u64,
    /// Differences of its rules, limits and plugins from those of this gateway, as sentences.
    pub differs: Vec<Box<str>>,
}

/// Other gateways that were asked a question.
#[derive(Debug)]
pub struct Others {
    /// The gateways that are alive, as far as this one knows.
    pub asked: Vec<Node>,
    /// Their answers with their names, as they arrive. Dropping the receiver ends the question; the channel
    /// closes when no more can come.
    pub answers: mpsc::Receiver<(Box<str>, Finding)>,
}

impl Others {
    /// No gateway that answers.
    pub fn nobody() -> Self {
        Self { asked: Vec::new(), answers: mpsc::channel(1).1 }
    }
}

/// Health of a backplane. `Err` holds a sentence for operators.
pub type Health = Result<(), Arc<str>>;

/// See the module. `at` is the time since the start of the process: a backplane reads no clock.
pub trait Backplane: Send + Sync {
    /// Whether responses may be pending. Then every subscriber adds its interest, not only the first of a
    /// worker, because the request of the first may still be under way.
    fn answers_later(&self) -> bool;

    /// Notes that a worker has a subscriber in a channel. After the response the worker gets everything
    /// published there. The channel may be the feed of a namespace.
    fn add_interest(&self, worker: usize, channel: &Channel, reply_to: ReplyTo) -> Outcome<()>;

    /// Notes that a worker has no subscriber in a channel any more.
    fn remove_interest(&self, worker: usize, channel: &Channel);

    /// Numbers, keeps and delivers a publication if its conditions are met. One that skips the history is
    /// only delivered, to every subscriber whatever its position. Unless the error says otherwise, an error
    /// means that it was not published.
    fn publish(&self, publication: NewPublication<'_>, reply_to: ReplyTo, at: Duration)
    -> Outcome<Published>;

    /// Reads history. A page may be shorter than requested, but is never empty where there is something to
    /// read. A `since` of another epoch is error 112.
    fn history(&self, request: HistoryRequest<'_>, reply_to: ReplyTo, at: Duration) -> Outcome<Page>;

    /// Removes the kept publications of a channel. The position of its stream stays, and so do its versions
    /// and idempotency keys: offsets continue, subscribers miss nothing, and a client that comes back for a
    /// removed publication is told that it is not kept any more.
    fn remove_history(&self, channel: &Channel, reply_to: ReplyTo, at: Duration) -> Outcome<()>;

    /// For a subscriber whose worker has added its interest. Returns everything after its position, if all of
    /// it is kept and within the limits; without a position only the top of the stream. If only the newest
    /// publications count, as many as fit, but the newest in any case. Everything published later reaches the
    /// worker.
    fn recover(&self, request: RecoverRequest<'_>, reply_to: ReplyTo, at: Duration) -> Outcome<Recovery>;

    /// Top of a channel's stream as far as this node has seen it, if there is one.
    fn top(&self, channel: &Channel) -> Option<Position>;

    /// Notes that a connection joined a channel with presence. `announce` sends a join to the subscribers.
    fn presence_add(&self, channel: &Channel, member: &Arc<Member>, keep: bool, announce: bool);

    /// Notes that a connection left a channel.
    fn presence_remove(&self, channel: &Channel, member: &Arc<Member>, keep: bool, announce: bool);

    /// Lists the members of a channel. Error 106 if their bytes, as [`Member::bytes`] counts them, exceed
    /// `bytes_max`.
    fn presence(&self, channel: &Channel, bytes_max: usize, reply_to: ReplyTo) -> Outcome<Vec<Arc<Member>>>;

    /// Counts the members of a channel.
    fn count(&self, channel: &Channel, reply_to: ReplyTo) -> Outcome<Count>;

    /// Sends an order to the connections of an address (a user or a connection), except the one with the
    /// number `except`. Error 111 if workers have no room for it, 100 if other nodes cannot be reached.
    fn order(&self, address: &Channel, except: Option<u64>, order: &Order) -> Result<(), ReplyError>;

    /// Like [`order`](Self::order), and `reply_to` gets [`Response::Published`] when other nodes are certain
    /// to get it, or may not have got it.
    fn order_answered(&self, address: &Channel, order: &Order, reply_to: ReplyTo) -> Outcome<()> {
        drop(reply_to);
        Outcome::Ready(self.order(address, None, order))
    }

    /// Passes a message to the connection of its session, at this gateway or at another one. The receiver
    /// gets the result, or an error if the gateway that has the connection cannot be reached or does not say.
    /// `None` if no gateway has this name. Messages of one session that were passed one after the other
    /// arrive in this order.
    fn input(&self, request: EmulationRequest) -> Option<oneshot::Receiver<InputOutcome>>;

    /// Registers a client, present since this Unix time in milliseconds, or new facts that plugins know of
    /// it. If this gateway dies, another one calls `on-disconnect` for the client. A backplane of one node
    /// ignores this.
    fn register(&self, client: &Arc<Client>, since: u64) {
        let _ = (client, since);
    }

    /// Removes a client: plugins have been notified of its disconnect, or want no notification.
    fn deregister(&self, client: &Client) {
        let _ = client;
    }

    /// The other gateways that are alive, as far as this one knows. A backplane of one node has none.
    fn others(&self) -> Vec<Node> {
        Vec::new()
    }

    /// Sends a question to the other gateways that are alive, as far as this one knows. A backplane of one
    /// node has none.
    fn ask_others(&self, question: &Question) -> Others {
        let _ = question;
        Others::nobody()
    }

    /// Forgets what has expired. Must be called every few seconds.
    fn sweep(&self, at: Duration);

    /// Tells of channels that have been without subscribers for long enough. Must be called every [`TICK`] if
    /// occupancy is told.
    fn tick(&self, at: Duration) {
        let _ = at;
    }

    /// Tells of channels without subscribers at once, if this gateway alone knows of them: it ends.
    fn tell_vacated(&self) {}

    /// Number of known channels.
    fn channels(&self) -> usize;

    /// Whether the backplane works completely.
    fn health(&self) -> Health;

    /// What does not fit the configuration although it works: sentences for operators. A backplane of one
    /// node has none.
    fn warnings(&self) -> Vec<Box<str>> {
        Vec::new()
    }
}

/// Error message for a channel with too many members to list.
pub(crate) const TOO_MANY_MEMBERS: &str = "too many to be listed: they can be counted (presence_stats)";

const TOO_MUCH_TO_DELIVER: &str =
    "nothing was published, because subscribers have too much on its way to them: try again";

/// Passes a message to the worker of its connection at this gateway.
fn local_input(
    ids: ConnectionIds,
    inboxes: &[Arc<Inbox>],
    request: EmulationRequest,
    report: Box<dyn FnOnce(InputOutcome) + Send>,
) {
    let EmulationRequest { session, data, .. } = request;
    let connection = ids.number_of_session(&session);
    let inbox = connection.and_then(|number| inboxes.get(ConnectionIds::worker(number)));
    match (connection, inbox) {
        (Some(connection), Some(inbox)) => {
            inbox.put(Delivery::Input(Box::new(Input { connection, session, data, report })));
        }
        _ => report(InputOutcome::NoSession),
    }
}

/// Sends the result of a message to a receiver, which may have gone.
fn report_to(receiver: oneshot::Sender<InputOutcome>) -> Box<dyn FnOnce(InputOutcome) + Send> {
    Box::new(move |outcome| {
        let _ = receiver.send(outcome);
    })
}

/// Refuses a publication if a worker of this node has no room for it: its publisher gets an error, instead of
/// its subscribers missing it.
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

/// The part that the epochs before and after the first publication of a stream have in common. In Redis a
/// reader of the empty channel gets `ORIGIN.HOUR`, and the stream is then named `ORIGIN-RANDOM`; in memory
/// the epoch never changes. Streams that do not follow from each other have different origins.
pub(crate) fn origin(epoch: &str) -> &str {
    epoch.split(['.', '-']).next().unwrap_or(epoch)
}

/// Whether a reader at a position has everything up to another one. If nothing was published at the other
/// position, nothing is missing: that response was sent, maybe late, before the stream began.
pub(crate) fn has_reached(position: &Position, other: &Position) -> bool {
    if position.epoch == other.epoch {
        position.offset >= other.offset
    } else {
        other.offset == 0 && origin(&position.epoch) == origin(&other.epoch)
    }
}
