//! What is in the files after each of the ways in which a process or a disk can fail.

#![allow(clippy::unwrap_used, reason = "a failing test may panic")]

use std::fs::OpenOptions;
use std::os::unix::fs::PermissionsExt as _;

use bytes::Bytes;
use tempfile::TempDir;

use super::*;
use crate::upstream::Kind;

const BYTES_MAX: u64 = 1 << 20;

fn event(number: usize) -> Event {
    let payload = Bytes::from(format!("{{\"n\":{number}}}"));
    let (plugin, connection, user) = Default::default();
    Event {
        id: format!("msg_{number}").into(),
        kind: Kind::Subscribed,
        plugin,
        connection,
        user,
        at: 7,
        payload,
    }
}

/// A spool with events of these numbers, whose places are the numbers.
fn filled(folder: &TempDir, numbers: std::ops::RangeInclusive<usize>) -> Spool {
    let (mut spool, _) = Spool::open(folder.path(), BYTES_MAX).unwrap();
    for number in numbers {
        assert_eq!(spool.append([&event(number)].into_iter()).unwrap(), number as Place);
    }
    spool
}

/// The numbers of the events that the next process finds, and the lines that it cannot read.
fn found(folder: &TempDir) -> (Vec<String>, u64) {
    let (_, left) = Spool::open(folder.path(), BYTES_MAX).unwrap();
    (left.events.into_iter().map(|(_, event)| event.id[4..].to_owned()).collect(), left.skipped)
}

fn files(folder: &TempDir) -> Vec<PathBuf> {
    let mut files: Vec<_> = fs::read_dir(folder.path()).unwrap().map(|file| file.unwrap().path()).collect();
    files.sort();
    files
}

#[test]
fn what_is_not_finished_is_there_after_a_restart_as_it_was() {
    let folder = tempfile::tempdir().unwrap();
    let mut spool = filled(&folder, 1..=5);
    spool.finish(&[1, 3]).unwrap();
    drop(spool);
    let (mut spool, left) = Spool::open(folder.path(), BYTES_MAX).unwrap();
    let events: Vec<_> = [2, 4, 5].into_iter().map(|number| (number as Place, event(number))).collect();
    assert_eq!((left.events, left.skipped), (events, 0));
    assert_eq!(spool.append([&event(6), &event(7)].into_iter()).unwrap(), 6, "places go on");
    spool.finish(&[2, 5]).unwrap();
    assert_eq!(found(&folder), (vec!["4".into(), "6".into(), "7".into()], 0));
}

#[test]
fn payloads_of_any_bytes_come_back() {
    let folder = tempfile::tempdir().unwrap();
    let (mut spool, _) = Spool::open(folder.path(), BYTES_MAX).unwrap();
    let payloads = [&b"\xff\x00\n"[..], b"null", b" 1 ", b"{\n}", b"", b"text", b"{\"a\":[1,2.50]}"];
    let events: Vec<_> = payloads
        .iter()
        .map(|payload| Event { kind: Kind::Emitted, payload: Bytes::copy_from_slice(payload), ..event(1) })
        .collect();
    spool.append(events.iter()).unwrap();
    let (_, left) = Spool::open(folder.path(), BYTES_MAX).unwrap();
    let read: Vec<_> = left.events.into_iter().map(|(_, event)| event).collect();
    assert_eq!(read, events);
}

#[test]
fn a_last_line_that_was_cut_off_costs_only_itself() {
    let whole = tempfile::tempdir().unwrap();
    drop(filled(&whole, 1..=2));
    let bytes = fs::read(&files(&whole)[0]).unwrap();
    let second = bytes.iter().position(|byte| *byte == b'\n').unwrap() + 1;
    for cut in second + 1..bytes.len() - 1 {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("0000000000000001.events"), &bytes[..cut]).unwrap();
        assert_eq!(found(&folder), (vec!["1".into()], 1), "cut at {cut}");
    }
}

#[test]
fn damaged_bytes_are_skipped_and_counted_and_the_next_line_is_read() {
    let folder = tempfile::tempdir().unwrap();
    drop(filled(&folder, 1..=3));
    let path = &files(&folder)[0];
    let bytes = fs::read(path).unwrap();
    let line = bytes.iter().position(|byte| *byte == b'\n').unwrap() + 1;
    for at in line..line * 2 - 1 {
        let mut damaged = bytes.clone();
        damaged[at] ^= 1;
        fs::write(path, &damaged).unwrap();
        let (events, skipped) = found(&folder);
        assert_eq!((&*events[0], &**events.last().unwrap(), events.len()), ("1", "3", 2), "byte {at}");
        assert!(skipped >= 1, "byte {at}");
    }
}

