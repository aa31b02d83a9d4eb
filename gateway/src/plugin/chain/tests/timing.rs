//! Tests timers of plugins, with time set by the test.

use super::*;

const fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// A chain of plugins with these timers, in seconds; 0 for none.
fn with_timers(intervals: &[u64]) -> Bench {
    Bench::with(intervals.iter().map(|interval| {
        let timer = (*interval > 0).then(|| secs(*interval));
        let interests = Interests { timer, ..Interests::everything(ALL_HOOKS) };
        (FailurePolicy::Closed, Script { interests: Some(interests), ..Script::default() })
    }))
}

impl Bench {
    /// Runs the timers that are due and returns how often each plugin was called so far.
    fn timers_at(&mut self, at: u64) -> Vec<usize> {
        self.chain.on_timer(secs(at), &Tick { instance: 1, now: self.now, at: self.now }, &mut self.effects);
        self.scripts.iter().map(|script| script.seen.lock().unwrap().len()).collect()
    }
}

#[test]
fn timers_run_when_they_are_due_and_only_for_those_who_asked() {
    let mut bench = with_timers(&[10, 0, 15]);
    assert_eq!(bench.chain.next_timer(), None, "not started");
    bench.chain.start_timers(&Chain::empty(), 0, 1, secs(1));
    assert_eq!(bench.chain.next_timer(), Some(secs(10)));
    assert_eq!(bench.timers_at(9), [0, 0, 0]);
    assert_eq!(bench.timers_at(10), [1, 0, 0]);
    assert_eq!(bench.chain.next_timer(), Some(secs(15)));
    assert_eq!(bench.timers_at(31), [2, 0, 1], "once for all that was missed");
    assert_eq!(bench.chain.next_timer(), Some(secs(40)));
    assert_eq!(*bench.scripts[0].seen.lock().unwrap(), ["timer 1", "timer 1"]);
}

#[test]
fn a_timer_that_fails_does_not_keep_others_from_theirs() {
    let mut bench = with_timers(&[10, 10]);
    bench.chain.start_timers(&Chain::empty(), 0, 1, secs(0));
    *bench.scripts[0].steps.lock().unwrap() = [Step::Fail(Cause::Trap)].into();
    assert_eq!(bench.timers_at(10), [1, 1]);
    assert_eq!(bench.counters[0].read().failures_by(Cause::Trap), 1);
    assert_eq!(bench.timers_at(20), [2, 2], "with another instance");
}

#[test]
fn a_swap_moves_no_timer_but_that_of_a_new_interval() {
    let mut old = with_timers(&[10, 20]);
    old.chain.start_timers(&Chain::empty(), 0, 1, secs(0));
    // Due at 10 and 20, and late.
    let mut new = with_timers(&[10, 30]);
    new.chain.start_timers(&old.chain, 0, 1, secs(12));
    assert_eq!(new.chain.next_timer(), Some(secs(10)), "the swap did not swallow it");
    assert_eq!(new.timers_at(12), [1, 0]);
    assert_eq!(new.timers_at(20), [2, 0]);
    assert_eq!(new.timers_at(30), [3, 1]);
    let mut none = with_timers(&[0, 0]);
    none.chain.start_timers(&new.chain, 0, 1, secs(31));
    assert_eq!(none.chain.next_timer(), None);
}
