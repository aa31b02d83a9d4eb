//! What the connections of one worker share, and what happens to it from outside.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use super::core::Effects;
use crate::backplane::Backplane;
use crate::config::{Config, Namespace};
use crate::hub::peer::{Signal, Unflushed};
use crate::hub::{Delivered, Hub};
use crate::inbox::Delivery;
use crate::plugin::chain::Chain;
use crate::protocol::channel::Channel;
use crate::protocol::code::ReplyError;
use crate::telemetry::metrics::{Metrics, WorkerMetrics};

/// See the module. Everything in a cell is borrowed only inside one call.
pub struct Local {
    /// Which worker.
    pub worker: usize,
    /// As resolved at start.
    pub config: Arc<Config>,
    /// Who listens to what here.
    pub hub: RefCell<Hub>,
    /// The rules. Replaced as a whole, between two messages.
    pub chain: RefCell<Chain>,
    /// The other workers.
    pub backplane: Arc<dyn Backplane>,
    /// Counters of all workers; this one's by `worker`.
    pub metrics: Arc<Metrics>,
    /// Connections that others have pushed to.
    pub unflushed: Rc<Unflushed>,
    /// Where replies are encoded.
    scratch: RefCell<Vec<u8>>,
    /// Where a session queues effects while it handles one event.
    effects: RefCell<Effects>,
}

/// Encoding space that is kept from one reply to the next.
const SCRATCH_BYTES_KEPT: usize = 64 * 1024;

impl Local {
    /// A worker without connections and without rules.
    pub fn new(
        worker: usize,
        config: Arc<Config>,
        hub: Hub,
        backplane: Arc<dyn Backplane>,
        metrics: Arc<Metrics>,
    ) -> Self {
        Self {
            worker,
            config,
            hub: RefCell::new(hub),
            chain: RefCell::new(Chain::empty()),
            backplane,
            metrics,
            unflushed: Rc::default(),
            scratch: RefCell::default(),
            effects: RefCell::default(),
        }
    }

    /// This worker's counters.
    pub fn metrics(&self) -> &WorkerMetrics {
        self.metrics.worker(self.worker)
    }

    /// The rules of a channel.
    pub fn namespace(&self, channel: &Channel) -> Result<&Arc<Namespace>, ReplyError> {
        self.config.namespaces.of(channel).ok_or(ReplyError::UNKNOWN_CHANNEL)
    }

    /// Lends the space where replies are encoded.
    pub(super) fn with_scratch<R>(&self, encode: impl FnOnce(&mut Vec<u8>) -> R) -> R {
        let mut scratch = self.scratch.borrow_mut();
        scratch.clear();
        let result = encode(&mut scratch);
        if scratch.capacity() > SCRATCH_BYTES_KEPT {
            *scratch = Vec::new();
        }
        result
    }

    /// Lends an empty queue for effects; comes back with [`Local::return_effects`].
    pub(super) fn take_effects(&self) -> Effects {
        std::mem::take(&mut self.effects.borrow_mut())
    }

    /// The next session uses the same memory.
    pub(super) fn return_effects(&self, effects: Effects) {
        debug_assert!(effects.is_empty());
        *self.effects.borrow_mut() = effects;
    }

    /// Takes one thing that another thread handed over. Returns how many frames were queued for it.
    pub fn take(&self, delivery: Delivery) -> usize {
        match delivery {
            Delivery::Push(push) => {
                let Delivered { sent, .. } = self.hub.borrow_mut().deliver(&push);
                let metrics = self.metrics();
                metrics.publications_delivered.add(sent as u64);
                metrics.messages_out.add(sent as u64);
                sent
            }
            Delivery::Close { address, close, why } => {
                self.hub.borrow().signal(&address, &Signal::Close(close, why));
                0
            }
            Delivery::Chain(chain, taken) => {
                // The old chain's instances are dropped here, between two messages.
                *self.chain.borrow_mut() = *chain;
                let _ = taken.send(());
                0
            }
        }
    }

    /// Deliveries were lost on the way here: finds out whose.
    pub fn find_gaps(&self) {
        self.metrics().inbox_overflow();
        let top = |channel: &Channel| self.backplane.top(channel).map(|top| (top.offset, top.epoch));
        self.hub.borrow_mut().check_positions(top);
    }
}
