//! The process of the compiler: what it says, and how it ends.

#![allow(clippy::unwrap_used, reason = "a failing test may panic")]

use super::*;

const KIND: Kind = Kind { space: Space::Ample, metered: false };

#[test]
fn a_compiler_that_does_not_fit_beside_another_starts_when_that_one_ends() {
    let first = Place::wait(1 << 20, &Cancel::default()).unwrap();
    // More than any machine has.
    let second = std::thread::spawn(|| drop(Place::wait(u64::MAX, &Cancel::default()).unwrap()));
    std::thread::sleep(Duration::from_millis(50));
    assert!(!second.is_finished(), "it waits");
    drop(first);
    second.join().unwrap();
    // Places are given back, so that another one is free at once.
    drop(Place::wait(1 << 20, &Cancel::default()).unwrap());
}

#[test]
fn a_compiler_that_is_not_wanted_any_more_does_not_wait_for_another() {
    let first = Place::wait(1 << 20, &Cancel::default()).unwrap();
    let cancel = Cancel::default();
    let second = {
        let cancel = cancel.clone();
        std::thread::spawn(move || Place::wait(u64::MAX, &cancel).unwrap_err())
    };
    cancel.cancel();
    assert_eq!(second.join().unwrap(), cancelled());
    drop(first);
}

/// Compiles with a shell script, whose arguments are the kind and the memory.
fn script(text: &str, timeout: Duration) -> Result<Vec<u8>, LoadError> {
    let command = ["/bin/sh", "-c", text].map(PathBuf::from).into();
    let process = CompileProcess { command, timeout, bytes_max: 64 << 20 };
    process.compile(KIND, "digest", &[7; 100_000], &Cancel::default())
}

const LONG: Duration = Duration::from_secs(60);

/// A command that begins a response of this many bytes.
fn head(kind: &str, length: u8) -> String {
    format!(r"printf '{kind}\{length:03o}\000\000\000\000\000\000\000'")
}

/// Commands that respond with a text of less than 256 bytes.
fn answer(kind: &str, text: &str) -> String {
    format!(
        r#"text="{text}"; printf "{kind}\\$(printf %03o ${{#text}})\\000\\000\\000\\000\\000\\000\\000"; printf %s "$text""#
    )
}

#[test]
fn the_process_gets_the_component_and_gives_the_code() {
    let code = answer("C", "$(cat | wc -c) $0 $1 ${HOME:+inherited}");
    let code = script(&code, LONG).unwrap();
    assert_eq!(
        String::from_utf8(code).unwrap().split_whitespace().collect::<Vec<_>>(),
        ["100008", "ample", "plain"]
    );
}

#[test]
fn an_answer_that_was_cut_off_is_none() {
    for kind in ["C", "R"] {
        for end in ["kill -9 $$", "exit 0"] {
            let error = script(&format!("{}; {end}", head(kind, 100)), LONG).unwrap_err();
            assert_eq!(error.code(), LoadCode::CompileMemory, "{kind}, {end}: {error}");
            let text = format!("{}; printf half; {end}", head(kind, 100));
            let error = script(&text, LONG).unwrap_err();
            assert_eq!(error.code(), LoadCode::CompileMemory, "{kind}, {end}: {error}");
        }
    }
    let error = script(&head("C", u8::MAX).replace("\\000'", "\\001'"), LONG).unwrap_err();
    assert_eq!(error.code(), LoadCode::CompileMemory, "more than there may be: {error}");
}

#[test]
fn an_answer_is_read_as_it_was_written() {
    let mut written = Vec::new();
    Answer::write(&mut written, CODE, &[7; 300]).unwrap();
    assert!(matches!(Answer::read(&*written, 300), Answer::Code(code) if code == [7; 300]));
    assert!(matches!(Answer::read(&*written, 299), Answer::TooLarge));
    for length in 0..written.len() {
        let cut = Answer::read(&written[..length], 300);
        assert!(matches!(cut, Answer::Incomplete | Answer::CutOff), "{length}: {cut:?}");
    }
}

