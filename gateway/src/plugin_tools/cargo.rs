//! `Cargo` builds for WebAssembly with the user's Rust toolchain.

use std::ffi::{OsStr, OsString};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, bail, ensure};
use serde::Deserialize;
use toml::Table;

use crate::telemetry;

/// The default target of plugins.
pub(crate) const TARGET: &str = "wasm32-wasip1";
/// The targets that plugin authors use.
pub(crate) const TARGETS: [&str; 2] = [TARGET, "wasm32-wasip2"];

/// Settings that make a plugin small and fast to load. A crate that sets one of these in its release profile
/// keeps its value.
const SMALL: [(&str, &str); 4] =
    [("lto", "true"), ("codegen-units", "1"), ("panic", "\"abort\""), ("strip", "true")];

/// Runs cargo in a folder, with the toolchain that the folder selects.
#[derive(Debug)]
pub(crate) struct Cargo {
    folder: PathBuf,
}

/// A WebAssembly file that cargo built from a library.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Artifact {
    /// The crate's `Cargo.toml`.
    pub(crate) manifest: PathBuf,
    /// Name of the library, with dashes as in crate names.
    pub(crate) library: String,
    /// The file.
    pub(crate) wasm: PathBuf,
}

/// A workspace as cargo sees it, with the needed fields. A crate without one is a workspace of its own.
#[derive(Debug, Deserialize)]
pub(crate) struct Workspace {
    /// Where cargo puts what it builds, whatever names this folder: an environment variable, a configuration
    /// file or a default.
    #[serde(rename = "target_directory")]
    pub(crate) target: PathBuf,
    #[serde(rename = "workspace_root")]
    root: PathBuf,
    packages: Vec<Package>,
}

#[derive(Debug, Deserialize)]
struct Package {
    manifest_path: PathBuf,
    targets: Vec<Target>,
}

impl Workspace {
    /// The `Cargo.toml` of the whole workspace.
    pub(crate) fn manifest(&self) -> PathBuf {
        self.root.join("Cargo.toml")
    }

    /// Checks that the crate with this `Cargo.toml` has a library that becomes a WebAssembly file.
    ///
    /// # Errors
    ///
    /// What is missing in the crate.
    pub(crate) fn check_library(&self, manifest: &Path) -> anyhow::Result<()> {
        let targets = self.packages.iter().filter(|package| package.manifest_path == manifest);
        let mut targets = targets.flat_map(|package| &package.targets);
        ensure!(
            targets.any(Target::is_wasm_library),
            "{} describes no plugin, which is a library in src/lib.rs: add `crate-type = [\"cdylib\"]` under [lib]",
            manifest.display()
        );
        Ok(())
    }
}

impl Cargo {
    pub(crate) fn new(folder: impl Into<PathBuf>) -> Self {
        Self { folder: folder.into() }
    }

    /// Installs the targets that the toolchain lacks. Fails only if `needed` is missing.
    pub(crate) fn add_targets(&self, targets: &[&str], needed: &str) -> anyhow::Result<()> {
        let mut missing = Vec::new();
        for target in targets {
            if !self.has_target(target)? {
                missing.push(*target);
            }
        }
        if missing.is_empty() {
            return Ok(());
        }
        telemetry::say(&format!("Adding the Rust targets {} with rustup", missing.join(" and ")));
        let added = self.command("rustup").args(["target", "add"]).args(&missing).status();
        let added = added.as_ref().is_ok_and(std::process::ExitStatus::success);
        ensure!(
            added || !missing.contains(&needed),
            "failed to add the Rust target {needed}: add it the way your Rust toolchain was installed, \
             for example with `rustup target add {needed}`"
        );
        Ok(())
    }

    fn has_target(&self, target: &str) -> anyhow::Result<bool> {
        let output = self.command("rustc").args(["--print", "target-libdir", "--target", target]).output();
        let output = output.with_context(|| not_started("rustc"))?;
        // The path is printed whether or not it exists.
        let folder = String::from_utf8_lossy(&output.stdout);
        Ok(output.status.success() && Path::new(folder.trim()).is_dir())
    }

    /// The profile for plugins in this folder's workspace: `plugin` if it exists, else `release` with the
    /// missing settings added.
    pub(crate) fn plugin_profile(&self) -> anyhow::Result<Vec<OsString>> {
        let manifest = self.workspace()?.manifest();
        let text = std::fs::read_to_string(&manifest)
            .with_context(|| format!("failed to read {}", manifest.display()))?;
        let manifest: Table =
            toml::from_str(&text).with_context(|| format!("failed to read {}", manifest.display()))?;
        Ok(profile_of(&manifest))
    }

    /// The workspace of this folder's crate.
    ///
    /// # Errors
    ///
    /// Cargo's reason, for example that the workspace around the folder does not list the crate.
    pub(crate) fn workspace(&self) -> anyhow::Result<Workspace> {
        let mut command = self.command(program());
        let output = command.args(["metadata", "--no-deps", "--format-version", "1"]).output();
        let output = output.with_context(|| not_started("cargo"))?;
        ensure!(
            output.status.success(),
            "failed to find the crate of {}: {}",
            self.folder.display(),
            String::from_utf8_lossy(&output.stderr).trim()
        );
        serde_json::from_slice(&output.stdout).context("failed to read what cargo says of the workspace")
    }

