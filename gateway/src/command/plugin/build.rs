//! `gateway plugin build`: builds a plugin for WebAssembly.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use clap::builder::PossibleValuesParser;

use super::{lines, refused, size};
use crate::command::live::{self, Gateway};
use crate::command::{Failure, print, runtime};
use crate::plugin::load::LoadError;
use crate::plugin::registry::plugin_name;
use crate::plugin_tools::cargo::{Cargo, TARGET, TARGETS};
use crate::plugin_tools::folder::PluginFolder;
use crate::plugin_tools::sources::Sources;
use crate::telemetry;
use crate::testing::{self, Engine, PluginRunner};

/// Build a plugin for WebAssembly, and drop it into a plugin folder
///
/// It runs cargo with a profile that makes the file small, adds the target to the Rust toolchain if it is
/// missing, prints the path of the file, and says whether it is a plugin. Use `--watch` while you write the
/// plugin.
///
/// With `--into` it first loads the plugin as the gateway would, with the settings it will have and its
/// self-test. If that succeeds, it moves the file into the plugin folder in one step: over the file that the
/// plugin has there, or as 50-NAME.wasm. A settings file in that folder stays unchanged. If a gateway serves
/// with the folder, its answer is printed: the plugin is live, or why not.
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

    /// The configuration file of the gateway, to ask whether the plugin is live [default: the gateway.toml
    /// next to the folder, if there is one]
    #[arg(long, value_name = "FILE", requires = "into")]
    config: Option<PathBuf>,

    /// Drop the plugin even if the gateway would refuse it
    #[arg(long, requires = "into")]
    unchecked: bool,

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
    build(arguments)
}

/// Builds after every change. A failed build does not end it: the crate is being edited.
fn watch(arguments: &Arguments) -> Result<(), Failure> {
    // Errors that no change of the crate can fix.
    check_folders(arguments).map_err(Failure::Unexpected)?;
    let runtime = runtime()?;
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
    let target = Cargo::new(&arguments.folder).workspace().map(|workspace| workspace.target);
    let made: Vec<PathBuf> = arguments.into.clone().into_iter().chain(target.ok()).collect();
    let look = || Sources::of(&arguments.folder, &made);
    loop {
        // Read before the build, so that changes during the build trigger another one.
        let sources = look();
        let wanted = arguments.clone();
        let built = tokio::task::spawn_blocking(move || build(&wanted)).await;
        if let Err(error) = built.context("the build panicked").map_err(Failure::Unexpected)? {
            telemetry::say(&error.to_string());
        }
        print("  waiting for a change; Ctrl-C ends\n")?;
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

/// What can be said before a build that may take minutes.
fn check_folders(Arguments { folder, into, .. }: &Arguments) -> anyhow::Result<()> {
    let into = into.as_deref().map(PluginFolder::existing).transpose()?;
    testing::manifest(folder)?;
    let name = package_name(folder)?;
    if let Some(into) = into {
        into.file_of(&name)?;
    }
    Ok(())
}

/// Builds, and drops the plugin if the gateway will take it. Prints what was done.
fn build(arguments: &Arguments) -> Result<(), Failure> {
    let built = || {
        check_folders(arguments)?;
        let wasm = testing::build(&arguments.folder, &arguments.target)?;
        let bytes = fs::read(&wasm).with_context(|| format!("failed to read {}", wasm.display()))?;
        Ok((wasm, bytes))
    };
    let (wasm, bytes) = built().map_err(Failure::Unexpected)?;
    print(&format!("{}\n  {}\n", wasm.display(), size(bytes.len())))?;
    match &arguments.into {
        Some(into) => drop_into(into, &wasm, &bytes, arguments),
        // Without settings it cannot be configured; all else that the gateway checks is checked.
        None => testing::factory("plugin", &bytes, Engine::Production)
            .map(drop)
            .map_err(|error| refused(&wasm, &error)),
    }
}

fn drop_into(into: &Path, wasm: &Path, bytes: &[u8], arguments: &Arguments) -> Result<(), Failure> {
    let found = || {
        let folder = PluginFolder::existing(into)?;
        let name = package_name(&arguments.folder)?;
        let own = optional(&arguments.folder.join(format!("{name}.toml")))?;
        let there = optional(&folder.place(&name, arguments.order)?.with_extension("toml"))?;
        Ok((folder, name, own, there))
    };
    let (folder, name, own, there) = found().map_err(Failure::Unexpected)?;
    let gateway = Gateway::of(&folder, arguments.config.as_deref())?;
    if !arguments.unchecked {
        // With the settings that it will have in the folder.
        let settings = there.as_ref().or(own.as_ref()).map(Vec::as_slice).unwrap_or_default();
        loads(&name, bytes, settings).map_err(|error| {
            Failure::Plugins(format!(
                "not dropped: {}; --unchecked drops it all the same",
                refused(wasm, &error)
            ))
        })?;
    }
    let placed = folder.put(&name, arguments.order, bytes, own.as_deref()).map_err(Failure::Unexpected)?;
    print(&lines(&placed))?;
    live::report(gateway.as_ref(), &folder, &name)
}

/// Loads the plugin as the gateway would, and plays its self-test.
fn loads(name: &str, wasm: &[u8], settings: &[u8]) -> Result<(), LoadError> {
    PluginRunner::load_bytes(name, wasm, settings, Engine::Production)?;
    testing::self_test(name, wasm, settings).map(drop)
}

/// The contents of a file, if it exists.
fn optional(file: &Path) -> anyhow::Result<Option<Vec<u8>>> {
    match fs::read(file) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("failed to read {}", file.display())),
    }
}

/// The plugin has the name of its crate.
fn package_name(folder: &Path) -> anyhow::Result<String> {
    let manifest = folder.join("Cargo.toml");
    let failed = || format!("failed to find the name of the package in {}", manifest.display());
    let table: toml::Table =
        toml::from_str(&fs::read_to_string(&manifest).with_context(failed)?).with_context(failed)?;
    ensure!(
        table.contains_key("package") || !table.contains_key("workspace"),
        "{} is a workspace and no plugin: name the folder of one of its plugins",
        folder.display()
    );
    let name = table.get("package").and_then(|package| package.get("name")?.as_str()).with_context(failed)?;
    plugin_name(name).map_err(|error| anyhow::anyhow!("the name {name:?} {}", error.message()))?;
    Ok(name.to_owned())
}
