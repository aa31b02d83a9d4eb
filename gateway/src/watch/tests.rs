//! The watcher on a real folder: which changes it reports, and when.

#![allow(clippy::unwrap_used, reason = "a failing test may panic")]

mod announced;

use std::fs::{self, File};
use std::os::unix::fs::symlink;

use tempfile::TempDir;
use tokio::sync::mpsc::{Receiver as Events, channel};
use tokio::time::timeout;

use super::*;
use crate::plugin::load::LoadCode;
use crate::plugin::registry::{Meant, PluginFile};

/// A folder that is scanned explicitly, with a clock that is set explicitly.
struct Bench {
    dir: TempDir,
    folder: Folder,
    now: Instant,
}

impl Bench {
    fn new(files: &[(&str, &str)]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in files {
            fs::write(dir.path().join(name), text).unwrap();
        }
        let options = Options {
            file_bytes_max: 100,
            folder_bytes_max: 1000,
            settle: Duration::from_millis(100),
            ..Options::default()
        };
        let mut folder = Folder::new(dir.path(), &options);
        let now = Instant::now();
        folder.look_at_once(now).unwrap();
        Self { dir, folder, now }
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.dir.path().join(name), text).unwrap();
    }

    fn after(&mut self, ms: u64) -> folder::Look {
        self.now += Duration::from_millis(ms);
        self.folder.look(self.now).unwrap()
    }

    fn show(&self) -> String {
        show(&self.folder.snapshot().found)
    }
}

/// Written as `a.wasm=bytes` or `a.wasm=bytes+settings`, separated by spaces.
fn show(found: &[PluginFile]) -> String {
    let text = |content: &Result<bytes::Bytes, crate::plugin::load::LoadError>| match content {
        Ok(bytes) => String::from_utf8_lossy(bytes).into_owned(),
        Err(error) => format!("<{}>", error.code()),
    };
    let found = found.iter().map(|found| {
        let settings = found.settings.as_ref().map(|settings| format!("+{}", text(settings)));
        format!("{}={}{}", found.file, text(&found.wasm), settings.unwrap_or_default())
    });
    found.collect::<Vec<_>>().join(" ")
}

const QUIET: folder::Look = folder::Look { changed: false, restless: false, fresh: false };
const RESTLESS: folder::Look = folder::Look { restless: true, ..QUIET };
const CHANGED: folder::Look = folder::Look { changed: true, ..QUIET };
/// Changed, with more changes possible.
const CHANGING: folder::Look = folder::Look { fresh: true, ..CHANGED };

#[test]
fn plugins_come_in_order_with_their_settings() {
    let bench =
        Bench::new(&[("20-b.wasm", "B"), ("10-a.wasm", "A"), ("10-a.toml", "s"), ("30-c.toml", "alone")]);
    assert_eq!(bench.show(), "10-a.wasm=A+s 20-b.wasm=B");
}

#[test]
fn a_file_counts_once_it_has_stopped_changing() {
    let mut bench = Bench::new(&[("a.wasm", "old")]);
    assert_eq!(bench.after(1), QUIET);
    bench.write("a.wasm", "ne");
    assert_eq!(bench.after(1), RESTLESS);
    bench.write("a.wasm", "new");
    assert_eq!(bench.after(99), RESTLESS);
    assert_eq!(bench.after(99), RESTLESS, "the second write began the wait again");
    assert_eq!(bench.show(), "a.wasm=old");
    assert_eq!(bench.after(1), CHANGING);
    assert_eq!(bench.show(), "a.wasm=new");
    assert!(bench.folder.snapshot().found[0].fresh, "what is wrong with it is not yet believed");
    assert_eq!(bench.after(599), folder::Look { fresh: true, ..QUIET });
    assert_eq!(bench.after(1), CHANGED);
    assert!(!bench.folder.snapshot().found[0].fresh);
    assert_eq!(bench.after(1000), QUIET);
}

