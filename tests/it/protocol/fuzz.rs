//! Whatever bytes come from outside, each part that reads them keeps what it has to keep, and takes a bounded
//! amount of memory: the files of `tests/fuzz/corpus`, and seeded changes of them.
//!
//! What is demanded stands in `tests/fuzz/targets`, which cargo-fuzz runs as well.

mod mutation;
#[path = "../../fuzz/targets/mod.rs"]
pub(super) mod targets;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use gateway_tests::Random;
use mutation::Mutator;
use targets::Target;

/// Changes of the corpus that are tried for each target.
const CHANGES: usize = 4000;

/// No more are tried after this time, on a slow machine.
const TIME_MAX: Duration = Duration::from_millis(1500);

/// Inputs whose memory is measured: the corpus, and this many large ones.
const LARGE: usize = 60;

/// The size of a large input: that of the largest message of a client, unless the operator permits more.
const LARGE_BYTES: usize = 64 * 1024;

/// An input must not take more than this many times its size.
const TIMES: usize = 16;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz")
}

/// The files of a target by name.
fn corpus(target: &Target) -> Vec<(String, Vec<u8>)> {
    let folder = folder().join("corpus").join(target.name);
    let entries = fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut files: Vec<_> = entries
        .map(|entry| {
            let path = entry.unwrap().path();
            (path.file_name().unwrap().display().to_string(), fs::read(&path).unwrap())
        })
        .collect();
    files.sort();
    files
}

/// Says which input it was when a check fails.
struct Reproducer<'a> {
    target: &'a Target,
    origin: String,
    data: &'a [u8],
}

impl Drop for Reproducer<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let Self { target, origin, data } = self;
            let shown = data.escape_ascii();
            let bytes = data.len();
            eprintln!(
                "target {}, {origin}, {bytes} bytes, for a file of the corpus: b\"{shown}\"",
                target.name
            );
        }
    }
}

impl Target {
    fn try_on(&self, origin: String, data: &[u8]) {
        let _reproducer = Reproducer { target: self, origin, data };
        (self.check)(data);
    }

    fn replay(&self) {
        let files = corpus(self);
        assert!(files.len() >= 10, "{} has only {} files", self.name, files.len());
        for (name, data) in &files {
            self.try_on(name.clone(), data);
        }
    }

    fn change(&self) {
        let files = corpus(self).into_iter().map(|(_, data)| data).collect();
        let (mut mutator, start) = (Mutator::new(files, 1), Instant::now());
        let mut tried = 0;
        while tried < CHANGES && start.elapsed() < TIME_MAX {
            let data = mutator.next();
            self.try_on(format!("change {tried}"), &data);
            tried += 1;
        }
        println!("{}: {tried} changes in {} ms", self.name, start.elapsed().as_millis());
        assert!(tried > 50, "{}: only {tried} changes in {TIME_MAX:?}", self.name);
    }

    fn measure(&self) {
        let files = corpus(self);
        let mut mutator = Mutator::new(files.iter().map(|(_, data)| data.clone()).collect(), 2);
        let large = (0..LARGE).map(|number| (format!("large input {number}"), mutator.large(LARGE_BYTES)));
        let shaped = hostile(self.name).into_iter().map(|(name, data)| (name.to_owned(), data));
        let mut most = (0.0, String::new());
        for (origin, data) in files.into_iter().chain(large).chain(shaped) {
            let _reproducer = Reproducer { target: self, origin: origin.clone(), data: &data };
            // What is made once and kept is no cost of an input.
            (self.decode)(&data);
            let measured = allocation_counter::measure(|| (self.decode)(&data));
            let limit = TIMES * data.len() + self.more_bytes;
            let taken = usize::try_from(measured.bytes_max).unwrap();
            assert!(taken <= limit, "{origin}: {taken} bytes for {}, at most {limit}", data.len());
            if data.len() >= LARGE_BYTES / 2 {
                let times = taken as f64 / data.len() as f64;
                most = if times > most.0 { (times, origin) } else { most };
            }
        }
        println!("{}: at most {:.1} times the size of a large input ({})", self.name, most.0, most.1);
    }
}

