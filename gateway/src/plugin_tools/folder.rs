//! [`PluginFolder`] puts plugins into the plugin folder of a gateway, one file at a time and each in one
//! step.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail, ensure};

use super::files::{Mode, create, replace};
use crate::plugin::registry::plugin_name;

/// The plugin folder of a gateway.
#[derive(Debug, Clone)]
pub(crate) struct PluginFolder(PathBuf);

/// What happened to the files of a plugin.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Placed {
    /// The plugin file.
    pub(crate) wasm: PathBuf,
    /// The settings file, if there is one.
    pub(crate) settings: Option<Settings>,
}

/// What happened to a settings file.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Settings {
    /// It was written.
    Written(PathBuf),
    /// It was there and is as it was.
    Kept(PathBuf),
}

impl PluginFolder {
    /// A folder that exists.
    ///
    /// # Errors
    ///
    /// Fails if there is no such folder.
    pub(crate) fn existing(path: &Path) -> anyhow::Result<Self> {
        ensure!(
            path.is_dir(),
            "{} is not a folder: name the plugin folder of a gateway, `plugins.folder` in its configuration",
            path.display()
        );
        Ok(Self(path.to_owned()))
    }

    /// A folder that is made if it is missing; its path becomes absolute.
    pub(crate) fn made(path: &Path) -> anyhow::Result<Self> {
        fs::create_dir_all(path)
            .with_context(|| format!("failed to make the plugin folder {}", path.display()))?;
        path.canonicalize().map(Self).with_context(|| format!("failed to open {}", path.display()))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    /// The file of a plugin.
    ///
    /// # Errors
    ///
    /// Fails if the folder cannot be read, or if two files have the name: the gateway runs one of them and
    /// refuses the other.
    pub(crate) fn file_of(&self, name: &str) -> anyhow::Result<Option<PathBuf>> {
        let failed = || format!("failed to read the folder {}", self.0.display());
        let mut files = Vec::new();
        for entry in fs::read_dir(&self.0).with_context(failed)? {
            let file = entry.with_context(failed)?.file_name();
            let file = file.to_string_lossy();
            if file.ends_with(".wasm") && plugin_name(&file).is_ok_and(|other| other == name) {
                files.push(file.into_owned());
            }
        }
        files.sort();
        if let [first, second, ..] = &files[..] {
            bail!(
                "{} has two plugins named {name}, {first} and {second}: remove or rename one of them",
                self.0.display()
            );
        }
        Ok(files.pop().map(|file| self.0.join(file)))
    }

    /// Path of a plugin in the folder: of its file, or else the one that it gets at this place of the chain.
    pub(crate) fn place(&self, name: &str, order: u16) -> anyhow::Result<PathBuf> {
        Ok(self.file_of(name)?.unwrap_or_else(|| self.0.join(format!("{order:02}-{name}.wasm"))))
    }

    /// Writes a plugin, over the file that it has in the folder. Existing settings stay as they are.
    ///
    /// # Errors
    ///
    /// Fails if a file cannot be written; the gateway never sees half of one.
    pub(crate) fn put(
        &self,
        name: &str,
        order: u16,
        wasm: &[u8],
        settings: Option<&[u8]>,
    ) -> anyhow::Result<Placed> {
        let place = self.place(name, order)?;
        let settings_file = place.with_extension("toml");
        // Settings first: a plugin without its settings is refused for a moment.
        let settings = match settings {
            Some(bytes) if create(&settings_file, bytes, Mode::Private)? => {
                Some(Settings::Written(settings_file))
            }
            _ if is_there(&settings_file)? => Some(Settings::Kept(settings_file)),
            _ => None,
        };
        replace(&place, wasm, Mode::Public)?;
        Ok(Placed { wasm: place, settings })
    }
}

fn is_there(path: &Path) -> anyhow::Result<bool> {
    match fs::symlink_metadata(path) {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error).with_context(|| format!("failed to look at {}", path.display())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plugin_takes_its_own_place_and_leaves_settings_alone() {
        let temporary = tempfile::tempdir().expect("a folder");
        let folder = PluginFolder::made(&temporary.path().join("deep/plugins")).expect("writable");
        fs::write(folder.path().join("50-other-shout.wasm"), "other").expect("writable");
        let put = |order, wasm: &str, settings: Option<&str>| {
            folder.put("shout", order, wasm.as_bytes(), settings.map(str::as_bytes)).expect("writable")
        };
        let at = |name: &str| folder.path().join(name);
        let first = put(60, "one", Some("first"));
        let expected =
            Placed { wasm: at("60-shout.wasm"), settings: Some(Settings::Written(at("60-shout.toml"))) };
        assert_eq!(first, expected);
        let second = put(70, "two", Some("second"));
        let expected =
            Placed { wasm: at("60-shout.wasm"), settings: Some(Settings::Kept(at("60-shout.toml"))) };
        assert_eq!(second, expected, "it has a place already");
        assert_eq!(put(70, "three", None), expected);
        let read = |name: &str| fs::read_to_string(at(name)).expect(name);
        assert_eq!((read("60-shout.wasm"), read("60-shout.toml")), ("three".to_owned(), "first".to_owned()));
        assert_eq!(read("50-other-shout.wasm"), "other");
        assert_eq!(fs::read_dir(folder.path()).expect("readable").count(), 3, "nothing else is left");
    }

    #[test]
    fn a_plugin_without_settings_gets_none() {
        let temporary = tempfile::tempdir().expect("a folder");
        let folder = PluginFolder::existing(temporary.path()).expect("there");
        assert_eq!(folder.put("echo", 90, b"echo", None).expect("writable").settings, None);
        assert_eq!(folder.file_of("echo").expect("readable"), Some(temporary.path().join("90-echo.wasm")));
        assert_eq!(folder.file_of("router").expect("readable"), None);
    }

    #[test]
    fn a_name_that_two_files_have_is_an_error() {
        let temporary = tempfile::tempdir().expect("a folder");
        let folder = PluginFolder::existing(temporary.path()).expect("there");
        for file in ["10-shout.wasm", "60-shout.wasm"] {
            fs::write(temporary.path().join(file), "x").expect("writable");
        }
        let error = folder.put("shout", 50, b"y", None).expect_err("ambiguous").to_string();
        assert!(error.contains("10-shout.wasm and 60-shout.wasm: remove or rename one"), "{error}");
    }

    #[test]
    fn a_folder_that_is_not_there_is_named() {
        let error = PluginFolder::existing(Path::new("/nonexistent")).expect_err("missing").to_string();
        assert!(error.contains("/nonexistent") && error.contains("plugins.folder"), "{error}");
    }
}