#[test]
fn a_file_that_is_removed_and_written_again_was_never_gone() {
    let mut bench = Bench::new(&[("a.wasm", "old")]);
    fs::remove_file(bench.dir.path().join("a.wasm")).unwrap();
    assert_eq!(bench.after(1), RESTLESS);
    assert_eq!(bench.show(), "a.wasm=old");
    bench.write("a.wasm", "new");
    assert_eq!(bench.after(99), RESTLESS);
    assert_eq!(bench.after(100), CHANGING);
    assert_eq!(bench.show(), "a.wasm=new");
    fs::remove_file(bench.dir.path().join("a.wasm")).unwrap();
    bench.after(1);
    assert_eq!(bench.after(100), CHANGED);
    assert_eq!(bench.show(), "");
}

#[test]
fn unchanged_files_are_not_read_again() {
    let mut bench = Bench::new(&[("a.wasm", "A"), ("b.wasm", "B")]);
    let before = bench.folder.snapshot().found;
    bench.write("b.wasm", "C");
    bench.after(1);
    assert_eq!(bench.after(100), CHANGING);
    let after = bench.folder.snapshot().found;
    let pointer = |found: &PluginFile| found.wasm.as_ref().unwrap().as_ptr();
    assert_eq!(pointer(&before[0]), pointer(&after[0]));
    assert_eq!(show(&after), "a.wasm=A b.wasm=C");
}

#[test]
fn a_file_of_equal_length_that_took_the_place_is_noticed() {
    let mut bench = Bench::new(&[("a.wasm", "old")]);
    let modified = fs::metadata(bench.dir.path().join("a.wasm")).unwrap().modified().unwrap();
    bench.write(".new", "new");
    let file = File::options().write(true).open(bench.dir.path().join(".new")).unwrap();
    file.set_modified(modified).unwrap();
    fs::rename(bench.dir.path().join(".new"), bench.dir.path().join("a.wasm")).unwrap();
    assert_eq!(bench.after(1), RESTLESS);
    assert_eq!(bench.after(100), CHANGING);
    assert_eq!(bench.show(), "a.wasm=new");
}

#[test]
fn settings_that_may_still_be_written_make_their_plugin_fresh() {
    let mut bench = Bench::new(&[("a.wasm", "A"), ("b.wasm", "B")]);
    bench.write("a.toml", "s");
    bench.after(1);
    bench.after(100);
    let fresh =
        |bench: &Bench| bench.folder.snapshot().found.iter().map(|found| found.fresh).collect::<Vec<_>>();
    assert_eq!(fresh(&bench), [true, false]);
    bench.after(1000);
    assert_eq!(fresh(&bench), [false, false]);
}

#[test]
fn what_everybody_could_have_written_is_refused_until_the_mode_is_better() {
    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt;
    let mut bench = Bench::new(&[("a.wasm", "A"), ("a.toml", "s"), ("b.wasm", "B")]);
    let path = bench.dir.path().to_owned();
    let mode = |name: &str, mode| fs::set_permissions(path.join(name), Permissions::from_mode(mode)).unwrap();
    for (name, open, good, shown, why) in [
        (
            "a.wasm",
            0o666,
            0o644,
            "a.wasm=<untrusted>+s b.wasm=B",
            "may be written to by every user; run: chmod o-w",
        ),
        (
            "a.toml",
            0o646,
            0o600,
            "a.wasm=A+<untrusted> b.wasm=B",
            "may be written to by every user; run: chmod o-w",
        ),
        (
            "",
            0o777,
            0o700,
            "a.wasm=<untrusted>+<untrusted> b.wasm=<untrusted>",
            "is in a folder that every user",
        ),
        (
            "",
            0o1777,
            0o755,
            "a.wasm=<untrusted>+<untrusted> b.wasm=<untrusted>",
            "is in a folder that every user",
        ),
    ] {
        mode(name, open);
        bench.after(1);
        bench.after(100);
        assert_eq!(bench.show(), shown);
        let found = &bench.folder.snapshot().found[0];
        let error = found.wasm.as_ref().err().or_else(|| found.settings.as_ref()?.as_ref().err()).unwrap();
        assert!(error.message().contains(why), "{error}");
        mode(name, good);
        bench.after(1);
        bench.after(100);
        assert_eq!(bench.show(), "a.wasm=A+s b.wasm=B");
    }
    mode("a.wasm", 0o666);
    let trusting = Options { check_owner: false, ..Options::default() };
    assert_eq!(show(&scan(&path, &trusting).unwrap().found), "a.wasm=A+s b.wasm=B");
}

