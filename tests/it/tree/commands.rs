//! The commands in the pages for contributors name packages, scripts, tests, benchmarks and variables that
//! exist.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use super::selection::{Selector, test_names};
use super::tidy::files;
use crate::tools::readme::{blocks, root};

/// Pages with commands for people who work on the tree.
const PAGES: [&str; 4] = ["README.md", "CONTRIBUTING.md", "tests/README.md", "gateway/REDIS.md"];

/// Pages whose words in capitals between backticks are variables.
const VARIABLES: [&str; 2] = ["CONTRIBUTING.md", "tests/README.md"];

/// One command of a page.
#[derive(Debug, Default, PartialEq)]
struct Command {
    /// The page and the line, for a failure.
    place: String,
    /// Variables that the command sets.
    variables: Vec<String>,
    /// The program and its arguments.
    words: Vec<String>,
}

impl Command {
    fn new(page: &str, line: &str) -> Self {
        let mut command = Self { place: format!("{page}: `{line}`"), ..Self::default() };
        for word in words(line) {
            match word.split_once('=') {
                Some((name, _)) if command.is_before_program() && is_variable(name) => {
                    command.variables.push(name.to_owned());
                }
                _ => command.words.push(word),
            }
        }
        command
    }

    /// `export` is followed by variables.
    fn is_before_program(&self) -> bool {
        self.words.is_empty() || self.words == ["export"]
    }

    fn program(&self) -> &str {
        self.words.first().map_or("", String::as_str)
    }

    /// The arguments of cargo itself, before `--`.
    fn cargo_arguments(&self) -> &[String] {
        if self.program() != "cargo" {
            return &[];
        }
        self.words.split(|word| word == "--").next().unwrap_or_default()
    }

    /// The values of an option of cargo.
    fn values<'a>(&'a self, options: &'a [&str]) -> impl Iterator<Item = &'a str> {
        let pairs = self.cargo_arguments().windows(2);
        pairs.filter(|pair| options.contains(&&*pair[0])).map(|pair| &*pair[1])
    }
}

/// The words of a line, as a shell reads them, without a comment.
fn words(line: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut quote = None;
    for letter in line.chars() {
        let last = words.last_mut().expect("there is always one");
        match (quote, letter) {
            (Some(open), _) if open == letter => quote = None,
            (None, '\'' | '"') => quote = Some(letter),
            (None, '#') if last.is_empty() => break,
            (None, ' ') => words.push(String::new()),
            _ => last.push(letter),
        }
    }
    words.retain(|word| !word.is_empty());
    words
}

fn is_variable(name: &str) -> bool {
    let fits = |letter: char| letter.is_ascii_uppercase() || letter.is_ascii_digit() || letter == '_';
    name.len() > 3 && name.starts_with(|first: char| first.is_ascii_uppercase()) && name.chars().all(fits)
}

fn text(page: &str) -> String {
    fs::read_to_string(root().join(page)).expect("the page")
}

/// What stands between backticks outside fenced blocks.
fn spans(text: &str) -> Vec<String> {
    let outside: String = text.split("```").step_by(2).collect();
    outside.split('`').skip(1).step_by(2).map(|span| span.replace('\n', " ")).collect()
}

/// The commands of the console blocks, and those between backticks that run the tests.
fn commands() -> Vec<Command> {
    let mut commands = Vec::new();
    for page in PAGES {
        let text = text(page);
        let blocks = blocks(&text, "console");
        let lines = blocks.iter().flat_map(|block| block.lines()).filter_map(|line| line.strip_prefix("$ "));
        commands.extend(lines.map(|line| Command::new(page, line)));
        let runs = spans(&text).into_iter().filter(|span| words(span).iter().any(|word| word == "tests/run"));
        commands.extend(runs.map(|span| Command::new(page, &span)));
    }
    assert!(commands.len() > 10, "{} commands", commands.len());
    commands
}

/// The values of a key in a list of tables.
fn values<'a>(table: &'a toml::Table, list: &str, key: &str) -> Vec<&'a str> {
    let list = table.get(list).and_then(toml::Value::as_array).expect("a list");
    list.iter().filter_map(|entry| entry.get(key)?.as_str()).collect()
}

fn table(file: &str) -> toml::Table {
    text(file).parse().expect("TOML")
}

#[test]
fn every_package_that_a_command_names_is_in_the_workspace() {
    let lock = table("Cargo.lock");
    let packages = lock["package"].as_array().expect("packages");
    // What comes from elsewhere has a source.
    let ours = packages.iter().filter(|package| package.get("source").is_none());
    let ours: Vec<_> = ours.filter_map(|package| package["name"].as_str()).collect();
    let mut checked = 0;
    for command in commands() {
        for package in command.values(&["-p", "--package"]) {
            assert!(ours.contains(&package), "{}: there is no package `{package}`", command.place);
            checked += 1;
        }
    }
    assert!(checked >= 8, "{checked} packages");
}

