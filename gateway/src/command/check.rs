//! `gateway check`: checks the configuration and every plugin without serving.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;

use super::{Failure, configuration, print};
use crate::config::Plugins;
use crate::plugin::grants::Grants;
use crate::plugin::load::LoadError;
use crate::plugin::registry::{Checked, LeftOut, Meant, Registry};
use crate::wasm::{Loader, LoaderConfig};
use crate::watch;

/// Check the configuration and every plugin, without serving
///
/// Run it before you start a gateway with a new configuration or new plugins. It prints every error in the
/// configuration. If there is none, it compiles and instantiates each plugin, gives it its settings as at a
/// start, and prints one line for it. The exit code is 3 for an error in the configuration, and 4 for a
/// refused plugin.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "Example:\n  gateway check --config gateway.toml")]
pub(super) struct Arguments {
    /// The configuration file; without it the command checks the defaults
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

pub(super) fn run(arguments: &Arguments) -> Result<(), Failure> {
    let config = configuration(arguments.config.as_deref())?;
    let mut report = String::new();
    let origin = arguments.config.as_deref().unwrap_or(Path::new("the default configuration"));
    let _ = writeln!(report, "ok       {}", origin.display());
    for warning in config.warnings() {
        let _ = writeln!(report, "warning  {warning}");
    }
    let refused = plugins(&config.plugins, &mut report);
    print(&report)?;
    match refused? {
        0 => Ok(()),
        1 => Err(Failure::Plugins("1 plugin is refused".to_owned())),
        count => Err(Failure::Plugins(format!("{count} plugins are refused"))),
    }
}

/// Checks the plugins; returns how many are refused.
fn plugins(plugins: &Plugins, report: &mut String) -> Result<usize, Failure> {
    let folder = &plugins.folder;
    let contents =
        watch::scan(folder, &plugins.into()).map_err(|error| Failure::Plugins(error.to_string()))?;
    let found = contents.found;
    if found.is_empty() {
        let _ = writeln!(
            report,
            "warning  {}: no plugins; the rules of the channels decide alone",
            folder.display()
        );
    }
    let loader = Loader::new(&LoaderConfig::default())
        .context("failed to check the plugins")
        .map_err(Failure::Runtime)?;
    let checked = Registry::check(&loader, &found);
    for (file, result) in &checked {
        let _ = writeln!(report, "{}", line(file, result));
    }
    let mut refused = checked.values().filter(|result| result.is_err()).count();
    for LeftOut { file, meant, error, .. } in &contents.left_out {
        // A subfolder next to plugins does no harm.
        let harmless = *meant == Meant::Folder && !found.is_empty();
        refused += usize::from(!harmless);
        let word = if harmless { "warning " } else { "refused " };
        let _ = writeln!(report, "{word} {file}: {}: {}", error.code(), error.message());
    }
    let live = |name: &str| {
        checked.values().any(|result| result.as_ref().is_ok_and(|checked| &*checked.name == name))
    };
    for name in plugins.required.iter().filter(|name| !live(name)) {
        refused += 1;
        let _ = writeln!(report, "refused  {name}: plugins.required names it, and it is not there");
    }
    Ok(refused)
}

fn line(file: &str, result: &Result<Checked, LoadError>) -> String {
    match result {
        Ok(Checked { name, about, grants, digest }) => {
            let version = about.version.as_deref().unwrap_or("of unknown version");
            let hooks: Vec<_> = about.hooks.names().collect();
            let (requested, grants) = (or_nothing(&about.requested), or_nothing(grants));
            format!(
                "ok       {file}: {name} {version}, {}, asks for {requested}, is granted {grants}, sha256 {}",
                hooks.join(" "),
                digest.short()
            )
        }
        Err(error) => format!("refused  {file}: {}: {}", error.code(), error.message()),
    }
}

fn or_nothing(grants: &Grants) -> String {
    if grants.is_empty() { "nothing".to_owned() } else { grants.names().join(", ") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use crate::plugin::load::LoadCode;

    fn of(folder: &Path) -> Plugins {
        Plugins { folder: folder.to_owned(), ..Config::default().plugins }
    }

    #[test]
    fn a_folder_that_is_missing_is_named() {
        let missing = Path::new("/nonexistent/plugins");
        let failure = plugins(&of(missing), &mut String::new()).expect_err("there is no such folder");
        assert_eq!(failure.exit_code(), 4);
        assert!(failure.to_string().contains("/nonexistent/plugins"), "{failure}");
    }

    #[test]
    fn a_file_that_is_no_plugin_is_refused_in_a_line_of_its_own() {
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::write(folder.path().join("10-text.wasm"), "hello").expect("writable");
        std::fs::write(folder.path().join("notes.txt"), "hello").expect("writable");
        let mut report = String::new();
        assert_eq!(plugins(&of(folder.path()), &mut report).expect("readable"), 1);
        assert!(report.starts_with("refused  10-text.wasm: not-wasm: "), "{report}");
        assert_eq!(report.lines().count(), 1, "{report}");
    }

    #[test]
    fn no_plugins_at_all_are_worth_a_warning() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut report = String::new();
        assert_eq!(plugins(&of(folder.path()), &mut report).expect("readable"), 0);
        assert!(report.starts_with("warning  "), "{report}");
    }

    #[test]
    fn a_refusal_has_its_code_and_sentence() {
        let error = LoadError::new(LoadCode::Truncated, "ends too early");
        assert_eq!(line("10-a.wasm", &Err(error)), "refused  10-a.wasm: truncated: ends too early");
    }
}
