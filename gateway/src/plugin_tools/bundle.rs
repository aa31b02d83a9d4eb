//! [`Bundle`] is the plugins that a program file carries behind its code, so that one file is enough to run
//! them.
//!
//! The layout, from the end of the file backwards: [`MAGIC`], the lengths of the index and of the modules as
//! little-endian 64-bit numbers, the index as JSON, and the modules one after the other. Nothing reads it
//! when the gateway serves.

use std::fs::{self, File};
use std::io::{Read as _, Seek as _, SeekFrom};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, ensure};
use serde::{Deserialize, Serialize};

use crate::digest::sha256;

/// The last bytes of a program that carries plugins.
const MAGIC: &[u8; 16] = b"gateway-plugins1";
/// Magic and two lengths.
const TRAILER: u64 = 32;
/// Upper bound of the index.
const INDEX_BYTES_MAX: u64 = 1 << 20;

/// The plugins in a program file.
#[derive(Debug)]
pub(crate) struct Bundle {
    file: PathBuf,
    /// Where the first module begins: the length of the program itself.
    begin: u64,
    plugins: Vec<Carried>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Carried {
    name: String,
    bytes: u64,
    sha256: String,
}

impl Bundle {
    /// The bundle of the running program, if it has one.
    pub(crate) fn of_this_program() -> anyhow::Result<Option<Self>> {
        let program = std::env::current_exe().context("failed to find the file of this program")?;
        Self::open(&program)
    }

    fn open(file: &Path) -> anyhow::Result<Option<Self>> {
        let damaged =
            || format!("the plugins that {} carries are damaged: get the program again", file.display());
        let mut reader = File::open(file).with_context(|| format!("failed to open {}", file.display()))?;
        let length = reader.seek(SeekFrom::End(0)).with_context(damaged)?;
        if length < TRAILER {
            return Ok(None);
        }
        let mut trailer = [0; TRAILER as usize];
        reader.seek(SeekFrom::Start(length - TRAILER)).with_context(damaged)?;
        reader.read_exact(&mut trailer).with_context(damaged)?;
        let (lengths, magic) = trailer.split_at(16);
        if magic != MAGIC {
            return Ok(None);
        }
        let number = |bytes: &[u8]| bytes.try_into().map(u64::from_le_bytes).expect("eight bytes");
        let (index, modules) = (number(&lengths[..8]), number(&lengths[8..]));
        let before = length - TRAILER;
        let begin =
            before.checked_sub(index).and_then(|rest| rest.checked_sub(modules)).with_context(damaged)?;
        ensure!(index <= INDEX_BYTES_MAX, damaged());
        let mut json = vec![0; index as usize];
        reader.seek(SeekFrom::Start(before - index)).with_context(damaged)?;
        reader.read_exact(&mut json).with_context(damaged)?;
        let plugins: Vec<Carried> = serde_json::from_slice(&json).with_context(damaged)?;
        let sum = plugins.iter().try_fold(0_u64, |sum, plugin| sum.checked_add(plugin.bytes));
        ensure!(sum == Some(modules), damaged());
        Ok(Some(Self { file: file.to_owned(), begin, plugins }))
    }

    /// The names of the plugins.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.plugins.iter().map(|plugin| &*plugin.name)
    }

    /// The module of a plugin; `None` if it is not carried.
    ///
    /// # Errors
    ///
    /// Fails if the file cannot be read or the module differs from its digest.
    pub(crate) fn read(&self, name: &str) -> anyhow::Result<Option<Vec<u8>>> {
        let Some(position) = self.plugins.iter().position(|plugin| plugin.name == name) else {
            return Ok(None);
        };
        let plugin = &self.plugins[position];
        let offset: u64 = self.plugins[..position].iter().map(|plugin| plugin.bytes).sum();
        let failed = || format!("failed to read the plugin {name} from {}", self.file.display());
        let mut reader = File::open(&self.file).with_context(failed)?;
        reader.seek(SeekFrom::Start(self.begin + offset)).with_context(failed)?;
        let mut module = Vec::new();
        reader.take(plugin.bytes).read_to_end(&mut module).with_context(failed)?;
        ensure!(
            sha256(&module) == plugin.sha256,
            "the plugin {name} that {} carries is damaged: get the program again",
            self.file.display()
        );
        Ok(Some(module))
    }

