//! What other threads hand to a worker: the only way in.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use crate::backplane::Order;
use crate::backplane::{Response, Top};
use crate::plugin::chain::Chain;
use crate::plugin::event::DisconnectEvent;
use crate::protocol::channel::Channel;
use crate::protocol::push::Push;
use crate::survey::{Question, Seen};

/// Something for a worker.
pub enum Delivery {
    /// For the subscribers it has.
    Push(Arc<Push>),
    /// For the connections of an address.
    Order {
        /// A user or a connection.
        address: Channel,
        /// The number of a connection that is left out.
        except: Option<u64>,
        /// What they are to do.
        order: Order,
    },
    /// What a connection has asked the backplane.
    Answer {
        /// The number of the connection.
        connection: u64,
        /// Its name for the question.
        request_id: u32,
        /// The answer.
        answer: Response,
    },
    /// Where a stream stands that this worker has subscribers of: whoever stands elsewhere has missed something.
    StreamTop(Channel, Top),
    /// All gateways are asked. The sender takes what the worker knows.
    Survey(Arc<Question>, tokio::sync::oneshot::Sender<Seen>),
    /// A client of a gateway that has died has gone. The sender hears when the plugins know.
    Disconnected(Box<DisconnectEvent>, tokio::sync::oneshot::Sender<()>),
    /// From now on this chain decides. The sender hears when it does.
    Chain(Box<Chain>, tokio::sync::oneshot::Sender<()>),
}

/// Orders that have room behind a full queue of pushes.
const ORDERS_MAX: usize = 1024;

/// Room for deliveries that an inbox keeps when a burst is over.
const CAPACITY_KEPT: usize = 4096;

/// The queue of one worker. Pushes beyond its bound are dropped and remembered: the worker then finds out which of its
/// subscriptions missed something. Orders and questions have some room more; chains come one at a time and are always accepted, and so are
/// answers, of which there are no more than questions, and the departed, of whom few come at a time.
///
/// Bytes have a bound too. Who publishes [asks](Self::has_room) before and is refused, so that nobody misses anything; what
/// comes from other gateways cannot be, and is dropped.
pub struct Inbox {
    queue: Mutex<Vec<Delivery>>,
    pushes_max: usize,
    bytes_max: usize,
    /// Written with the queue locked.
    bytes: AtomicUsize,
    lost: AtomicBool,
    arrived: Notify,
}

impl Inbox {
    /// An empty queue for so many pushes.
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

    /// With a bound in bytes.
    pub fn with_bytes_max(self, bytes_max: usize) -> Self {
        Self { bytes_max, ..self }
    }

    /// Whether a publication of this size fits. One fits into an empty queue, whatever its size.
    pub fn has_room(&self, bytes: usize) -> bool {
        let waiting = self.bytes();
        waiting == 0 || waiting.saturating_add(bytes) <= self.bytes_max
    }

    /// Bytes that wait.
    pub fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Hands something over. False if it was dropped.
    pub fn put(&self, delivery: Delivery) -> bool {
        let mut queue = self.lock();
        let (waiting, bytes) = (queue.len(), delivery.bytes());
        match delivery {
            // Those who have asked for room at the same moment may be a little above it.
            Delivery::Push(_) | Delivery::StreamTop(..)
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

    /// Waits until there is something. Dropping the future loses nothing.
    pub async fn arrived(&self) {
        self.arrived.notified().await;
    }

    /// Takes everything, in order; `spare` comes back as the next queue. True if something was dropped since the last
    /// time.
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
    /// What it takes of the room for publications, in bytes. What is small, or bounded by who has asked for it, takes none.
    fn bytes(&self) -> usize {
        match self {
            Self::Push(push) => push.bytes(),
            Self::Answer { .. }
            | Self::Order { .. }
            | Self::StreamTop(..)
            | Self::Survey(..)
            | Self::Disconnected(..)
            | Self::Chain(..) => 0,
        }
    }
}