#[test]
fn a_file_that_is_too_large_is_not_read() {
    let bench = Bench::new(&[]);
    // A sparse file: reading it would fill the memory.
    let file = File::create(bench.dir.path().join("huge.wasm")).unwrap();
    file.set_len(500 << 20).unwrap();
    let begin = Instant::now();
    let found = scan(bench.dir.path(), &Options::default()).unwrap().found;
    let error = found[0].wasm.as_ref().unwrap_err();
    assert_eq!(error.message(), "has 524288000 bytes; a plugin has at most 67108864");
    assert!(begin.elapsed() < Duration::from_millis(100), "{:?}", begin.elapsed());
}

#[test]
fn only_regular_files_of_the_folder_count() {
    let outside = tempfile::tempdir().unwrap();
    fs::write(outside.path().join("x.wasm"), "outside").unwrap();
    let mut bench =
        Bench::new(&[("a.wasm", "A"), (".b.wasm", "B"), ("c.wasm~", "C"), ("#d.wasm", "D"), ("e.txt", "E")]);
    let path = bench.dir.path().to_owned();
    fs::create_dir(path.join("folder.wasm")).unwrap();
    symlink(outside.path().join("x.wasm"), path.join("leaves.wasm")).unwrap();
    symlink(path.join("a.wasm"), path.join("stays.wasm")).unwrap();
    symlink(path.join("nothing"), path.join("dangles.wasm")).unwrap();
    let pipe = std::process::Command::new("mkfifo").arg(path.join("pipe.wasm")).status().unwrap();
    assert!(pipe.success());
    bench.after(1);
    bench.after(100);
    assert_eq!(bench.show(), "a.wasm=A stays.wasm=A");
    bench.after(700);
    let left_out = bench.folder.snapshot().left_out;
    let names: Vec<_> = left_out.iter().map(|left| (&*left.file, left.meant == Meant::Plugin)).collect();
    let expected = ["dangles.wasm", "folder.wasm", "leaves.wasm", "pipe.wasm"].map(|name| (name, true));
    assert_eq!(names, expected, "with names of plugins");
}

/// The reported misfits, as `file code`.
fn left_out(folder: &Folder) -> Vec<String> {
    let left_out = folder.snapshot().left_out;
    left_out
        .iter()
        .filter(|left| !left.fresh)
        .map(|left| format!("{} {}", left.file, left.error.code()))
        .collect()
}

#[test]
fn what_was_meant_to_be_a_plugin_is_there_with_the_reason() {
    let mut bench = Bench::new(&[
        ("10-a.wasm", "A"),
        ("20-b.WASM", "B"),
        ("30-c.toml", "c"),
        ("10-a.TOML", "lost"),
        ("40-d.wasm.off", "D"),
    ]);
    let path = bench.dir.path().to_owned();
    for (folder, file) in
        [("rules", "50-e.wasm"), ("notes", "readme"), ("versions", "1.wasm"), ("..data", "x.wasm")]
    {
        fs::create_dir(path.join(folder)).unwrap();
        fs::write(path.join(folder).join(file), "E").unwrap();
    }
    symlink("versions/1.wasm", path.join("60-f.wasm")).unwrap();
    let expected = ["10-a.TOML misnamed", "20-b.WASM misnamed", "30-c.toml no-module", "rules/ sub-folder"];
    assert_eq!(left_out(&bench.folder), expected[..3], "at once at the start");
    assert_eq!(
        bench.show(),
        "10-a.wasm=A+<misnamed>",
        "settings that are lost are no reason to go on without"
    );
    bench.after(1);
    bench.after(700);
    assert_eq!(left_out(&bench.folder), expected);
    assert_eq!(bench.show(), "10-a.wasm=A+<misnamed> 60-f.wasm=E");
    let settings = bench.folder.snapshot().left_out.remove(2);
    assert_eq!((settings.meant, settings.settings.unwrap().unwrap()), (Meant::Settings, "c".into()));
}

