//! `Handover` passes events to the thread that writes the spools, which is the only one that does: a worker
//! never waits for a disk. An event goes into the queue of its upstream once it is written.

use std::mem::{swap, take};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

use super::queue::Waiting;
use super::spool::{Place, Spool};
use super::{Event, Upstream};
use crate::clock::Clock;
use crate::seldom::seldom;

/// Capacity for jobs that is kept after a burst.
const CAPACITY_KEPT: usize = 4096;

/// Number of those that wait from which on some may have given up.
const WAITING_MIN: usize = 64;

/// What the thread has to do. Jobs are bounded by the events in the queues of the upstreams.
pub(super) enum Job {
    /// Write an event and queue it. The number is that of its upstream.
    Event(usize, Event),
    /// These events of an upstream were delivered or given up.
    Finished(usize, Vec<Place>),
}

/// See the module.
#[derive(Default)]
pub(super) struct Handover {
    jobs: Mutex<Jobs>,
    arrived: Condvar,
    /// Events that are not written yet.
    unwritten: AtomicUsize,
}

#[derive(Default)]
struct Jobs {
    list: Vec<Job>,
    /// Those that wait until everything in the list is written. Bounded by those that still do, because a
    /// disk may take longer than any of them waits.
    waiting: Vec<oneshot::Sender<()>>,
    /// The number of them at which to look for those that have given up.
    look_at: usize,
    /// No further job comes.
    closed: bool,
}

impl Jobs {
    fn is_empty(&self) -> bool {
        self.list.is_empty() && self.waiting.is_empty()
    }
}

impl Handover {
    /// Adds a job.
    pub(super) fn put(&self, job: Job) {
        if matches!(job, Job::Event(..)) {
            self.unwritten.fetch_add(1, Ordering::AcqRel);
        }
        self.change(|jobs| jobs.list.push(job));
    }

    /// Notifies the sender once everything before is written.
    pub(super) fn when_written(&self, sender: oneshot::Sender<()>) {
        self.change(|jobs| {
            if jobs.waiting.len() >= jobs.look_at.max(WAITING_MIN) {
                jobs.waiting.retain(|sender| !sender.is_closed());
                jobs.look_at = 2 * jobs.waiting.len();
            }
            jobs.waiting.push(sender);
        });
    }

    fn change(&self, change: impl FnOnce(&mut Jobs)) {
        let mut jobs = self.lock();
        let was_empty = jobs.is_empty();
        change(&mut jobs);
        drop(jobs);
        if was_empty {
            self.arrived.notify_one();
        }
    }

    /// Whether an event is not written yet.
    pub(super) fn has_unwritten(&self) -> bool {
        self.unwritten.load(Ordering::Acquire) > 0
    }

    /// Ends the thread when everything is done.
    pub(super) fn close(&self) {
        self.lock().closed = true;
        self.arrived.notify_one();
    }

    /// Writes until [`close`](Self::close).
    pub(super) fn run(&self, upstreams: &[Arc<Upstream>], mut spools: Vec<Option<Spool>>, clock: Clock) {
        let mut jobs = Vec::new();
        while let Some(waiting) = self.take(&mut jobs) {
            let mut work: Vec<(Vec<Arc<Event>>, Vec<Place>)> = Vec::new();
            work.resize_with(upstreams.len(), Default::default);
            for job in jobs.drain(..) {
                match job {
                    Job::Event(upstream, event) => work[upstream].0.push(Arc::new(event)),
                    Job::Finished(upstream, places) => work[upstream].1.extend(places),
                }
            }
            for ((upstream, spool), (events, finished)) in upstreams.iter().zip(&mut spools).zip(work) {
                if !events.is_empty() || !finished.is_empty() {
                    let count = events.len();
                    self.write(upstream, spool.as_mut(), events, &finished, clock);
                    self.unwritten.fetch_sub(count, Ordering::AcqRel);
                }
            }
            for sender in waiting {
                let _ = sender.send(());
            }
        }
        for (upstream, spool) in upstreams.iter().zip(&mut spools) {
            if let Some(Err(error)) = spool.as_mut().map(Spool::close) {
                tracing::warn!(upstream = &*upstream.name, %error, "failed to remove the files of delivered events");
            }
        }
    }

    fn write(
        &self,
        upstream: &Upstream,
        spool: Option<&mut Spool>,
        events: Vec<Arc<Event>>,
        finished: &[Place],
        clock: Clock,
    ) {
        let (name, mut place) = (&*upstream.name, None);
        if let Some(spool) = spool {
            if !finished.is_empty()
                && let Err(error) = spool.finish(finished)
            {
                seldom!(warn, upstream = name, %error, "failed to note delivered events; a restart may send them again");
            }
            if !events.is_empty() {
                match spool.append(events.iter().map(|event| &**event)) {
                    Ok(first) => place = Some(first),
                    Err(error) => {
                        upstream.metrics.unspooled(events.len() as u64);
                        seldom!(error, upstream = name, %error, "failed to write events to the disk; until they are delivered, they are only in memory");
                    }
                }
            }
            upstream.metrics.set_spool_bytes(spool.bytes());
        }
        let since = clock.at();
        let waiting = events.into_iter().enumerate().map(|(index, event)| Waiting {
            event,
            place: place.map(|first| first + index as Place),
            since,
        });
        upstream.queue.put(waiting);
    }

    /// Waits for jobs, takes all of them, and returns those that wait for their end. `None` if there is
    /// nothing to do and no further job comes.
    fn take(&self, into: &mut Vec<Job>) -> Option<Vec<oneshot::Sender<()>>> {
        if into.capacity() > CAPACITY_KEPT {
            *into = Vec::new();
        }
        let idle = |jobs: &mut Jobs| jobs.is_empty() && !jobs.closed;
        let mut jobs = self.arrived.wait_while(self.lock(), idle).unwrap_or_else(PoisonError::into_inner);
        if jobs.is_empty() {
            return None;
        }
        swap(into, &mut jobs.list);
        jobs.look_at = 0;
        Some(take(&mut jobs.waiting))
    }

    fn lock(&self) -> MutexGuard<'_, Jobs> {
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failing test may panic")]

    use super::*;

    #[test]
    fn who_does_not_wait_any_more_is_forgotten_although_the_disk_takes_nothing() {
        // No thread writes, as if it waited for the disk.
        let handover = Handover::default();
        let (sender, mut written) = oneshot::channel();
        handover.when_written(sender);
        for _ in 0..100_000 {
            handover.when_written(oneshot::channel().0);
        }
        let kept = handover.lock().waiting.len();
        assert!(kept <= 2 * WAITING_MIN, "{kept} are kept, and one waits");
        handover.close();
        handover.run(&[], Vec::new(), Clock::start());
        assert_eq!(written.try_recv(), Ok(()), "who does is notified");
    }
}
