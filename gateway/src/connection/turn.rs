//! [`Turn`] bounds the work of a connection before the others of its worker get their turn: in commands, in
//! bytes of replies and in time. The remaining work continues in the next turn, in order.

use std::time::Duration;

use crate::clock::Clock;
use crate::clock::Now;

/// Time after which the turn starts no more work. Others wait for one such turn of each busy connection.
const TIME_MAX: Duration = Duration::from_micros(120);

/// The same for a connection whose previous turn ended with work left.
const TIME_MAX_BUSY: Duration = Duration::from_micros(50);

/// Most commands, whatever they cost.
const COMMANDS_MAX: u32 = 128;

/// Most bytes of replies, because they have to be written as well.
const ANSWER_BYTES_MAX: usize = 64 * 1024;

/// Steps of almost no cost, such as a control frame, between two readings of the clock.
const STEPS_PER_LOOK: u32 = 16;

/// Limits of one turn, and its time: the clock is read before each command but the first.
#[derive(Debug)]
pub struct Turn {
    clock: Option<Clock>,
    begun: Now,
    time_max: Duration,
    now: Now,
    commands_max: u32,
    commands: u32,
    answer_bytes: usize,
    steps: u32,
    over: bool,
}

impl Turn {
    /// A turn that begins now. `busy` means that the previous one ended with work left.
    pub fn begin(clock: Clock, busy: bool) -> Self {
        let time_max = if busy { TIME_MAX_BUSY } else { TIME_MAX };
        Self { clock: Some(clock), time_max, ..Self::at(clock.now(), COMMANDS_MAX) }
    }

    /// A turn for this many commands in which no time passes: for callers that set the time.
    pub fn at(now: Now, commands_max: u32) -> Self {
        Self {
            clock: None,
            begun: now,
            time_max: TIME_MAX,
            now,
            commands_max,
            commands: 0,
            answer_bytes: 0,
            steps: 0,
            over: false,
        }
    }

    /// The time of the current step.
    pub fn now(&self) -> Now {
        self.now
    }

    /// Whether one more command may be carried out.
    pub fn has_room(&mut self) -> bool {
        if self.commands > 0 {
            self.look();
        }
        !self.over
    }

    /// Counts a command or a response, which queued this many more bytes for the client.
    pub fn spend(&mut self, answer_bytes: usize) {
        self.commands += 1;
        self.answer_bytes = self.answer_bytes.saturating_add(answer_bytes);
        self.over |= self.commands >= self.commands_max || self.answer_bytes >= ANSWER_BYTES_MAX;
    }

    /// Counts a step of almost no cost.
    pub fn step(&mut self) {
        self.steps += 1;
        if self.steps.is_multiple_of(STEPS_PER_LOOK) {
            self.look();
        }
    }

    /// Starts no more work in this turn.
    pub fn end(&mut self) {
        self.over = true;
    }

    /// Whether other connections should have their turn now.
    pub fn is_over(&self) -> bool {
        self.over
    }

    /// Reads the clock.
    pub fn look(&mut self) {
        if let Some(clock) = &self.clock {
            self.now = clock.later(self.begun);
            self.over |= self.now.at >= self.begun.at + self.time_max;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Now = Now { at: Duration::from_secs(7), unix: 1_700_000_000_000 };

    #[test]
    fn a_turn_ends_with_its_commands() {
        let mut turn = Turn::at(NOW, 2);
        assert!(turn.has_room());
        turn.spend(0);
        assert!(turn.has_room() && !turn.is_over());
        turn.spend(0);
        assert!(!turn.has_room() && turn.is_over());
        assert_eq!(turn.now(), NOW);
    }

    #[test]
    fn a_turn_ends_with_the_bytes_of_its_answers() {
        let mut turn = Turn::at(NOW, 1000);
        turn.spend(ANSWER_BYTES_MAX - 1);
        assert!(turn.has_room());
        turn.spend(1);
        assert!(!turn.has_room());
    }

    #[test]
    fn a_turn_ends_with_its_time_and_knows_how_late_it_is() {
        let clock = Clock::start();
        for (busy, time_max) in [(false, TIME_MAX), (true, TIME_MAX_BUSY)] {
            let mut turn = Turn::begin(clock, busy);
            let begun = turn.now();
            turn.spend(0);
            std::thread::sleep(time_max);
            assert!(!turn.has_room());
            assert!(turn.now().at >= begun.at + time_max);
        }
        let mut turn = Turn::begin(clock, false);
        std::thread::sleep(TIME_MAX);
        assert!(turn.has_room(), "the first command is always carried out");
        (0..STEPS_PER_LOOK).for_each(|_| turn.step());
        assert!(turn.is_over(), "control frames take their time too");
    }
}