#[test]
fn a_compile_that_takes_too_long_is_ended_with_its_process() {
    let begin = Instant::now();
    let marker = tempfile::tempdir().unwrap();
    let path = marker.path().join("pid");
    let text = format!("echo $$ > {}; exec sleep 600", path.display());
    let error = script(&text, Duration::from_millis(300)).unwrap_err();
    assert_eq!(error.code(), LoadCode::CompileTimeout);
    assert!(error.message().contains("takes longer than 300ms to compile"), "{error}");
    assert!(begin.elapsed() < Duration::from_secs(30), "{:?}", begin.elapsed());
    let process = fs::read_to_string(path).unwrap();
    assert!(!PathBuf::from(format!("/proc/{}", process.trim())).exists(), "it was waited for");
}

#[test]
fn a_compile_that_is_not_wanted_any_more_is_ended_with_its_process() {
    let begin = Instant::now();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("pid");
    let text = format!("echo $$ > {0}.new; mv {0}.new {0}; exec sleep 600", path.display());
    let command = ["/bin/sh".into(), "-c".into(), text.into()].into();
    let process = CompileProcess { command, timeout: LONG * 10, bytes_max: 64 << 20 };
    let cancel = Cancel::default();
    let compile = {
        let cancel = cancel.clone();
        std::thread::spawn(move || process.compile(KIND, "digest", b"", &cancel))
    };
    let process = loop {
        match fs::read_to_string(&path) {
            Ok(process) => break process,
            Err(_) => std::thread::sleep(Duration::from_millis(5)),
        }
    };
    cancel.cancel();
    assert_eq!(compile.join().unwrap().unwrap_err(), cancelled());
    assert!(begin.elapsed() < Duration::from_secs(30), "{:?}", begin.elapsed());
    assert!(!PathBuf::from(format!("/proc/{}", process.trim())).exists(), "it was waited for");
}

#[test]
fn a_compile_that_takes_too_much_memory_is_told_so() {
    for (text, may_pass) in
        [("kill -9 $$", true), ("echo 'memory allocation of 7 bytes failed' >&2; kill -6 $$", false)]
    {
        let error = script(text, LONG).unwrap_err();
        assert_eq!(error.code(), LoadCode::CompileMemory, "{text}: {error}");
        assert_eq!(error.may_pass(), may_pass, "{text}: {error}");
    }
}

#[test]
fn a_compiler_that_is_ended_from_outside_says_nothing_about_the_plugin() {
    for (signal, code) in [
        (10, LoadCode::CompilerBusy),
        (15, LoadCode::CompilerBusy),
        (6, LoadCode::Compile),
        (11, LoadCode::Compile),
    ] {
        let error = script(&format!("kill -{signal} $$"), LONG).unwrap_err();
        assert_eq!(error.code(), code, "{signal}: {error}");
    }
    // Ctrl-C in a terminal goes to the gateway's process group.
    let code = script(&answer("C", "$(cut -d' ' -f5 /proc/$$/stat) $$"), LONG).unwrap();
    let code = String::from_utf8(code).unwrap();
    let (group, process) = code.trim().split_once(' ').unwrap();
    assert_eq!(group, process);
}

#[test]
fn what_the_compiler_says_is_passed_on() {
    let error = script(&answer("R", "the third function is odd"), LONG).unwrap_err();
    assert_eq!(error.message(), "does not compile: the third function is odd");
    let error = script("echo 'thread main panicked' >&2; exit 101", LONG).unwrap_err();
    assert!(error.message().contains("exit status: 101): thread main panicked"), "{error}");
    let process = CompileProcess { command: vec!["/nonexistent".into()], timeout: LONG, bytes_max: 64 << 20 };
    assert_eq!(
        process.compile(KIND, "digest", b"", &Cancel::default()).unwrap_err().code(),
        LoadCode::CompilerBusy
    );
}

#[test]
fn what_is_left_of_the_machine_bounds_the_memory() {
    let memory = |free| Some(resources::Memory { total: 1 << 40, free, by: Limit::Cgroup });
    assert_eq!(Allowance::of(1 << 30, memory(2 << 30)), Allowance { bytes: 1 << 30, short: None });
    let short = Allowance::of(1 << 30, memory(100 << 20));
    assert_eq!(short, Allowance { bytes: 56 << 20, short: Some(Limit::Cgroup) });
    assert!(short.bytes + short.code_bytes() <= 84 << 20, "while the code comes");
    assert!(
        short.exceeded().message().contains("than the 56 MiB that the control group"),
        "{}",
        short.exceeded()
    );
    assert_eq!(Allowance::of(1 << 30, memory(1)).bytes, 0);
}
