//! Two sides, measured in turns.
//!
//! Machines drift: another program starts, a core clocks down. So both sides of a case are measured in every
//! round, one right after the other, and what counts is the ratio within a round. Nothing here passes or
//! fails by time.

use std::hint::black_box;
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// Measures one side once.
pub(crate) type Measure<'a> = Box<dyn FnMut() -> anyhow::Result<f64> + 'a>;

/// Something the gateway does, and the least that any program would do for the same result.
pub(crate) struct Case<'a> {
    /// What is done.
    pub(crate) name: String,
    /// In what both sides are measured: `ns`, `us` or `B`.
    pub(crate) unit: &'static str,
    /// The gateway does it.
    pub(crate) gateway: Measure<'a>,
    /// Who else does it.
    pub(crate) against: &'static str,
    /// They do it.
    pub(crate) baseline: Measure<'a>,
}

/// What came of a case.
pub(crate) struct Compared {
    pub(crate) name: String,
    pub(crate) unit: &'static str,
    pub(crate) gateway: Samples,
    pub(crate) against: &'static str,
    pub(crate) baseline: Samples,
    /// Gateway by baseline, round by round.
    pub(crate) ratio: Samples,
}

/// What the rounds gave, in ascending order.
#[derive(Default)]
pub(crate) struct Samples(Vec<f64>);

impl Samples {
    fn add(&mut self, sample: f64) {
        let place = self.0.partition_point(|other| *other < sample);
        self.0.insert(place, sample);
    }

    pub(crate) fn median(&self) -> f64 {
        self.0[self.0.len() / 2]
    }

    pub(crate) fn min(&self) -> f64 {
        self.0[0]
    }

    pub(crate) fn max(&self) -> f64 {
        self.0[self.0.len() - 1]
    }
}

/// Measures all cases this many times, after a round that is not counted.
pub(crate) fn compare(rounds: usize, mut cases: Vec<Case<'_>>) -> anyhow::Result<Vec<Compared>> {
    let mut samples: Vec<[Samples; 3]> = cases.iter().map(|_| Default::default()).collect();
    for round in 0..=rounds {
        for (case, [gateways, baselines, ratios]) in cases.iter_mut().zip(&mut samples) {
            // Neither side always finds the caches as the other left them.
            let (gateway, baseline) = if round % 2 == 0 {
                let gateway = (case.gateway)()?;
                (gateway, (case.baseline)()?)
            } else {
                let baseline = (case.baseline)()?;
                ((case.gateway)()?, baseline)
            };
            if round > 0 {
                gateways.add(gateway);
                baselines.add(baseline);
                ratios.add(gateway / baseline);
            }
        }
    }
    let compared = cases.into_iter().zip(samples).map(|(case, [gateway, baseline, ratio])| {
        let Case { name, unit, against, .. } = case;
        Compared { name, unit, gateway, against, baseline, ratio }
    });
    Ok(compared.collect())
}

/// Nanoseconds of processor time of one call, from as many calls as take about as long as `batch`.
pub(crate) fn ns_per_call<'a, R>(batch: Duration, mut call: impl FnMut() -> R + 'a) -> Measure<'a> {
    let mut calls = 0;
    Box::new(move || {
        if calls == 0 {
            calls = calls_in(batch, &mut call);
        }
        Ok(time(calls, &mut call).as_nanos() as f64 / calls as f64)
    })
}

fn calls_in<R>(batch: Duration, call: &mut impl FnMut() -> R) -> u64 {
    let mut calls = 1;
    while time(calls, call) < batch {
        calls *= 2;
    }
    calls
}

fn time<R>(calls: u64, call: &mut impl FnMut() -> R) -> Duration {
    let start = processor_time();
    for _ in 0..calls {
        black_box(call());
    }
    processor_time() - start
}

/// How long this thread was on a processor so far. Unlike the time of day, it stands still while others are.
fn processor_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}