#[test]
fn files_are_removed_with_their_last_event_and_none_is_left_at_the_end() {
    let folder = tempfile::tempdir().unwrap();
    let (mut spool, _) = Spool::open(folder.path(), BYTES_MAX).unwrap();
    let large = Event { payload: Bytes::from(vec![b'1'; 20_000]), ..event(1) };
    let mut most = 0;
    for place in 1..=100 {
        spool.append([&large].into_iter()).unwrap();
        spool.finish(&[place]).unwrap();
        most = most.max(spool.bytes());
    }
    assert!(most < 2 * SEGMENT_BYTES_MIN, "{most} bytes, although nothing waits");
    spool.append([&large].into_iter()).unwrap();
    for _ in 0..10 {
        spool.append([&large].into_iter()).unwrap();
    }
    assert!(files(&folder).len() > 1);
    spool.finish(&(102..=111).collect::<Vec<_>>()).unwrap();
    spool.close().unwrap();
    assert_eq!(found(&folder).0.len(), 1, "one is not finished");
    spool.finish(&[101]).unwrap();
    spool.close().unwrap();
    assert_eq!(files(&folder), Vec::<PathBuf>::new());
}

#[test]
fn files_are_private_and_others_are_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("notes"), "of the operator").unwrap();
    let mut spool = filled(&folder, 1..=1);
    let mode = fs::metadata(&files(&folder)[0]).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode, 0o600);
    spool.finish(&[1]).unwrap();
    spool.close().unwrap();
    assert_eq!(files(&folder), [folder.path().join("notes")]);
}

/// A file that can only be read stands for a disk that takes nothing, nor gives back what it took.
fn broken(folder: &TempDir) -> Option<File> {
    Some(OpenOptions::new().read(true).open(&files(folder)[0]).unwrap())
}

#[test]
fn a_disk_that_takes_nothing_is_an_error_and_what_was_there_stays() {
    let folder = tempfile::tempdir().unwrap();
    let mut spool = filled(&folder, 1..=2);
    spool.file = broken(&folder);
    assert!(spool.append([&event(3)].into_iter()).is_err());
    spool.file = broken(&folder);
    assert!(spool.finish(&[1]).is_err(), "nothing says that it is finished");
    assert_eq!(found(&folder), (vec!["1".into(), "2".into()], 0), "it is sent again");
    assert_eq!(spool.append([&event(3)].into_iter()).unwrap(), 4, "something may have the place 3");
    spool.finish(&[4]).unwrap();
    assert_eq!(found(&folder), (vec!["2".into()], 0), "with the next word also what failed before is said");
}

#[test]
fn what_a_disk_did_not_give_back_takes_no_other_event_along() {
    let folder = tempfile::tempdir().unwrap();
    let mut spool = filled(&folder, 1..=2);
    let path = &files(&folder)[0];
    let bytes = fs::read(path).unwrap();
    fs::write(path, [&bytes[..], &bytes[..20]].concat()).unwrap();
    spool.file = broken(&folder);
    assert!(spool.append([&event(3)].into_iter()).is_err());
    spool.append([&event(4)].into_iter()).unwrap();
    assert_eq!(found(&folder), (["1", "2", "4"].map(String::from).to_vec(), 1));
}

#[test]
fn what_others_could_have_written_is_not_sent_in_the_name_of_the_gateway() {
    let open = |folder: &TempDir| Spool::open(folder.path(), BYTES_MAX).unwrap_err().to_string();
    let of = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    let folder = tempfile::tempdir().unwrap();
    drop(filled(&folder, 1..=1));
    of(folder.path(), 0o777);
    assert!(open(&folder).contains("may be written to by others"));
    of(folder.path(), 0o700);
    let path = &files(&folder)[0];
    of(path, 0o666);
    let error = open(&folder);
    assert!(error.contains("may be written to by others") && error.contains(".events"), "{error}");
    of(path, 0o600);
    let elsewhere = tempfile::tempdir().unwrap();
    fs::rename(path, elsewhere.path().join("file")).unwrap();
    std::os::unix::fs::symlink(elsewhere.path().join("file"), path).unwrap();
    open(&folder);
}