/// Inputs of 64 KiB that are made to take much memory: many small things.
fn hostile(target: &str) -> Vec<(&'static str, Vec<u8>)> {
    /// As many parts as fit between two ends.
    fn many(begin: &[u8], part: impl Fn(usize) -> Vec<u8>, end: &[u8]) -> Vec<u8> {
        let mut all = begin.to_vec();
        for number in 0.. {
            let part = part(number);
            if all.len() + part.len() + end.len() > LARGE_BYTES {
                break;
            }
            all.extend_from_slice(&part);
        }
        [&all, end].concat()
    }
    /// A field of Protobuf, or of what gateways write for each other.
    fn field(head: u8, value: &[u8]) -> Vec<u8> {
        assert!(value.len() < 0x80);
        [&[head, value.len() as u8], value].concat()
    }
    /// A record of Protobuf whose only field has these bytes.
    fn record(tags: &[u8], inner: Vec<u8>) -> Vec<u8> {
        let length =
            |length: usize| vec![length as u8 | 0x80, (length >> 7) as u8 | 0x80, (length >> 14) as u8];
        let inner =
            tags.iter().rev().fold(inner, |inner, tag| [vec![*tag], length(inner.len()), inner].concat());
        [length(inner.len()), inner].concat()
    }
    let short = |number: usize| format!("{number:x}");
    match target {
        "json" => {
            let subs = |value: &str| {
                let part = |number| format!(r#""{}":{value},"#, short(number)).into_bytes();
                many(br#"{"id":1,"connect":{"subs":{"#, part, br#""last":{}}}}"#)
            };
            let text = |part: &str, around: (&str, &str)| {
                many(around.0.as_bytes(), |_| part.as_bytes().to_vec(), around.1.as_bytes())
            };
            let published = r#"{"id":1,"publish":{"channel":"a","data":"#;
            vec![
                ("many subs that say nothing", subs("{}")),
                ("many subs that are null", subs("null")),
                ("many subs that recover", subs(r#"{"recover":true,"epoch":"e"}"#)),
                ("many commands", text("{}\n", ("", "{}"))),
                ("a list of nothing", text("[],", (&format!("{published}["), "[]]}}"))),
                ("a deep list", text("[", (published, "]]}}"))),
                ("a long text", text("x", (&format!("{published}\""), "\"}}"))),
                ("escapes", text("\\n", (r#"{"id":1,"rpc":{"method":""#, "\"}}"))),
                ("many values", text(r#""","#, (r#"{"id":1,"subscribe":{"tf":{"vals":["#, r#"""]}}}"#))),
                ("many fields", text(r#""a":1,"#, (r#"{"id":1,"#, r#""b":1}"#))),
            ]
        }
        "protobuf" => {
            let sub = |recover: bool| {
                move |number: usize| {
                    let name = field(0x0a, format!("{number:x}").as_bytes());
                    let sub: &[u8] = if recover { &[0x18, 1, 0x32, 1, b'e'] } else { &[] };
                    field(0x1a, &[name, field(0x12, sub)].concat())
                }
            };
            let room = LARGE_BYTES - 16;
            let within = |part: &dyn Fn(usize) -> Vec<u8>| {
                let mut all = many(b"", part, b"");
                all.truncate(room);
                all
            };
            vec![
                ("many subs that say nothing", record(&[0x22], many(b"", sub(false), &[0; 0]))),
                ("many subs that recover", record(&[0x22], many(b"", sub(true), &[0; 0]))),
                ("many commands", within(&|_| vec![0])),
                ("many values", record(&[0x2a, 0x6a], within(&|_| field(0x2a, b"")))),
                ("many nodes", record(&[0x2a, 0x6a], within(&|_| field(0x32, b"")))),
                ("many unknown fields", record(&[0x22], within(&|_| vec![0xf8, 0x01, 1]))),
            ]
        }
        "redis" => {
            let body = |part: &dyn Fn(usize) -> Vec<u8>| many(b"2P\x001,e;", part, b"\0data");
            vec![
                ("a list of connections", many(b"2O\x03\x01\x04", |_| vec![9, 1, b'c'], b"")),
                ("many unknown fields", body(&|_| vec![200, 0])),
            ]
        }
        "forwarded" => vec![
            ("many proxies", many(b"\n\n", |_| b"10.0.0.1,".to_vec(), b"")),
            ("many elements", many(b"", |_| b"a=,".to_vec(), b"")),
        ],
        "offers" => vec![("many offers", many(b"", |_| b"a,".to_vec(), b""))],
        "emulation" => vec![
            ("escapes", many(br#"{"session":"s","data":""#, |_| b"\\n".to_vec(), b"\"}")),
            ("many fields", many(br#"{"session":"s","data":"1","#, |_| b"\"a\":1,".to_vec(), b"\"b\":1}")),
        ],
        "cf_connect" => vec![
            ("percent signs", many(b"cf_connect=", |_| b"%7b".to_vec(), b"")),
            ("many parameters", many(b"", |_| b"a&".to_vec(), b"")),
        ],
        "websocket" => {
            let frame = |payload: &[u8]| [&[0x01, 0x80 | payload.len() as u8, 0, 0, 0, 0], payload].concat();
            let part = |_| vec![0x00, 0x81, 0, 0, 0, 0, b'x'];
            let begin = [vec![0], frame(b"x")].concat();
            vec![
                ("many fragments", many(&begin, part, b"")),
                ("many pings", many(&[0], |_| vec![0x89, 0x80, 0, 0, 0, 0], b"")),
            ]
        }
        _ => Vec::new(),
    }
}

macro_rules! for_each_target {
    ($($target:ident)*) => {
        /// The names below.
        const TESTED: &[&str] = &[$(stringify!($target)),*];

        $(mod $target {
            use super::named;

            #[test]
            fn the_files_of_the_corpus_are_read_as_they_have_to_be() {
                named(stringify!($target)).replay();
            }

            #[test]
            fn changes_of_the_corpus_are_read_as_they_have_to_be() {
                named(stringify!($target)).change();
            }

            #[test]
            fn no_input_takes_more_than_sixteen_times_its_size() {
                named(stringify!($target)).measure();
            }
        })*
    };
}

fn named(name: &str) -> Target {
    *targets::ALL.iter().find(|target| target.name == name).expect("a target of this name")
}

for_each_target! {
    json protobuf websocket frames deflate offers cf_connect forwarded emulation session proxy filter channel
    redis
}

#[test]
fn every_target_has_tests_a_runner_and_a_corpus() {
    let names = |below: &str| -> BTreeSet<String> {
        let entries = fs::read_dir(folder().join(below)).unwrap();
        entries.map(|entry| entry.unwrap().path().file_stem().unwrap().display().to_string()).collect()
    };
    let all: BTreeSet<String> = targets::ALL.iter().map(|target| target.name.to_owned()).collect();
    assert_eq!(names("corpus"), all);
    assert_eq!(names("runners"), all);
    assert_eq!(TESTED.iter().map(|name| (*name).to_owned()).collect::<BTreeSet<_>>(), all);
    let manifest = fs::read_to_string(folder().join("Cargo.toml")).unwrap();
    for name in &all {
        targets::check(name, b"");
        assert!(manifest.contains(&format!("path = \"runners/{name}.rs\"")), "no [[bin]] for {name}");
        let runner = fs::read_to_string(folder().join(format!("runners/{name}.rs"))).unwrap();
        assert!(runner.contains(&format!("check(\"{name}\", data)")), "the runner of {name}");
    }
}

/// Otherwise a failure could not be repeated.
#[test]
fn the_same_seed_makes_the_same_changes() {
    let files = vec![b"{\"id\":1}".to_vec(), b"\x00\x01\x02".to_vec()];
    let make = |seed| {
        let mut mutator = Mutator::new(files.clone(), seed);
        (0..100).map(|_| mutator.next()).collect::<Vec<_>>()
    };
    assert_eq!(make(1), make(1));
    assert_ne!(make(1), make(2));
    let distinct: BTreeSet<_> = make(1).into_iter().collect();
    assert!(distinct.len() > 60, "{} of 100 differ", distinct.len());
    let mut mutator = Mutator::new(files, 3);
    assert!((0..20).all(|_| mutator.large(LARGE_BYTES).len() == LARGE_BYTES));
}

/// A check that cannot fail is worth nothing: the target is asked about something that is wrong.
#[test]
fn a_fault_is_found_and_its_input_is_named() {
    let faulty = Target {
        name: "json",
        decode: |_| (),
        check: |data| assert!(!data.contains(&b'\xff'), "planted"),
        more_bytes: 0,
    };
    let found = std::panic::catch_unwind(|| faulty.change());
    assert!(found.is_err(), "none of {CHANGES} changes had the byte that is a fault");
    let greedy = Target { decode: |data| drop(vec![0_u8; 17 * data.len() + 1]), ..faulty };
    assert!(std::panic::catch_unwind(|| greedy.measure()).is_err(), "17 times the size were taken");
}

/// For `mutation`.
fn pick<'a, T>(random: &mut Random, of: &'a [T]) -> &'a T {
    &of[random.below(of.len())]
}
