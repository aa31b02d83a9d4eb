//! `gateway plugin build`: builds a plugin for WebAssembly.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use clap::builder::PossibleValuesParser;

use super::size;
use crate::command::{Failure, print};
use crate::plugin::registry::plugin_name;
use crate::plugin_tools::cargo::{TARGET, TARGETS};
use crate::plugin_tools::files::{Mode, create, replace};
use crate::plugin_tools::sources::Sources;
use crate::telemetry;
use crate::testing;

/// Build a plugin for WebAssembly, and drop it into a plugin folder
///
/// It runs cargo with a profile that makes the file small, adds the target to the Rust toolchain if it is
/// missing, and prints the path of the file. With `--into` it moves the file into a gateway's plugin folder
/// in one step, so the gateway never sees half of it. There the file replaces the plugin's earlier file, or
/// becomes 50-NAME.wasm. A settings file in that folder stays unchanged. Use `--watch` while you write the
/// plugin.
#[derive(Debug, Clone, clap::Args)]
#[command(
    after_long_help = "Examples:\n  gateway plugin build\n  gateway plugin build shout --into plugins --watch\n  gateway plugin build shout --into target/demo/plugins --order 60"
)]
pub(super) struct Arguments {
    /// The folder of the plugin's crate
    #[arg(value_name = "DIR", default_value = ".")]
    folder: PathBuf,

    /// The WebAssembly target
    #[arg(long, value_name = "TARGET", default_value = TARGET, value_parser = PossibleValuesParser::new(TARGETS))]
    target: String,

    /// The plugin folder of a gateway that receives the file
    #[arg(long, value_name = "FOLDER")]
    into: Option<PathBuf>,

    /// The number in front of the name of a new file: its place in the chain
    #[arg(long, value_name = "NUMBER", default_value_t = 50, requires = "into")]
    order: u16,

    /// Build again whenever a file of the crate changes, until Ctrl-C
    #[arg(long)]
    watch: bool,
}

/// Interval between two scans of the crate. Files saved within it count as one change.
const LOOK: Duration = Duration::from_millis(300);

pub(super) fn run(arguments: &Arguments) -> Result<(), Failure> {
    if arguments.watch {
        return watch(arguments);
    }
    build(arguments).map_err(Failure::Unexpected).and_then(|report| print(&report))
}

/// Builds after every change. A failed build does not end it: the crate is being edited.
fn watch(arguments: &Arguments) -> Result<(), Failure> {
    // Errors that no change of the crate can fix.
    check_folders(arguments).map_err(Failure::Unexpected)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.context("failed to start a runtime").map_err(Failure::Unexpected)?;
    let ended = runtime.block_on(async {
        let interrupted = tokio::signal::ctrl_c();
        tokio::select! {
            ended = build_for_ever(arguments) => ended,
            interrupted = interrupted => interrupted.context("failed to listen for Ctrl-C").map_err(Failure::Unexpected),
        }
    });
    // Cargo receives Ctrl-C as well; its end is not awaited.
    runtime.shutdown_background();
    ended
}

async fn build_for_ever(arguments: &Arguments) -> Result<(), Failure> {
    let look = || Sources::of(&arguments.folder, arguments.into.as_deref());
    loop {
        // Read before the build, so that changes during the build trigger another one.
        let sources = look();
        let wanted = arguments.clone();
        let built = tokio::task::spawn_blocking(move || build(&wanted)).await;
        match built.context("the build panicked").map_err(Failure::Unexpected)? {
            Ok(report) => print(&format!("{report}  waiting for a change; Ctrl-C ends\n"))?,
            Err(error) => telemetry::say(&format!("{error:#}\n  waiting for a change; Ctrl-C ends")),
        }
        let mut before = sources.clone();
        loop {
            tokio::time::sleep(LOOK).await;
            let now = look();
            if now != sources && now == before {
                break;
            }
            before = now;
        }
    }
}

fn check_folders(Arguments { folder, into, .. }: &Arguments) -> anyhow::Result<()> {
    if let Some(into) = into {
        // Checked before a build that may take minutes.
        ensure!(
            into.is_dir(),
            "--into {} is not a folder: name the plugin folder of a gateway",
            into.display()
        );
    }
    testing::manifest(folder).map(drop)
}

