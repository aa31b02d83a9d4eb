//! `Spare`: a standby instance, created and configured in advance and away from the thread that will call
//! it. The replaced instance is dropped there too: returning its memory to the system takes as long as a
//! hundred calls.

use std::sync::Arc;

use tokio::sync::oneshot;
use tokio::sync::oneshot::error::TryRecvError;

use super::chain::Plugin;
use super::counters::PluginCounters;
use super::load::{Factory, LoadCode, LoadError};

/// Runs jobs that take too long for a thread that serves connections.
pub trait Offload: Send + Sync {
    /// Must not block. A job that is dropped counts as one that failed.
    fn run(&self, job: Box<dyn FnOnce() + Send>);
}

/// Runs jobs on the blocking threads of a runtime.
impl Offload for tokio::runtime::Handle {
    fn run(&self, job: Box<dyn FnOnce() + Send>) {
        drop(self.spawn_blocking(job));
    }
}

/// Runs jobs on the caller's thread, for tools and tests, where nothing else waits for it.
#[derive(Debug, Clone, Copy)]
pub struct AtOnce;

impl Offload for AtOnce {
    fn run(&self, job: Box<dyn FnOnce() + Send>) {
        job();
    }
}

type Made = Result<Box<dyn Plugin>, LoadError>;

/// At most one instance, ready or being made.
pub(super) struct Spare {
    offload: Arc<dyn Offload>,
    factory: Arc<dyn Factory>,
    counters: Arc<PluginCounters>,
    /// Dropping it discards the instance once it is made.
    ordered: Option<oneshot::Receiver<Made>>,
    /// Failed and not dropped yet.
    retired: Option<Box<dyn Plugin>>,
}

impl Spare {
    /// No instance, and none being made.
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

    /// Whether there is no instance and none is being made.
    pub(super) fn is_missing(&self) -> bool {
        self.ordered.is_none()
    }

    /// Orders an instance, if there is none and none is being made.
    pub(super) fn order(&mut self) {
        if self.ordered.is_some() {
            return;
        }
        let (made, ordered) = oneshot::channel();
        self.ordered = Some(ordered);
        let (factory, counters) = (self.factory.clone(), self.counters.clone());
        let retired = self.retired.take();
        self.offload.run(Box::new(move || {
            // First, because a pool of instances has room for only two.
            drop(retired);
            // Dropped here if the receiver is gone.
            let _ = made.send(factory.instantiate(&counters));
        }));
    }

    /// Takes an instance that is no longer called. It is dropped before the next one is made, or in
    /// [`Spare::release`].
    pub(super) fn retire(&mut self, instance: Option<Box<dyn Plugin>>) {
        self.retired = instance;
    }

    /// Drops the retired instance, if no order has taken it.
    pub(super) fn release(&mut self) {
        if let Some(retired) = self.retired.take() {
            self.offload.run(Box::new(move || drop(retired)));
        }
    }

    /// The ordered instance, once it is ready.
    pub(super) fn take(&mut self) -> Option<Made> {
        let made = match self.ordered.as_mut()?.try_recv() {
            Ok(made) => made,
            Err(TryRecvError::Empty) => return None,
            Err(TryRecvError::Closed) => {
                Err(LoadError::new(LoadCode::Instantiate, "was cancelled while an instance was created"))
            }
        };
        self.ordered = None;
        Some(made)
    }
}
