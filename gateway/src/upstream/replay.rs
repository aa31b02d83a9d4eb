//! Sends dead letters again: [`Letters`] takes them out of a file and puts back what was not delivered,
//! while the gateway may write further ones; [`send`] delivers one.

use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, fchown};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::batch::{Form, Limits};
use super::deliver::Parcel;
use super::record;
use crate::clock::Clock;
use crate::config;
use crate::dead_letters;
use crate::egress::{Client, Reach, Url};

/// Ending of the name of a file whose letters are being sent.
const TAKEN: &str = ".replaying";

/// The letters of a file, which is another one until [`finish`](Self::finish).
#[derive(Debug)]
pub struct Letters {
    path: PathBuf,
    taken: PathBuf,
    lines: Vec<Vec<u8>>,
    /// Bytes of the file that were read.
    read: usize,
}

/// A letter that can be sent.
#[derive(Debug)]
pub struct Letter {
    stored: record::Stored,
}

impl Letters {
    /// Takes the letters of a file. If an earlier replay was interrupted, those that it had taken.
    ///
    /// # Errors
    ///
    /// If the file does not exist or cannot be read.
    pub fn take(path: &Path) -> io::Result<Self> {
        let mut taken = path.to_owned().into_os_string();
        taken.push(TAKEN);
        let taken = PathBuf::from(taken);
        if !taken.exists() {
            fs::rename(path, &taken)?;
        }
        let bytes = fs::read(&taken)?;
        let lines = lines_of(&bytes);
        Ok(Self { path: path.to_owned(), taken, lines, read: bytes.len() })
    }

    /// Their lines, oldest first.
    pub fn lines(&self) -> &[Vec<u8>] {
        &self.lines
    }

    /// Puts back the lines that were not delivered, and those that the gateway has added meanwhile.
    ///
    /// # Errors
    ///
    /// If the file cannot be written; then all letters stay where they are.
    pub fn finish(self, left: &[Vec<u8>]) -> io::Result<()> {
        // The gateway may have opened it before it was taken.
        let mut taken = File::open(&self.taken)?;
        dead_letters::lock(&taken);
        let mut bytes = Vec::new();
        taken.read_to_end(&mut bytes)?;
        let added = lines_of(bytes.get(self.read..).unwrap_or_default());
        let mut back = Vec::new();
        for line in left.iter().chain(&added) {
            back.extend_from_slice(line);
            back.push(b'\n');
        }
        if !back.is_empty() {
            self.create_for(&taken.metadata()?)?;
            let mut file = dead_letters::open(&self.path)?;
            file.write_all(&back)?;
            file.sync_data()?;
        }
        fs::remove_file(&self.taken)?;
        // The names are durable once the folder is synced. Not every file system supports that.
        let folder = self.path.parent().filter(|folder| !folder.as_os_str().is_empty());
        let _ = File::open(folder.unwrap_or(Path::new("."))).and_then(|folder| folder.sync_all());
        Ok(())
    }

    /// Creates the file if there is none, for the owner of the letters: whoever replays may be another user
    /// than the gateway, which has to write there again.
    fn create_for(&self, owner: &Metadata) -> io::Result<()> {
        // A link is not followed: what is behind it must not be given away.
        let file = match OpenOptions::new().append(true).create_new(true).mode(0o600).open(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Ok(()),
            created => created?,
        };
        let is = file.metadata()?;
        if (is.uid(), is.gid()) == (owner.uid(), owner.gid()) {
            return Ok(());
        }
        let given = fchown(&file, Some(owner.uid()), Some(owner.gid()));
        given.inspect_err(|_| drop(fs::remove_file(&self.path)))
    }
}

impl Letter {
    /// Reads a line. `None` if it is no dead letter.
    pub fn read(line: &[u8]) -> Option<Self> {
        record::read(line).map(|stored| Self { stored })
    }

    /// Id of the event.
    pub fn id(&self) -> &str {
        &self.stored.event.id
    }

    /// Name of the upstream that did not accept it.
    pub fn upstream(&self) -> &str {
        &self.stored.upstream
    }
}