fn build(arguments: &Arguments) -> anyhow::Result<String> {
    check_folders(arguments)?;
    let Arguments { folder, target, into, order, .. } = arguments;
    let wasm = testing::build(folder, target)?;
    let bytes = fs::read(&wasm).with_context(|| format!("failed to read {}", wasm.display()))?;
    let mut report = format!("{}\n  {}\n", wasm.display(), size(bytes.len()));
    if let Some(into) = into {
        let name = package_name(folder)?;
        drop_into(into, &name, *order, &bytes, &folder.join(format!("{name}.toml")), &mut report)?;
    }
    Ok(report)
}

/// The plugin has the name of its crate.
fn package_name(folder: &Path) -> anyhow::Result<String> {
    let manifest = folder.join("Cargo.toml");
    let failed = || format!("failed to find the name of the package in {}", manifest.display());
    let table: toml::Table =
        toml::from_str(&fs::read_to_string(&manifest).with_context(failed)?).with_context(failed)?;
    let name = table.get("package").and_then(|package| package.get("name")?.as_str()).with_context(failed)?;
    plugin_name(name).map_err(|error| anyhow::anyhow!("the name {name:?} {}", error.message()))?;
    Ok(name.to_owned())
}

/// Settings first: a plugin without its settings is refused for a moment.
fn drop_into(
    into: &Path,
    name: &str,
    order: u16,
    wasm: &[u8],
    settings: &Path,
    report: &mut String,
) -> anyhow::Result<()> {
    let place = place(into, name, order)?;
    let settings_place = place.with_extension("toml");
    match fs::read(settings) {
        Ok(bytes) if create(&settings_place, &bytes, Mode::Private)? => {
            let _ = writeln!(report, "  its settings are {}", settings_place.display());
        }
        Ok(_) => {
            let _ = writeln!(report, "  its settings stay as they are in {}", settings_place.display());
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => return Err(error).with_context(|| format!("failed to read {}", settings.display())),
    }
    replace(&place, wasm, Mode::Public)?;
    let _ = writeln!(report, "  dropped as {}", place.display());
    Ok(())
}

/// Path of the plugin in the folder, existing or new.
fn place(into: &Path, name: &str, order: u16) -> anyhow::Result<PathBuf> {
    let failed = || format!("failed to read the folder {}", into.display());
    let mut files = Vec::new();
    for entry in fs::read_dir(into).with_context(failed)? {
        let file = entry.with_context(failed)?.file_name();
        let file = file.to_string_lossy();
        if file.ends_with(".wasm") && plugin_name(&file).is_ok_and(|other| other == name) {
            files.push(file.into_owned());
        }
    }
    // The gateway runs the first one.
    files.sort();
    let file = files.into_iter().next().unwrap_or_else(|| format!("{order:02}-{name}.wasm"));
    Ok(into.join(file))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plugin_takes_its_own_place_and_leaves_settings_alone() {
        let folder = tempfile::tempdir().expect("a folder");
        let own = folder.path().join("shout.toml");
        fs::write(&own, "first").expect("writable");
        let into = folder.path().join("plugins");
        fs::create_dir(&into).expect("writable");
        fs::write(into.join("50-other-shout.wasm"), "other").expect("writable");
        let drop = |order, wasm: &[u8]| {
            let mut report = String::new();
            drop_into(&into, "shout", order, wasm, &own, &mut report).expect("writable");
            report
        };
        assert!(drop(60, b"one").contains("its settings are"));
        fs::write(&own, "second").expect("writable");
        assert!(drop(70, b"two").contains("stay as they are"), "it has a place already");
        let read = |name: &str| fs::read_to_string(into.join(name)).expect(name);
        assert_eq!((read("60-shout.wasm"), read("60-shout.toml")), ("two".to_owned(), "first".to_owned()));
        assert_eq!(read("50-other-shout.wasm"), "other");
        assert_eq!(fs::read_dir(&into).expect("readable").count(), 3, "nothing else is left");
    }
}
