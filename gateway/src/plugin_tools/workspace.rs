//! [`join`] makes a new crate a member of the cargo workspace around its folder. Cargo's commands would fail
//! in the folder of a crate that such a workspace neither lists nor excludes.

use std::fs;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use toml::{Spanned, Value};

use super::cargo::Cargo;
use super::files::rewrite;

/// How a crate belongs to the workspace around its folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Membership {
    /// There is no workspace around it, or only one that excludes it or cannot be changed.
    Alone,
    /// `members` in this file matched its folder already.
    Listed(PathBuf),
    /// It was added to `members` in this file.
    Added(PathBuf),
}

/// Joins the workspace around the crate in `folder`, whose `Cargo.toml` has no table `[workspace]`. Cargo
/// itself decides what is a member; without cargo the crate stays alone.
pub(crate) fn join(folder: &Path) -> Membership {
    joined(folder).unwrap_or(Membership::Alone)
}

fn joined(folder: &Path) -> Option<Membership> {
    let folder = folder.canonicalize().ok()?;
    let cargo = Cargo::new(&folder);
    if let Ok(workspace) = cargo.workspace() {
        let root = workspace.manifest();
        let is_own = root == folder.join("Cargo.toml");
        return (!is_own).then_some(Membership::Listed(root));
    }
    // It is in a workspace that does not list it, which is that of the folder above.
    let root = Cargo::new(folder.parent()?).workspace().ok()?.manifest();
    let before = fs::read_to_string(&root).ok()?;
    let member = folder.strip_prefix(root.parent()?).ok()?.to_str()?;
    rewrite(&root, with_member(&before, member)?.as_bytes()).ok()?;
    if cargo.workspace().is_ok_and(|workspace| workspace.manifest() == root) {
        return Some(Membership::Added(root));
    }
    // The workspace has another problem, and this file is no part of it.
    rewrite(&root, before.as_bytes()).ok()?;
    None
}

#[derive(Deserialize)]
struct Manifest {
    workspace: Table,
}

#[derive(Deserialize)]
struct Table {
    members: Option<Spanned<Vec<Spanned<String>>>>,
}

/// The manifest of a workspace with one more member and its text unchanged otherwise. Comments stay with the
/// members that they stand behind. `None` if it is written in a way that this does not support.
fn with_member(text: &str, member: &str) -> Option<String> {
    let Manifest { workspace } = toml::from_str(text).ok()?;
    let member = Value::from(member).to_string();
    let Some(members) = &workspace.members else {
        let place = end_of_header(text)?;
        return Some(format!("{}\nmembers = [{member}]{}", &text[..place], &text[place..]));
    };
    let (begin, end) = (members.span().start + 1, members.span().end - 1);
    let Some(last) = members.get_ref().last().map(Spanned::span) else {
        let place = behind_comment(text, begin);
        let gap = if place > begin { OWN_LINE } else { "" };
        return Some(format!("{}{gap}{member}{}", &text[..place], &text[place..]));
    };
    let comma = comma(&text[last.end..end]).map(|at| last.end + at + 1);
    let behind = comma.unwrap_or(last.end);
    let place = behind_comment(text, behind);
    let gap = match gap(&text[..last.start]) {
        " " if place > behind => OWN_LINE,
        gap => gap,
    };
    // The list ends with a comma if it did before.
    let (before, after) = if comma.is_some() { ("", ",") } else { (",", "") };
    let (head, comment, tail) = (&text[..last.end], &text[last.end..place], &text[place..]);
    Some(format!("{head}{before}{comment}{gap}{member}{after}{tail}"))
}

/// Begins a line for a member where the others have no lines of their own.
const OWN_LINE: &str = "\n    ";

/// The first comma that is not in a comment.
fn comma(text: &str) -> Option<usize> {
    let mut in_comment = false;
    text.bytes().position(|byte| {
        in_comment = byte == b'#' || in_comment && byte != b'\n';
        byte == b',' && !in_comment
    })
}

/// The end of the comment that follows this place on the same line; the place itself if there is none.
fn behind_comment(text: &str, place: usize) -> usize {
    let line = text[place..].lines().next().unwrap_or_default();
    if line.trim_start().starts_with('#') { place + line.len() } else { place }
}

/// What separates a member from the one before: a new line with the same indent, if members have lines of
/// their own.
fn gap(before: &str) -> &str {
    let line = before.trim_end_matches([' ', '\t']);
    let line = line.strip_suffix('\n').map(|line| line.strip_suffix('\r').unwrap_or(line));
    line.map_or(" ", |line| &before[line.len()..])
}

/// The end of the line `[workspace]`.
fn end_of_header(text: &str) -> Option<usize> {
    let is_header = |line: &&str| line.split('#').next().is_some_and(|line| line.trim() == "[workspace]");
    let line = text.lines().find(is_header)?;
    Some(line.as_ptr() as usize - text.as_ptr() as usize + line.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_member_is_added_and_the_rest_stays() {
        for (before, after) in [
            ("[workspace]\nmembers = [\"a\"]\n", "[workspace]\nmembers = [\"a\", \"p/new\"]\n"),
            (
                "[workspace]\nmembers = [\n    \"a\", # one\n    \"b\", # two\n]\n",
                "[workspace]\nmembers = [\n    \"a\", # one\n    \"b\", # two\n    \"p/new\",\n]\n",
            ),
            (
                "[workspace]\nmembers = [\n  \"a\", # one\n  \"b\" # two, at last\n  # three\n]\n",
                "[workspace]\nmembers = [\n  \"a\", # one\n  \"b\", # two, at last\n  \"p/new\"\n  # three\n]\n",
            ),
            (
                "[workspace]\nmembers = [\n  \"a\" # one\n  , # or two\n]\n",
                "[workspace]\nmembers = [\n  \"a\" # one\n  , # or two\n  \"p/new\",\n]\n",
            ),
            (
                "[workspace]\r\nmembers = [\r\n  \"a\", # one\r\n]\r\n",
                "[workspace]\r\nmembers = [\r\n  \"a\", # one\r\n  \"p/new\",\r\n]\r\n",
            ),
            (
                "[workspace]\nmembers = [\"a\", \"b\" # two\n]\n",
                "[workspace]\nmembers = [\"a\", \"b\", # two\n    \"p/new\"\n]\n",
            ),
            (
                "[workspace]\nmembers = [\"a\", \"b\", ] # all\n",
                "[workspace]\nmembers = [\"a\", \"b\", \"p/new\", ] # all\n",
            ),
            (
                "[workspace]\nmembers = [ # none, yet\n]\n",
                "[workspace]\nmembers = [ # none, yet\n    \"p/new\"\n]\n",
            ),
            ("workspace.members = []\n", "workspace.members = [\"p/new\"]\n"),
            (
                "[package]\nname = \"a\"\n\n[workspace] # mine\nresolver = \"3\"\n",
                "[package]\nname = \"a\"\n\n[workspace] # mine\nmembers = [\"p/new\"]\nresolver = \"3\"\n",
            ),
        ] {
            assert_eq!(with_member(before, "p/new").as_deref(), Some(after), "{before}");
        }
    }

    #[test]
    fn what_it_cannot_write_it_leaves_alone() {
        for text in ["", "[package]", "[workspace.package]\nversion = \"1\"", "no TOML"] {
            assert_eq!(with_member(text, "new"), None, "{text}");
        }
    }
}
