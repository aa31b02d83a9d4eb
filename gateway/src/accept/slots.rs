//! [`Slots`] holds a bounded number of connections. When all slots are taken, a connection that is silent or
//! idle gives way to a new one.

use std::cmp::Reverse;
use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

/// Why the gateway waits for a connection. The connection that has waited longest gives way first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// New: it has sent no complete request, or its last response is being written.
    Silent,
    /// Idle since its last response; it may send another request.
    Idle,
}

/// Why there is no slot: the bound that is used up by connections being served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Full {
    /// The bound of all slots.
    All,
    /// The bound of one source.
    Source,
}

/// Slots for connections, bounded in total and for each source. The lock is taken a few times for each
/// connection or request, and never for a message.
#[derive(Debug)]
pub struct Slots {
    max: usize,
    per_source_max: usize,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    entries: HashMap<u64, Entry>,
    /// Connections that may give way, grouped by source, in the order in which they give way. Connections
    /// without a source form one group.
    waiting: BTreeSet<(Option<IpAddr>, Turn)>,
    /// Slots in use by each source. A source without slots has no entry.
    sources: HashMap<Option<IpAddr>, usize>,
    /// For each source with a connection that may give way: its number of slots, and its first connection to
    /// give way. The last entry is the connection that gives way when all slots are taken.
    crowds: BTreeSet<(usize, Reverse<Turn>)>,
    /// Counts new connections, and each time that one becomes idle.
    count: u64,
}

#[derive(Debug)]
struct Entry {
    source: Option<IpAddr>,
    /// `None` while the connection is being served.
    turn: Option<Turn>,
    /// Increases with the time at which the connection arrived.
    begun: u64,
    evict: oneshot::Sender<()>,
}

/// When a connection gives way: the longer it has waited, the earlier.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Turn {
    since: u64,
    number: u64,
}

/// Holds the slot of one connection until this is dropped or the connection is evicted.
#[derive(Debug)]
pub struct Slot {
    slots: Arc<Slots>,
    number: u64,
}

/// Notifies a connection that it has lost its slot.
#[derive(Debug)]
pub struct Evicted(oneshot::Receiver<()>);

impl Evicted {
    /// Waits until the connection is evicted. `false` if its [`Slot`] was dropped first. Must not be called
    /// after that.
    pub async fn wait(&mut self) -> bool {
        (&mut self.0).await.is_ok()
    }
}

impl Slots {
    /// All slots are free. One source may use `per_source_max` of the `max` slots.
    pub fn new(max: usize, per_source_max: usize) -> Arc<Self> {
        Arc::new(Self { max, per_source_max, state: Mutex::default() })
    }

    /// Gives a slot to a new connection, which is [`Standing::Silent`]. `source` is what it counts for;
    /// `None` counts for no source and has no bound of its own. If all slots are taken, a connection of the
    /// source with the most slots gives way; if the source is at its bound, one of that source. Among
    /// several, the one that has waited longest gives way.
    ///
    /// # Errors
    ///
    /// If all slots are taken, and none can give way.
    pub fn take(self: &Arc<Self>, source: Option<IpAddr>) -> Result<(Slot, Evicted), Full> {
        let mut state = self.lock();
        if let Some(source) = source {
            state.make_room_for(source, self.per_source_max)?;
        }
        if state.entries.len() >= self.max {
            let (_, Reverse(first)) = state.crowds.last().copied().ok_or(Full::All)?;
            state.evict(first.number);
        }
        state.count += 1;
        let number = state.count;
        let (evict, evicted) = oneshot::channel();
        state.entries.insert(number, Entry { source, turn: None, begun: number, evict });
        state.change(source, |state| *state.sources.entry(source).or_default() += 1);
        state.wait(number, Some(Standing::Silent));
        drop(state);
        Ok((Slot { slots: self.clone(), number }, Evicted(evicted)))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Numbers of connections and of sources, after a check that all parts of the state agree.
    #[cfg(test)]
    fn len(&self) -> (usize, usize) {
        let state = self.lock();
        let entries = || state.entries.values();
        assert_eq!(state.waiting.len(), entries().filter(|entry| entry.turn.is_some()).count());
        assert_eq!(state.sources.values().sum::<usize>(), state.entries.len());
        let crowd = |(source, count): (&Option<IpAddr>, &usize)| {
            let turns = entries().filter(|entry| entry.source == *source).filter_map(|entry| entry.turn);
            turns.min().map(|first| (*count, Reverse(first)))
        };
        assert_eq!(state.crowds, state.sources.iter().filter_map(crowd).collect());
        (state.entries.len(), state.sources.len())
    }
}

impl Slot {
    /// Counts the connection for this source from now on, as if it had come from there.
    ///
    /// # Errors
    ///
    /// If the source has as many slots as it may.
    pub fn count_for(&self, source: IpAddr) -> Result<(), Full> {
        let mut state = self.slots.lock();
        let counted = state.entries.get(&self.number).map(|entry| entry.source);
        // An evicted connection is no longer counted.
        if counted.is_none_or(|counted| counted == Some(source)) {
            return Ok(());
        }
        state.make_room_for(source, self.slots.per_source_max)?;
        state.count_for(self.number, Some(source));
        Ok(())
    }

