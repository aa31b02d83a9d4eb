//! Which tests a filter of `cargo nextest` or a word of `tests/run` selects.

use std::env;
use std::fs;
use std::path::Path;
use std::process::Command;

use crate::tools::readme::root;

/// A part of a filter that selects tests.
pub(super) enum Selector {
    /// The path of a module that a test is in, as in `test(/^redis::faults::/)`.
    Module(String),
    /// A word that the name of a test contains, as in `test(faults)`.
    Word(String),
}

impl Selector {
    /// The selectors of an expression, which joins `test(...)` by `|`.
    pub(super) fn all(expression: &str) -> Vec<Self> {
        let one = |part: &str| {
            let argument = part.trim().strip_prefix("test(").and_then(|rest| rest.strip_suffix(')'));
            Self::some(argument.unwrap_or_else(|| panic!("`{part}` is no `test(...)`: {expression}")))
        };
        expression.trim().split(" | ").flat_map(|line| line.split("\n| ")).flat_map(one).collect()
    }

    /// A path of modules may end in alternatives in parentheses.
    fn some(argument: &str) -> Vec<Self> {
        let Some(pattern) = argument.strip_prefix('/') else { return vec![Self::Word(argument.to_owned())] };
        let path = pattern.strip_prefix('^').and_then(|rest| rest.strip_suffix("::/"));
        let path = path.unwrap_or_else(|| panic!("`{argument}` is no path of modules `/^folder::module::/`"));
        let (parent, names) = match path.split_once('(') {
            Some((parent, names)) => (parent, names.strip_suffix(')').expect("alternatives at the end")),
            None => ("", path),
        };
        let module = |name: &str| {
            let module = format!("{parent}{name}::");
            let is_name = |letter: char| letter.is_ascii_alphanumeric() || "_:".contains(letter);
            assert!(module.chars().all(is_name), "`{module}` in `{argument}` is no path of modules");
            Self::Module(module)
        };
        names.split('|').map(module).collect()
    }

    fn matches(&self, name: &str) -> bool {
        match self {
            Self::Module(module) => name.starts_with(module),
            Self::Word(word) => name.contains(word),
        }
    }

    /// Fails unless it selects a test.
    pub(super) fn assert_used(&self, names: &[String], place: &str) {
        let (Self::Module(text) | Self::Word(text)) = self;
        assert!(names.iter().any(|name| self.matches(name)), "{place}: `{text}` selects no test");
    }
}

/// The names of the tests of this binary and of the gateway's library.
pub(super) fn test_names() -> Vec<String> {
    let listed = Command::new(env::current_exe().expect("a test knows where it is"))
        .args(["--list", "--format", "terse"])
        .output()
        .expect("the binary lists its tests");
    let listed = String::from_utf8(listed.stdout).expect("text");
    let mut names: Vec<_> =
        listed.lines().filter_map(|line| line.strip_suffix(": test")).map(str::to_owned).collect();
    assert!(names.len() > 400, "{} tests in this binary", names.len());
    let count = names.len();
    library_tests(&root().join("gateway/src"), "", &mut names);
    assert!(names.len() > count + 300, "{} tests in the library", names.len() - count);
    names
}

/// Adds the tests in the sources of a folder. A file gives the path of its module.
fn library_tests(folder: &Path, module: &str, names: &mut Vec<String>) {
    for entry in fs::read_dir(folder).expect("a folder of the source") {
        let path = entry.expect("an entry").path();
        let stem = path.file_stem().expect("a name").to_string_lossy().into_owned();
        let module = format!("{module}{stem}::");
        if path.is_dir() {
            library_tests(&path, &module, names);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(&path).expect("text");
            let inner = if text.contains("\nmod tests {\n") { "tests::" } else { "" };
            names.extend(tests_in(&text).map(|name| format!("{module}{inner}{name}")));
        }
    }
}

/// The names of the functions that have the attribute of a test.
fn tests_in(text: &str) -> impl Iterator<Item = &str> {
    let after_attribute =
        |line: &str| ["#[test]", "#[tokio::test"].iter().any(|attribute| line.starts_with(attribute));
    let mut follows = false;
    text.lines().map(str::trim_start).filter_map(move |line| {
        follows |= after_attribute(line);
        let (_, rest) = line.split_once("fn ").filter(|_| follows)?;
        follows = false;
        rest.split(['(', '<']).next()
    })
}

#[test]
fn an_expression_gives_every_module_and_word() {
    let names = |expression: &str| -> Vec<String> {
        let text = |selector: Selector| match selector {
            Selector::Module(module) => format!("in {module}"),
            Selector::Word(word) => word,
        };
        Selector::all(expression).into_iter().map(text).collect()
    };
    assert_eq!(names("test(hub::)"), ["hub::"]);
    assert_eq!(names("test(/^a::b::/)"), ["in a::b::"]);
    assert_eq!(names("\ntest(/^a::(b|c_d)::/)\n| test(e)\n"), ["in a::b::", "in a::c_d::", "e"]);
    assert_eq!(names("test(/^(a|b)::/) | test(c)"), ["in a::", "in b::", "c"]);
    assert!(!Selector::Module("a::b::".to_owned()).matches("x::a::b::c"));
    let text =
        "#[test]\nfn one() {}\nfn no() {}\n    #[tokio::test(flavor = \"x\")]\n    async fn two() {}\n";
    assert_eq!(tests_in(text).collect::<Vec<_>>(), ["one", "two"]);
}
