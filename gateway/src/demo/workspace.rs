//! The source tree of the gateway: where it is, and building the plugins in it.

use std::ffi::OsString;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, bail, ensure};
use serde::Deserialize;

/// The plugins of the demo, by the names of their crates.
pub(super) const PLUGINS: [&str; 3] = ["auth-jwt", "router", "echo"];

/// What the plugins are built for.
const TARGET: &str = "wasm32-wasip1";
/// What authors of plugins build for.
const TARGETS: [&str; 2] = [TARGET, "wasm32-wasip2"];

/// A source tree.
#[derive(Debug)]
pub(super) struct Workspace {
    root: PathBuf,
}

/// A plugin that was built.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Built {
    /// The name of its crate.
    pub(super) name: &'static str,
    /// The file.
    pub(super) wasm: PathBuf,
}

impl Workspace {
    /// The given tree; else the one that `cargo run` runs in, else the one around the current folder.
    pub(super) fn find(given: Option<&Path>) -> anyhow::Result<Self> {
        if let Some(given) = given {
            let given = given
                .canonicalize()
                .with_context(|| format!("failed to open --source {}", given.display()))?;
            ensure!(is_root(&given), "--source {} is not the source tree of the gateway", given.display());
            return Ok(Self { root: given });
        }
        let crate_folder = std::env::var_os("CARGO_MANIFEST_DIR").map(PathBuf::from);
        let starts = crate_folder.into_iter().chain(std::env::current_dir().ok());
        let root = starts.into_iter().find_map(|start| around(&start));
        root.map(|root| Self { root }).context(
            "failed to find the source tree of the gateway, from which the demo builds its plugins: \
             run it there, or name it with --source DIR",
        )
    }

    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    /// Installs the WebAssembly targets that the Rust toolchain of the tree lacks.
    pub(super) fn add_targets(&self) -> anyhow::Result<()> {
        let mut missing = Vec::new();
        for target in TARGETS {
            if !self.has_target(target)? {
                missing.push(target);
            }
        }
        if missing.is_empty() {
            return Ok(());
        }
        eprintln!("Adding the Rust targets {} with rustup", missing.join(" and "));
        let added = self.command("rustup").args(["target", "add"]).args(&missing).status();
        let added = added.as_ref().is_ok_and(std::process::ExitStatus::success);
        ensure!(
            added || !missing.contains(&TARGET),
            "failed to add the Rust target {TARGET}: add it the way your Rust toolchain was installed, \
             for example with `rustup target add {TARGET}`"
        );
        Ok(())
    }

    fn has_target(&self, target: &str) -> anyhow::Result<bool> {
        let output = self.command("rustc").args(["--print", "target-libdir", "--target", target]).output();
        let output = output.context("failed to run rustc, which builds the plugins: is Rust installed?")?;
        // The path is printed whether or not there is anything.
        let folder = String::from_utf8_lossy(&output.stdout);
        Ok(output.status.success() && Path::new(folder.trim()).is_dir())
    }

    /// Builds the plugins of the demo, in the order of [`PLUGINS`]. The progress goes to standard error.
    pub(super) fn build_plugins(&self) -> anyhow::Result<Vec<Built>> {
        eprintln!("Building the plugins {}", PLUGINS.join(", "));
        let mut command = self.command(std::env::var_os("CARGO").unwrap_or_else(|| OsString::from("cargo")));
        command.args([
            "build",
            "--profile",
            "plugin",
            "--target",
            TARGET,
            "--message-format=json-render-diagnostics",
        ]);
        command.args(PLUGINS.iter().flat_map(|plugin| ["--package", plugin]));
        let mut cargo = command
            .stdout(Stdio::piped())
            .spawn()
            .context("failed to run cargo, which builds the plugins")?;
        let messages = BufReader::new(cargo.stdout.take().context("cargo has no output")?);
        let lines: Vec<String> =
            messages.lines().collect::<Result<_, _>>().context("failed to read what cargo says")?;
        let status = cargo.wait().context("failed to wait for cargo")?;
        if !status.success() {
            bail!("failed to build the plugins: cargo ended with {status}, see its messages above");
        }
        PLUGINS.iter().map(|name| built(name, &lines)).collect()
    }

    fn command(&self, program: impl Into<OsString>) -> Command {
        let mut command = Command::new(program.into());
        command.current_dir(&self.root).stdin(Stdio::null());
        command
    }
}

fn around(start: &Path) -> Option<PathBuf> {
    start.ancestors().find(|folder| is_root(folder)).map(Path::to_owned)
}

fn is_root(folder: &Path) -> bool {
    folder.join("Cargo.toml").is_file()
        && PLUGINS.iter().all(|name| folder.join("plugins").join(name).is_dir())
}

/// A line of cargo about a file it made, as far as it matters here.
#[derive(Deserialize)]
struct Artifact {
    target: ArtifactTarget,
    filenames: Vec<PathBuf>,
}

#[derive(Deserialize)]
struct ArtifactTarget {
    name: String,
}

fn built(name: &'static str, lines: &[String]) -> anyhow::Result<Built> {
    let artifacts = lines.iter().filter_map(|line| serde_json::from_str::<Artifact>(line).ok());
    // Cargo names libraries with underscores.
    let mut own = artifacts.filter(|artifact| artifact.target.name.replace('_', "-") == name);
    let wasm = own.find_map(|artifact| {
        artifact
            .filenames
            .into_iter()
            .find(|file| file.extension().is_some_and(|extension| extension == "wasm"))
    });
    wasm.map(|wasm| Built { name, wasm })
        .with_context(|| format!("failed to find the file that cargo made of plugin {name}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tree_is_found_from_inside_of_it() {
        let folder = tempfile::tempdir().expect("a folder");
        let root = folder.path().canonicalize().expect("it exists");
        let inner = root.join("plugins/router/src");
        for name in PLUGINS {
            std::fs::create_dir_all(root.join("plugins").join(name)).expect("writable");
        }
        std::fs::create_dir_all(&inner).expect("writable");
        assert_eq!(around(&inner), None, "there is no Cargo.toml");
        std::fs::write(root.join("Cargo.toml"), "[workspace]").expect("writable");
        assert_eq!(around(&inner), Some(root.clone()));
        assert_eq!(Workspace::find(Some(&root)).expect("given").root(), root);
        let error = Workspace::find(Some(&inner)).expect_err("not the root").to_string();
        assert!(error.contains("is not the source tree"), "{error}");
    }

    #[test]
    fn the_file_of_a_plugin_is_the_one_that_cargo_names() {
        let lines = [
            r#"{"reason":"compiler-artifact","target":{"name":"serde"},"filenames":["/t/libserde.rlib"]}"#,
            r#"{"reason":"build-script-executed","package_id":"x"}"#,
            r#"{"reason":"compiler-artifact","target":{"name":"auth_jwt"},"filenames":["/t/auth_jwt.d","/t/auth_jwt.wasm"]}"#,
            r#"{"reason":"build-finished","success":true}"#,
        ]
        .map(str::to_owned);
        let expected = Built { name: "auth-jwt", wasm: "/t/auth_jwt.wasm".into() };
        assert_eq!(built("auth-jwt", &lines).expect("named"), expected);
        assert!(built("router", &lines).is_err());
    }
}
