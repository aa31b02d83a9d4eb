//! A perfect history gives zeros, and each kind of mistake is found.

#![allow(clippy::unwrap_used, reason = "an unmet expectation is a failed test")]

use proptest::prelude::*;

use super::*;
use crate::ledger::Published;

/// A stream as it should be: told to subscribers as they come and go, and written down.
struct World {
    history: History,
    subscribers: Vec<Reader>,
    epoch: u32,
    top: u64,
    /// Offsets and numbers that can be recovered.
    kept: Vec<(u64, u64)>,
    time: u64,
    number: u64,
}

#[derive(Default)]
struct Reader {
    here: bool,
    at: Option<Position>,
}

#[derive(Debug, Clone, Copy)]
enum Step {
    Publish,
    /// Published, but the publisher does not hear of it.
    PublishUnanswered,
    Refuse,
    Come(usize),
    Go(usize),
    Forget,
}

const KEPT: usize = 4;
const READERS: usize = 3;

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => Just(Step::Publish),
        1 => Just(Step::PublishUnanswered),
        1 => Just(Step::Refuse),
        3 => (0..READERS).prop_map(Step::Come),
        2 => (0..READERS).prop_map(Step::Go),
        1 => Just(Step::Forget),
    ]
}

impl World {
    fn new() -> Self {
        Self {
            history: History { published: Vec::new(), subscribers: vec![Vec::new(); READERS] },
            subscribers: (0..READERS).map(|_| Reader::default()).collect(),
            epoch: 1,
            top: 0,
            kept: Vec::new(),
            time: 0,
            number: 0,
        }
    }

    fn play(steps: &[Step]) -> Self {
        let mut world = Self::new();
        steps.iter().for_each(|step| world.step(*step));
        (0..READERS).for_each(|reader| world.step(Step::Come(reader)));
        world
    }

    fn position(&self) -> Position {
        Position { epoch: self.epoch.to_string().into(), offset: self.top }
    }

    fn see(&mut self, reader: usize, event: Event) {
        self.time += 1;
        self.history.subscribers[reader].push(Entry {
            at: Duration::from_millis(self.time),
            channel: "c".into(),
            event,
        });
    }

    fn publish(&mut self, outcome: impl FnOnce(&mut Self, u64) -> Outcome) {
        self.number += 1;
        let (number, sent) = (self.number, Duration::from_millis(self.time));
        let outcome = outcome(self, number);
        self.time += 1;
        let answered = Duration::from_millis(self.time);
        self.history.published.push(Published { channel: "c".into(), number, sent, answered, outcome });
    }

    fn spread(&mut self, number: u64) -> Position {
        self.top += 1;
        self.kept.push((self.top, number));
        let position = self.position();
        for reader in 0..READERS {
            if self.subscribers[reader].here {
                self.see(reader, Event::Publication { number, offset: position.offset });
                self.subscribers[reader].at = Some(position.clone());
            }
        }
        self.kept.drain(..self.kept.len().saturating_sub(KEPT));
        position
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Publish => self.publish(|world, number| Outcome::Acknowledged(world.spread(number))),
            Step::PublishUnanswered => self.publish(|world, number| {
                world.spread(number);
                Outcome::Unanswered
            }),
            Step::Refuse => self.publish(|_, _| Outcome::Refused { code: 100, message: String::new() }),
            Step::Come(reader) => self.come(reader),
            Step::Go(reader) => {
                if std::mem::take(&mut self.subscribers[reader].here) {
                    self.see(reader, Event::Disconnected { code: None });
                }
            }
            Step::Forget => {
                (self.epoch, self.top) = (self.epoch + 1, 0);
                self.kept.clear();
                for reader in 0..READERS {
                    if std::mem::take(&mut self.subscribers[reader].here) {
                        self.see(reader, Event::Unsubscribed { code: 2500 });
                        self.come(reader);
                    }
                }
            }
        }
    }

    fn come(&mut self, reader: usize) {
        if std::mem::replace(&mut self.subscribers[reader].here, true) {
            return;
        }
        let top = self.position();
        let oldest = self.kept.first().map_or(self.top + 1, |(offset, _)| *offset);
        let at = self.subscribers[reader].at.replace(top.clone());
        match at.filter(|at| at.epoch == top.epoch && at.offset + 1 >= oldest) {
            None => self.see(reader, Event::Subscribed { recovered: false, position: top }),
            Some(at) => {
                self.see(reader, Event::Subscribed { recovered: true, position: at.clone() });
                for (offset, number) in self.kept.clone() {
                    if offset > at.offset {
                        self.see(reader, Event::Publication { number, offset });
                    }
                }
            }
        }
    }

    /// Where frames are in the history.
    fn frames(&self) -> Vec<(usize, usize)> {
        let all = self.history.subscribers.iter().enumerate();
        let frames = all.flat_map(|(reader, entries)| (0..entries.len()).map(move |n| (reader, n)));
        frames.filter(|(reader, n)| is_frame(&self.history.subscribers[*reader][*n])).collect()
    }
}

