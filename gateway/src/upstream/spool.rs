//! `Spool` keeps the events of one upstream in files until they are delivered or given up, so that a gateway
//! that was killed sends them after its restart.
//!
//! Events are appended to a segment, one line each; so is a line for those that are finished. The oldest
//! segment is removed once all its events are finished, so a line about an event never outlives it. A line
//! begins with a checksum: a line that was not written completely, or was damaged, is skipped and counted,
//! and the next one is read as usual. The files are not synced: they survive the end of the process, however
//! it comes, but not a failure of the machine.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fs::{self, DirBuilder, File};
use std::io::{self, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};

use super::Event;
use super::record;
use crate::digest;
use crate::disk::files;

/// Ending of the names of segments.
const ENDING: &str = ".events";

/// Size at which a segment is followed by the next one: a small part of the spool, so that most of what is
/// finished is removed.
const SEGMENT_BYTES_MIN: u64 = 64 << 10;
const SEGMENT_BYTES_MAX: u64 = 4 << 20;

/// Characters of the checksum at the beginning of a line.
const CHECKSUM_CHARS: usize = 16;

/// Number of an event in its spool. They rise, also over restarts.
pub(super) type Place = u64;

/// See the module.
#[derive(Debug)]
pub(super) struct Spool {
    folder: PathBuf,
    segment_bytes: u64,
    /// Oldest first; lines are appended to the last one.
    segments: VecDeque<Segment>,
    /// The last segment.
    file: Option<File>,
    next: Place,
    next_segment: u64,
    /// Events that are finished, although no file says so yet.
    unsaid: Vec<Place>,
}

#[derive(Debug)]
struct Segment {
    path: PathBuf,
    bytes: u64,
    /// Its events that are not finished.
    left: BTreeSet<Place>,
}

/// What an earlier process has left behind.
#[derive(Debug, Default)]
pub(super) struct Left {
    /// Events that are not finished, in their order.
    pub(super) events: Vec<(Place, Event)>,
    /// Lines that could not be read.
    pub(super) skipped: u64,
}

impl Spool {
    /// Opens the spool in this folder, which is made for this user only.
    pub(super) fn open(folder: &Path, bytes_max: u64) -> io::Result<(Self, Left)> {
        DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
        if let Some(why) = files::mistrust(&fs::metadata(folder)?) {
            return Err(io::Error::other(why));
        }
        let segment_bytes = (bytes_max / 16).clamp(SEGMENT_BYTES_MIN, SEGMENT_BYTES_MAX);
        let mut spool = Self {
            folder: folder.to_owned(),
            segment_bytes,
            segments: VecDeque::new(),
            file: None,
            next: 1,
            next_segment: 1,
            unsaid: Vec::new(),
        };
        let left = spool.read()?;
        Ok((spool, left))
    }

    /// Bytes of its files.
    pub(super) fn bytes(&self) -> u64 {
        self.segments.iter().map(|segment| segment.bytes).sum()
    }