#[test]
fn every_script_that_a_page_names_is_executable() {
    let programs =
        commands().into_iter().map(|command| (command.place.clone(), command.program().to_owned()));
    let named = PAGES
        .into_iter()
        .flat_map(|page| spans(&text(page)).into_iter().map(move |span| (page.to_owned(), span)));
    let named = named.filter(|(_, span)| ["tests/run", ".ci/run"].contains(&&**span));
    let mut checked = 0;
    for (place, script) in programs.chain(named).filter(|(_, script)| script.contains('/')) {
        let found = fs::metadata(root().join(&script));
        let mode = found.map_or(0, |found| found.permissions().mode());
        assert!(mode & 0o111 != 0, "{place}: `{script}` is no script that can be run");
        checked += 1;
    }
    assert!(checked >= 6, "{checked} scripts");
}

#[test]
fn every_filter_in_a_page_selects_tests() {
    let names = test_names();
    let mut checked = 0;
    for command in commands() {
        let words = if command.program() == "tests/run" { &command.words[1..] } else { &[] };
        let words = words.iter().map(|word| Selector::Word(word.clone()));
        let expressions = command.values(&["-E", "--filterset"]).flat_map(Selector::all);
        for selector in words.chain(expressions) {
            selector.assert_used(&names, &command.place);
            checked += 1;
        }
    }
    assert!(checked >= 5, "{checked} filters");
}

#[test]
fn every_benchmark_and_profile_that_a_command_names_exists() {
    let (benches, profiles) = (table("gateway/Cargo.toml"), table("Cargo.toml"));
    let benches = values(&benches, "bench", "name");
    let mut checked = 0;
    for command in commands() {
        for bench in command.values(&["--bench"]) {
            assert!(benches.contains(&bench), "{}: there is no benchmark `{bench}`", command.place);
            let groups = command.words.iter().skip_while(|word| *word != "--").skip(1);
            for group in groups.filter(|word| !word.starts_with('-')) {
                let file = root().join(format!("gateway/benches/{bench}/{group}.rs"));
                assert!(file.exists(), "{}: there is no group `{group}`", command.place);
            }
            checked += 1;
        }
        for profile in command.values(&["--profile"]) {
            let known = profiles["profile"].get(profile).is_some();
            assert!(known, "{}: there is no profile `{profile}`", command.place);
        }
    }
    assert!(checked >= 2, "{checked} benchmarks");
}

/// Whether a source or a script uses the value of a variable.
fn is_read(name: &str, sources: &[String], scripts: &[String]) -> bool {
    let literal = format!("(\"{name}\"");
    let sets = [".env", "env_remove", "set_var"];
    let reads = |before: &str| !sets.iter().any(|set| before.ends_with(set));
    let in_source = |text: &String| text.match_indices(&literal).any(|(at, _)| reads(&text[..at]));
    let in_script =
        |text: &String| [format!("${name}"), format!("${{{name}")].iter().any(|form| text.contains(form));
    sources.iter().any(in_source) || scripts.iter().any(in_script)
}

#[test]
fn every_variable_that_a_page_names_is_read_somewhere() {
    let sources: Vec<_> = files("rs").into_iter().map(|(_, text)| text).collect();
    let scripts = ["tests/run", ".ci/run"].map(text);
    let set = commands().into_iter().flat_map(|command| {
        let place = command.place;
        command.variables.into_iter().map(move |name| (place.clone(), name))
    });
    let named = VARIABLES
        .into_iter()
        .flat_map(|page| spans(&text(page)).into_iter().map(move |span| (page.to_owned(), span)));
    let named = named.filter(|(_, span)| is_variable(span));
    let mut checked = 0;
    for (place, name) in set.chain(named) {
        assert!(is_read(&name, &sources, &scripts), "{place}: nothing reads `{name}`");
        checked += 1;
    }
    assert!(checked >= 10, "{checked} variables");
}

#[test]
fn a_command_is_read_as_a_shell_reads_it() {
    let command = Command::new("page", "LONG_NAME=1 cargo test -p one -E 'test(a b)' -- -p two   # more");
    assert_eq!(command.variables, ["LONG_NAME"]);
    assert_eq!(command.values(&["-p", "--package"]).collect::<Vec<_>>(), ["one"]);
    assert_eq!(command.values(&["-E"]).collect::<Vec<_>>(), ["test(a b)"]);
    let exported = Command::new("page", "export GATEWAY_BIN=$PWD/a GATEWAY_WASM=b");
    assert_eq!(exported.variables, ["GATEWAY_BIN", "GATEWAY_WASM"]);
    assert!(exported.values(&["-p"]).next().is_none());
}

#[test]
fn a_variable_that_is_only_set_is_not_read() {
    let sources = ["x.env(\"NAME_A\", 1); var(\"NAME_B\")".to_owned()];
    let scripts = ["export NAME_C=1; echo ${NAME_D:-}".to_owned()];
    let read = |name| is_read(name, &sources, &scripts);
    assert_eq!(["NAME_A", "NAME_B", "NAME_C", "NAME_D"].map(read), [false, true, false, true]);
}
