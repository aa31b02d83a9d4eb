//! How sources and pages look: widths, links, words, headers, tests at the end of a file, and the modules
//! that the groups of nextest name.

use std::fs;
use std::path::{Path, PathBuf};

use super::selection::{Selector, test_names};
use crate::tools::readme::root;

/// Columns of a line of prose.
const WIDTH: usize = 110;

/// Folders that hold no sources of ours, or sources that never change.
const LEFT_OUT: [&str; 5] = ["target", "node_modules", ".git", "frozen", "autobahn"];

/// Names that had a meaning here only, and the terms of the field that took their place.
const TERMS: [(&str, &str); 47] = [
    ("Answering", "PendingVerdict"),
    ("Asked", "Outcome"),
    ("Asker", "ReplyTo"),
    ("Departed", "Disconnected"),
    ("Ear", "PushHandler"),
    ("Elsewhere", "AsyncInstances"),
    ("Estate", "Takeover"),
    ("Goodbye", "DisconnectEvent"),
    ("Hello", "ConnectEvent"),
    ("Holder", "Assigned"),
    ("Inlet", "ReadBuffer"),
    ("Judge", "Checker"),
    ("Judged", "Authenticated"),
    ("Judging", "Authentication"),
    ("Mistake", "ConfigError"),
    ("Mistakes", "Errors"),
    ("Once", "Idempotency"),
    ("Outside", "Capabilities"),
    ("Peer", "ConnectionHandle"),
    ("Places", "SlotMap"),
    ("Questions", "PendingRequests"),
    ("Seat", "Assignment"),
    ("Side", "ServerQueues"),
    ("Stands", "StreamTop"),
    ("Terms", "PublishConditions"),
    ("Witness", "PolledServer"),
    ("Wrong", "Invalid"),
    ("ask_elsewhere", "start_async"),
    ("asker", "reply_to"),
    ("come_or_go", "broadcast_presence"),
    ("estate", "takeover"),
    ("goodbye", "disconnect event"),
    ("heir", "survivor"),
    ("inlet", "read_buffer"),
    ("judge", "authenticate"),
    ("judged", "authenticated"),
    ("judging", "authentication"),
    ("lane", "pipeline"),
    ("mistake", "error"),
    ("of_slot", "server_of_slot"),
    ("pretended", "noop"),
    ("renounce", "remove_interest"),
    ("seat", "assignment"),
    ("terms", "conditions"),
    ("ticket", "request_id"),
    ("witness", "polled server"),
    ("wrongs", "invalids"),
];

/// Every file below the root of the repository with this extension, and its text.
pub(super) fn files(extension: &str) -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    let mut folders = vec![root()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry")) {
            let (path, name) = (entry.path(), entry.file_name());
            if LEFT_OUT.iter().any(|left_out| name == *left_out) {
                continue;
            }
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|has| has == extension) {
                let text = fs::read_to_string(&path).expect("text");
                found.push((path.strip_prefix(root()).expect("below the root").to_owned(), text));
            }
        }
    }
    assert!(found.len() > 10, "{extension}: {}", found.len());
    found
}

/// Lines that are too wide, without those between fences.
fn too_wide(path: &Path, text: &str, is_prose: impl Fn(&str) -> bool) -> Vec<String> {
    let mut fenced = false;
    let mut wide = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let content = line.trim_start().trim_start_matches(['/', '!']).trim_start();
        fenced ^= content.starts_with("```");
        let is_table_or_link = content.starts_with('|') || !content.contains(' ') || content.starts_with('[');
        if !fenced && !is_table_or_link && is_prose(line) && line.chars().count() > WIDTH {
            wide.push(format!("{}:{}", path.display(), number + 1));
        }
    }
    wide
}

#[test]
fn comments_and_pages_have_a_width() {
    let comment = |line: &str| line.trim_start().starts_with("//");
    let comments = files("rs").into_iter().flat_map(|(path, text)| too_wide(&path, &text, comment));
    let pages = files("md").into_iter().flat_map(|(path, text)| too_wide(&path, &text, |_| true));
    let wide: Vec<_> = comments.chain(pages).collect();
    assert!(wide.is_empty(), "wrap at {WIDTH} columns: {wide:#?}");
}

#[test]
fn every_link_of_every_page_leads_somewhere() {
    let mut checked = 0;
    for (path, text) in files("md") {
        let folder = root().join(&path);
        let folder = folder.parent().expect("a folder");
        let between = |begin: &'static str, end: char| {
            text.split(begin).skip(1).filter_map(move |rest| rest.split(end).next())
        };
        let pictures = between("src=\"", '"').chain(between("srcset=\"", '"'));
        for link in between("](", ')').chain(pictures) {
            let target = link.split('#').next().unwrap_or_default();
            if target.is_empty() || target.contains("://") || target.contains(char::is_whitespace) {
                continue;
            }
            assert!(folder.join(target).exists(), "{}: {link}", path.display());
            checked += 1;
        }
    }
    assert!(checked > 40, "{checked}");
}

#[test]
fn every_file_says_what_it_is_for() {
    for (path, text) in files("rs") {
        // Templates of crates are not ours when they are used.
        let is_template = path.components().any(|part| part.as_os_str() == "template");
        assert!(is_template || text.starts_with("//!"), "{} begins without `//!`", path.display());
    }
}

#[test]
fn tests_stand_at_the_end_of_a_file() {
    for (path, text) in files("rs").iter().filter(|(path, _)| path.starts_with("gateway/src")) {
        let Some(at) = text.find("\n#[cfg(test)]\nmod tests") else { continue };
        // The module is the last item: what closes at the first column closes it, and nothing follows.
        let rest = &text[at + 1..];
        let end = if rest.contains("mod tests;") {
            rest.find("mod tests;").map(|at| at + "mod tests;".len())
        } else {
            rest.find("\n}\n").map(|at| at + 2)
        };
        let after = &rest[end.expect("the module ends")..];
        assert!(after.trim().is_empty(), "{}: code follows the tests: {after}", path.display());
    }
}

#[test]
fn things_have_the_names_of_the_field() {
    let is_ours =
        |path: &Path| ["gateway/src", "plugin-sdk", "plugins"].iter().any(|root| path.starts_with(root));
    for (path, text) in files("rs").iter().filter(|(path, _)| is_ours(path)) {
        for line in text.lines().filter(|line| !line.trim_start().starts_with("//")) {
            let code = line.split('"').step_by(2).collect::<String>();
            let mut words = code.split(|letter: char| !letter.is_alphanumeric() && letter != '_');
            let home_made = words.find_map(|word| TERMS.iter().find(|(name, _)| *name == word));
            assert!(home_made.is_none(), "{}: {home_made:?} in `{line}`", path.display());
        }
    }
}

/// A module that was renamed would lose its group without a word.
#[test]
fn every_module_in_the_filters_of_nextest_exists() {
    let file = ".config/nextest.toml";
    let text = fs::read_to_string(root().join(file)).expect("the configuration of nextest");
    let configuration: toml::Table = text.parse().expect("TOML");
    let overrides = configuration["profile"]["default"]["overrides"].as_array().expect("overrides");
    let names = test_names();
    let filters = overrides.iter().map(|group| group["filter"].as_str().expect("a filter"));
    let selectors: Vec<_> = filters.flat_map(Selector::all).collect();
    for selector in &selectors {
        selector.assert_used(&names, file);
    }
    assert!(selectors.len() > 20, "{} selectors", selectors.len());
}
