//! Steps from a seed, and the least of them that still show a fault.

use gateway_tests::Random;

use super::CHANNELS;

/// A step. It says everything itself, so that a schedule without some of its steps is a schedule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// Publishes so many times to a channel.
    Publish(&'static str, usize),
    /// A client subscribes, from where it stands, or leaves. It connects if it has to.
    Toggle(usize, &'static str),
    /// A client reads what has come.
    Read(usize),
    /// The connection of a client ends without a word.
    Vanish(usize),
    /// A client reads what has come, and closes.
    Close(usize),
    /// Time passes, in seconds: publications expire, and forgotten streams begin anew.
    Pass(u64),
    /// Every connection ends, and all streams begin anew.
    Restart,
    /// A worker delivers what waits for it.
    Deliver(usize),
    /// The same, and one of the publications never arrives.
    Lose(usize, usize),
    /// The same, and one that was delivered before comes again.
    Repeat(usize, usize),
    /// The same, and two of them change places.
    Swap(usize, usize),
}

/// What a world can do.
#[derive(Debug, Clone, Copy)]
pub(super) struct Possible {
    pub(super) clients: usize,
    /// Of deliveries; 0 for a world that delivers by itself.
    pub(super) workers: usize,
    /// One in so many steps is a restart; 0 for none.
    pub(super) restart_one_in: usize,
}

/// The schedule of a seed.
pub(super) fn generate(seed: u64, steps: usize, possible: Possible) -> Vec<Step> {
    let mut random = Random::new(seed);
    (0..steps).map(|_| step(&mut random, possible)).collect()
}

fn step(random: &mut Random, possible: Possible) -> Step {
    let client = random.below(possible.clients);
    let channel = CHANNELS[random.below(CHANNELS.len())];
    if possible.restart_one_in > 0 && random.one_in(possible.restart_one_in) {
        return Step::Restart;
    }
    match random.below(100) {
        // Now and then more than a channel keeps.
        0..=29 if random.one_in(5) => Step::Publish(channel, 2 + random.below(8)),
        0..=29 => Step::Publish(channel, 1),
        30..=54 => Step::Toggle(client, channel),
        55..=64 => Step::Read(client),
        65..=69 => Step::Vanish(client),
        70..=73 => Step::Close(client),
        _ if possible.workers == 0 => Step::Read(client),
        74..=91 => Step::Deliver(random.below(possible.workers)),
        92 => Step::Lose(random.below(possible.workers), random.below(100)),
        93..=94 => Step::Repeat(random.below(possible.workers), random.below(100)),
        95 => Step::Swap(random.below(possible.workers), random.below(100)),
        96..=98 => Step::Pass(1 + random.below(4) as u64),
        _ => Step::Pass(30),
    }
}

/// Leaves out steps as long as `fails` still does.
pub(super) fn shrink(mut steps: Vec<Step>, fails: impl Fn(&[Step]) -> bool) -> Vec<Step> {
    let mut part = steps.len() / 2;
    while part > 0 {
        let mut at = 0;
        while at < steps.len() {
            let end = steps.len().min(at + part);
            let less: Vec<_> = steps[..at].iter().chain(&steps[end..]).copied().collect();
            if fails(&less) {
                steps = less;
            } else {
                at = end;
            }
        }
        part /= 2;
    }
    steps
}

mod tests {
    use super::*;

    #[test]
    fn a_seed_has_one_schedule_and_another_seed_another() {
        let possible = Possible { clients: 3, workers: 2, restart_one_in: 0 };
        assert_eq!(generate(1, 100, possible), generate(1, 100, possible));
        assert_ne!(generate(1, 100, possible), generate(2, 100, possible));
    }

    #[test]
    fn a_schedule_shrinks_to_what_shows_the_fault() {
        let possible = Possible { clients: 3, workers: 2, restart_one_in: 0 };
        let steps = generate(7, 300, possible);
        // The fault: a client vanishes, and later another step is a long time.
        let fails = |steps: &[Step]| {
            let vanished = steps.iter().position(|step| matches!(step, Step::Vanish(_)));
            vanished.is_some_and(|at| steps[at..].contains(&Step::Pass(30)))
        };
        assert!(fails(&steps));
        let least = shrink(steps, fails);
        assert!(matches!(least[..], [Step::Vanish(_), Step::Pass(30)]), "{least:?}");
    }
}
