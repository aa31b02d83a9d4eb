//! `gateway plugin check`: describes a plugin file, and says whether the gateway accepts it.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use super::{Files, duration, grouped, lacks_origins, refused, size};
use crate::command::{Failure, print};
use crate::digest::sha256;
use crate::plugin::event::Kind;
use crate::plugin::interests::{Interests, Pattern};
use crate::plugin::load::{Factory, LoadError};
use crate::plugin::self_test::Tally;
use crate::testing::{self, Engine, PluginRunner};
use crate::wasm::debug_bytes;

/// Describe a plugin file, and say whether the gateway accepts it
///
/// Use it before you deploy a plugin, above all one that you did not build. It prints the interface and
/// hooks, the imports and requested grants, the size and the build tools, and whether the plugin loads and
/// accepts its settings. Without `--settings` it uses the settings file next to the plugin, as in the plugin
/// folder. If the gateway would refuse the plugin, the exit code is 4, and the command prints what the
/// gateway would log.
#[derive(Debug, clap::Args)]
#[command(
    after_long_help = "Example:\n  gateway plugin check target/wasm32-wasip1/release/shout.wasm --settings shout.toml"
)]
pub(super) struct Arguments {
    /// The plugin file
    #[arg(value_name = "FILE")]
    file: PathBuf,

    /// Its settings file [default: the one next to it, if it exists]
    #[arg(long, value_name = "FILE")]
    settings: Option<PathBuf>,
}

pub(super) fn run(arguments: &Arguments) -> Result<(), Failure> {
    let file = &arguments.file;
    let files = Files::read(file, arguments.settings.as_deref())?;
    let mut report = Report(format!("{}\n", file.display()));
    let outcome = examine(file, &files, &mut report);
    if outcome.is_ok() {
        let _ = writeln!(report.0, "ok: the gateway accepts it");
    }
    print(&report.0)?;
    outcome.map_err(|error| refused(file, &error))
}

/// A report with lines of a label and its values.
struct Report(String);

impl Report {
    fn line(&mut self, name: &str, text: impl AsRef<str>) {
        let _ = writeln!(self.0, "  {name:<12}{}", text.as_ref());
    }
}

fn examine(file: &Path, files: &Files, report: &mut Report) -> Result<(), LoadError> {
    let Files { name, wasm, settings, settings_file } = files;
    report.line("size", format!("{} ({} bytes)", size(wasm.len()), grouped(wasm.len() as u64)));
    report.line("sha256", sha256(wasm));
    // The description does not depend on the settings.
    let factory = testing::factory(name, wasm, Engine::Production)?;
    describe(&*factory, wasm, report);
    match settings_file {
        Some(settings) => report.line("settings", settings.display().to_string()),
        None => {
            report.line("settings", format!("none: there is no {}", file.with_extension("toml").display()))
        }
    }
    let runner = PluginRunner::load_bytes(name, wasm, settings, Engine::Production)?;
    let metered = PluginRunner::load_bytes(name, wasm, settings, Engine::Metered)?;
    let (played, counted) = (runner.configured(), metered.configured().usage);
    let instructions = counted.instructions.unwrap_or_default();
    report.line(
        "configured",
        format!(
            "in {}, {} instructions, {} of memory",
            duration(played.time),
            grouped(instructions),
            size(played.usage.memory)
        ),
    );
    for line in &played.log {
        report.line("", format!("{}: {}", line.level, line.text));
    }
    report.line("sees", sees(runner.interests()));
    if let Some(lacks) = lacks_origins(&runner, settings) {
        report.line("note", lacks);
    }
    let tested = testing::self_test(name, wasm, settings)?.map(|Tally { events, instructions }| {
        format!("holds: {events} events, {} instructions", grouped(instructions.unwrap_or_default()))
    });
    report.line("self-test", tested.as_deref().unwrap_or("none: its author put none in"));
    Ok(())
}

fn describe(factory: &dyn Factory, wasm: &[u8], report: &mut Report) {
    let about = factory.about();
    let unknown = "unknown: it was not built with gateway-plugin-sdk";
    let plugin =
        about.name.as_deref().map(|name| format!("{name} {}", about.version.as_deref().unwrap_or_default()));
    report.line("plugin", plugin.as_deref().unwrap_or(unknown));
    report.line("sdk", about.sdk.as_deref().unwrap_or(unknown));
    // The fifth byte distinguishes modules from components.
    let form = if wasm.get(4) == Some(&1) { "core module, made a component at load" } else { "component" };
    report.line("form", form);
    let debug = debug_bytes(wasm);
    if debug > 0 {
        let what =
            format!("{} of it are debug information, which `gateway plugin build` leaves out", size(debug));
        report.line("note", what);
    }
    report.line("interface", format!("gateway:plugin {}", about.interface));
    report.line("hooks", about.hooks.names().collect::<Vec<_>>().join(" "));
    let requested = about.requested.names();
    report.line("asks for", if requested.is_empty() { "nothing".to_owned() } else { requested.join(", ") });
    let mut name = "imports";
    for import in factory.imports() {
        report.line(name, format!("{}: {}", import.interface, import.functions.join(" ")));
        name = "";
    }
}

/// The events that reach `on-message`.
fn sees(interests: &Interests) -> String {
    let kinds = interests.message_kinds();
    let names: Vec<_> =
        Kind::ALL.into_iter().filter(|kind| kinds.contains(*kind)).map(Kind::as_str).collect();
    if names.is_empty() {
        return "no messages".to_owned();
    }
    let kinds =
        if names.len() == Kind::ALL.len() { "messages of every kind".to_owned() } else { names.join(" ") };
    let channels = match &interests.channels {
        None => "on every channel".to_owned(),
        Some(patterns) => {
            let patterns: Vec<_> = patterns.iter().map(Pattern::as_str).collect();
            format!("on {}", patterns.join(" "))
        }
    };
    let payload = if interests.payload { "with" } else { "without" };
    format!("{kinds} {channels}, {payload} payload")
}
