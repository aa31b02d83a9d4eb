//! Compares what a client was told of a channel with what was published to it.

use super::{Position, Streams};

/// Something that a client was told, or that happened to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Heard {
    /// The reply to a subscribe.
    Subscribed {
        /// The place from which it asked to recover.
        since: Option<Position>,
        /// Whether it is known that this was possible.
        possible: bool,
        /// What it was told.
        recovered: bool,
        /// The place in the reply.
        position: Position,
        /// The publications in the reply: offset and number.
        missed: Vec<(u64, u64)>,
    },
    /// A publication: offset and number.
    Publication(u64, u64),
    /// The server ended the subscription, with this code.
    Unsubscribed(u64),
    /// The client ended the subscription.
    Left,
    /// The connection ended.
    Disconnected,
}

/// How often something was heard: a schedule in which nothing happens proves nothing.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Totals {
    pub(super) publications: usize,
    /// Recovered with publications, and without any.
    pub(super) recovered: usize,
    pub(super) recovered_nothing: usize,
    pub(super) unrecovered: usize,
    /// Of these, because the stream had begun anew.
    pub(super) other_stream: usize,
    pub(super) gaps: usize,
    pub(super) disconnects: usize,
}

impl Totals {
    pub(super) fn add(&mut self, other: Self) {
        self.publications += other.publications;
        self.recovered += other.recovered;
        self.recovered_nothing += other.recovered_nothing;
        self.unrecovered += other.unrecovered;
        self.other_stream += other.other_stream;
        self.gaps += other.gaps;
        self.disconnects += other.disconnects;
    }
}

/// Checks one client in one channel. `top` is the end of the stream, if everything has been delivered. The
/// error says what was promised and not kept.
pub(super) fn check(
    streams: &Streams,
    channel: &str,
    heard: &[Heard],
    top: Option<&Position>,
) -> Result<Totals, String> {
    let mut totals = Totals::default();
    let mut reader = Reader { streams, channel, at: None };
    let mut is_live = false;
    for (number, event) in heard.iter().enumerate() {
        let told = |why: String| format!("{channel}, event {number} ({event:?}): {why}");
        match event {
            Heard::Subscribed { since, possible, recovered, position, missed } => {
                if std::mem::replace(&mut is_live, true) {
                    return Err(told("it is subscribed already".into()));
                }
                if *recovered {
                    reader.resume(since.as_ref(), position).map_err(told)?;
                    for (offset, number) in missed {
                        reader.read(*offset, *number).map_err(told)?;
                    }
                    let count =
                        if missed.is_empty() { &mut totals.recovered_nothing } else { &mut totals.recovered };
                    *count += 1;
                } else {
                    if since.is_some() && *since != reader.at {
                        return Err(told(format!("it stood at {:?}", reader.at)));
                    }
                    if *possible {
                        return Err(told("everything that it missed was kept".into()));
                    }
                    if !missed.is_empty() {
                        return Err(told("publications come with a subscription that begins anew".into()));
                    }
                    totals.unrecovered += usize::from(since.is_some());
                    let other = since.as_ref().is_some_and(|since| since.epoch != position.epoch);
                    totals.other_stream += usize::from(other);
                    reader.at = Some(position.clone());
                }
            }
            Heard::Publication(..) if !is_live => return Err(told("it is not subscribed".into())),
            Heard::Publication(offset, number) => {
                reader.read(*offset, *number).map_err(told)?;
                totals.publications += 1;
            }
            Heard::Unsubscribed(code) => {
                if *code != 2500 {
                    return Err(told("nobody removed it".into()));
                }
                is_live = false;
                totals.gaps += 1;
            }
            Heard::Left => is_live = false,
            Heard::Disconnected => {
                is_live = false;
                totals.disconnects += 1;
            }
        }
    }
    match (is_live, top, &reader.at) {
        (true, Some(top), Some(at)) if at != top => {
            Err(format!("{channel}: it believes to have all until {at:?}, the end is {top:?}"))
        }
        _ => Ok(totals),
    }
}

/// Follows one client through the streams of a channel.
struct Reader<'a> {
    streams: &'a Streams,
    channel: &'a str,
    at: Option<Position>,
}

impl Reader<'_> {
    fn resume(&self, since: Option<&Position>, position: &Position) -> Result<(), String> {
        let since = since.ok_or("it did not ask to recover")?;
        if Some(since) != self.at.as_ref() {
            return Err(format!("it stood at {:?}", self.at));
        }
        if since != position {
            return Err(format!("it goes on at another place than {since:?}"));
        }
        Ok(())
    }

    fn read(&mut self, offset: u64, number: u64) -> Result<(), String> {
        let at = self.at.as_mut().ok_or("it stands nowhere")?;
        if offset <= at.offset {
            return Err(format!("{offset} comes again, or too late: it has all until {}", at.offset));
        }
        if offset > at.offset + 1 {
            return Err(format!("{} is missing", at.offset + 1));
        }
        let sent = self.streams.number(self.channel, &at.epoch, offset);
        if sent != Some(number) {
            return Err(format!("{sent:?} was published there"));
        }
        at.offset = offset;
        Ok(())
    }
}

mod tests {
    use super::*;

    fn position(offset: u64) -> Position {
        Position { epoch: "e".into(), offset }
    }

    /// Numbers from 101 on in one stream, of another one from 201 on.
    fn streams() -> Streams {
        let mut streams = Streams::default();
        for offset in 1..=9 {
            streams.add("c", &position(offset), 100 + offset).unwrap();
            streams.add("c", &Position { epoch: "f".into(), offset }, 200 + offset).unwrap();
        }
        streams
    }