fn is_frame(entry: &Entry) -> bool {
    matches!(entry.event, Event::Publication { .. })
}

/// The figures that have to be 0.
fn mistakes(report: &Report) -> [usize; 7] {
    [
        report.lost_silently,
        report.duplicates,
        report.reordered,
        report.conflicting,
        report.foreign,
        report.refused_but_delivered,
        report.away,
    ]
}

proptest! {
    #[test]
    fn a_perfect_history_gives_zeros(steps in prop::collection::vec(step(), 0..80)) {
        let world = World::play(&steps);
        let report = check(&world.history);
        prop_assert_eq!(mistakes(&report), [0; 7], "{}", report);
        let frames = world.frames().len();
        prop_assert_eq!(report.delivered, frames);
    }

    #[test]
    fn a_frame_that_is_missing_is_counted_once(
        steps in prop::collection::vec(step(), 1..80),
        which in any::<prop::sample::Index>(),
    ) {
        let mut world = World::play(&steps);
        let frames = world.frames();
        prop_assume!(!frames.is_empty());
        let before = check(&world.history);
        let (reader, n) = frames[which.index(frames.len())];
        let Event::Publication { number, .. } = world.history.subscribers[reader].remove(n).event else { unreachable!() };
        let seen_or_acknowledged = world.history.published.iter().any(|publication| {
            publication.number == number && matches!(publication.outcome, Outcome::Acknowledged(_))
        });
        prop_assume!(seen_or_acknowledged);
        let after = check(&world.history);
        let lost = |report: &Report| report.lost_silently + report.lost_with_signal;
        prop_assert_eq!(lost(&after), lost(&before) + 1, "{}", after);
        // Only where the subscriber starts anew afterwards does it know.
        let rest = &world.history.subscribers[reader][n..];
        let anew = rest.iter().position(|entry| matches!(entry.event, Event::Subscribed { recovered: false, .. }));
        let later_frame = rest.iter().position(is_frame);
        let recovered_beyond = anew.is_none_or(|anew| later_frame.is_some_and(|frame| frame < anew));
        if recovered_beyond {
            prop_assert_eq!(after.lost_silently, 1, "{}", after);
        }
    }

    #[test]
    fn a_frame_that_comes_twice_is_a_duplicate(
        steps in prop::collection::vec(step(), 1..80),
        which in any::<prop::sample::Index>(),
    ) {
        let mut world = World::play(&steps);
        let frames = world.frames();
        prop_assume!(!frames.is_empty());
        let (reader, n) = frames[which.index(frames.len())];
        let again = world.history.subscribers[reader][n].clone();
        world.history.subscribers[reader].insert(n + 1, again);
        let report = check(&world.history);
        prop_assert_eq!(mistakes(&report), [0, 1, 0, 0, 0, 0, 0], "{}", report);
    }

    #[test]
    fn two_frames_in_the_wrong_order_are_found(
        steps in prop::collection::vec(step(), 1..80),
        which in any::<prop::sample::Index>(),
    ) {
        let mut world = World::play(&steps);
        let neighbours = |(reader, n): &(usize, usize)| {
            world.history.subscribers[*reader].get(n + 1).is_some_and(is_frame)
        };
        let frames: Vec<_> = world.frames().into_iter().filter(neighbours).collect();
        prop_assume!(!frames.is_empty());
        let (reader, n) = frames[which.index(frames.len())];
        world.history.subscribers[reader].swap(n, n + 1);
        let report = check(&world.history);
        prop_assert_eq!(mistakes(&report), [0, 0, 1, 0, 0, 0, 0], "{}", report);
    }

    #[test]
    fn a_payload_that_changed_is_found(
        steps in prop::collection::vec(step(), 1..80),
        which in any::<prop::sample::Index>(),
    ) {
        let mut world = World::play(&steps);
        let frames = world.frames();
        prop_assume!(!frames.is_empty());
        let (reader, n) = frames[which.index(frames.len())];
        // Something that was published, and that this place does not have.
        world.step(Step::PublishUnanswered);
        let other = world.number;
        for entries in &mut world.history.subscribers {
            entries.retain(|entry| !matches!(entry.event, Event::Publication { number, .. } if number == other));
        }
        let Event::Publication { number, .. } = &mut world.history.subscribers[reader][n].event else { unreachable!() };
        let known_elsewhere = world.history.published.iter().any(|publication| {
            publication.number == *number && matches!(publication.outcome, Outcome::Acknowledged(_))
        });
        prop_assume!(known_elsewhere);
        *number = other;
        let report = check(&world.history);
        prop_assert_eq!(report.conflicting, 1, "{}", report);
        prop_assert!(report.lost_silently + report.lost_with_signal > 0, "{}", report);
    }
}

