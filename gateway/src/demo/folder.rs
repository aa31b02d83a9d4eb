//! `Folder` is the plugin folder of the demo. Plugins are replaced by the latest build; settings are created
//! once and belong to the user from then on.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde::Deserialize;

use super::token::random_bytes;
use super::workspace::Built;
use crate::plugin_tools::files::{Mode, create, replace};

const ROUTER_SETTINGS: &str = include_str!("router.toml");

/// Name of each plugin's file without the extension: its place in the chain and its name.
fn stem(plugin: &str) -> &'static str {
    match plugin {
        "auth-jwt" => "10-auth-jwt",
        "router" => "50-router",
        _ => "90-echo",
    }
}

/// A complete plugin folder.
pub(super) struct Folder {
    path: PathBuf,
    secret: Vec<u8>,
}

impl Folder {
    /// Creates the folder if it is missing, and adds the plugins and the missing settings.
    pub(super) fn fill(path: &Path, built: &[Built]) -> anyhow::Result<Self> {
        fs::create_dir_all(path)
            .with_context(|| format!("failed to make the plugin folder {}", path.display()))?;
        let path = path.canonicalize().with_context(|| format!("failed to open {}", path.display()))?;
        // Settings first: a plugin without its settings is refused for a moment.
        let secret = secret(&path.join(stem("auth-jwt")).with_extension("toml"))?;
        create(&path.join(stem("router")).with_extension("toml"), ROUTER_SETTINGS.as_bytes(), Mode::Public)?;
        for Built { name, wasm } in built {
            let bytes = fs::read(wasm).with_context(|| format!("failed to read {}", wasm.display()))?;
            replace(&path.join(stem(name)).with_extension("wasm"), &bytes, Mode::Public)?;
        }
        Ok(Self { path, secret })
    }

    /// The folder, as an absolute path.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The secret that signs tokens.
    pub(super) fn secret(&self) -> &[u8] {
        &self.secret
    }
}

/// The secret in the settings of auth-jwt. An existing one is kept, so that tokens of open tabs stay valid
/// after a restart.
fn secret(settings: &Path) -> anyhow::Result<Vec<u8>> {
    let fresh = format!(
        "# Made by `gateway demo` for this folder. Delete the file to get another secret at the next start.\n\
         [config]\nsecret_base64 = \"{}\"\n",
        BASE64_STANDARD.encode(random_bytes::<32>()?)
    );
    create(settings, fresh.as_bytes(), Mode::Private)?;
    let text =
        fs::read_to_string(settings).with_context(|| format!("failed to read {}", settings.display()))?;
    let unusable = || {
        format!("failed to find the secret in {}: delete the file, and a new one is made", settings.display())
    };
    let AuthSettings { config } = toml::from_str(&text).with_context(unusable)?;
    match (config.secret, config.secret_base64) {
        (Some(text), None) => Ok(text.into_bytes()),
        (None, Some(text)) => BASE64_STANDARD.decode(text).with_context(unusable),
        _ => bail!(unusable()),
    }
}

/// The part of the settings that the demo needs to sign tokens.
#[derive(Deserialize)]
struct AuthSettings {
    config: AuthConfig,
}

#[derive(Deserialize)]
struct AuthConfig {
    secret: Option<String>,
    secret_base64: Option<String>,
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn built(folder: &Path) -> Vec<Built> {
        let made = |name: &'static str| {
            let wasm = folder.join(format!("{name}.wasm"));
            fs::write(&wasm, name).expect("writable");
            Built { name, wasm }
        };
        super::super::workspace::PLUGINS.map(made).into()
    }

    fn names(folder: &Path) -> Vec<String> {
        let entries =
            fs::read_dir(folder).expect("readable").map(|entry| entry.expect("readable").file_name());
        let mut names: Vec<_> = entries.map(|name| name.to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }

    #[test]
    fn the_folder_has_the_chain_in_its_order() {
        let folder = tempfile::tempdir().expect("a folder");
        let filled =
            Folder::fill(&folder.path().join("deep/plugins"), &built(folder.path())).expect("writable");
        let expected =
            ["10-auth-jwt.toml", "10-auth-jwt.wasm", "50-router.toml", "50-router.wasm", "90-echo.wasm"];
        assert_eq!(names(filled.path()), expected);
        assert_eq!(fs::read(filled.path().join("50-router.wasm")).expect("there"), b"router");
        let mode =
            |name: &str| fs::metadata(filled.path().join(name)).expect("there").permissions().mode() & 0o777;
        assert_eq!((mode("10-auth-jwt.toml"), mode("50-router.toml")), (0o600, 0o644));
    }

    #[test]
    fn a_second_start_keeps_the_secret_and_what_the_user_wrote_and_renews_the_plugins() {
        let folder = tempfile::tempdir().expect("a folder");
        let drop = folder.path().join("plugins");
        let built = built(folder.path());
        let first = Folder::fill(&drop, &built).expect("writable");
        fs::write(drop.join("50-router.toml"), "# mine").expect("writable");
        fs::write(drop.join("50-router.wasm"), "old").expect("writable");
        let second = Folder::fill(&drop, &built).expect("writable");
        assert_eq!(first.secret(), second.secret());
        assert_eq!(first.secret().len(), 32);
        assert_eq!(fs::read_to_string(drop.join("50-router.toml")).expect("there"), "# mine");
        assert_eq!(fs::read(drop.join("50-router.wasm")).expect("there"), b"router");
    }

    #[test]
    fn every_folder_has_a_secret_of_its_own() {
        let folder = tempfile::tempdir().expect("a folder");
        let secret_of = |name: &str| secret(&folder.path().join(name)).expect("writable");
        assert_ne!(secret_of("a.toml"), secret_of("b.toml"));
    }

    #[test]
    fn a_secret_of_the_users_own_is_used_and_a_broken_one_named() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("10-auth-jwt.toml");
        fs::write(&path, "[config]\nsecret = \"a secret of thirty-two bytes or more\"").expect("writable");
        assert_eq!(secret(&path).expect("usable"), b"a secret of thirty-two bytes or more");
        for broken in ["", "[config]", "[config]\nsecret_base64 = \"?\"", "nonsense"] {
            fs::write(&path, broken).expect("writable");
            let error = format!("{:#}", secret(&path).expect_err(broken));
            assert!(error.contains("10-auth-jwt.toml: delete the file"), "{error}");
        }
    }
}
