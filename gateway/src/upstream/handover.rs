//! `Handover` passes events to the thread that writes the spools, which is the only one that does: a worker
//! never waits for a disk. An event goes into the queue of its upstream once it is written.

use std::mem::take;
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

/// What the thread has to do. Events are bounded by the queues of their upstreams, the rest by the events and
/// by the requests that wait for an answer.
pub(super) enum Job {
    /// Write an event and queue it. The number is that of its upstream.
    Event(usize, Event),
    /// These events of an upstream were delivered or given up.
    Finished(usize, Vec<Place>),
    /// Say that everything before is written.
    Notify(oneshot::Sender<()>),
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
    /// No further job comes.
    closed: bool,
}

impl Handover {
    /// Adds a job.
    pub(super) fn put(&self, job: Job) {
        if matches!(job, Job::Event(..)) {
            self.unwritten.fetch_add(1, Ordering::AcqRel);
        }
        let mut jobs = self.lock();
        jobs.list.push(job);
        let first = jobs.list.len() == 1;
        drop(jobs);
        if first {
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
        while self.take(&mut jobs) {
            let mut work: Vec<(Vec<Arc<Event>>, Vec<Place>)> = Vec::new();
            work.resize_with(upstreams.len(), Default::default);
            let mut waiting = Vec::new();
            for job in jobs.drain(..) {
                match job {
                    Job::Event(upstream, event) => work[upstream].0.push(Arc::new(event)),
                    Job::Finished(upstream, places) => work[upstream].1.extend(places),
                    Job::Notify(sender) => waiting.push(sender),
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

    /// Waits for jobs and takes all of them. False if there are none and no further one comes.
    fn take(&self, into: &mut Vec<Job>) -> bool {
        if into.capacity() > CAPACITY_KEPT {
            *into = Vec::new();
        }
        let idle = |jobs: &mut Jobs| jobs.list.is_empty() && !jobs.closed;
        let mut jobs = self.arrived.wait_while(self.lock(), idle).unwrap_or_else(PoisonError::into_inner);
        *into = take(&mut jobs.list);
        !into.is_empty()
    }

    fn lock(&self) -> MutexGuard<'_, Jobs> {
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
