//! `gateway plugin`: the commands for plugin authors.

mod add;
mod bench;
mod breaker;
mod build;
mod check;
mod new;
mod rollback;
mod run;

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::Subcommand;

use super::Failure;
use crate::plugin::grants::Grants;
use crate::plugin::load::LoadError;
use crate::plugin::settings;
use crate::plugin_tools::folder::{Placed, Settings};
use crate::telemetry;
use crate::testing::PluginRunner;

/// Create, build, check and test plugins, add shipped ones, and roll one back
///
/// From an idea to a live rule:
///
///   gateway plugin new shout                            create a crate that builds and passes its tests
///   cd shout && cargo test                              test the hooks alone
///   gateway plugin build                                compile it to a WebAssembly file
///   gateway plugin check FILE --settings shout.toml     describe it, and see whether the gateway accepts it
///   gateway plugin run FILE --settings shout.toml --events events.jsonl
///                                                       test it in the production engine
///   gateway plugin bench FILE --settings shout.toml --events events.jsonl
///                                                       measure its cost
///   gateway plugin build --into path/to/plugins         make it live
///
/// A plugin that comes with the gateway needs none of it: `gateway plugin add router`.
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub(super) struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    New(new::Arguments),
    Add(add::Arguments),
    Build(build::Arguments),
    Check(check::Arguments),
    Run(run::Arguments),
    Bench(bench::Arguments),
    Rollback(rollback::Arguments),
    Breaker(breaker::Arguments),
}

pub(super) fn run(arguments: &Arguments) -> Result<(), Failure> {
    match &arguments.command {
        Command::New(arguments) => new::run(arguments),
        Command::Add(arguments) => add::run(arguments),
        Command::Build(arguments) => build::run(arguments),
        Command::Check(arguments) => check::run(arguments),
        Command::Run(arguments) => run::run(arguments),
        Command::Bench(arguments) => bench::run(arguments),
        Command::Rollback(arguments) => rollback::run(arguments),
        Command::Breaker(arguments) => breaker::run(arguments),
    }
}

/// What happened to the files of a plugin, for people.
fn lines(placed: &Placed) -> String {
    let settings = match &placed.settings {
        Some(Settings::Written(file)) => format!("  its settings are {}\n", file.display()),
        Some(Settings::Kept(file)) => format!("  its settings stay as they are in {}\n", file.display()),
        None => String::new(),
    };
    format!("{settings}  dropped as {}\n", placed.wasm.display())
}

/// A file with more bytes takes seconds to compile.
const LARGE: usize = 4 << 20;

/// The contents of a plugin file and of its settings file.
struct Files {
    /// Name of the file without folder and extension.
    name: String,
    wasm: Vec<u8>,
    /// Empty without a settings file.
    settings: Vec<u8>,
    settings_file: Option<PathBuf>,
}

impl Files {
    /// Reads the named settings file, or else the one next to the plugin, as in the gateway's folder.
    fn read(file: &Path, settings: Option<&Path>) -> Result<Self, Failure> {
        if file.is_dir() {
            return Err(Failure::Unexpected(anyhow::anyhow!(
                "{} is a folder: name the .wasm file, whose path `gateway plugin build` prints",
                file.display()
            )));
        }
        let read = |path: &Path| {
            std::fs::read(path)
                .with_context(|| format!("failed to read {}", path.display()))
                .map_err(Failure::Unexpected)
        };
        let beside = Some(file.with_extension("toml")).filter(|beside| beside.is_file() && beside != file);
        let settings_file = settings.map(Path::to_owned).or(beside);
        let wasm = read(file)?;
        if wasm.len() > LARGE {
            telemetry::say(&format!("compiling {} of WebAssembly: that can take a minute", size(wasm.len())));
        }
        Ok(Self {
            name: file.file_stem().unwrap_or_default().to_string_lossy().into_owned(),
            wasm,
            settings: settings_file.as_deref().map(read).transpose()?.unwrap_or_default(),
            settings_file,
        })
    }
}

/// A hint for a plugin that sends requests but has no granted origins: every request would be refused.
fn lacks_origins(runner: &PluginRunner, settings: &[u8]) -> Option<&'static str> {
    let asks = runner.imports().iter().any(|import| import.interface.starts_with("gateway:plugin/http@"));
    let Grants { http, http_private, .. } = settings::Settings::parse(settings).ok()?.grants;
    let lacks = asks && http.is_empty() && http_private.is_empty();
    lacks.then_some(
        "it can ask other servers, and its settings grant no origin: every request is refused until \
         `http = [\"https://..\"]` stands in [grants], or `http-private` for an address in a private network",
    )
}

/// Error for a file that the gateway would refuse.
fn refused(file: &Path, error: &LoadError) -> Failure {
    Failure::Plugins(format!("{}: {}: {}", file.display(), error.code(), error.message()))
}

/// A number with separated thousands.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Bytes in a readable unit.
fn size(bytes: usize) -> String {
    match bytes {
        0..1024 => format!("{bytes} B"),
        1024..1_048_576 => format!("{:.1} KiB", bytes as f64 / 1024.0),
        _ => format!("{:.1} MiB", bytes as f64 / 1_048_576.0),
    }
}

/// Time in a readable unit.
pub(super) fn duration(time: std::time::Duration) -> String {
    let nanos = time.as_nanos() as f64;
    match nanos {
        0.0..1e3 => format!("{nanos:.0} ns"),
        1e3..1e6 => format!("{:.1} us", nanos / 1e3),
        _ => format!("{:.1} ms", nanos / 1e6),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn numbers_are_for_reading() {
        for (number, text) in [(0, "0"), (999, "999"), (1000, "1,000"), (1_234_567, "1,234,567")] {
            assert_eq!(grouped(number), text);
        }
        assert_eq!([size(7), size(1536), size(32 << 20)], ["7 B", "1.5 KiB", "32.0 MiB"]);
        let times = [Duration::from_nanos(250), Duration::from_micros(12), Duration::from_millis(3)];
        assert_eq!(times.map(duration), ["250 ns", "12.0 us", "3.0 ms"]);
    }

    #[test]
    fn settings_are_found_beside_the_plugin() {
        let folder = tempfile::tempdir().expect("a folder");
        let wasm = folder.path().join("50-shout.wasm");
        std::fs::write(&wasm, "wasm").expect("writable");
        let files = Files::read(&wasm, None).expect("readable");
        assert_eq!((&*files.name, files.settings_file), ("50-shout", None));
        std::fs::write(folder.path().join("50-shout.toml"), "beside").expect("writable");
        std::fs::write(folder.path().join("other.toml"), "named").expect("writable");
        assert_eq!(Files::read(&wasm, None).expect("readable").settings, b"beside");
        let named = folder.path().join("other.toml");
        assert_eq!(Files::read(&wasm, Some(&named)).expect("readable").settings, b"named");
    }
}