    /// Marks the connection as being served: it does not give way.
    pub fn serve(&self) {
        self.slots.lock().wait(self.number, None);
    }

    /// Marks the connection as waiting: it may have to give way.
    pub fn wait(&self, standing: Standing) {
        self.slots.lock().wait(self.number, Some(standing));
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.slots.lock().remove(self.number);
    }
}

impl State {
    fn make_room_for(&mut self, source: IpAddr, max: usize) -> Result<(), Full> {
        let source = Some(source);
        if self.sources.get(&source).is_none_or(|count| *count < max) {
            return Ok(());
        }
        let first = self.first_of(source).ok_or(Full::Source)?;
        self.evict(first.number);
        Ok(())
    }

    /// Which connection of a source gives way first.
    fn first_of(&self, source: Option<IpAddr>) -> Option<Turn> {
        let least = Turn { since: 0, number: 0 };
        let (of, turn) = self.waiting.range((source, least)..).next()?;
        (*of == source).then_some(*turn)
    }

    /// The entry of a source in `crowds`, if one of its connections may give way.
    fn crowd(&self, source: Option<IpAddr>) -> Option<(usize, Reverse<Turn>)> {
        Some((*self.sources.get(&source)?, Reverse(self.first_of(source)?)))
    }

    /// Changes how many slots a source has or which of its connections wait, and updates its entry in
    /// `crowds`.
    fn change(&mut self, source: Option<IpAddr>, change: impl FnOnce(&mut Self)) {
        if let Some(crowd) = self.crowd(source) {
            self.crowds.remove(&crowd);
        }
        change(self);
        self.crowds.extend(self.crowd(source));
    }

    fn discount(&mut self, source: Option<IpAddr>) {
        self.change(source, |state| {
            if let Some(count) = state.sources.get_mut(&source) {
                *count -= 1;
                if *count == 0 {
                    state.sources.remove(&source);
                }
            }
        });
    }

    /// Moves a connection from one source to another.
    fn count_for(&mut self, number: u64, source: Option<IpAddr>) {
        let Some(turn) = self.entries.get(&number).map(|entry| entry.turn) else { return };
        self.set_turn(number, None);
        let Some(entry) = self.entries.get_mut(&number) else { return };
        let before = std::mem::replace(&mut entry.source, source);
        self.discount(before);
        self.change(source, |state| *state.sources.entry(source).or_default() += 1);
        self.set_turn(number, turn);
    }

    /// `None` for a connection that is being served.
    fn wait(&mut self, number: u64, standing: Option<Standing>) {
        let Some(begun) = self.entries.get(&number).map(|entry| entry.begun) else { return };
        let since = standing.map(|standing| match standing {
            Standing::Silent => begun,
            // A connection that sends requests again and again gives way after those that have fallen silent.
            Standing::Idle => {
                self.count += 1;
                self.count
            }
        });
        self.set_turn(number, since.map(|since| Turn { since, number }));
    }

    fn set_turn(&mut self, number: u64, turn: Option<Turn>) {
        let Some(entry) = self.entries.get_mut(&number) else { return };
        let (before, source) = (std::mem::replace(&mut entry.turn, turn), entry.source);
        self.change(source, |state| {
            if let Some(before) = before {
                state.waiting.remove(&(source, before));
            }
            state.waiting.extend(turn.map(|turn| (source, turn)));
        });
    }

    fn remove(&mut self, number: u64) -> Option<Entry> {
        self.set_turn(number, None);
        let entry = self.entries.remove(&number)?;
        self.discount(entry.source);
        Some(entry)
    }

