//! [`Artifacts`] caches compiled plugins.
//!
//! An entry is run as machine code without further checks. So it carries a digest of its name and content,
//! which is compared first: a flipped bit on the disk must not become an instruction.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use sha2::{Digest as _, Sha256};
use tracing::{debug, warn};

use super::files;

/// Maximum bytes of a compiled plugin in the cache.
const ENTRY_BYTES_MAX: u64 = 256 << 20;
const EXTENSION: &str = ".artifact";
const DIGEST_BYTES: usize = 32;

/// Maximum size of the cache; the least recently used entries are removed first.
#[derive(Debug, Clone, Copy)]
struct Bounds {
    entries_max: usize,
    bytes_max: u64,
}

/// The compiled plugins on the disk. A failure here costs a compilation and a log line, never a plugin.
#[derive(Debug)]
pub struct Artifacts {
    folder: PathBuf,
    bounds: Bounds,
}

impl Artifacts {
    pub(super) fn new(folder: PathBuf) -> Self {
        files::sweep(&folder);
        Self { folder, bounds: Bounds { entries_max: 128, bytes_max: 512 << 20 } }
    }

    /// The entry with this key, if it exists and is intact. `key` consists of letters, digits and dashes.
    pub fn get(&self, key: &str) -> Option<Vec<u8>> {
        let path = self.path(key);
        let (file, mut bytes) = match files::read(&path, ENTRY_BYTES_MAX) {
            Ok(Some(found)) => found,
            Ok(None) => return None,
            Err(error) => {
                self.reject(key, &error.to_string());
                return None;
            }
        };
        let (stored, content) = bytes.split_at(DIGEST_BYTES.min(bytes.len()));
        if stored != digest(key, content) {
            self.reject(key, "its digest is another");
            return None;
        }
        // The modification time records the last use, because file systems are often mounted without access
        // times.
        let _ = file.set_modified(SystemTime::now());
        bytes.drain(..DIGEST_BYTES);
        Some(bytes)
    }

    /// Stores an entry, and evicts others for it.
    pub fn put(&self, key: &str, content: &[u8]) {
        if content.len() as u64 > ENTRY_BYTES_MAX - DIGEST_BYTES as u64 {
            debug!(key, bytes = content.len(), "compiled plugin is too large for the cache");
            return;
        }
        let written =
            files::write(&self.folder, &format!("{key}{EXTENSION}"), &[&digest(key, content), content]);
        if let Err(error) = written.and_then(|()| self.shrink()) {
            warn!(key, %error, "failed to cache a compiled plugin; the next start compiles it again");
        }
    }

    /// Removes an unusable entry, with a log line.
    pub fn reject(&self, key: &str, why: &str) {
        warn!(key, why, "cached plugin unusable; compiling it again");
        let _ = fs::remove_file(self.path(key));
    }

    fn path(&self, key: &str) -> PathBuf {
        self.folder.join(format!("{key}{EXTENSION}"))
    }

    fn shrink(&self) -> io::Result<()> {
        let mut entries = self.entries()?;
        // Newest first.
        entries.sort_by_key(|(used, ..)| std::cmp::Reverse(*used));
        let mut bytes = 0_u64;
        for (index, (_, length, path)) in entries.iter().enumerate() {
            bytes = bytes.saturating_add(*length);
            if index >= self.bounds.entries_max || bytes > self.bounds.bytes_max && index > 0 {
                fs::remove_file(path)?;
                debug!(path = %path.display(), "compiled plugin removed from the cache");
            }
        }
        Ok(())
    }

    /// Last use, length and path of each entry.
    fn entries(&self) -> io::Result<Vec<(SystemTime, u64, PathBuf)>> {
        let mut entries = Vec::new();
        for entry in fs::read_dir(&self.folder)? {
            let path = entry?.path();
            if is_entry(&path)
                && let Ok(metadata) = fs::symlink_metadata(&path)
            {
                entries.push((metadata.modified()?, metadata.len(), path));
            }
        }
        Ok(entries)
    }
}

fn is_entry(path: &Path) -> bool {
    path.as_os_str().as_encoded_bytes().ends_with(EXTENSION.as_bytes())
}

