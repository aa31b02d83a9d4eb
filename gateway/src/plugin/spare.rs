//! `Spare`: a standby instance, created and configured in advance and away from the thread that will call
//! it. The replaced instance is dropped there too: returning its memory to the system takes as long as a
//! hundred calls.

use std::sync::Arc;

use tokio::sync::oneshot;
use tokio::sync::oneshot::error::TryRecvError;

use super::chain::Plugin;
use super::counters::PluginCounters;
use super::load::{Factory, LoadCode, LoadError};

/// Runs what takes too long for a thread that serves connections.
pub trait Offload: Send + Sync {
    /// Must not block. A job that is dropped counts as one that failed.
    fn run(&self, job: Box<dyn FnOnce() + Send>);
}

/// On the threads for blocking work of a runtime.
impl Offload for tokio::runtime::Handle {
    fn run(&self, job: Box<dyn FnOnce() + Send>) {
        drop(self.spawn_blocking(job));
    }
}

/// At once, on the caller's thread: for tools and tests, where nobody waits for it.
#[derive(Debug, Clone, Copy)]
pub struct AtOnce;

impl Offload for AtOnce {
    fn run(&self, job: Box<dyn FnOnce() + Send>) {
        job();
    }
}

type Made = Result<Box<dyn Plugin>, LoadError>;

/// At most one instance, ready or in the making.
pub(super) struct Spare {
    offload: Arc<dyn Offload>,
    factory: Arc<dyn Factory>,
    counters: Arc<PluginCounters>,
    /// Dropping it throws the instance away when it is made.
    ordered: Option<oneshot::Receiver<Made>>,
    /// Failed, and not dropped yet.
    retired: Option<Box<dyn Plugin>>,
}

impl Spare {
    /// Nothing is made yet.
    pub(super) fn new(
        offload: Arc<dyn Offload>,
        factory: Arc<dyn Factory>,
        counters: Arc<PluginCounters>,
    ) -> Self {
        Self { offload, factory, counters, ordered: None, retired: None }
    }

    pub(super) fn set_offload(&mut self, offload: Arc<dyn Offload>) {
        self.offload = offload;
    }

    /// Whether none is there and none in the making.
    pub(super) fn is_missing(&self) -> bool {
        self.ordered.is_none()
    }

    /// Has one made, if none is there or in the making.
    pub(super) fn order(&mut self) {
        if self.ordered.is_some() {
            return;
        }
        let (made, ordered) = oneshot::channel();
        self.ordered = Some(ordered);
        let (factory, counters) = (self.factory.clone(), self.counters.clone());
        let retired = self.retired.take();
        self.offload.run(Box::new(move || {
            // First, because a pool of instances needs room for two only.
            drop(retired);
            // If nobody waits for it any more, it is dropped here.
            let _ = made.send(factory.instantiate(&counters));
        }));
    }

    /// Takes an instance that is not called any more, to end it before the next one is made, or in [`Spare::release`].
    pub(super) fn retire(&mut self, instance: Option<Box<dyn Plugin>>) {
        self.retired = instance;
    }

    /// Ends the instance that was retired, if no order has taken it along.
    pub(super) fn release(&mut self) {
        if let Some(retired) = self.retired.take() {
            self.offload.run(Box::new(move || drop(retired)));
        }
    }

    /// What was ordered, once it is there.
    pub(super) fn take(&mut self) -> Option<Made> {
        let made = match self.ordered.as_mut()?.try_recv() {
            Ok(made) => made,
            Err(TryRecvError::Empty) => return None,
            Err(TryRecvError::Closed) => {
                Err(LoadError::new(LoadCode::Instantiate, "was given up while an instance was made"))
            }
        };
        self.ordered = None;
        Some(made)
    }
}