/// A history by hand: what was acknowledged, and what one subscriber saw.
fn history(acknowledged: &[(u64, &str, u64)], seen: &[Event]) -> History {
    let at = Duration::from_millis;
    History {
        published: acknowledged
            .iter()
            .map(|(number, epoch, offset)| Published {
                channel: "c".into(),
                number: *number,
                sent: at(100),
                answered: at(100),
                outcome: Outcome::Acknowledged(place(epoch, *offset)),
            })
            .collect(),
        subscribers: vec![
            seen.iter()
                .enumerate()
                // Everything but the first entry comes after the publications.
                .map(|(n, event)| Entry {
                    at: at(if n == 0 { 0 } else { 200 + n as u64 }),
                    channel: "c".into(),
                    event: event.clone(),
                })
                .collect(),
        ],
    }
}

fn place(epoch: &str, offset: u64) -> Position {
    Position { epoch: epoch.into(), offset }
}

fn subscribed(epoch: &str, offset: u64) -> Event {
    Event::Subscribed { recovered: false, position: place(epoch, offset) }
}

fn recovered(epoch: &str, offset: u64) -> Event {
    Event::Subscribed { recovered: true, position: place(epoch, offset) }
}

fn frame(number: u64, offset: u64) -> Event {
    Event::Publication { number, offset }
}

const GONE: Event = Event::Disconnected { code: None };

/// Lost silently, and with a signal.
fn lost(acknowledged: &[(u64, &str, u64)], seen: &[Event]) -> (usize, usize) {
    let report = check(&history(acknowledged, seen));
    (report.lost_silently, report.lost_with_signal)
}

#[test]
fn what_comes_last_and_not_at_all_is_lost_silently() {
    assert_eq!(lost(&[(1, "a", 1), (2, "a", 2)], &[subscribed("a", 0), frame(1, 1)]), (1, 0));
}

