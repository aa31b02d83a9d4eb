//! Files that only this user can have written, and atomic writes of them.

use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use rustix::fs::OFlags;
use rustix::process::geteuid;

/// Suffix of a file until it is complete.
pub(crate) const TEMPORARY: &str = ".tmp";

/// Why a file in the state folder cannot be trusted.
pub(crate) fn mistrust(metadata: &Metadata) -> Option<&'static str> {
    if metadata.uid() != geteuid().as_raw() {
        return Some("it belongs to another user");
    }
    (metadata.mode() & 0o022 != 0).then_some("it may be written to by others")
}

/// Opens a file for this user only, creating it if it is missing.
pub(crate) fn open_private(path: &Path) -> io::Result<File> {
    let flags = OFlags::NOFOLLOW.bits().cast_signed();
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .custom_flags(flags)
        .open(path)
}

/// Creates a file for this user only. One that is there is an error.
pub(crate) fn create_private(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)
}

/// Reads a file of at most `bytes_max` bytes; `None` if it does not exist. A file that others could have
/// written is an error.
pub(crate) fn read(path: &Path, bytes_max: u64) -> io::Result<Option<(File, Vec<u8>)>> {
    let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().cast_signed();
    let file = match OpenOptions::new().read(true).custom_flags(flags).open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(io::Error::other("it is not a regular file"));
    }
    if let Some(why) = mistrust(&metadata) {
        return Err(io::Error::other(why));
    }
    if metadata.len() > bytes_max {
        return Err(io::Error::other(format!("it has {} bytes, more than {bytes_max}", metadata.len())));
    }
    let mut bytes = Vec::with_capacity(metadata.len() as usize);
    (&file).take(bytes_max).read_to_end(&mut bytes)?;
    Ok(Some((file, bytes)))
}

/// Writes a file atomically and durably: after a crash the old or the new one exists.
pub(crate) fn write(folder: &Path, name: &str, parts: &[&[u8]]) -> io::Result<()> {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let temporary = folder.join(format!(".{name}.{}{TEMPORARY}", COUNT.fetch_add(1, Relaxed)));
    let written = write_new(&temporary, parts).and_then(|()| fs::rename(&temporary, folder.join(name)));
    if written.is_err() {
        let _ = fs::remove_file(&temporary);
    }
    written?;
    // The name is durable once the folder is synced. Not every file system supports that.
    let _ = File::open(folder).and_then(|folder| folder.sync_all());
    Ok(())
}

/// Removes files that a crash left incomplete.
pub(crate) fn sweep(folder: &Path) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for entry in entries.flatten() {
        if entry.file_name().as_encoded_bytes().ends_with(TEMPORARY.as_bytes()) {
            let _ = fs::remove_file(entry.path());
        }
    }
}

fn write_new(path: &Path, parts: &[&[u8]]) -> io::Result<()> {
    // An existing file is a leftover, or another user's link: it must not be written through.
    let _ = fs::remove_file(path);
    let mut file = create_private(path)?;
    for part in parts {
        file.write_all(part)?;
    }
    file.sync_all()
}
