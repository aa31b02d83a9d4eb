//! [`PluginFile`]: a file in the plugin folder, with its settings. [`Contents`]: all of them.

use std::fmt;
use std::path::PathBuf;

use bytes::Bytes;
use gateway_plugin_grammar::name;
use sha2::{Digest as _, Sha256};

use crate::digest::hex;
use crate::plugin::load::{LoadCode, LoadError};

/// A plugin file and its settings file, as read.
#[derive(Debug, Clone)]
pub struct PluginFile {
    /// Path of the plugin file.
    pub path: PathBuf,
    /// Its name within the folder, with the extension.
    pub file: Box<str>,
    /// Its bytes, or why they could not be read.
    pub wasm: Result<Bytes, LoadError>,
    /// The bytes of the settings file, if there is one.
    pub settings: Option<Result<Bytes, LoadError>>,
    /// One of the files changed so recently that it may still be written: errors are not reported yet.
    pub fresh: bool,
}

/// A file or folder that looks like a plugin but is none.
#[derive(Debug, Clone)]
pub struct LeftOut {
    /// Its name within the folder.
    pub file: Box<str>,
    /// What it looks like.
    pub meant: Meant,
    /// Why it is not a plugin.
    pub error: LoadError,
    /// The bytes of the settings file of that name, if there is one.
    pub settings: Option<Result<Bytes, LoadError>>,
    /// It appeared so recently that it may still be renamed: not reported yet.
    pub fresh: bool,
}

/// What a [`LeftOut`] looks like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Meant {
    /// A plugin: the name is valid, but it is not a regular file. The running version stays.
    Plugin,
    /// A plugin whose name is invalid, or a file beyond the limit.
    Misnamed,
    /// Settings without their plugin.
    Settings,
    /// A folder with plugins.
    Folder,
}

/// Relevant contents of the folder at one time.
#[derive(Debug, Clone, Default)]
pub struct Contents {
    /// The plugins, in the order of their names.
    pub found: Vec<PluginFile>,
    /// Files and folders that look like plugins.
    pub left_out: Vec<LeftOut>,
}

impl From<Vec<PluginFile>> for Contents {
    fn from(found: Vec<PluginFile>) -> Self {
        Self { found, left_out: Vec::new() }
    }
}

impl LeftOut {
    /// Name of the plugin that it looks like. A folder, and a file whose name fits no plugin, keep their own
    /// name.
    pub fn plugin(&self) -> &str {
        if self.meant == Meant::Folder {
            return &self.file;
        }
        plugin_name(stem(&self.file)).unwrap_or(&self.file)
    }
}

/// A file name without the extension of plugins and settings, in any spelling.
fn stem(file: &str) -> &str {
    match file.rsplit_once('.') {
        Some((stem, extension))
            if extension.eq_ignore_ascii_case("wasm") || extension.eq_ignore_ascii_case("toml") =>
        {
            stem
        }
        _ => file,
    }
}

/// Identifies a version of a plugin.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Digest {
    wasm: [u8; 32],
    settings: [u8; 32],
}

impl Digest {
    /// Digest of a plugin file and its settings. For an unreadable file it depends on the error.
    pub(super) fn of(found: &PluginFile) -> Self {
        let hash = |bytes: &Result<Bytes, LoadError>| match bytes {
            Ok(bytes) => Sha256::digest(bytes),
            Err(error) => Sha256::digest(error.message()),
        };
        Self {
            wasm: hash(&found.wasm).into(),
            settings: found.settings.as_ref().map_or([0; 32], |settings| hash(settings).into()),
        }
    }

    /// Whether the plugin file is the same, whatever its settings.
    pub(super) fn has_module_of(&self, other: &Self) -> bool {
        self.wasm == other.wasm
    }

    /// SHA-256 of the plugin file in hexadecimal, as `sha256sum` prints it.
    pub fn wasm_hex(&self) -> String {
        hex(&self.wasm)
    }

    /// SHA-256 of the settings file in hexadecimal, if there is one.
    pub fn settings_hex(&self) -> Option<String> {
        (self.settings != [0; 32]).then(|| hex(&self.settings))
    }

    /// From the digests of both files in hexadecimal.
    pub fn from_hex(wasm: &str, settings: Option<&str>) -> Option<Self> {
        Some(Self { wasm: bytes(wasm)?, settings: settings.map_or(Some([0; 32]), bytes)? })
    }

    /// The first twelve digits of [`wasm_hex`](Self::wasm_hex), for logs.
    pub fn short(&self) -> String {
        hex(&self.wasm[..6])
    }
}

fn bytes(hex: &str) -> Option<[u8; 32]> {
    if hex.len() != 64 || !hex.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        return None;
    }
    let mut bytes = [0; 32];
    for (byte, digits) in bytes.iter_mut().zip(hex.as_bytes().chunks(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?;
    }
    Some(bytes)
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.short())
    }
}

/// The name of a plugin: its file name without the extension and without a leading number and dash, which
/// only give its position in the chain.
///
/// # Errors
///
/// What is wrong with the name.
pub fn plugin_name(file: &str) -> Result<&str, LoadError> {
    name::plugin_name(file).map_err(|why| LoadError::new(LoadCode::InvalidName, why))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_leading_number_is_order_and_not_name() {
        for (file, name) in [
            ("10-auth-jwt.wasm", "auth-jwt"),
            ("auth.wasm", "auth"),
            ("007-a.wasm", "a"),
            ("2fa.wasm", "2fa"),
            ("10.wasm", "10"),
            ("-a.wasm", "-a"),
        ] {
            assert_eq!(plugin_name(file).expect(file), name);
        }
    }

    #[test]
    fn a_name_fits_into_logs_metrics_and_addresses() {
        for bad in
            ["10-.wasm", ".wasm", "90-router.canary.wasm", "a b.wasm", "é.wasm", "a\n.wasm", &"x".repeat(65)]
        {
            assert_eq!(plugin_name(bad).expect_err(bad).code(), LoadCode::InvalidName, "{bad}");
        }
    }

    #[test]
    fn either_file_makes_another_version() {
        let found = |wasm: &'static str, settings: Option<&'static str>| PluginFile {
            path: PathBuf::new(),
            file: "a.wasm".into(),
            wasm: Ok(Bytes::from_static(wasm.as_bytes())),
            settings: settings.map(|text| Ok(Bytes::from_static(text.as_bytes()))),
            fresh: false,
        };
        let digest = |wasm, settings| Digest::of(&found(wasm, settings));
        assert_eq!(digest("a", Some("s")), digest("a", Some("s")));
        assert_ne!(digest("a", Some("s")), digest("b", Some("s")));
        assert_ne!(digest("a", Some("s")), digest("a", Some("t")));
        assert_ne!(digest("a", Some("")), digest("a", None));
        assert_eq!(
            digest("abc", None).wasm_hex(),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
        assert_eq!(digest("abc", None).short(), "ba7816bf8f01");
    }
}