#[test]
fn a_recovery_that_leaves_something_out_loses_it_silently() {
    let acknowledged = [(1, "a", 1), (2, "a", 2), (3, "a", 3)];
    let seen = [subscribed("a", 0), frame(1, 1), GONE, recovered("a", 1), frame(3, 3)];
    assert_eq!(lost(&acknowledged, &seen), (1, 0));
    // Told where it stands, and given nothing of what was before.
    assert_eq!(lost(&acknowledged, &[subscribed("a", 0), frame(1, 1), GONE, recovered("a", 3)]), (2, 0));
}

#[test]
fn a_subscriber_that_starts_anew_knows_what_that_means() {
    let acknowledged = [(1, "a", 1), (2, "a", 2), (3, "a", 3)];
    let seen = [subscribed("a", 0), frame(1, 1), GONE, subscribed("a", 2), frame(3, 3)];
    assert_eq!(lost(&acknowledged, &seen), (0, 1));
    let report = check(&history(&acknowledged, &seen));
    assert_eq!((report.recoveries, report.resets), (0, 1));
}

#[test]
fn a_hole_before_something_that_came_is_silent_whatever_is_told_later() {
    let acknowledged = [(1, "a", 1), (2, "a", 2)];
    assert_eq!(lost(&acknowledged, &[subscribed("a", 0), frame(2, 2), GONE, subscribed("a", 2)]), (1, 0));
}

#[test]
fn a_hole_counts_even_if_nobody_knows_what_was_there() {
    assert_eq!(lost(&[(1, "a", 1), (3, "a", 3)], &[subscribed("a", 0), frame(1, 1), frame(3, 3)]), (1, 0));
}

#[test]
fn a_new_stream_that_nobody_tells_of_is_silent() {
    // The server has forgotten stream `a`; the subscriber hears nothing at all.
    assert_eq!(lost(&[(1, "b", 1)], &[subscribed("a", 7)]), (1, 0));
    // It is told in the end.
    assert_eq!(lost(&[(1, "b", 1)], &[subscribed("a", 7), GONE, subscribed("b", 1)]), (0, 1));
    // It is told that it has missed nothing, which is not so.
    assert_eq!(lost(&[(1, "b", 1)], &[subscribed("a", 7), GONE, recovered("b", 1)]), (1, 0));
}

#[test]
fn offsets_that_are_given_a_second_time_are_found() {
    // A replica without the last two was promoted, and gave their offsets to others.
    let acknowledged = [(1, "a", 1), (2, "a", 2), (3, "a", 3), (4, "a", 2), (5, "a", 3)];
    let seen = [subscribed("a", 0), frame(1, 1), frame(4, 2), frame(5, 3)];
    let report = check(&history(&acknowledged, &seen));
    assert_eq!((report.conflicting, report.lost_silently), (2, 2), "{report}");
}

#[test]
fn who_is_not_back_is_away_and_knows_it() {
    let report = check(&history(&[(1, "a", 1)], &[subscribed("a", 0), GONE]));
    assert_eq!((report.away, report.lost_silently, report.lost_with_signal), (1, 0, 1));
}

#[test]
fn what_was_before_a_subscription_is_none_of_its_business() {
    assert_eq!(lost(&[(1, "a", 1)], &[subscribed("a", 1)]), (0, 0));
}

#[test]
fn frames_nobody_sent_and_frames_without_a_subscription_are_foreign() {
    let report = check(&history(&[(1, "a", 1)], &[subscribed("a", 0), frame(9, 1)]));
    assert_eq!(report.foreign, 1);
    let report = check(&history(&[(1, "a", 1)], &[subscribed("a", 0), GONE, frame(1, 1)]));
    assert_eq!(report.foreign, 1);
}

#[test]
fn a_refusal_that_was_none_is_found() {
    let mut history = history(&[(1, "a", 1)], &[subscribed("a", 0), frame(1, 1)]);
    history.published[0].outcome = Outcome::Refused { code: 100, message: String::new() };
    assert_eq!(check(&history).refused_but_delivered, 1);
    history.published[0].outcome = Outcome::Doubtful;
    let report = check(&history);
    assert_eq!((report.refused_but_delivered, report.doubtful), (0, 1));
}

