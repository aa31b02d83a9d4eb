//! `gateway init`: begins a gateway of one's own.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, ensure};

use super::{CONFIG_FILE, Failure, print};
use crate::plugin_tools::files::{Mode, check_empty, create};
use crate::plugin_tools::folder::PluginFolder;
use crate::plugin_tools::random::random_text;
use crate::plugin_tools::shipped::{Module, Shipped, Source};

/// The plugins of a new gateway.
const PLUGINS: [&str; 3] = ["auth-jwt", "rate-limit", "router"];

const CONFIG: &str = include_str!("init/gateway.txt");
const PAGE: &str = include_str!("init/page.txt");
const README: &str = include_str!("init/readme.txt");

/// Begin a gateway of your own: a configuration, plugins with settings, and a page
///
/// Asks nothing. Writes a small commented gateway.toml, a plugin folder with auth-jwt (with a secret of its
/// own), rate-limit and router, a page that connects, and a README with the next commands. Nothing that
/// exists is overwritten.
///
/// The plugins come from this program if it carries them, or else are built in the source tree of the
/// gateway.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  gateway init my-gateway
  cd my-gateway && gateway serve --config gateway.toml --page page.html")]
pub(super) struct Arguments {
    /// The folder to write, new or empty
    #[arg(value_name = "DIR")]
    folder: PathBuf,

    /// The source tree to build the plugins in
    #[arg(long, value_name = "DIR")]
    source: Option<PathBuf>,
}

pub(super) fn run(arguments: &Arguments) -> Result<(), Failure> {
    let Arguments { folder, source } = arguments;
    let made = || {
        check_empty(folder)?;
        let modules = Source::find(source.as_deref())?.modules(&PLUGINS)?;
        write(folder, &modules)
    };
    let folder = made().map_err(Failure::Unexpected)?;
    print(&format!(
        "\
Made a gateway in {folder}
  gateway.toml   its settings, with a key for its HTTP API
  plugins/       its rules: {plugins}, each with a settings file
  page.html      a page that connects to it

Next, in that folder:
  gateway serve --config gateway.toml --page page.html
                             serve, with the page at http://localhost:8000
  gateway token --user ann   make a token for the page, in a second terminal
  README.md                  says what to try, and how to change a rule
",
        folder = folder.display(),
        plugins = PLUGINS.join(", "),
    ))
}

/// Writes the files; returns the absolute path of the folder.
fn write(folder: &Path, modules: &[Module]) -> anyhow::Result<PathBuf> {
    let plugins = PluginFolder::made(&folder.join("plugins"))?;
    for Module { name, wasm } in modules {
        let shipped = Shipped::find(name)?;
        plugins.put(name, shipped.order, wasm, shipped.settings()?.as_deref().map(str::as_bytes))?;
    }
    let config = CONFIG.replace("{{api_key}}", &random_text()?);
    // The key is for the owner only.
    let files = [
        (CONFIG_FILE, &*config, Mode::Private),
        ("page.html", PAGE, Mode::Public),
        ("README.md", README, Mode::Public),
    ];
    for (name, text, mode) in files {
        ensure!(create(&folder.join(name), text.as_bytes(), mode)?, "{name} was there already");
    }
    folder.canonicalize().with_context(|| format!("failed to open {}", folder.display()))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;
    use crate::config::Config;

    fn modules() -> Vec<Module> {
        PLUGINS.map(|name| Module { name, wasm: name.as_bytes().to_vec() }).into()
    }

    #[test]
    fn a_new_gateway_is_complete_and_its_secrets_are_its_own() {
        let place = tempfile::tempdir().expect("a folder");
        let folder = write(&place.path().join("mine"), &modules()).expect("writable");
        let config = Config::load(&folder.join("gateway.toml")).expect("a valid configuration");
        assert_eq!(config.plugins.folder, folder.join("plugins"));
        assert_eq!(config.admin.api_key.expect("a key").expose().len(), 32);
        for plugin in ["10-auth-jwt", "20-rate-limit", "50-router"] {
            for extension in ["wasm", "toml"] {
                assert!(folder.join("plugins").join(plugin).with_extension(extension).is_file(), "{plugin}");
            }
        }
        for secret in ["gateway.toml", "plugins/10-auth-jwt.toml"] {
            let mode = fs::metadata(folder.join(secret)).expect("there").permissions().mode();
            assert_eq!(mode & 0o777, 0o600, "{secret}");
        }
        let other = write(&place.path().join("other"), &modules()).expect("writable");
        for file in ["gateway.toml", "plugins/10-auth-jwt.toml"] {
            let text = |folder: &Path| fs::read_to_string(folder.join(file)).expect("there");
            assert!(!text(&folder).contains("{{"), "{file}");
            assert_ne!(text(&folder), text(&other), "{file}");
        }
    }

    #[test]
    fn a_folder_with_something_in_it_is_left_alone() {
        let folder = tempfile::tempdir().expect("a folder");
        assert!(check_empty(folder.path()).is_ok() && check_empty(&folder.path().join("new")).is_ok());
        fs::write(folder.path().join("mine"), "mine").expect("writable");
        let error = check_empty(folder.path()).expect_err("not empty").to_string();
        assert!(error.contains("\"mine\"") && error.contains("nothing was written"), "{error}");
    }

    #[test]
    fn the_page_has_little_code() {
        let script = PAGE.split("<script>").nth(1).and_then(|rest| rest.split("</script>").next());
        assert!(script.expect("a script").trim().lines().count() <= 20);
    }
}
