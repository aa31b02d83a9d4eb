//! The plugin folder, handled the way careful operators do.

use std::fs;
use std::path::{Path, PathBuf};

/// A folder that a gateway watches.
#[derive(Debug, Clone)]
pub struct Folder {
    path: PathBuf,
}

impl Folder {
    /// Makes the folder.
    pub fn create(path: PathBuf) -> Self {
        fs::create_dir_all(&path).expect("a folder can be made");
        Self { path }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Drops a plugin: settings first (empty text for none), then `NAME.wasm`, each complete at once.
    pub fn plugin(&self, name: &str, wasm: &Path, settings: &str) {
        if !settings.is_empty() {
            self.settings(name, settings);
        }
        let bytes =
            fs::read(wasm).unwrap_or_else(|error| panic!("failed to read {}: {error}", wasm.display()));
        self.put(&format!("{name}.wasm"), &bytes);
    }

    /// Replaces the settings of a plugin.
    pub fn settings(&self, name: &str, settings: &str) {
        self.put(&format!("{name}.toml"), settings.as_bytes());
    }

    /// Writes a file under a name the gateway ignores and renames it: nobody sees half of it.
    pub fn put(&self, file: &str, content: &[u8]) {
        let temporary = self.path.join(format!(".{file}.tmp"));
        fs::write(&temporary, content).expect("a file can be written");
        fs::rename(temporary, self.path.join(file)).expect("a file can be renamed");
    }

    /// Takes a file out.
    pub fn remove(&self, file: &str) {
        fs::remove_file(self.path.join(file)).expect("the file is there");
    }

    /// Renames a file within the folder.
    pub fn rename(&self, from: &str, to: &str) {
        fs::rename(self.path.join(from), self.path.join(to)).expect("the file is there");
    }
}
