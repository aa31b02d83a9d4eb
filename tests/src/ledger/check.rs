//! From a history to its figures.
//!
//! What a subscriber of a channel sees falls into *spans*: from a subscription that starts anew, over all
//! returns after which it is told that it recovered, to the next one that starts anew. Within a span it is
//! promised everything after the place where the span begins. Where a span is followed by another, the
//! subscriber knows that it may have missed something.

#[cfg(test)]
mod tests;

use std::collections::hash_map::Entry as Slot;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use super::history::{Entry, Event, History, Outcome, Position, Published};
use super::report::Report;

/// Counts everything. A subscriber that is connected at the end has to have got everything by then.
pub fn check(history: &History) -> Report {
    let mut report = Report::default();
    let sent = count_publications(history, &mut report);
    let mut views: Vec<_> =
        history.subscribers.iter().map(|entries| views_of(entries, &sent, &mut report)).collect();
    name_streams(history, &mut views);
    let streams = Streams::of(history, &views, &mut report);
    for (subscriber, view) in views.iter().enumerate() {
        for (channel, view) in view {
            let Some(stream) = streams.0.get(*channel) else { continue };
            let first = view.compare(stream, &mut report, &|what| {
                format!("{what} by subscriber {subscriber} of {channel}")
            });
            if let Some(sent) = first
                && report.story.is_empty()
            {
                report.story = history.story(channel, sent);
            }
        }
    }
    report
}

/// Gives the spans that begin before the first publication the name of the stream that began there, which
/// publishers and those who came later know: it has the same origin. Where nobody knows it, whoever stood
/// there stood in the same.
fn name_streams(history: &History, views: &mut [HashMap<&str, View>]) {
    let acknowledged: HashMap<_, _> = acknowledged(history).collect();
    let mut begun: HashMap<_, BTreeSet<Arc<str>>> = HashMap::new();
    let mut know = |channel: &str, epoch: &Arc<str>| {
        if !is_before_the_first(epoch) {
            begun.entry((channel.to_owned(), origin(epoch).to_owned())).or_default().insert(epoch.clone());
        }
    };
    for publication in &history.published {
        if let Some(position) = acknowledged.get(&publication.number) {
            know(&publication.channel, &position.epoch);
        }
    }
    for (channel, view) in views.iter().flatten() {
        view.spans.iter().for_each(|span| know(channel, &span.epoch));
    }
    for (channel, view) in views.iter_mut().flatten() {
        for span in view.spans.iter_mut().filter(|span| is_before_the_first(&span.epoch)) {
            let known = begun.get(&((*channel).to_owned(), origin(&span.epoch).to_owned()));
            let mut places = span.got.values().filter_map(|(number, _)| acknowledged.get(number));
            let name = known.and_then(|known| match known.len() {
                1 => known.first(),
                // What it got says in which of them it is.
                _ => places.find_map(|position| known.get(&position.epoch)),
            });
            span.epoch = name.cloned().unwrap_or_else(|| format!("{}.", origin(&span.epoch)).into());
        }
    }
}

/// What is in a stream as its publishers know, by number.
fn acknowledged(history: &History) -> impl Iterator<Item = (u64, &Position)> {
    history.published.iter().filter_map(|publication| match &publication.outcome {
        Outcome::Acknowledged(position) if position.is_somewhere() => Some((publication.number, position)),
        _ => None,
    })
}

/// The publications by number, each with the error that refused it.
type Sent<'a> = HashMap<u64, Option<(u64, &'a str)>>;

fn count_publications<'a>(history: &'a History, report: &mut Report) -> Sent<'a> {
    let mut sent = HashMap::new();
    for publication in &history.published {
        report.published += 1;
        report.slowest_answer =
            report.slowest_answer.max(publication.answered.saturating_sub(publication.sent));
        let mut error = None;
        match &publication.outcome {
            Outcome::Acknowledged(_) => report.acknowledged += 1,
            Outcome::Refused { code, message } => {
                report.refused += 1;
                error = Some((*code, &**message));
            }
            Outcome::Doubtful => report.doubtful += 1,
            Outcome::Unanswered => report.unanswered += 1,
        }
        sent.insert(publication.number, error);
    }
    sent
}

/// Whether an epoch is that of a channel in Redis to which nothing was published yet: `ORIGIN.HOUR`. The
/// stream that begins there is `ORIGIN-RANDOM`, and whoever stood before it stands in it.
fn is_before_the_first(epoch: &str) -> bool {
    epoch.contains('.')
}

fn origin(epoch: &str) -> &str {
    epoch.split(['.', '-']).next().unwrap_or(epoch)
}

/// Whether whoever stood in the first is in the second, and nothing of that one was missed.
fn goes_on(from: &str, to: &str) -> bool {
    from == to || is_before_the_first(from) && origin(from) == origin(to)
}