/// The digest covers the key: a renamed file is not a valid entry for its new name.
fn digest(key: &str, content: &[u8]) -> [u8; DIGEST_BYTES] {
    Sha256::new()
        .chain_update((key.len() as u64).to_le_bytes())
        .chain_update(key)
        .chain_update(content)
        .finalize()
        .into()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failing test may panic")]

    use std::fs::Permissions;
    use std::os::unix::fs::{PermissionsExt, symlink};
    use std::time::Duration;

    use super::*;

    fn cache(entries_max: usize, bytes_max: u64) -> (tempfile::TempDir, Artifacts) {
        let dir = tempfile::tempdir().unwrap();
        let cache = Artifacts { folder: dir.path().to_owned(), bounds: Bounds { entries_max, bytes_max } };
        (dir, cache)
    }

    #[test]
    fn what_was_put_is_got_also_by_the_next_process() {
        let (dir, cache) = cache(10, 1000);
        assert_eq!(cache.get("a"), None);
        cache.put("a", b"code");
        cache.put("empty", b"");
        assert_eq!(cache.get("a").as_deref(), Some(&b"code"[..]));
        let next = Artifacts::new(dir.path().to_owned());
        assert_eq!(next.get("a").as_deref(), Some(&b"code"[..]));
        assert_eq!(next.get("empty").as_deref(), Some(&b""[..]));
    }

    #[test]
    fn one_flipped_bit_anywhere_is_noticed_and_the_entry_is_gone() {
        let (_dir, cache) = cache(10, 1000);
        cache.put("a", b"code");
        let whole = fs::read(cache.path("a")).unwrap();
        for byte in 0..whole.len() {
            let mut damaged = whole.clone();
            damaged[byte] ^= 1;
            fs::write(cache.path("a"), &damaged).unwrap();
            assert_eq!(cache.get("a"), None, "byte {byte}");
            assert!(!cache.path("a").exists());
        }
        for length in 0..whole.len() {
            fs::write(cache.path("a"), &whole[..length]).unwrap();
            assert_eq!(cache.get("a"), None, "cut to {length}");
        }
        cache.put("a", b"code");
        assert!(cache.get("a").is_some(), "and can be put again");
    }

    #[test]
    fn an_entry_under_anothers_name_is_not_taken_for_it() {
        let (_dir, cache) = cache(10, 1000);
        cache.put("a", b"code");
        fs::rename(cache.path("a"), cache.path("b")).unwrap();
        assert_eq!(cache.get("b"), None);
    }

    #[test]
    fn what_others_could_have_written_is_not_used() {
        let (dir, cache) = cache(10, 1000);
        for mode in [0o620, 0o602] {
            cache.put("a", b"code");
            fs::set_permissions(cache.path("a"), Permissions::from_mode(mode)).unwrap();
            assert_eq!(cache.get("a"), None, "{mode:o}");
        }
        cache.put("a", b"code");
        fs::rename(cache.path("a"), dir.path().join("elsewhere")).unwrap();
        symlink(dir.path().join("elsewhere"), cache.path("a")).unwrap();
        assert_eq!(cache.get("a"), None, "a link");
        fs::create_dir(cache.path("folder")).unwrap();
        assert_eq!(cache.get("folder"), None);
    }

    #[test]
    fn what_was_not_used_for_the_longest_time_leaves_first() {
        let (_dir, cache) = cache(3, 1000);
        let long_ago = SystemTime::now() - Duration::from_secs(1000);
        for (age, key) in ["a", "b", "c"].into_iter().enumerate() {
            cache.put(key, b"code");
            let file = fs::File::options().write(true).open(cache.path(key)).unwrap();
            file.set_modified(long_ago + Duration::from_secs(age as u64)).unwrap();
        }
        assert!(cache.get("a").is_some(), "used now");
        cache.put("d", b"code");
        let kept: Vec<bool> = ["a", "b", "c", "d"].map(|key| cache.path(key).exists()).into();
        assert_eq!(kept, [true, false, true, true]);
    }

    #[test]
    fn bytes_are_bounded_too_and_the_newest_always_fits() {
        let (_dir, cache) = cache(10, 100);
        cache.put("a", &[0; 60]);
        let file = fs::File::options().write(true).open(cache.path("a")).unwrap();
        file.set_modified(SystemTime::now() - Duration::from_secs(9)).unwrap();
        cache.put("b", &[0; 60]);
        assert_eq!((cache.path("a").exists(), cache.path("b").exists()), (false, true));
    }

    #[test]
    fn leftovers_of_a_crash_are_swept() {
        let (dir, cache) = cache(10, 1000);
        cache.put("a", b"code");
        fs::write(dir.path().join(".b.artifact.7.tmp"), "half").unwrap();
        Artifacts::new(dir.path().to_owned());
        let names: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(names, ["a.artifact"]);
    }

    #[test]
    fn a_folder_that_is_gone_costs_nothing_but_the_cache() {
        let (dir, cache) = cache(10, 1000);
        drop(dir);
        cache.put("a", b"code");
        assert_eq!(cache.get("a"), None);
    }
}