    /// Writes a copy of a program that carries these plugins, in place of those that the program carries.
    ///
    /// # Errors
    ///
    /// Fails if a file cannot be read or written, and if the output is the program itself.
    pub(crate) fn write(program: &Path, output: &Path, plugins: &[(String, Vec<u8>)]) -> anyhow::Result<()> {
        let same = |path: &Path| path.canonicalize().ok();
        ensure!(
            same(output).is_none() || same(output) != same(program),
            "{} is the program itself: write the copy to another file",
            output.display()
        );
        let own = Self::open(program)?.map(|bundle| bundle.begin);
        let mut bytes = fs::read(program).with_context(|| format!("failed to read {}", program.display()))?;
        if let Some(own) = own {
            bytes.truncate(own as usize);
        }
        let mut index = Vec::new();
        let mut modules = 0;
        for (name, module) in plugins {
            bytes.extend_from_slice(module);
            modules += module.len() as u64;
            let sha256 = sha256(module);
            index.push(Carried { name: name.clone(), bytes: module.len() as u64, sha256 });
        }
        let index = serde_json::to_vec(&index).context("failed to write the index of the plugins")?;
        bytes.extend_from_slice(&index);
        bytes.extend_from_slice(&(index.len() as u64).to_le_bytes());
        bytes.extend_from_slice(&modules.to_le_bytes());
        bytes.extend_from_slice(MAGIC);
        let failed = || format!("failed to write {}", output.display());
        let temporary = output.with_extension(format!("{}.tmp", std::process::id()));
        let written = fs::write(&temporary, &bytes)
            .and_then(|()| fs::set_permissions(&temporary, fs::Permissions::from_mode(0o755)))
            .and_then(|()| fs::rename(&temporary, output));
        if written.is_err() {
            let _ = fs::remove_file(&temporary);
        }
        written.with_context(failed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plugins(texts: &[(&str, &str)]) -> Vec<(String, Vec<u8>)> {
        texts.iter().map(|(name, module)| ((*name).to_owned(), module.as_bytes().to_vec())).collect()
    }

    /// A folder with a program and the path of a copy.
    fn folder() -> (tempfile::TempDir, PathBuf, PathBuf) {
        let folder = tempfile::tempdir().expect("a folder");
        let (program, copy) = (folder.path().join("gateway"), folder.path().join("copy"));
        fs::write(&program, "the code of a program, longer than a trailer").expect("writable");
        (folder, program, copy)
    }

    #[test]
    fn a_copy_carries_plugins_and_is_otherwise_the_program() {
        let (_folder, program, copy) = folder();
        assert!(Bundle::open(&program).expect("readable").is_none());
        Bundle::write(&program, &copy, &plugins(&[("a", "module a"), ("b", "b"), ("c", "")]))
            .expect("written");
        let bundle = Bundle::open(&copy).expect("readable").expect("a bundle");
        assert_eq!(bundle.names().collect::<Vec<_>>(), ["a", "b", "c"]);
        let read = |name: &str| bundle.read(name).expect("whole");
        assert_eq!(read("a").as_deref(), Some(&b"module a"[..]));
        assert_eq!(read("b").as_deref(), Some(&b"b"[..]));
        assert_eq!(read("c").as_deref(), Some(&b""[..]));
        assert_eq!(read("d"), None);
        let code = fs::read(&program).expect("there");
        assert!(fs::read(&copy).expect("there").starts_with(&code));
        assert_eq!(fs::metadata(&copy).expect("there").permissions().mode() & 0o777, 0o755);
    }

    #[test]
    fn a_copy_of_a_copy_carries_its_own_plugins_only() {
        let (folder, program, copy) = folder();
        Bundle::write(&program, &copy, &plugins(&[("a", "old")])).expect("written");
        let second = folder.path().join("second");
        Bundle::write(&copy, &second, &plugins(&[("b", "new")])).expect("written");
        let bundle = Bundle::open(&second).expect("readable").expect("a bundle");
        assert_eq!(bundle.names().collect::<Vec<_>>(), ["b"]);
        assert_eq!(bundle.begin, fs::metadata(&program).expect("there").len());
    }

    #[test]
    fn a_damaged_copy_is_noticed() {
        let (_folder, program, copy) = folder();
        Bundle::write(&program, &copy, &plugins(&[("a", "module a")])).expect("written");
        let whole = fs::read(&copy).expect("there");
        let begin = fs::metadata(&program).expect("there").len() as usize;

        let mut changed = whole.clone();
        changed[begin] ^= 1;
        fs::write(&copy, &changed).expect("writable");
        let error = Bundle::open(&copy).expect("the index is whole").expect("a bundle").read("a");
        assert!(error.expect_err("changed").to_string().contains("is damaged"));

        // Lengths beyond the file.
        let mut changed = whole.clone();
        let lengths = whole.len() - 32;
        changed[lengths..lengths + 8].copy_from_slice(&u64::MAX.to_le_bytes());
        fs::write(&copy, &changed).expect("writable");
        assert!(format!("{:#}", Bundle::open(&copy).expect_err("too long")).contains("damaged"));

        // Cut off.
        fs::write(&copy, &whole[..whole.len() - 1]).expect("writable");
        assert!(Bundle::open(&copy).expect("readable").is_none());
    }

    #[test]
    fn the_program_does_not_overwrite_itself() {
        let (_folder, program, _) = folder();
        let error = Bundle::write(&program, &program, &[]).expect_err("itself").to_string();
        assert!(error.contains("is the program itself"), "{error}");
    }
}