/// What one subscriber saw of one channel.
#[derive(Default)]
struct View {
    spans: Vec<Span>,
    numbers: HashSet<u64>,
    /// It wants to be subscribed and is not.
    away: bool,
}

struct Span {
    begun: Duration,
    epoch: Arc<str>,
    /// What comes after this offset is promised.
    from: u64,
    /// The highest offset that it got, or that it was told it has.
    top: u64,
    /// By offset: the number and when it came.
    got: BTreeMap<u64, (u64, Duration)>,
    /// Whether the subscriber knows that this span has ended.
    told: bool,
}

fn views_of<'a>(entries: &'a [Entry], sent: &Sent<'_>, report: &mut Report) -> HashMap<&'a str, View> {
    let mut views: HashMap<&str, View> = HashMap::new();
    for entry in entries {
        views.entry(&*entry.channel).or_default().on(entry, sent, report);
    }
    for view in views.values_mut().filter(|view| view.away) {
        report.away += 1;
        if let Some(span) = view.spans.last_mut() {
            span.told = true;
        }
    }
    views
}

impl View {
    fn on(&mut self, entry: &Entry, sent: &Sent<'_>, report: &mut Report) {
        match &entry.event {
            Event::Subscribed { recovered, position } => {
                self.on_subscribed(entry.at, *recovered, position, report)
            }
            Event::Publication { number, offset } => {
                self.on_publication(entry, *number, *offset, sent, report);
            }
            Event::Unsubscribed { .. } | Event::Disconnected { .. } => self.away = true,
        }
    }

    fn on_subscribed(&mut self, at: Duration, recovered: bool, position: &Position, report: &mut Report) {
        self.away = false;
        let mut from = position.offset;
        if let Some(last) = self.spans.last_mut() {
            if recovered {
                report.recoveries += 1;
            } else {
                report.resets += 1;
            }
            if recovered && goes_on(&last.epoch, &position.epoch) {
                last.epoch = position.epoch.clone();
                last.top = last.top.max(position.offset);
                return;
            }
            last.told = !recovered;
            if recovered {
                // "You have missed nothing", in another stream: then it has all of that one.
                from = 0;
            }
        }
        self.spans.push(Span {
            begun: at,
            epoch: position.epoch.clone(),
            from,
            top: position.offset,
            got: BTreeMap::new(),
            told: false,
        });
    }

    fn on_publication(
        &mut self,
        entry: &Entry,
        number: u64,
        offset: u64,
        sent: &Sent<'_>,
        report: &mut Report,
    ) {
        report.delivered += 1;
        let channel = &entry.channel;
        let refused = sent.get(&number);
        let span = self.spans.last_mut().filter(|_| !self.away);
        let (Some(refused), Some(span)) = (refused, span) else {
            report.foreign += 1;
            report.example(|| format!("foreign: {number} at {offset} in {channel}"));
            return;
        };
        if let Some((code, message)) = refused {
            report.refused_but_delivered += 1;
            report.example(|| {
                format!(
                    "refused but delivered: {number} at {offset} in {channel}, with error {code}: {message}"
                )
            });
        }
        if !self.numbers.insert(number) {
            report.duplicates += 1;
            report.example(|| format!("duplicate: {number} at {offset} in {channel}"));
            return;
        }
        if offset == 0 || span.epoch.is_empty() {
            // It has no place, or the subscriber tracks none.
            return;
        }
        if offset <= span.got.last_key_value().map_or(span.from, |(highest, _)| *highest) {
            report.reordered += 1;
            report.example(|| format!("reordered: {number} at {offset} in {channel}"));
        }
        span.top = span.top.max(offset);
        span.got.entry(offset).or_insert((number, entry.at));
    }

    /// Counts what this subscriber did not get of a stream. Returns when the first publication was sent that
    /// it lost silently.
    fn compare(
        &self,
        stream: &Stream,
        report: &mut Report,
        describe: &dyn Fn(String) -> String,
    ) -> Option<Duration> {
        let mut silently = |position: &Position, why: &str| {
            report.lost_silently += 1;
            report.example(|| {
                describe(format!("lost silently: {} of {} ({why})", position.offset, position.epoch))
            });
        };
        // Holes, whatever was there.
        let mut holes = BTreeSet::new();
        for span in &self.spans {
            for offset in span.from + 1..=span.top {
                let position = Position { epoch: span.epoch.clone(), offset };
                if !span.got.contains_key(&offset) && holes.insert(position.clone()) {
                    silently(&position, "a hole");
                }
            }
        }
        let mut first = None;
        let mut with_signal = 0;
        for known in &stream.known {
            if self.numbers.contains(&known.number) || holes.contains(&known.position) {
                continue;
            }
            let fate =
                if known.position.is_somewhere() { self.fate(known) } else { self.fate_of_unkept(known) };
            match fate {
                Fate::NotPromised => (),
                Fate::Signal => with_signal += 1,
                Fate::Silent(why) => {
                    silently(&known.position, why);
                    first = first.or(Some(known.sent));
                }
            }
        }
        report.lost_with_signal += with_signal;
        first
    }

