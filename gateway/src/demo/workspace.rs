//! `Workspace` is the source tree of the gateway, in which the plugins of the demo are built.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use anyhow::Context as _;

use crate::plugin_tools::cargo::{Artifact, Cargo, TARGET, TARGETS};
use crate::plugin_tools::tree;
use crate::telemetry;

/// The plugins of the demo, by the names of their crates.
pub(super) const PLUGINS: [&str; 3] = ["auth-jwt", "router", "echo"];

/// A source tree.
#[derive(Debug)]
pub(super) struct Workspace {
    root: PathBuf,
}

/// A built plugin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Built {
    /// The name of its crate.
    pub(super) name: &'static str,
    /// Path of the file.
    pub(super) wasm: PathBuf,
}

impl Workspace {
    /// Finds the given tree, or the one around the current folder.
    pub(super) fn find(given: Option<&Path>) -> anyhow::Result<Self> {
        let root = tree::find(given)?.context(
            "failed to find the source tree of the gateway, from which the demo builds its plugins: \
             run it there, or name it with --source DIR",
        )?;
        Ok(Self { root })
    }

    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    /// Installs the WebAssembly targets that the Rust toolchain of the tree lacks.
    pub(super) fn add_targets(&self) -> anyhow::Result<()> {
        Cargo::new(&self.root).add_targets(&TARGETS, TARGET)
    }

    /// Builds the plugins of the demo, in the order of [`PLUGINS`]. The progress goes to standard error.
    pub(super) fn build_plugins(&self) -> anyhow::Result<Vec<Built>> {
        telemetry::say(&format!("Building the plugins {}", PLUGINS.join(", ")));
        let mut arguments: Vec<OsString> = ["--profile", "plugin", "--target", TARGET].map(Into::into).into();
        arguments.extend(PLUGINS.iter().flat_map(|plugin| ["--package", plugin]).map(Into::into));
        let artifacts = Cargo::new(&self.root).build(arguments)?;
        PLUGINS.iter().map(|name| built(name, &artifacts)).collect()
    }
}

fn built(name: &'static str, artifacts: &[Artifact]) -> anyhow::Result<Built> {
    let own = artifacts.iter().find(|artifact| artifact.library == name);
    own.map(|artifact| Built { name, wasm: artifact.wasm.clone() })
        .with_context(|| format!("failed to find the file that cargo made of plugin {name}"))
}