    /// Builds, and returns the WebAssembly libraries. The progress goes to standard error.
    pub(crate) fn build(
        &self,
        arguments: impl IntoIterator<Item = impl AsRef<OsStr>>,
    ) -> anyhow::Result<Vec<Artifact>> {
        let mut command = self.command(program());
        command.args(["build", "--message-format=json-render-diagnostics"]).args(arguments);
        let mut cargo = command.stdout(Stdio::piped()).spawn().with_context(|| not_started("cargo"))?;
        let messages = BufReader::new(cargo.stdout.take().context("cargo has no output")?);
        let lines: Vec<String> =
            messages.lines().collect::<Result<_, _>>().context("failed to read what cargo says")?;
        let status = cargo.wait().context("failed to wait for cargo")?;
        if !status.success() {
            bail!("failed to build: cargo ended with {status}, see its messages above");
        }
        Ok(lines.iter().filter_map(|line| artifact(line)).collect())
    }

    fn command(&self, program: impl Into<OsString>) -> Command {
        let mut command = Command::new(program.into());
        command.current_dir(&self.folder).stdin(Stdio::null());
        command
    }
}

fn not_started(program: &str) -> String {
    format!(
        "failed to run {program}, which builds the plugins: install Rust from https://rustup.rs, or put the folder of \
         {program} into PATH"
    )
}

fn program() -> OsString {
    std::env::var_os("CARGO").unwrap_or_else(|| OsString::from("cargo"))
}

fn profile_of(manifest: &Table) -> Vec<OsString> {
    let profile = |name: &str| manifest.get("profile").and_then(|profiles| profiles.get(name));
    if profile("plugin").is_some() {
        return vec!["--profile".into(), "plugin".into()];
    }
    let own = profile("release").and_then(toml::Value::as_table);
    let missing = SMALL.iter().filter(|(key, _)| own.is_none_or(|own| !own.contains_key(*key)));
    let settings =
        missing.flat_map(|(key, value)| ["--config".into(), format!("profile.release.{key}={value}").into()]);
    std::iter::once("--release".into()).chain(settings).collect()
}

/// A message of cargo about a file that it built, with the needed fields.
#[derive(Deserialize)]
struct Message {
    manifest_path: PathBuf,
    target: Target,
    filenames: Vec<PathBuf>,
}

#[derive(Debug, Deserialize)]
struct Target {
    name: String,
    #[serde(default)]
    crate_types: Vec<String>,
}

impl Target {
    fn is_wasm_library(&self) -> bool {
        self.crate_types.iter().any(|kind| kind == "cdylib")
    }
}

fn artifact(line: &str) -> Option<Artifact> {
    let message: Message = serde_json::from_str(line).ok()?;
    if !message.target.is_wasm_library() {
        return None;
    }
    let is_wasm = |file: &PathBuf| file.extension().is_some_and(|extension| extension == "wasm");
    let wasm = message.filenames.into_iter().find(is_wasm)?;
    // Cargo names libraries with underscores.
    Some(Artifact { manifest: message.manifest_path, library: message.target.name.replace('_', "-"), wasm })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_of_a_plugin_is_the_one_that_cargo_names() {
        let lines = [
            r#"{"reason":"compiler-artifact","manifest_path":"/s/Cargo.toml","target":{"name":"serde","crate_types":["lib"]},"filenames":["/t/libserde.rlib"]}"#,
            r#"{"reason":"build-script-executed","package_id":"x"}"#,
            r#"{"reason":"compiler-artifact","manifest_path":"/a/Cargo.toml","target":{"name":"auth_jwt","crate_types":["cdylib"]},"filenames":["/t/auth_jwt.d","/t/auth_jwt.wasm"]}"#,
            r#"{"reason":"build-finished","success":true}"#,
        ];
        let found: Vec<_> = lines.iter().filter_map(|line| artifact(line)).collect();
        let expected = Artifact {
            manifest: "/a/Cargo.toml".into(),
            library: "auth-jwt".into(),
            wasm: "/t/auth_jwt.wasm".into(),
        };
        assert_eq!(found, [expected]);
    }

    #[test]
    fn a_plugin_is_built_small_whatever_its_crate_forgot() {
        let profile = |manifest: &str| {
            let arguments = profile_of(&toml::from_str(manifest).expect("toml"));
            arguments
                .iter()
                .map(|argument| argument.to_string_lossy().into_owned())
                .collect::<Vec<_>>()
                .join(" ")
        };
        assert_eq!(profile("[profile.plugin]\ninherits = 'release'"), "--profile plugin");
        assert_eq!(
            profile("[profile.release]\nlto = 'thin'\nstrip = false"),
            "--release --config profile.release.codegen-units=1 --config profile.release.panic=\"abort\""
        );
        assert_eq!(profile("[package]").matches("--config").count(), SMALL.len());
    }
}
