//! `gateway plugin bench`: measures the cost of a plugin per event.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use super::run::{read_script, what};
use super::{Files, grouped, refused};
use crate::command::{Failure, print};
use crate::plugin::script::{self, Answer, Step};
use crate::testing::bench::{Bench, Measured, Samples, Scale};

/// Default events: one message with 128 bytes of JSON.
const EVENTS: &str = r#"{"event": "message", "user": "42", "kind": "publish", "channel": "bench", "payload": {"text": "The quick brown fox jumps over the lazy dog, and the lazy dog does not mind it at all; it is a Sunday. 1234567890"}}"#;

/// Measure the cost of a plugin per event, compared with an empty plugin
///
/// Use it before you put a plugin into a chain with much traffic. It calls both plugins in turns in the
/// production engine and measures processor time. It prints the median of the rounds, their spread (10th and
/// 90th percentile), the difference to the empty plugin, and the number of instructions of a call, which does
/// not depend on the machine. It names events that the plugin does not see or fails on, and does not measure
/// them. If the plugin keeps state, its calls can differ in cost: choose events that lead to the case you
/// want to measure.
#[derive(Debug, clap::Args)]
#[command(
    after_long_help = "Examples:\n  gateway plugin bench shout.wasm\n  gateway plugin bench shout.wasm --events events.jsonl --rounds 51"
)]
pub(super) struct Arguments {
    /// The plugin file
    #[arg(value_name = "FILE")]
    file: PathBuf,

    /// Events, as for `gateway plugin run` [default: one message of 128 bytes]
    #[arg(long, value_name = "FILE")]
    events: Option<PathBuf>,

    /// The plugin's settings file [default: the one next to it, if it exists]
    #[arg(long, value_name = "FILE")]
    settings: Option<PathBuf>,

    /// Measurements of each plugin per event
    #[arg(long, value_name = "NUMBER", default_value_t = 21, value_parser = clap::value_parser!(u16).range(3..=1000))]
    rounds: u16,
}

pub(super) fn run(arguments: &Arguments) -> Result<(), Failure> {
    let script = match &arguments.events {
        Some(events) => read_script(events)?,
        None => script::parse(EVENTS.as_bytes()).map_err(|error| Failure::Events(error.to_string()))?,
    };
    let files = Files::read(&arguments.file, arguments.settings.as_deref())?;
    let scale = Scale { rounds: arguments.rounds.into(), batch: Duration::from_millis(5) };
    let measured = Bench::load(&files.name, &files.wasm, &files.settings)
        .and_then(|mut bench| bench.measure(&script, &scale))
        .map_err(|error| refused(&arguments.file, &error))?;
    let mut report = String::new();
    for (step, measured) in script.steps.iter().zip(&measured) {
        describe(step, measured, &mut report);
    }
    let spread = spread(&measured);
    let _ = writeln!(
        report,
        "ns of processor time per call: median (tenth .. ninetieth percent) of {} rounds, both sides in every round",
        scale.rounds
    );
    if cfg!(debug_assertions) {
        report.push_str(
            "this gateway was built without optimisation: the times mean nothing, build it with --release\n",
        );
    }
    if let Some(spread) = spread {
        let _ = writeln!(
            report,
            "the empty plugin itself varied by {spread:.0} ns: what differs by less is noise"
        );
    }
    print(&report)
}

fn describe(step: &Step, measured: &Measured, report: &mut String) {
    let _ = writeln!(report, "{}: {}", step.place, what(step));
    let Some((own, empty)) = &measured.nanos else {
        let why = match &measured.answer {
            Answer::Failed(failure) => format!("the plugin failed: {failure}"),
            _ => "the plugin does not see it".to_owned(),
        };
        let _ = writeln!(report, "    not measured: {why}");
        return;
    };
    let (own_median, empty_median) = (own.quantile(0.5), empty.quantile(0.5));
    let _ = writeln!(report, "    plugin        {}", figures(own));
    let _ = writeln!(report, "    empty plugin  {}", figures(empty));
    let _ = writeln!(
        report,
        "    adds          {:.0} ns, {:.1} times the empty plugin in all",
        own_median - empty_median,
        own_median / empty_median
    );
    let instructions = measured.instructions.map_or_else(|| "unknown".to_owned(), grouped);
    let _ = writeln!(report, "    instructions  {instructions}, host calls {}", measured.host_calls);
}

fn figures(samples: &Samples) -> String {
    format!("{:.0} ns ({:.0} .. {:.0})", samples.quantile(0.5), samples.quantile(0.1), samples.quantile(0.9))
}

/// The largest spread of the empty plugin.
fn spread(measured: &[Measured]) -> Option<f64> {
    let spreads = measured.iter().filter_map(|measured| measured.nanos.as_ref());
    spreads.map(|(_, empty)| empty.quantile(0.9) - empty.quantile(0.1)).reduce(f64::max)
}
