//! `gateway plugin add`: puts a shipped plugin into a folder.

use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;

use anyhow::{Context as _, bail, ensure};

use super::lines;
use crate::command::live::{self, Gateway};
use crate::command::{Failure, config_or_here, print};
use crate::config::Config;
use crate::plugin_tools::folder::PluginFolder;
use crate::plugin_tools::shipped::{Module, SHIPPED, Shipped, Source};

/// Put a plugin that comes with the gateway into a plugin folder
///
/// Writes the plugin and a settings file to edit, at its usual place in the chain. If a gateway serves with
/// the folder, its answer is printed: the plugin is live, or why not. Without a name the plugins are listed.
/// Settings that are there stay as they are.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  gateway plugin add                          list the plugins
  gateway plugin add schema                   into the folder of ./gateway.toml
  gateway plugin add router --into plugins --order 60")]
pub(super) struct Arguments {
    /// The plugins
    #[arg(value_name = "NAME")]
    names: Vec<String>,

    /// The plugin folder of a gateway
    #[arg(long, value_name = "FOLDER", conflicts_with = "config")]
    into: Option<PathBuf>,

    /// The configuration file of the gateway, for its plugin folder [default: gateway.toml in the current
    /// folder]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,

    /// The number in front of the name of the file: the place in the chain [default: that of the list]
    #[arg(long, value_name = "NUMBER", requires = "names")]
    order: Option<u16>,

    /// Replace another version of the plugin that is in the folder
    #[arg(long)]
    replace: bool,

    /// The source tree to build the plugins in
    #[arg(long, value_name = "DIR")]
    source: Option<PathBuf>,
}

pub(super) fn run(arguments: &Arguments) -> Result<(), Failure> {
    if arguments.names.is_empty() {
        return print(&list());
    }
    let shipped: Vec<_> = arguments
        .names
        .iter()
        .map(|name| Shipped::find(name))
        .collect::<Result<_, _>>()
        .map_err(Failure::Unexpected)?;
    let folder = match &arguments.into {
        Some(into) => into.clone(),
        None => {
            let config = config_or_here(arguments.config.as_deref(), "the plugin folder with --into FOLDER")?;
            Config::load(config).map_err(Failure::Configuration)?.plugins.folder
        }
    };
    let folder = PluginFolder::existing(&folder).map_err(Failure::Unexpected)?;
    let gateway = Gateway::of(&folder, arguments.config.as_deref())?;
    let names: Vec<_> = shipped.iter().map(|shipped| shipped.name).collect();
    let modules = Source::find(arguments.source.as_deref()).and_then(|source| source.modules(&names));
    for (module, shipped) in modules.map_err(Failure::Unexpected)?.iter().zip(shipped) {
        let report = add(&folder, shipped, module, arguments).map_err(Failure::Unexpected)?;
        print(&report)?;
        live::report(gateway.as_ref(), &folder, shipped.name)?;
    }
    Ok(())
}

fn list() -> String {
    let mut text = String::from("Plugins that come with the gateway, in the order of the chain:\n");
    for Shipped { name, order, about, .. } in &SHIPPED {
        let _ = writeln!(text, "  {order:02}-{name:<12} {about}");
    }
    text
}

fn add(
    folder: &PluginFolder,
    shipped: &Shipped,
    module: &Module,
    arguments: &Arguments,
) -> anyhow::Result<String> {
    if let Some(file) = folder.file_of(shipped.name)? {
        let present = fs::read(&file).with_context(|| format!("failed to read {}", file.display()))?;
        if present != module.wasm && !arguments.replace {
            bail!(
                "{} is another version of {}: --replace puts this one in its place and keeps its settings",
                file.display(),
                shipped.name
            );
        }
        ensure!(
            arguments.order.is_none(),
            "{} has its place in the chain: rename the file and its settings to move it, and leave out --order",
            file.display()
        );
    }
    let settings = shipped.settings()?;
    let order = arguments.order.unwrap_or(shipped.order);
    let placed = folder.put(shipped.name, order, &module.wasm, settings.as_deref().map(str::as_bytes))?;
    Ok(lines(&placed))
}
