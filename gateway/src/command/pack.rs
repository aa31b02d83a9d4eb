//! `gateway pack`: makes a copy of the program that carries plugins.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, anyhow};

use super::{Failure, print};
use crate::plugin::registry::plugin_name;
use crate::plugin_tools::bundle::Bundle;
use crate::plugin_tools::shipped::{SHIPPED, Source};

/// Make a copy of this program that carries the shipped plugins
///
/// With the copy alone, without Rust and without the source tree, `gateway init`, `gateway demo` and `gateway
/// plugin add` work on any machine. The plugins are built in the source tree, unless this program carries
/// them or files are named.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  gateway pack --output gateway-full
  gateway pack --output gateway-full dist/auth-jwt.wasm dist/rate-limit.wasm dist/router.wasm")]
pub(super) struct Arguments {
    /// Plugin files to carry instead, under the names of the files
    #[arg(value_name = "FILE", conflicts_with = "source")]
    files: Vec<PathBuf>,

    /// The file to write
    #[arg(long, value_name = "FILE")]
    output: PathBuf,

    /// The source tree to build the plugins in
    #[arg(long, value_name = "DIR")]
    source: Option<PathBuf>,
}

pub(super) fn run(arguments: &Arguments) -> Result<(), Failure> {
    pack(arguments).map_err(Failure::Unexpected).and_then(|report| print(&report))
}

fn pack(Arguments { files, output, source }: &Arguments) -> anyhow::Result<String> {
    let plugins: Vec<(String, Vec<u8>)> = if files.is_empty() {
        let names = SHIPPED.each_ref().map(|shipped| shipped.name);
        let modules = Source::find(source.as_deref())?.modules(&names)?;
        modules.into_iter().map(|module| (module.name.to_owned(), module.wasm)).collect()
    } else {
        files.iter().map(|file| read(file)).collect::<anyhow::Result<_>>()?
    };
    let program = std::env::current_exe().context("failed to find the file of this program")?;
    Bundle::write(&program, output, &plugins)?;
    let names: Vec<_> = plugins.iter().map(|(name, _)| &**name).collect();
    Ok(format!("Wrote {}, which carries {}\n", output.display(), names.join(", ")))
}

fn read(file: &Path) -> anyhow::Result<(String, Vec<u8>)> {
    let stem = file.file_stem().unwrap_or_default().to_string_lossy();
    // Cargo writes underscores.
    let stem = stem.replace('_', "-");
    let name = plugin_name(&stem).map_err(|error| anyhow!("{} {}", file.display(), error.message()))?;
    let wasm = std::fs::read(file).with_context(|| format!("failed to read {}", file.display()))?;
    Ok((name.to_owned(), wasm))
}