    /// What not having got one means that is in no stream: whoever is promised everything from before it was
    /// sent on has to get it or to be told, wherever it was published.
    fn fate_of_unkept(&self, known: &Known) -> Fate {
        let during = self.spans.iter().rposition(|span| span.begun <= known.sent);
        let Some((index, span)) = during.map(|index| (index, &self.spans[index])) else {
            return Fate::NotPromised;
        };
        if span.epoch.is_empty() {
            Fate::NotPromised
        } else if span.told || self.spans.get(index + 1).is_some_and(|next| next.begun <= known.at) {
            Fate::Signal
        } else {
            Fate::Silent("kept nowhere, by a subscriber that misses nothing")
        }
    }

    /// What not having got this one means.
    fn fate(&self, known: &Known) -> Fate {
        let Some(first) = self.spans.first() else { return Fate::NotPromised };
        let mut fate = None;
        for (n, span) in self.spans.iter().enumerate().filter(|(_, span)| span.epoch == known.position.epoch)
        {
            let offset = known.position.offset;
            fate = Some(match offset {
                _ if offset <= span.from && n == 0 => Fate::NotPromised,
                _ if offset <= span.from => fate.unwrap_or(Fate::Signal),
                _ if offset <= span.top => return Fate::Silent("another payload in its place"),
                _ if span.told => Fate::Signal,
                _ => return Fate::Silent("the newest ones are missing"),
            });
        }
        if let Some(fate) = fate {
            return fate;
        }
        // Of a stream the subscriber never heard of.
        let last = self.spans.last().unwrap_or(first);
        if known.at < first.begun {
            Fate::NotPromised
        } else if last.begun > known.at || last.told {
            Fate::Signal
        } else {
            Fate::Silent("in a stream that it was not told of")
        }
    }
}

enum Fate {
    NotPromised,
    Signal,
    Silent(&'static str),
}

/// A publication that is in the stream of its channel.
struct Known {
    number: u64,
    position: Position,
    /// When it was sent, if that is known.
    sent: Duration,
    /// Since when that is certain.
    at: Duration,
}

/// What is known to be in a channel: acknowledged, or seen by anybody.
#[derive(Default)]
struct Stream {
    known: Vec<Known>,
}

struct Streams<'a>(HashMap<&'a str, Stream>);

impl<'a> Streams<'a> {
    fn of(history: &'a History, views: &[HashMap<&'a str, View>], report: &mut Report) -> Self {
        let mut streams: HashMap<&str, Stream> = HashMap::new();
        let mut places: HashMap<(&str, Position), Vec<u64>> = HashMap::new();
        let mut know = |channel: &'a str, number: u64, position: Position, sent: Duration, at: Duration| {
            let stream = streams.entry(channel).or_default();
            if !position.is_somewhere() {
                stream.known.push(Known { number, position, sent, at });
                return;
            }
            match places.entry((channel, position.clone())) {
                Slot::Vacant(place) => {
                    place.insert(vec![number]);
                }
                Slot::Occupied(place) if place.get().contains(&number) => return,
                Slot::Occupied(mut place) => {
                    report.conflicting += 1;
                    report.example(|| {
                        let Position { epoch, offset } = &position;
                        format!(
                            "conflicting: {offset} of {epoch} in {channel} is {} and {number}",
                            place.get()[0]
                        )
                    });
                    place.get_mut().push(number);
                }
            }
            stream.known.push(Known { number, position, sent, at });
        };
        for publication in &history.published {
            if let Outcome::Acknowledged(position) = &publication.outcome {
                let Published { channel, number, sent, answered, .. } = publication;
                know(channel, *number, position.clone(), *sent, *answered);
            }
        }
        let acknowledged: HashSet<_> = acknowledged(history).map(|(number, _)| number).collect();
        for (channel, view) in views.iter().flatten() {
            for span in &view.spans {
                // Where nobody knows the name of a stream, publishers may still know the places of what is in
                // it, and know better.
                let unnamed = is_before_the_first(&span.epoch);
                let got =
                    span.got.iter().filter(|(_, (number, _))| !unnamed || !acknowledged.contains(number));
                for (offset, (number, at)) in got {
                    know(channel, *number, Position { epoch: span.epoch.clone(), offset: *offset }, *at, *at);
                }
            }
        }
        Self(streams)
    }
}