    fn publications(offsets: &[u64]) -> impl Iterator<Item = Heard> {
        offsets.iter().map(|offset| Heard::Publication(*offset, 100 + offset))
    }

    fn subscribed(since: Option<u64>, recovered: bool, at: u64, missed: &[u64]) -> Heard {
        let missed = missed.iter().map(|offset| (*offset, 100 + offset)).collect();
        let since = since.map(position);
        Heard::Subscribed { since, possible: false, recovered, position: position(at), missed }
    }

    /// Subscribes at 1, sees 2 and 3, goes, recovers 4 to 6, sees 7, and is told of a gap; begins anew at 8.
    fn good() -> Vec<Heard> {
        let mut heard = vec![subscribed(None, false, 1, &[])];
        heard.extend(publications(&[2, 3]));
        heard.extend([Heard::Disconnected, subscribed(Some(3), true, 3, &[4, 5, 6])]);
        heard.extend(publications(&[7]));
        heard.extend([Heard::Unsubscribed(2500), subscribed(Some(7), false, 8, &[])]);
        heard.extend(publications(&[9]));
        heard
    }

    fn fault(heard: &[Heard]) -> String {
        check(&streams(), "c", heard, Some(&position(9))).expect_err("a fault was planted")
    }

    #[test]
    fn a_sound_history_has_no_fault() {
        let totals = check(&streams(), "c", &good(), Some(&position(9))).expect("sound");
        assert_eq!((totals.publications, totals.recovered, totals.unrecovered), (4, 1, 1));
        assert_eq!((totals.gaps, totals.disconnects), (1, 1));
    }

    #[test]
    fn a_publication_that_is_missing_is_found_wherever_it_is() {
        for at in 0..good().len() {
            let mut heard = good();
            if matches!(heard.remove(at), Heard::Publication(..)) {
                fault(&heard);
            }
        }
        for missed in [&[5, 6][..], &[4, 6], &[4, 5], &[]] {
            let mut heard = good();
            heard[4] = subscribed(Some(3), true, 3, missed);
            assert!(fault(&heard).contains("is missing"), "{missed:?}");
        }
    }

    #[test]
    fn a_publication_that_comes_twice_or_too_late_is_found_wherever_it_is() {
        for at in 0..good().len() {
            let mut heard = good();
            if matches!(heard[at], Heard::Publication(..)) {
                heard.insert(at, heard[at].clone());
                assert!(fault(&heard).contains("comes again"));
            }
        }
        for missed in [&[4, 4, 5, 6][..], &[3, 4, 5, 6], &[4, 5, 6, 7]] {
            let mut heard = good();
            heard[4] = subscribed(Some(3), true, 3, missed);
            assert!(fault(&heard).contains("comes again"), "{missed:?}");
        }
        let mut heard = good();
        heard.swap(1, 2);
        fault(&heard);
        heard[4] = subscribed(Some(3), true, 3, &[4, 6, 5]);
        fault(&heard);
    }

    #[test]
    fn who_is_not_told_of_a_loss_is_found() {
        // Nothing says that the subscription ended, and no publication shows the hole.
        let mut heard = good();
        heard.pop();
        assert!(fault(&heard).contains("believes"));
        // The stream began anew.
        let end = Position { epoch: "f".into(), offset: 9 };
        assert!(check(&streams(), "c", &good(), Some(&end)).is_err());
        // Who knows that it is not subscribed has been told.
        heard.push(Heard::Disconnected);
        check(&streams(), "c", &heard, Some(&end)).expect("sound");
    }

    #[test]
    fn a_recovery_that_is_none_is_found() {
        let mut other_stream = good();
        let elsewhere = Position { epoch: "f".into(), offset: 3 };
        let (since, missed) = (Some(position(3)), vec![(4, 204)]);
        other_stream[4] =
            Heard::Subscribed { since, possible: false, recovered: true, position: elsewhere, missed };
        assert!(fault(&other_stream).contains("another place"));
        let mut unasked = good();
        unasked[4] = subscribed(None, true, 3, &[4, 5, 6]);
        assert!(fault(&unasked).contains("did not ask"));
        let mut from_elsewhere = good();
        from_elsewhere[4] = subscribed(Some(2), true, 2, &[3, 4, 5, 6]);
        assert!(fault(&from_elsewhere).contains("it stood at"));
        let mut anew = good();
        anew[4] = subscribed(Some(3), false, 6, &[4, 5, 6]);
        assert!(fault(&anew).contains("begins anew"));
        let mut refused = good();
        refused[4] = Heard::Subscribed {
            since: Some(position(3)),
            possible: true,
            recovered: false,
            position: position(6),
            missed: Vec::new(),
        };
        assert!(fault(&refused).contains("was kept"));
    }

    #[test]
    fn what_does_not_belong_to_the_subscription_is_found() {
        let mut foreign = good();
        foreign[1] = Heard::Publication(2, 999);
        assert!(fault(&foreign).contains("was published there"));
        let mut after = good();
        after.insert(4, Heard::Publication(4, 104));
        assert!(fault(&after).contains("not subscribed"));
        let mut twice = good();
        twice.insert(1, subscribed(None, false, 1, &[]));
        assert!(fault(&twice).contains("already"));
        let mut streams = streams();
        assert!(streams.add("c", &position(1), 7).is_err(), "an offset is used once");
    }
}