#[test]
fn a_link_to_a_folder_is_a_folder() {
    let outside = tempfile::tempdir().unwrap();
    fs::write(outside.path().join("1.wasm"), "A").unwrap();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path();
    for folder in ["versions", "..2026_1", "..2026_1/rules"] {
        fs::create_dir(path.join(folder)).unwrap();
        fs::write(path.join(folder).join("1.wasm"), "A").unwrap();
    }
    for (target, name) in [
        (outside.path(), "elsewhere"),
        ("..2026_1".as_ref(), "..data"),
        ("..data/rules".as_ref(), "rules"),
        ("..data/1.wasm".as_ref(), "1.wasm"),
        ("versions".as_ref(), "current"),
        ("current/1.wasm".as_ref(), "2.wasm"),
        (".".as_ref(), "itself"),
    ] {
        symlink(target, path.join(name)).unwrap();
    }
    let mut folder = Folder::new(path, &Options::default());
    folder.look_at_once(Instant::now()).unwrap();
    assert_eq!(
        left_out(&folder),
        ["elsewhere/ sub-folder", "rules/ sub-folder"],
        "whatever no link leads into"
    );
    assert_eq!(show(&folder.snapshot().found), "1.wasm=A 2.wasm=A");
}

#[test]
fn settings_that_come_before_their_plugin_are_no_reason_for_a_word() {
    let mut bench = Bench::new(&[]);
    bench.write("a.toml", "s");
    bench.after(1);
    bench.after(300);
    assert_eq!(left_out(&bench.folder), [] as [&str; 0]);
    bench.write("a.wasm", "A");
    bench.after(1);
    bench.after(300);
    assert_eq!((bench.show(), left_out(&bench.folder)), ("a.wasm=A+s".into(), vec![]));
}

#[test]
fn settings_that_get_another_spelling_are_at_no_moment_none() {
    let mut bench = Bench::new(&[("a.wasm", "A"), ("a.toml", "s")]);
    let path = bench.dir.path().to_owned();
    fs::rename(path.join("a.toml"), path.join("a.Toml")).unwrap();
    bench.after(1);
    bench.after(100);
    assert_eq!(bench.show(), "a.wasm=A+<misnamed>");
    fs::rename(path.join("a.Toml"), path.join("a.toml")).unwrap();
    bench.after(1);
    assert_eq!(bench.show(), "a.wasm=A+<misnamed>", "until they are read");
    bench.after(100);
    assert_eq!(bench.show(), "a.wasm=A+s");
}

#[test]
fn what_is_left_of_a_plugin_is_there_when_it_goes() {
    let mut bench = Bench::new(&[("a.wasm", "A"), ("a.toml", "s"), ("b.wasm", "B")]);
    let path = bench.dir.path().to_owned();
    fs::remove_file(path.join("a.wasm")).unwrap();
    fs::rename(path.join("b.wasm"), path.join("b.WASM")).unwrap();
    bench.after(1);
    bench.after(100);
    let left: Vec<_> = bench.folder.snapshot().left_out;
    let left: Vec<_> = left.iter().map(|left| (&*left.file, left.settings.is_some(), left.fresh)).collect();
    assert_eq!(left, [("a.toml", true, true), ("b.WASM", false, true)]);
    fs::remove_file(path.join("a.toml")).unwrap();
    bench.after(1);
    assert!(bench.after(100).changed, "what counted is gone");
}

