//! The figures.

use std::fmt;
use std::time::Duration;

/// Descriptions that are kept of mistakes.
const EXAMPLES_MAX: usize = 12;

/// What a history comes to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// Publications that were sent.
    pub published: usize,
    /// Of those, with a place in the stream.
    pub acknowledged: usize,
    /// Of those, with an error.
    pub refused: usize,
    /// Of those, with an error that says that they may have been published.
    pub doubtful: usize,
    /// Of those, without an answer.
    pub unanswered: usize,
    /// The longest time from a publication to its answer.
    pub slowest_answer: Duration,
    /// Frames that subscribers got, all together.
    pub delivered: usize,
    /// How often subscribers came back and were told that they have missed nothing.
    pub recoveries: usize,
    /// How often they were told that they may have.
    pub resets: usize,

    /// A subscriber should have had it, never got it, and was not told.
    pub lost_silently: usize,
    /// The same, but it was told that it may have missed something.
    pub lost_with_signal: usize,
    /// A subscriber got it for a second time.
    pub duplicates: usize,
    /// A subscriber got it after something with a higher offset.
    pub reordered: usize,
    /// A place in a stream that has another payload for somebody else.
    pub conflicting: usize,
    /// A frame of something nobody published, or without a subscription.
    pub foreign: usize,
    /// Refused, and yet a subscriber got it.
    pub refused_but_delivered: usize,
    /// Subscriptions that a subscriber wants and does not have at the end.
    pub away: usize,

    pub(super) examples: Vec<String>,
    /// Everything that happened to a channel around the first publication that was lost silently.
    pub(super) story: Vec<String>,
}

impl Report {
    /// Panics with the figures unless nothing was lost silently, doubled, reordered, made up or delivered in
    /// spite of a refusal, and everybody is back.
    pub fn assert_sound(&self) {
        let mistakes = [
            self.lost_silently,
            self.duplicates,
            self.reordered,
            self.conflicting,
            self.foreign,
            self.refused_but_delivered,
            self.away,
        ];
        assert!(mistakes.iter().all(|count| *count == 0), "the ledger does not balance:\n{self}");
        assert!(self.delivered > 0, "nothing was delivered at all:\n{self}");
    }

    pub(super) fn is_settled(&self) -> bool {
        self.lost_silently == 0 && self.away == 0
    }

    pub(super) fn example(&mut self, describe: impl FnOnce() -> String) {
        if self.examples.len() < EXAMPLES_MAX {
            self.examples.push(describe());
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let counts = [
            ("published", self.published),
            ("  acknowledged", self.acknowledged),
            ("  refused", self.refused),
            ("  doubtful", self.doubtful),
            ("  unanswered", self.unanswered),
            ("delivered", self.delivered),
            ("recoveries", self.recoveries),
            ("told of a gap", self.resets),
            ("lost silently", self.lost_silently),
            ("lost with signal", self.lost_with_signal),
            ("duplicates", self.duplicates),
            ("reordered", self.reordered),
            ("conflicting", self.conflicting),
            ("foreign", self.foreign),
            ("refused but delivered", self.refused_but_delivered),
            ("still away", self.away),
        ];
        for (name, count) in counts {
            writeln!(f, "  {name:<24}{count:>9}")?;
        }
        writeln!(f, "  {:<24}{:>6} ms", "slowest answer", self.slowest_answer.as_millis())?;
        self.examples.iter().chain(&self.story).try_for_each(|line| writeln!(f, "    {line}"))
    }
}