    /// Writes events, and returns the place of the first; the others follow. After an error none of them is
    /// in the spool, unless the disk did not let go of what it took.
    pub(super) fn append<'e>(&mut self, events: impl Iterator<Item = &'e Event>) -> io::Result<Place> {
        let first = self.next;
        let mut lines = Vec::new();
        let mut next = first;
        for event in events {
            write_line(&mut lines, |line| {
                line.extend_from_slice(format!("{next} ").as_bytes());
                record::write(event, line);
            });
            next += 1;
        }
        // Also if it fails: some of the lines may be in the file, and no other event may have their places.
        self.next = next;
        self.write(&lines)?;
        if let Some(segment) = self.segments.back_mut() {
            segment.left.extend(first..next);
        }
        Ok(first)
    }

    /// These events were delivered or given up. If that cannot be written, they may be delivered again after
    /// a restart.
    pub(super) fn finish(&mut self, places: &[Place]) -> io::Result<()> {
        for place in places {
            for segment in &mut self.segments {
                if segment.left.remove(place) {
                    break;
                }
            }
        }
        self.unsaid.extend_from_slice(places);
        while self.segments.len() > 1 && self.segments[0].left.is_empty() {
            self.remove_oldest()?;
        }
        // Files that are gone need no word about their events.
        let oldest = self.segments.iter().filter_map(|segment| segment.left.first()).min();
        if oldest.is_none() && self.segments.back().is_some_and(|segment| segment.bytes >= self.segment_bytes)
        {
            self.file = None;
            self.unsaid.clear();
            return self.remove_oldest();
        }
        let unsaid = std::mem::take(&mut self.unsaid);
        let mut lines = Vec::new();
        write_line(&mut lines, |line| {
            line.push(b'-');
            for place in &unsaid {
                line.extend_from_slice(format!(" {place}").as_bytes());
            }
        });
        self.write(&lines).inspect_err(|_| self.unsaid = unsaid)
    }

    /// Removes the files if all events are finished.
    pub(super) fn close(&mut self) -> io::Result<()> {
        self.file = None;
        while self.segments.front().is_some_and(|segment| segment.left.is_empty()) {
            self.remove_oldest()?;
        }
        Ok(())
    }

    fn remove_oldest(&mut self) -> io::Result<()> {
        if let Some(segment) = self.segments.pop_front() {
            fs::remove_file(&segment.path)?;
        }
        Ok(())
    }

    fn write(&mut self, lines: &[u8]) -> io::Result<()> {
        if self.segments.back().is_none_or(|segment| segment.bytes >= self.segment_bytes) {
            self.file = None;
        }
        if self.file.is_none() {
            let path = self.folder.join(format!("{:016}{ENDING}", self.next_segment));
            // Also if it fails: the next attempt is another file, whatever is there.
            self.next_segment += 1;
            self.file = Some(files::create_private(&path)?);
            self.segments.push_back(Segment { path, bytes: 0, left: BTreeSet::new() });
        }
        let (Some(file), Some(segment)) = (&mut self.file, self.segments.back_mut()) else { return Ok(()) };
        if let Err(error) = file.write_all(lines) {
            // What was written of them is taken back. If that fails, too, it stays, and nothing follows it in
            // this file, where it would make one line with it.
            let is_back = file.set_len(segment.bytes).is_ok();
            if !is_back || file.seek(SeekFrom::Start(segment.bytes)).is_err() {
                self.file = None;
            }
            return Err(error);
        }
        segment.bytes += lines.len() as u64;
        Ok(())
    }

    /// Reads what an earlier process left, and removes its files that say nothing any more.
    fn read(&mut self) -> io::Result<Left> {
        let mut paths = Vec::new();
        for entry in fs::read_dir(&self.folder)? {
            let path = entry?.path();
            paths.extend(number_of(&path).map(|number| (number, path)));
        }
        paths.sort();
        let (mut events, mut skipped) = (BTreeMap::new(), 0);
        for (number, path) in paths {
            self.next_segment = self.next_segment.max(number + 1);
            // Nobody else may tell the upstream something in the name of the gateway.
            let Some((_, bytes)) = files::read(&path, u64::MAX).map_err(|error| of_file(&path, &error))?
            else {
                continue;
            };
            let mut segment = Segment { path, bytes: bytes.len() as u64, left: BTreeSet::new() };
            for line in bytes.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
                match read_line(line) {
                    Some(Line::Event(place, event)) => {
                        self.next = self.next.max(place + 1);
                        segment.left.insert(place);
                        events.insert(place, event);
                    }
                    Some(Line::Finished(places)) => {
                        for place in places {
                            events.remove(&place);
                        }
                    }
                    None => skipped += 1,
                }
            }
            self.segments.push_back(segment);
        }
        for segment in &mut self.segments {
            segment.left.retain(|place| events.contains_key(place));
        }
        while self.segments.front().is_some_and(|segment| segment.left.is_empty()) {
            self.remove_oldest()?;
        }
        Ok(Left { events: events.into_iter().collect(), skipped })
    }
}

enum Line {
    Event(Place, Event),
    Finished(Vec<Place>),
}

fn write_line(lines: &mut Vec<u8>, content: impl FnOnce(&mut Vec<u8>)) {
    let begin = lines.len();
    lines.extend_from_slice(&[b' '; CHECKSUM_CHARS + 1]);
    content(lines);
    let checksum = checksum(&lines[begin + CHECKSUM_CHARS + 1..]);
    lines[begin..begin + CHECKSUM_CHARS].copy_from_slice(checksum.as_bytes());
    lines.push(b'\n');
}

fn read_line(line: &[u8]) -> Option<Line> {
    let (sum, content) = line.split_at_checked(CHECKSUM_CHARS)?;
    let content = content.strip_prefix(b" ")?;
    if sum != checksum(content).as_bytes() {
        return None;
    }
    if let Some(places) = content.strip_prefix(b"-") {
        let places = std::str::from_utf8(places).ok()?.split_ascii_whitespace();
        return places.map(|place| place.parse().ok()).collect::<Option<_>>().map(Line::Finished);
    }
    let end = content.iter().position(|byte| *byte == b' ')?;
    let place = std::str::from_utf8(&content[..end]).ok()?.parse().ok()?;
    Some(Line::Event(place, record::read(&content[end + 1..])?.event))
}

/// The beginning of the SHA-256 of a line.
fn checksum(content: &[u8]) -> String {
    digest::hex(&Sha256::digest(content)[..CHECKSUM_CHARS / 2])
}

/// An error that names the file.
fn of_file(path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

/// The number of a segment; `None` for other files.
fn number_of(path: &Path) -> Option<u64> {
    path.file_name()?.to_str()?.strip_suffix(ENDING)?.parse().ok().filter(|number| *number < u64::MAX)
}

#[cfg(test)]
mod tests;
