//! `gateway plugin run`: plays events to a plugin, and prints its results and their cost.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use gateway_plugin_script::Message;
use serde_json::{Value, json};

use super::{Files, duration, grouped, lacks_origins, refused, size};
use crate::command::{Failure, print};
use crate::plugin::load::LoadError;
use crate::plugin::script::{self, Event, Script, Step};
use crate::telemetry;
use crate::testing::{Engine, Played, PluginRunner};

/// Play events to a plugin, and print its verdicts and their cost
///
/// Use it to test a plugin file as the gateway runs it. The plugin runs in the production engine, with the
/// limits and grants of its settings file. The command sends real requests to granted origins, and only
/// records all other effects. For every event it prints the verdict, effects, log lines, time and host calls.
/// The exit code is 6 if the outcome of an event differs from what the file expects.
#[derive(Debug, clap::Args)]
#[command(after_long_help = AFTER_LONG_HELP)]
pub(super) struct Arguments {
    /// The plugin file
    #[arg(value_name = "FILE")]
    file: PathBuf,

    /// Events as JSON: one per line, or an array
    #[arg(long, value_name = "FILE")]
    events: PathBuf,

    /// The plugin's settings file [default: the one next to it, if it exists]
    #[arg(long, value_name = "FILE")]
    settings: Option<PathBuf>,

    /// Print one JSON object per event
    #[arg(long)]
    json: bool,

    /// Count WebAssembly instructions as well, in a second run on a slower engine
    #[arg(long)]
    instructions: bool,
}

const AFTER_LONG_HELP: &str = r##"Example:
  gateway plugin run shout.wasm --events events.jsonl

Events:
  {"event": "connect", "connection": "c1", "token": "t", "expect": {"verdict": "accept", "user": "42"}}
  {"event": "message", "connection": "c1", "kind": "publish", "channel": "news", "payload": {"text": "hi"}, "expect": "next"}
  {"event": "message", "kind": "raw", "text": "ping", "expect": {"verdict": "reply", "text": "pong", "effects": []}}
  {"event": "refresh", "connection": "c1", "token": "another", "expect": "accept"}
  {"event": "deliver", "channel": "news", "class": "guest", "publisher": {"user": "7"}, "payload": 1, "expect": "drop"}
  {"event": "disconnect", "connection": "c1", "code": 3000, "reason": "bye"}
  {"event": "timer", "after": 60000}

  Every event of a connection may set the properties of its client from there on (user, attributes, headers, address,
  protocol). Every event may set its time: `now` in milliseconds of Unix time, or `after` in milliseconds since the
  previous event. Otherwise the clock does not move.
  kind      publish subscribe unsubscribe rpc send presence presence-stats history raw sub-refresh
  payload   JSON; `text` or `base64` if it is not JSON
  expect    a verdict, or parts of the outcome: any field that --json prints under `outcome`"##;

pub(super) fn run(arguments: &Arguments) -> Result<(), Failure> {
    let script = read_script(&arguments.events)?;
    let files = Files::read(&arguments.file, arguments.settings.as_deref())?;
    let played =
        play(&files, &script, Engine::Production).map_err(|error| refused(&arguments.file, &error))?;
    let counted = match arguments.instructions {
        true => play(&files, &script, Engine::Metered).map_err(|error| refused(&arguments.file, &error))?,
        false => Vec::new(),
    };
    let instructions = |number: usize| counted.get(number).and_then(|played| played.usage.instructions);
    let mut report = String::new();
    let (mut expected, mut unmet) = (0, 0);
    for (number, (step, played)) in script.steps.iter().zip(&played).enumerate() {
        let differences = step.unmet(&played.outcome.to_json());
        expected += usize::from(step.expect.is_some());
        unmet += usize::from(!differences.is_empty());
        if arguments.json {
            let _ = writeln!(report, "{}", as_json(step, played, instructions(number), &differences));
        } else {
            describe(step, played, instructions(number), &differences, &mut report);
        }
    }
    if !arguments.json {
        let _ = writeln!(
            report,
            "{} events, {expected} with expectations, {unmet} not as expected",
            played.len()
        );
    }
    print(&report)?;
    match unmet {
        0 => Ok(()),
        1 => Err(Failure::Expectations("1 event did not come out as expected".to_owned())),
        _ => Err(Failure::Expectations(format!("{unmet} events did not come out as expected"))),
    }
}

