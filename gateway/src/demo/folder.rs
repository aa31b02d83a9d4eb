//! `Folder` is the plugin folder of the demo. Plugins are replaced by the latest build; settings are created
//! once and belong to the user from then on.

use std::path::Path;

use anyhow::{Context as _, bail};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;

use crate::plugin_tools::files::{Mode, create};
use crate::plugin_tools::folder::PluginFolder;
use crate::plugin_tools::random::random_bytes;
use crate::plugin_tools::shipped::{Module, Shipped};
use crate::plugin_tools::token::AuthSettings;

const ROUTER_SETTINGS: &str = include_str!("router.toml");

/// The plugins of the demo.
pub(super) const PLUGINS: [&str; 3] = ["auth-jwt", "router", "echo"];

/// A complete plugin folder.
pub(super) struct Folder {
    folder: PluginFolder,
    secret: Vec<u8>,
}

impl Folder {
    /// Creates the folder if it is missing, and adds the plugins and the missing settings.
    pub(super) fn fill(path: &Path, modules: &[Module]) -> anyhow::Result<Self> {
        let folder = PluginFolder::made(path)?;
        let settings_of = |name: &str| {
            let shipped = Shipped::find(name)?;
            folder.place(name, shipped.order).map(|place| place.with_extension("toml"))
        };
        // Settings first: a plugin without its settings is refused for a moment.
        let secret = secret(&settings_of("auth-jwt")?)?;
        create(&settings_of("router")?, ROUTER_SETTINGS.as_bytes(), Mode::Public)?;
        for Module { name, wasm } in modules {
            folder.put(name, Shipped::find(name)?.order, wasm, None)?;
        }
        Ok(Self { folder, secret })
    }

    /// The folder, as an absolute path.
    pub(super) fn path(&self) -> &Path {
        self.folder.path()
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
    let unusable = || {
        format!("failed to find the secret in {}: delete the file, and a new one is made", settings.display())
    };
    match AuthSettings::read(settings).and_then(|settings| settings.only_secret()).with_context(unusable)? {
        Some(secret) => Ok(secret),
        None => bail!(unusable()),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn modules() -> Vec<Module> {
        PLUGINS.map(|name| Module { name, wasm: name.as_bytes().to_vec() }).into()
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
        let filled = Folder::fill(&folder.path().join("deep/plugins"), &modules()).expect("writable");
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
        let first = Folder::fill(&drop, &modules()).expect("writable");
        fs::write(drop.join("50-router.toml"), "# mine").expect("writable");
        fs::write(drop.join("50-router.wasm"), "old").expect("writable");
        let second = Folder::fill(&drop, &modules()).expect("writable");
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
