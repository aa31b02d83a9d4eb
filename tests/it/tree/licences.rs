//! What dependencies are allowed: `deny.toml`, held against what `cargo` says is built. Runs wherever the
//! tests do; `cargo deny check`, where it is installed, also reads the licence texts and the list of
//! vulnerabilities.

use std::path::Path;
use std::process::Command;

use serde_json::Value;
use toml::Table;

const CRATES_IO: &str = "registry+https://github.com/rust-lang/crates.io-index";

fn root() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

fn rules() -> Table {
    std::fs::read_to_string(root().join("deny.toml")).unwrap().parse().unwrap()
}

fn texts<'t>(table: &'t Table, section: &str, key: &str) -> Vec<&'t str> {
    table[section][key].as_array().unwrap().iter().map(|text| text.as_str().unwrap()).collect()
}

/// Every package that the lock file names for any platform, those of this repository included.
fn packages() -> Vec<Value> {
    let output = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .args(["metadata", "--format-version", "1", "--locked", "--all-features"])
        .current_dir(root())
        .output()
        .expect("cargo runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let mut metadata: Value = serde_json::from_slice(&output.stdout).unwrap();
    let Value::Array(packages) = metadata["packages"].take() else { panic!("no packages") };
    assert!(packages.len() > 200, "{} packages are not all there are", packages.len());
    packages
}

fn name(package: &Value) -> String {
    format!("{} {}", package["name"].as_str().unwrap(), package["version"].as_str().unwrap())
}

/// Whether a licence expression (SPDX) can be met with licences of the list alone: `OR` (and the `/` of old
/// packages) is a choice, `AND` is not. `AND` binds closer.
fn is_met(expression: &str, allowed: &[&str]) -> bool {
    let spaced = expression.replace('(', " ( ").replace(')', " ) ").replace('/', " OR ");
    let words: Vec<&str> = spaced.split_whitespace().collect();
    let mut rest = &words[..];
    let met = any(&mut rest, allowed);
    assert!(rest.is_empty() && !words.is_empty(), "{expression:?} is not a licence expression");
    met
}

fn any(words: &mut &[&str], allowed: &[&str]) -> bool {
    let mut met = all(words, allowed);
    while let ["OR", rest @ ..] = *words {
        *words = rest;
        met |= all(words, allowed);
    }
    met
}

fn all(words: &mut &[&str], allowed: &[&str]) -> bool {
    let mut met = one(words, allowed);
    while let ["AND", rest @ ..] = *words {
        *words = rest;
        met &= one(words, allowed);
    }
    met
}

fn one(words: &mut &[&str], allowed: &[&str]) -> bool {
    match *words {
        ["(", rest @ ..] => {
            *words = rest;
            let met = any(words, allowed);
            let [")", rest @ ..] = *words else { panic!("a bracket is open before {words:?}") };
            *words = rest;
            met
        }
        [licence, "WITH", exception, rest @ ..] => {
            *words = rest;
            allowed.contains(&format!("{licence} WITH {exception}").as_str())
        }
        [licence, rest @ ..] => {
            *words = rest;
            allowed.contains(licence)
        }
        [] => panic!("a licence is missing"),
    }
}

#[test]
fn every_dependency_has_a_licence_that_is_allowed() {
    let rules = rules();
    let allowed = texts(&rules, "licenses", "allow");
    let mut wrong = Vec::new();
    for package in packages() {
        match package["license"].as_str() {
            Some(licence) if is_met(licence, &allowed) => (),
            licence => wrong.push(format!("{}: {licence:?}", name(&package))),
        }
    }
    assert!(wrong.is_empty(), "deny.toml does not allow the licences of {wrong:#?}");
}

#[test]
fn no_dependency_is_banned_and_all_come_from_the_registry() {
    let rules = rules();
    let banned: Vec<&str> = rules["bans"]["deny"]
        .as_array()
        .unwrap()
        .iter()
        .map(|entry| entry["crate"].as_str().unwrap())
        .collect();
    assert!(!banned.is_empty());
    let mut wrong = Vec::new();
    for package in packages() {
        if banned.contains(&package["name"].as_str().unwrap()) {
            wrong.push(format!("{} is banned", name(&package)));
        }
        if let Some(source) = package["source"].as_str() {
            if source != CRATES_IO {
                wrong.push(format!("{} comes from {source}", name(&package)));
            }
            continue;
        }
        // Ours: what they depend on has a version, unless it is ours too.
        for dependency in package["dependencies"].as_array().unwrap() {
            if dependency["req"] == "*" && dependency["path"].is_null() {
                wrong.push(format!("{} takes any version of {}", name(&package), dependency["name"]));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn a_licence_expression_is_a_choice_or_a_sum() {
    let allowed = ["MIT", "Apache-2.0", "Apache-2.0 WITH LLVM-exception", "Unicode-3.0"];
    for (expression, met) in [
        ("MIT", true),
        ("GPL-3.0-only", false),
        ("MIT OR GPL-3.0-only", true),
        ("MIT/GPL-3.0", true),
        ("MIT AND GPL-3.0-only", false),
        ("(MIT OR Apache-2.0) AND Unicode-3.0", true),
        ("(MIT OR Apache-2.0) AND OpenSSL", false),
        ("OpenSSL OR MIT AND Apache-2.0", true),
        ("MIT AND OpenSSL OR GPL-2.0", false),
        ("Apache-2.0 WITH LLVM-exception", true),
        ("Apache-2.0 WITH Classpath-exception-2.0", false),
        ("GPL-2.0 WITH LLVM-exception OR MIT", true),
    ] {
        assert_eq!(is_met(expression, &allowed), met, "{expression}");
    }
}
