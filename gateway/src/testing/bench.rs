//! `Bench` measures a plugin against one that does nothing.
//!
//! Machines drift: another program starts, a core clocks down. So every round measures both sides, one right
//! after the other and in alternating order, by the thread's processor time, which does not advance while
//! other threads run. Each figure comes with its spread over the rounds: a smaller difference is noise.

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

use crate::plugin::load::LoadError;
use crate::plugin::script::{Answer, Script, Step};
use crate::testing::{Engine, PluginRunner};

/// How much to measure.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Scale {
    /// Number of figures for each side.
    pub(crate) rounds: usize,
    /// Duration of one figure.
    pub(crate) batch: Duration,
}

/// The cost of one event.
#[derive(Debug)]
pub(crate) struct Measured {
    /// The plugin's first answer.
    pub(crate) answer: Answer,
    /// Nanoseconds per call, of the plugin and of the one that does nothing; `None` if there was nothing to
    /// measure.
    pub(crate) nanos: Option<(Samples, Samples)>,
    /// Instructions of the second call: one-time preparation by the first call is not included.
    pub(crate) instructions: Option<u64>,
    /// Number of host calls.
    pub(crate) host_calls: u32,
}

/// The samples of the rounds.
#[derive(Debug, Clone, Default)]
pub(crate) struct Samples(Vec<f64>);

impl Samples {
    fn add(&mut self, sample: f64) {
        let place = self.0.partition_point(|other| *other < sample);
        self.0.insert(place, sample);
    }

    /// The value below which this share of the samples lies, such as 0.5 for the median.
    pub(crate) fn quantile(&self, share: f64) -> f64 {
        let place = (share * (self.0.len() - 1) as f64).round();
        self.0[place as usize]
    }
}

/// The plugin, its instruction-counting twin, and one that does nothing.
pub(crate) struct Bench {
    plugin: PluginRunner,
    metered: PluginRunner,
    empty: PluginRunner,
}

impl Bench {
    pub(crate) fn load(name: &str, wasm: &[u8], settings: &[u8]) -> Result<Self, LoadError> {
        Ok(Self {
            plugin: PluginRunner::load_bytes(name, wasm, settings, Engine::Production)?,
            metered: PluginRunner::load_bytes(name, wasm, settings, Engine::Metered)?,
            empty: PluginRunner::empty(Engine::Production)?,
        })
    }

    /// Plays the script, and measures every event at its position in it.
    pub(crate) fn measure(&mut self, script: &Script, scale: &Scale) -> Result<Vec<Measured>, LoadError> {
        script.steps.iter().map(|step| self.event(step, scale)).collect()
    }

    fn event(&mut self, step: &Step, scale: &Scale) -> Result<Measured, LoadError> {
        let played = self.plugin.play(step)?;
        self.empty.play(step)?;
        self.metered.play(step)?;
        let mut measured = Measured {
            answer: played.outcome.answer,
            nanos: None,
            instructions: None,
            host_calls: played.usage.host_calls,
        };
        if matches!(measured.answer, Answer::NotCalled | Answer::Failed(_)) {
            return Ok(measured);
        }
        measured.instructions = self.metered.repeat(step, 1).1.instructions;
        let calls = calls_in(scale.batch, |calls| self.plugin.time(step, calls));
        let calls_of_empty = calls_in(scale.batch, |calls| self.empty.time(step, calls));
        let (mut own, mut empty) = (Samples::default(), Samples::default());
        for round in 0..=scale.rounds {
            let mut time_own = || self.plugin.time(step, calls).as_nanos() as f64 / calls as f64;
            let mut time_empty =
                || self.empty.time(step, calls_of_empty).as_nanos() as f64 / calls_of_empty as f64;
            // The order alternates, so that neither side always finds the caches as the other left them.
            let (time, time_of_empty) = if round % 2 == 0 {
                let time = time_own();
                (time, time_empty())
            } else {
                let time_of_empty = time_empty();
                (time_own(), time_of_empty)
            };
            // The first round is a warm-up for both.
            if round > 0 {
                own.add(time);
                empty.add(time_of_empty);
            }
        }
        measured.nanos = Some((own, empty));
        Ok(measured)
    }
}

impl PluginRunner {
    fn time(&mut self, step: &Step, calls: u32) -> Duration {
        self.repeat(step, calls).0
    }
}

/// The number of calls that takes about as long as `batch`.
fn calls_in(batch: Duration, mut time: impl FnMut(u32) -> Duration) -> u32 {
    let mut calls = 1;
    while time(calls) < batch && calls < 1 << 28 {
        calls *= 2;
    }
    calls
}

/// Processor time of this thread for running a function.
pub(crate) fn processor_time_of(mut run: impl FnMut()) -> Duration {
    let now = || {
        let time = clock_gettime(ClockId::ThreadCPUTime);
        Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
    };
    let begin = now();
    run();
    now() - begin
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quantile_is_a_sample() {
        let mut samples = Samples::default();
        for sample in [30.0, 10.0, 20.0, 50.0, 40.0] {
            samples.add(sample);
        }
        assert_eq!(
            [0.0, 0.1, 0.5, 0.9, 1.0].map(|share| samples.quantile(share)),
            [10.0, 10.0, 30.0, 50.0, 50.0]
        );
    }

    #[test]
    fn the_plugin_that_does_nothing_is_one() {
        let script = r#"[{"event": "connect", "expect": "pass"},
            {"event": "message", "kind": "publish", "channel": "news", "payload": "a text", "expect": {"verdict": "next", "effects": []}},
            {"event": "disconnect", "expect": "done"}]"#;
        let mut empty = PluginRunner::empty(Engine::Metered).expect("it loads");
        let played = empty.check(script).expect("as expected");
        assert!(played.iter().all(|played| played.usage.host_calls == 0));
        let instructions = played[1].usage.instructions.expect("counted");
        assert!((1..20).contains(&instructions), "{instructions}");
    }
}
