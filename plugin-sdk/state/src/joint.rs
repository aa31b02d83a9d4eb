//! Rate limits that several nodes share. Every node decides at once by its own meter, reports the amount that
//! it has taken, and receives the total usage of all nodes, from which it then continues.

use crate::KEY_BYTES_MAX;
use crate::meter::{Meter, MeterState, NEVER, Room};
use crate::rule::Rule;
use crate::store::{Key, NONE, Store, Value};

/// Joint meters live on a clock that is ahead by this many milliseconds: a window may have begun before this
/// node. More than two of the longest periods.
const AHEAD: u64 = 1 << 34;

/// What a node has taken of one key.
#[derive(Debug, Clone)]
pub(crate) struct Joint {
    /// What all nodes have used as far as this one knows, and what it has taken since.
    meter: Meter,
    /// What this node has ever taken, from any number on. Never falls for one key, whatever becomes of its
    /// meters.
    taken: u64,
    /// How much of that the others are known to know.
    known: u64,
    /// Where in the list of those that have something to report.
    queued: u32,
}

/// The report of a node about one key. A repeated report has no further effect, because it contains the
/// total.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Report {
    /// The total that the node has ever taken, counted from any number.
    pub total: u64,
    /// The part of the total that the others certainly know.
    pub known: u64,
}

impl Joint {
    const fn new(counted: u64) -> Self {
        Self { meter: Meter::NEW, taken: counted, known: counted, queued: NONE }
    }

    pub(crate) fn room(&self, rule: &Rule, now: u64) -> Room {
        self.meter.room(rule, now.saturating_add(AHEAD))
    }
}

/// Joint rate limits. The space of a key is the number of its bucket.
impl Store {
    /// [`Meter::take`] for a key of a joint limit, which is recorded for a [`report`](Self::report).
    pub fn take_joint(&mut self, key: &Key<'_>, rule: &Rule, cost: u32, now: u64) -> u64 {
        if cost == 0 {
            return 0;
        }
        if u64::from(cost) > rule.burst() || key.bytes.len() > KEY_BYTES_MAX {
            return NEVER;
        }
        let now = self.now(now);
        let forgotten = now.saturating_add(rule.forgets_after());
        if self.use_value(key, now).is_none() {
            let joint = Value::Joint(Box::new(Joint::new(self.counted)));
            if !self.insert(key, joint, forgotten, now) {
                return NEVER;
            }
        }
        // What was used or inserted is the newest.
        let at = self.newest;
        let slot = &mut self.slots[at as usize];
        let Value::Joint(joint) = &mut slot.value else { return NEVER };
        slot.expires = slot.expires.max(forgotten);
        let wait = joint.meter.take(rule, cost, now.saturating_add(AHEAD));
        if wait == 0 {
            joint.taken += u64::from(cost);
            self.queue(at);
        }
        wait
    }

    /// Calls `each` with the pending reports of at most `max` keys: the space, the key, and the amount taken.
    /// A report is not repeated unless more is taken, or [`report_again`](Self::report_again) requests it.
    pub fn report(&mut self, max: usize, mut each: impl FnMut(u32, &[u8], Report)) {
        let count = self.to_report.len().min(max);
        for at in self.to_report.drain(..count) {
            let slot = &mut self.slots[at as usize];
            if let Value::Joint(joint) = &mut slot.value {
                joint.queued = NONE;
                each(slot.space, &slot.key, Report { total: joint.taken, known: joint.known });
            }
        }
        for (position, at) in self.to_report.iter().enumerate() {
            if let Value::Joint(joint) = &mut self.slots[*at as usize].value {
                joint.queued = position as u32;
            }
        }
    }

    /// Repeats a report that got no reply, because it may have been lost.
    pub fn report_again(&mut self, key: &Key<'_>) {
        if let Some(at) = self.find(key) {
            self.queue(at);
        }
    }

    /// Applies the reply to a report of `total`: the usage of all nodes, including this one.
    pub fn reconcile(&mut self, key: &Key<'_>, rule: &Rule, total: u64, state: MeterState, now: u64) {
        let now = self.now(now);
        let Some(at) = self.find(key) else { return };
        let slot = &mut self.slots[at as usize];
        let Value::Joint(joint) = &mut slot.value else { return };
        joint.known = joint.known.max(total);
        let ahead = now.saturating_add(AHEAD);
        joint.meter = Meter::from_state(rule, state, ahead);
        joint.meter.charge(rule, joint.taken - joint.known, ahead);
        let forgets_after = rule.forgets_after().max(joint.meter.room(rule, ahead).full_in);
        slot.expires = now.saturating_add(forgets_after);
    }

    // ---- The list of those with something to report ----

    fn queue(&mut self, at: u32) {
        if let Value::Joint(joint) = &mut self.slots[at as usize].value
            && joint.queued == NONE
            && joint.taken > joint.known
        {
            joint.queued = self.to_report.len() as u32;
            self.to_report.push(at);
        }
    }

    /// A slot is going to be removed.
    pub(crate) fn forget_report(&mut self, at: u32) {
        let Value::Joint(joint) = &self.slots[at as usize].value else { return };
        let queued = joint.queued;
        self.counted = self.counted.max(joint.taken);
        if queued == NONE {
            return;
        }
        self.to_report.swap_remove(queued as usize);
        if let Some(moved) = self.to_report.get(queued as usize)
            && let Value::Joint(joint) = &mut self.slots[*moved as usize].value
        {
            joint.queued = queued;
        }
    }

    /// A slot has come to another place.
    pub(crate) fn move_report(&mut self, at: u32) {
        if let Value::Joint(joint) = &self.slots[at as usize].value
            && let Some(queued) = self.to_report.get_mut(joint.queued as usize)
        {
            *queued = at;
        }
    }
}