    fn evict(&mut self, number: u64) {
        if let Some(entry) = self.remove(number) {
            let _ = entry.evict.send(());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ANN: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1));
    const BOB: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 2));

    fn take(slots: &Arc<Slots>, source: IpAddr) -> (Slot, Evicted) {
        slots.take(Some(source)).expect("a place")
    }

    fn is_evicted(evicted: &mut Evicted) -> bool {
        evicted.0.try_recv().is_ok()
    }

    #[test]
    fn the_oldest_silent_connection_gives_way_to_the_newest() {
        let slots = Slots::new(3, 3);
        let (_first, mut first) = take(&slots, ANN);
        let (served, mut second) = take(&slots, ANN);
        served.serve();
        let (_third, mut third) = take(&slots, BOB);
        let (_fourth, _) = take(&slots, BOB);
        assert!(is_evicted(&mut first));
        let (_fifth, _) = take(&slots, BOB);
        assert!(is_evicted(&mut third) && !is_evicted(&mut second));
        assert_eq!(slots.len(), (3, 2));
    }

    #[test]
    fn at_the_bound_of_a_source_one_of_its_own_gives_way() {
        let slots = Slots::new(10, 2);
        let (_other, mut other) = take(&slots, ANN);
        let (_first, mut first) = take(&slots, BOB);
        let (second, mut evicted) = take(&slots, BOB);
        let _third = take(&slots, BOB);
        assert!(is_evicted(&mut first) && !is_evicted(&mut other) && !is_evicted(&mut evicted));
        second.serve();
        let (fourth, _) = take(&slots, BOB);
        fourth.serve();
        assert_eq!(slots.take(Some(BOB)).expect_err("no place"), Full::Source);
        let _ann = take(&slots, ANN);
    }

    #[test]
    fn those_that_are_served_keep_their_places() {
        let slots = Slots::new(2, 2);
        let (ann, _) = take(&slots, ANN);
        let (bob, _) = take(&slots, BOB);
        ann.serve();
        bob.serve();
        assert_eq!(slots.take(None).expect_err("no place"), Full::All);
        drop(bob);
        assert!(slots.take(None).is_ok());
    }

    #[test]
    fn who_has_been_waited_for_longest_gives_way_silent_or_idle() {
        let slots = Slots::new(3, 3);
        let (old, mut old_evicted) = take(&slots, ANN);
        let (busy, mut busy_evicted) = take(&slots, ANN);
        for idle in [&busy, &old, &busy] {
            idle.serve();
            idle.wait(Standing::Idle);
        }
        // A probe that has just come, with its request on the way.
        let (probe, mut probe_evicted) = take(&slots, ANN);
        let (_next, mut next) = take(&slots, ANN);
        assert!(is_evicted(&mut old_evicted) && !is_evicted(&mut probe_evicted));
        let (last, _) = take(&slots, ANN);
        assert!(is_evicted(&mut busy_evicted) && !is_evicted(&mut probe_evicted));
        // One that has got its last answer counts from when it came.
        probe.serve();
        last.wait(Standing::Idle);
        probe.wait(Standing::Silent);
        let _one_more = take(&slots, ANN);
        assert!(is_evicted(&mut probe_evicted) && !is_evicted(&mut next));
        assert_eq!(slots.len(), (3, 1));
    }

    #[test]
    fn where_all_places_are_taken_the_source_with_the_most_gives_way() {
        let slots = Slots::new(5, 4);
        let (_alone, mut alone) = take(&slots, ANN);
        let mut crowd: Vec<_> = (0..4).map(|_| take(&slots, BOB)).collect();
        let (known_later, mut unknown) = slots.take(None).expect("a place");
        assert!(is_evicted(&mut crowd[0].1) && !is_evicted(&mut alone));
        known_later.count_for(ANN).expect("the second");
        let (_fourth, _) = take(&slots, [192, 0, 2, 3].into());
        assert!(is_evicted(&mut crowd[1].1) && !is_evicted(&mut alone));
        // ANN and BOB have two each: the one that came first.
        let (_fifth, _) = take(&slots, [192, 0, 2, 4].into());
        assert!(is_evicted(&mut alone) && !is_evicted(&mut unknown));
        // Those that are served keep their places, however many they are.
        crowd[2..].iter().for_each(|(slot, _)| slot.serve());
        let (_sixth, _) = take(&slots, [192, 0, 2, 5].into());
        assert!(is_evicted(&mut unknown));
        assert_eq!(slots.len(), (5, 4));
    }

    #[test]
    fn a_source_that_is_known_later_is_bounded_too() {
        let slots = Slots::new(10, 1);
        let (ann, mut evicted) = slots.take(None).expect("a place");
        ann.count_for(ANN).expect("the first");
        ann.count_for(ANN).expect("counted already");
        let (second, _) = slots.take(None).expect("a place");
        second.count_for(ANN).expect("the first gives way");
        assert!(is_evicted(&mut evicted));
        second.serve();
        let (third, _) = slots.take(None).expect("a place");
        assert_eq!(third.count_for(ANN), Err(Full::Source));
        third.count_for(BOB).expect("another source");
        ann.count_for(BOB).expect("an evicted one counts for nobody");
        assert_eq!(slots.len(), (2, 2));
    }

    #[test]
    fn nothing_is_left_of_connections_that_have_ended() {
        let slots = Slots::new(4, 2);
        let taken: Vec<_> = (0..100).map(|n: u8| take(&slots, IpAddr::from([192, 0, 2, n / 2]))).collect();
        assert_eq!(slots.len(), (4, 3));
        taken[98].0.serve();
        taken[99].0.wait(Standing::Idle);
        drop(taken);
        assert_eq!(slots.len(), (0, 0));
        let state = slots.lock();
        assert!(state.waiting.is_empty() && state.crowds.is_empty());
    }
}