/// Reads a file of events.
pub(super) fn read_script(file: &Path) -> Result<Script, Failure> {
    let events = std::fs::read(file)
        .with_context(|| format!("failed to read {}", file.display()))
        .map_err(Failure::Unexpected)?;
    script::parse(&events).map_err(|errors| {
        let lines: String = errors.iter().map(|error| format!("\n  {error}")).collect();
        Failure::Events(format!("{} has mistakes{lines}", file.display()))
    })
}

fn play(files: &Files, script: &Script, engine: Engine) -> Result<Vec<Played>, LoadError> {
    let mut runner = PluginRunner::load_bytes(&files.name, &files.wasm, &files.settings, engine)?;
    if engine == Engine::Production
        && let Some(lacks) = lacks_origins(&runner, &files.settings)
    {
        telemetry::say(&format!("{}: {lacks}", files.name));
    }
    script.steps.iter().map(|step| runner.play(step)).collect()
}

fn as_json(step: &Step, played: &Played, instructions: Option<u64>, unmet: &[String]) -> Value {
    let log = played.log.iter();
    let log = log.map(|line| json!({"level": line.level.as_str().to_ascii_lowercase(), "text": line.text}));
    let mut value = json!({
        "place": &*step.place,
        "event": step.event.as_str(),
        "connection": &*step.connection,
        "outcome": played.outcome.to_json(),
        "log": log.collect::<Vec<_>>(),
        "time_ns": played.time.as_nanos() as u64,
        "host_calls": played.usage.host_calls,
        "memory_bytes": played.usage.memory,
        "unmet": unmet,
    });
    if let Some(instructions) = instructions {
        value["instructions"] = instructions.into();
    }
    value
}

fn describe(step: &Step, played: &Played, instructions: Option<u64>, unmet: &[String], report: &mut String) {
    let mut outcome = played.outcome.to_json();
    let effects = outcome.remove("effects");
    let verdict = outcome.remove("verdict");
    let verdict = verdict.as_ref().and_then(Value::as_str).unwrap_or_default();
    let details = if outcome.is_empty() { String::new() } else { format!(" {}", Value::Object(outcome)) };
    let _ = writeln!(report, "{}: {} -> {verdict}{details}", step.place, what(step));
    for effect in effects.as_ref().and_then(Value::as_array).into_iter().flatten() {
        let _ = writeln!(report, "    effect  {effect}");
    }
    for line in &played.log {
        let _ = writeln!(report, "    log     {} {}", line.level, line.text);
    }
    let usage = &played.usage;
    let counted = instructions.map(|count| format!(", {} instructions", grouped(count))).unwrap_or_default();
    let _ = writeln!(
        report,
        "    cost    {}, {} host calls, {} of memory{counted}",
        duration(played.time),
        usage.host_calls,
        size(usage.memory)
    );
    for difference in unmet {
        let _ = writeln!(report, "    NOT AS EXPECTED: {difference}");
    }
}

/// Describes the event.
pub(super) fn what(step: &Step) -> String {
    let connection = &step.connection;
    match &step.event {
        Event::Message(Message { kind, channel, .. }) => {
            let to = channel.as_ref().map(|channel| format!(" to {channel}")).unwrap_or_default();
            format!("{}{to} of {connection}", kind.as_str())
        }
        Event::Deliver { channel, class, .. } if class.is_empty() => format!("deliver on {channel}"),
        Event::Deliver { channel, class, .. } => format!("deliver on {channel} to class {class:?}"),
        Event::Timer { instance } => format!("timer of instance {instance}"),
        other => format!("{} of {connection}", other.as_str()),
    }
}
