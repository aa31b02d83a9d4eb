//! The [`Inbox`] of a worker is the only way in which other threads hand something to the worker.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;

use crate::backplane::Order;
use crate::backplane::Response;
use crate::backplane::input::Input;
use crate::plugin::chain::Chain;
use crate::plugin::event::DisconnectEvent;
use crate::protocol::channel::Channel;
use crate::protocol::command::Position;
use crate::protocol::push::Push;
use crate::survey::{Question, Seen};

/// A message to a worker.
pub enum Delivery {
    /// A push for the subscribers on this worker.
    Push(Arc<Push>),
    /// A publication for the subscribers of patterns on this worker.
    Feed(Arc<Push>),
    /// An order for the connections of an address.
    Order {
        /// A user or a connection.
        address: Channel,
        /// Number of a connection that is excluded.
        except: Option<u64>,
        /// What the connections must do.
        order: Order,
    },
    /// A response of the backplane to a request of a connection.
    Answer {
        /// The number of the connection.
        connection: u64,
        /// The connection's id for the request.
        request_id: u32,
        /// The response.
        answer: Response,
    },
    /// Top of a stream with subscribers on this worker: a subscriber at another position has missed
    /// something.
    StreamTop(Channel, Position),
    /// A message for a connection from a request of its own. The worker reports what became of it.
    Input(Box<Input>),
    /// A question to all gateways. The worker sends back what it knows.
    Survey(Arc<Question>, tokio::sync::oneshot::Sender<Seen>),
    /// A client of a dead gateway has disconnected. The worker confirms after `on-disconnect`.
    Disconnected(Box<DisconnectEvent>, tokio::sync::oneshot::Sender<()>),
    /// A new plugin chain to use from now on. The worker confirms when it does.
    Chain(Box<Chain>, tokio::sync::oneshot::Sender<()>),
}

/// Room for orders after the queue of pushes is full.
const ORDERS_MAX: usize = 1024;

/// Capacity for deliveries that an inbox keeps after a burst.
const CAPACITY_KEPT: usize = 4096;

/// The queue of one worker. Pushes beyond its bound are dropped, and the worker then finds out which of its
/// subscriptions missed something. Orders and questions have some extra room. Chains, responses, inputs and
/// disconnects are always accepted: chains come one at a time, there are no more responses than requests,
/// each input belongs to an HTTP request that waits for its result, and disconnects come in small batches.
///
/// Bytes are bounded too. A local publisher [checks](Self::has_room) first and gets an error, so that no
/// subscriber misses anything. Publications of other gateways cannot be refused and are dropped. So are
/// orders with data of the server API, which gets an error from the gateway that it asked.
pub struct Inbox {
    queue: Mutex<Vec<Delivery>>,
    pushes_max: usize,
    bytes_max: usize,
    /// Written while the queue is locked.
    bytes: AtomicUsize,
    lost: AtomicBool,
    arrived: Notify,
}

impl Inbox {
    /// Creates an empty queue for this many pushes.
    pub fn new(pushes_max: usize) -> Self {
        Self {
            queue: Mutex::default(),
            pushes_max,
            bytes_max: usize::MAX,
            bytes: AtomicUsize::new(0),
            lost: AtomicBool::new(false),
            arrived: Notify::new(),
        }
    }

    /// Sets the bound in bytes.
    pub fn with_bytes_max(self, bytes_max: usize) -> Self {
        Self { bytes_max, ..self }
    }

    /// Whether a publication of this size fits. An empty queue takes one of any size.
    pub fn has_room(&self, bytes: usize) -> bool {
        let waiting = self.bytes();
        waiting == 0 || waiting.saturating_add(bytes) <= self.bytes_max
    }

    /// Bytes in the queue.
    pub fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Queues a delivery. False if it was dropped.
    pub fn put(&self, delivery: Delivery) -> bool {
        let mut queue = self.lock();
        let (waiting, bytes) = (queue.len(), delivery.bytes());
        match delivery {
            // Publishers that checked for room at the same moment may exceed the bound slightly.
            Delivery::Push(_) | Delivery::Feed(_) | Delivery::StreamTop(..)
                if waiting >= self.pushes_max || self.bytes() > self.bytes_max =>
            {
                self.lost.store(true, Ordering::Relaxed);
                return false;
            }
            Delivery::Order { .. } | Delivery::Survey(..)
                if waiting >= self.pushes_max.saturating_add(ORDERS_MAX) =>
            {
                return false;
            }
            Delivery::Order { .. } if bytes > 0 && !self.has_room(bytes) => return false,
            _ => (),
        }
        queue.push(delivery);
        self.bytes.store(self.bytes() + bytes, Ordering::Relaxed);
        let first = queue.len() == 1;
        drop(queue);
        if first {
            self.arrived.notify_one();
        }
        true
    }

    /// Waits until the queue has something. Dropping the future loses nothing.
    pub async fn arrived(&self) {
        self.arrived.notified().await;
    }

    /// Takes the whole queue, in order, and uses `spare` as the next queue. True if something was dropped
    /// since the last call.
    pub fn take(&self, spare: &mut Vec<Delivery>) -> bool {
        debug_assert!(spare.is_empty());
        if spare.capacity() > CAPACITY_KEPT {
            *spare = Vec::new();
        }
        let mut queue = self.lock();
        std::mem::swap(&mut *queue, spare);
        self.bytes.store(0, Ordering::Relaxed);
        drop(queue);
        self.lost.swap(false, Ordering::Relaxed)
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Delivery>> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Delivery {
    /// When this process accepted or received a publication.
    pub fn accepted(&self) -> Option<Duration> {
        match self {
            Self::Push(push) | Self::Feed(push) => push.accepted,
            _ => None,
        }
    }

    /// Bytes that it counts for in the queue. Deliveries that are small, or bounded by their requests, count
    /// for none.
    fn bytes(&self) -> usize {
        match self {
            Self::Push(push) | Self::Feed(push) => push.bytes(),
            Self::Input(input) => input.data.len(),
            Self::Order { order, .. } => order.bytes(),
            Self::Answer { .. }
            | Self::StreamTop(..)
            | Self::Survey(..)
            | Self::Disconnected(..)
            | Self::Chain(..) => 0,
        }
    }
}