#[test]
fn a_report_that_is_not_sound_fails_its_test() {
    let report = check(&history(&[(1, "a", 1)], &[subscribed("a", 0), frame(1, 1)]));
    report.assert_sound();
    let broken = Report { lost_silently: 1, ..report };
    assert!(std::panic::catch_unwind(|| broken.assert_sound()).is_err());
}

#[test]
fn who_stands_before_the_first_publication_is_in_the_stream_that_begins_there_and_in_no_other() {
    let acknowledged = [(1, "o-x", 1), (2, "o-x", 2)];
    assert_eq!(lost(&acknowledged, &[subscribed("o.7", 0), frame(1, 1), frame(2, 2)]), (0, 0));
    assert_eq!(lost(&acknowledged, &[subscribed("o.7", 0), frame(1, 1)]), (1, 0), "the newest one");
    assert_eq!(lost(&acknowledged, &[subscribed("o.7", 0)]), (2, 0), "all of them");
    let returning = [subscribed("o.7", 0), frame(1, 1), GONE, recovered("o-x", 1), frame(2, 2)];
    assert_eq!(lost(&acknowledged, &returning), (0, 0));
    let waiting = [subscribed("o.7", 0), GONE, recovered("o.8", 0), frame(1, 1), frame(2, 2)];
    assert_eq!(lost(&acknowledged, &waiting), (0, 0));
    // A server was replaced, and what was published before was never received; nobody says so.
    let replaced = [(1, "o-x", 1), (2, "p-x", 1), (3, "p-x", 2)];
    let seen = [subscribed("o.7", 0), frame(2, 1), frame(3, 2)];
    assert_eq!(lost(&replaced, &seen), (1, 0), "the first one");
    let seen = [subscribed("o.7", 0), frame(2, 1)];
    assert_eq!(lost(&replaced, &seen), (2, 0), "the newest one too");
    let seen = [subscribed("o.7", 0), GONE, recovered("p-x", 2)];
    assert_eq!(lost(&replaced, &seen), (3, 0), "it has not missed nothing");
    let seen = [subscribed("o.7", 0), GONE, subscribed("p-x", 2)];
    assert_eq!(lost(&replaced, &seen), (0, 3));
}

#[test]
fn a_stream_whose_name_nobody_knows_is_one_for_all_who_stood_before_it() {
    let mut history =
        history(&[(1, "o-x", 1), (2, "o-x", 2)], &[subscribed("o.7", 0), frame(1, 1), frame(2, 2)]);
    history.published.iter_mut().for_each(|publication| publication.outcome = Outcome::Unanswered);
    assert_eq!(check(&history).lost_silently, 0);
    let late = history.subscribers[0].clone();
    history.subscribers.push(vec![Entry { event: subscribed("o.8", 0), ..late[0].clone() }, late[1].clone()]);
    let report = check(&history);
    assert_eq!((report.lost_silently, report.conflicting), (1, 0), "{report}");
    // Another place of the same number.
    history.subscribers[1].push(Entry { event: frame(2, 3), ..late[2].clone() });
    assert!(check(&history).lost_silently > 0);
}

#[test]
fn what_is_kept_nowhere_is_promised_to_who_misses_nothing() {
    let acknowledged = [(1, "", 0)];
    for (epoch, silent) in [("", 0), ("a", 1), ("o.7", 1)] {
        assert_eq!(lost(&acknowledged, &[subscribed(epoch, 0)]), (silent, 0), "{epoch}");
        assert_eq!(lost(&acknowledged, &[subscribed(epoch, 0), frame(1, 0)]), (0, 0), "{epoch}");
    }
    // Told before the publication was answered, or in the end.
    assert_eq!(lost(&acknowledged, &[subscribed("o.7", 0), GONE, subscribed("o.7", 0)]), (0, 1));
    assert_eq!(lost(&acknowledged, &[subscribed("o.7", 0), GONE, recovered("o.7", 0)]), (1, 0));
}