/// Sends a letter to an upstream, once, in the form in which the gateway would send it alone. `url` replaces
/// that of the upstream.
///
/// # Errors
///
/// Why it was not accepted.
pub async fn send(
    client: &Client,
    clock: Clock,
    name: &str,
    config: &config::Upstream,
    url: Option<&Url>,
    letter: &Letter,
) -> Result<(), String> {
    let (event, header) = (&letter.stored.event, ("gateway-upstream", name.to_owned()));
    let parcel = match Limits::of(config).form(event) {
        Form::Payload => Parcel::payload(header, event),
        Form::List => Parcel::list(header, std::iter::once(event)),
    };
    let timeout: Duration = config.timeout;
    // Several targets serve the same events.
    let target = config.targets.iter().max_by_key(|target| target.weight).map(|target| &target.url);
    let Some(url) = url.or(target) else { return Err("it has no target".to_owned()) };
    let request = parcel.request(url, config.secret.as_ref(), clock);
    let sent = match request {
        Ok(request) => client.send_for_head(request, Reach::Anywhere, timeout).await,
        Err(error) => Err(error),
    };
    match sent {
        Ok(response) if response.is_success() => Ok(()),
        Ok(response) => Err(format!("answered {}", response.status)),
        Err(error) => Err(error.to_string()),
    }
}

fn lines_of(bytes: &[u8]) -> Vec<Vec<u8>> {
    bytes.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()).map(<[u8]>::to_vec).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failing test may panic")]

    use std::os::unix::fs::chown;

    use super::*;

    #[test]
    fn the_gateway_may_write_to_the_file_again_whoever_has_replayed_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("dead.jsonl");
        fs::write(&path, "a\n").unwrap();
        // Only the superuser can give it to another user, and only then there is something to see.
        let owner = if chown(&path, Some(12345), Some(12345)).is_ok() {
            12345
        } else {
            fs::metadata(&path).unwrap().uid()
        };
        Letters::take(&path).unwrap().finish(&[b"a".to_vec()]).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().uid(), owner);
    }

    #[test]
    fn what_the_gateway_is_writing_when_the_letters_are_taken_is_not_lost() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("dead.jsonl");
        fs::write(&path, "a\n").unwrap();
        let mut gateway = dead_letters::open(&path).unwrap();
        let letters = Letters::take(&path).unwrap();
        let (sender, finished) = std::sync::mpsc::sync_channel(1);
        let replay = std::thread::spawn(move || sender.send(letters.finish(&[])));
        assert!(finished.recv_timeout(Duration::from_millis(200)).is_err(), "it waits for the gateway");
        gateway.write_all(b"b\n").unwrap();
        drop(gateway);
        replay.join().unwrap().unwrap();
        finished.recv().unwrap().unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "b\n");
    }

    #[test]
    fn what_was_not_delivered_is_put_back_with_what_came_meanwhile() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("dead.jsonl");
        fs::write(&path, "a\nb\nc\n").unwrap();
        // The gateway has the file open, and finds a new one only later.
        let mut gateway = OpenOptions::new().append(true).open(&path).unwrap();
        let letters = Letters::take(&path).unwrap();
        assert_eq!(letters.lines(), [b"a", b"b", b"c"]);
        gateway.write_all(b"d\n").unwrap();
        fs::write(&path, "e\n").unwrap();
        letters.finish(&[b"b".to_vec()]).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "e\nb\nd\n");
        Letters::take(&path).unwrap().finish(&[]).unwrap();
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
        assert!(Letters::take(&path).is_err(), "there is no file");
    }

    #[test]
    fn letters_of_an_interrupted_replay_are_taken_first() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("dead.jsonl");
        fs::write(&path, "a\n").unwrap();
        drop(Letters::take(&path).unwrap());
        fs::write(&path, "b\n").unwrap();
        let letters = Letters::take(&path).unwrap();
        assert_eq!(letters.lines(), [b"a"]);
        letters.finish(&[]).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "b\n");
    }
}