#[test]
fn nothing_but_its_removal_takes_a_file_away() {
    let mut bench = Bench::new(&[("50-a.wasm", "A"), ("50-a.toml", "s")]);
    for number in 0..3000 {
        bench.write(&format!("{number:04}-junk.wasm"), "");
        bench.write(&format!("{number:04}-junk.toml"), "");
        bench.write(&format!("{number:04}-junk.txt"), "");
    }
    bench.after(1);
    bench.after(1000);
    let found = bench.folder.snapshot().found;
    assert_eq!(found.len(), 1000);
    assert_eq!(
        (&*found[999].file, &*found[0].file),
        ("50-a.wasm", "0000-junk.wasm"),
        "the first of the others"
    );
    assert_eq!(left_out(&bench.folder), ["0999-junk.wasm too-many"]);
    fs::remove_file(bench.dir.path().join("50-a.wasm")).unwrap();
    bench.after(1);
    bench.after(1000);
    assert!(bench.folder.snapshot().found.iter().all(|found| &*found.file != "50-a.wasm"));
}

#[test]
fn a_name_that_leads_nowhere_any_more_is_still_there() {
    let mut bench = Bench::new(&[("a.wasm", "A"), ("a.toml", "s"), ("b.wasm", "B"), ("b.toml", "t")]);
    for name in ["a.wasm", "b.toml"] {
        fs::remove_file(bench.dir.path().join(name)).unwrap();
        symlink("nothing", bench.dir.path().join(name)).unwrap();
    }
    bench.after(1);
    bench.after(1000);
    assert_eq!(bench.show(), "b.wasm=B+<not-a-file>", "and settings that are lost are not none");
    assert_eq!(left_out(&bench.folder), ["a.wasm not-a-file"]);
}

#[test]
fn another_folder_without_a_plugin_takes_nothing_out() {
    let mut bench = Bench::new(&[("a.wasm", "A")]);
    let path = bench.dir.path().join("plugins");
    fs::create_dir(&path).unwrap();
    fs::write(path.join("a.wasm"), "A").unwrap();
    let mut folder = Folder::new(&path, &Options::default());
    folder.look_at_once(bench.now).unwrap();
    fs::rename(&path, bench.dir.path().join("away")).unwrap();
    fs::create_dir(&path).unwrap();
    bench.now += Duration::from_secs(5);
    let error = folder.look(bench.now).unwrap_err().to_string();
    assert!(error.contains("another folder than before"), "{error}");
    assert_eq!(show(&folder.snapshot().found), "a.wasm=A");
    fs::write(path.join("a.wasm"), "new").unwrap();
    folder.look(bench.now).unwrap();
    folder.look(bench.now + Duration::from_secs(1)).unwrap();
    assert_eq!(show(&folder.snapshot().found), "a.wasm=new");
}

/// A volume as Kubernetes fills it: links to links, replaced in one step.
fn volume(path: &std::path::Path, version: &str, wasm: &str, settings: &str) {
    let folder = format!("..{version}");
    fs::create_dir(path.join(&folder)).unwrap();
    fs::write(path.join(&folder).join("50-a.wasm"), wasm).unwrap();
    fs::write(path.join(&folder).join("50-a.toml"), settings).unwrap();
    symlink(&folder, path.join("..data_tmp")).unwrap();
    fs::rename(path.join("..data_tmp"), path.join("..data")).unwrap();
    for name in ["50-a.wasm", "50-a.toml"] {
        let _ = symlink(format!("..data/{name}"), path.join(name));
    }
}

#[test]
fn a_volume_that_is_exchanged_in_one_step_is_never_mixed() {
    let mut bench = Bench::new(&[]);
    let path = bench.dir.path().to_owned();
    volume(&path, "2026_1", "A1", "s1");
    bench.after(1);
    bench.after(100);
    assert_eq!(bench.show(), "50-a.wasm=A1+s1");
    assert_eq!(left_out(&bench.folder), [] as [&str; 0], "the links of the volume are no plugins");
    for version in 2..9 {
        volume(&path, &format!("2026_{version}"), &format!("A{version}"), &format!("s{version}"));
        let old = bench.show();
        bench.after(1);
        assert_eq!(bench.show(), old, "not yet");
        fs::remove_dir_all(path.join(format!("..2026_{}", version - 1))).unwrap();
        bench.after(100);
        assert_eq!(bench.show(), format!("50-a.wasm=A{version}+s{version}"));
    }
}

#[test]
fn a_plugin_waits_for_its_settings() {
    let mut bench = Bench::new(&[("a.wasm", "A1"), ("a.toml", "s1")]);
    bench.write("a.wasm", "A2");
    bench.after(90);
    bench.write("a.toml", "s2");
    bench.after(90);
    assert_eq!(bench.show(), "a.wasm=A1+s1", "the settings have not settled");
    bench.after(100);
    assert_eq!(bench.show(), "a.wasm=A2+s2");
}

#[test]
fn a_file_that_cannot_be_used_is_there_with_the_reason() {
    let bench = Bench::new(&[("a.wasm", &"x".repeat(101)), ("b.wasm", &"x".repeat(100))]);
    let found = bench.folder.snapshot().found;
    assert_eq!(found[0].wasm.as_ref().unwrap_err().code(), LoadCode::TooLarge);
    assert!(found[1].wasm.is_ok());
}

#[test]
fn what_cannot_be_read_for_a_reason_outside_of_it_is_read_later() {
    let mut bench = Bench::new(&[]);
    for number in 0..10 {
        bench.write(&format!("{number}.wasm"), &"x".repeat(99));
    }
    bench.write("a.wasm", "0123456789A");
    bench.after(1);
    bench.after(100);
    bench.after(1000);
    assert!(bench.show().ends_with("a.wasm=<too-large>"), "{}", bench.show());
    assert_eq!(bench.after(20_000), QUIET, "it is still so");
    // The current size of a file makes no room for its new one.
    bench.write("9.wasm", &"y".repeat(98));
    bench.after(1);
    bench.after(100);
    assert!(bench.show().contains("9.wasm=yy"), "{}", bench.show());
    bench.after(9_000);
    assert!(bench.show().ends_with("a.wasm=<too-large>"), "not at every look: {}", bench.show());
    assert_eq!(bench.after(1_000), CHANGED);
    assert!(bench.show().ends_with("a.wasm=0123456789A"), "{}", bench.show());
}

#[test]
fn a_missing_folder_is_an_error_that_names_it() {
    let dir = tempfile::tempdir().unwrap();
    let missing = dir.path().join("plugins");
    let error = scan(&missing, &Options::default()).unwrap_err().to_string();
    assert!(error.starts_with(&format!("cannot read the plugin folder {}: ", missing.display())), "{error}");
    fs::write(&missing, "").unwrap();
    assert!(scan(&missing, &Options::default()).is_err(), "a file is no folder");
}

#[test]
fn a_link_to_the_folder_may_be_changed_to_another_folder() {
    let dir = tempfile::tempdir().unwrap();
    for version in ["1", "2"] {
        fs::create_dir(dir.path().join(version)).unwrap();
        fs::write(dir.path().join(version).join("a.wasm"), version).unwrap();
    }
    let link = dir.path().join("plugins");
    symlink("1", &link).unwrap();
    let mut folder = Folder::new(&link, &Options { settle: Duration::ZERO, ..Options::default() });
    let now = Instant::now();
    folder.look(now).unwrap();
    let first = folder.id();
    assert_eq!(show(&folder.snapshot().found), "a.wasm=1");
    fs::remove_file(&link).unwrap();
    symlink("2", &link).unwrap();
    assert_eq!(folder.look(now).unwrap(), CHANGING);
    assert_eq!(show(&folder.snapshot().found), "a.wasm=2");
    assert_ne!(folder.id(), first, "notifications have to follow");
}
