//! Writes the crate of a new plugin for `gateway plugin new`.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, ensure};

use super::files::{Mode, check_empty, create};
use crate::plugin::registry::plugin_name;

/// The files of a new crate, with the placeholders `{{name}}`, `{{file}}`, `{{type}}` and `{{sdk}}`.
const FILES: [(&str, &str); 7] = [
    ("Cargo.toml", include_str!("template/manifest.txt")),
    ("src/lib.rs", include_str!("template/lib.txt")),
    ("{{name}}.toml", include_str!("template/settings.txt")),
    ("self-test.json", include_str!("template/self-test.txt")),
    ("events.jsonl", include_str!("template/events.txt")),
    ("README.md", include_str!("template/readme.txt")),
    (".gitignore", "/target\n"),
];

/// The source of the SDK for a new crate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Sdk {
    /// This folder.
    Path(PathBuf),
    /// The registry, in the version of this program.
    Version,
}

impl Sdk {
    fn requirement(&self) -> String {
        match self {
            Self::Path(path) => {
                format!("{{ path = {} }}", toml::Value::from(path.to_string_lossy().into_owned()))
            }
            Self::Version => format!("{:?}", env!("CARGO_PKG_VERSION")),
        }
    }
}

/// Checks that a name is valid for a plugin and for a crate.
pub(crate) fn check_name(name: &str) -> anyhow::Result<()> {
    let in_folder =
        plugin_name(name).map_err(|error| anyhow::anyhow!("the name {name:?} {}", error.message()))?;
    ensure!(
        in_folder == name,
        "the name {name:?} begins with a number and a dash, which set the place of a file in the chain: \
         name the plugin {in_folder:?}, and give its file the number when you drop it"
    );
    // Further rules of cargo for package names. Cargo itself reports violations of the remaining ones.
    let begins = name.starts_with(|first: char| first.is_ascii_alphabetic() || first == '_');
    ensure!(begins, "the name {name:?} cannot be that of a crate: expected a letter at the beginning");
    const TAKEN: [&str; 8] =
        ["core", "std", "alloc", "test", "proc_macro", "gateway-plugin-sdk", "gateway", "self"];
    ensure!(
        !TAKEN.contains(&name),
        "the name {name:?} conflicts with a crate that every plugin uses: choose another"
    );
    Ok(())
}

/// Writes the crate. Writes nothing if the folder exists and is not empty.
pub(crate) fn write(folder: &Path, name: &str, sdk: &Sdk) -> anyhow::Result<()> {
    check_name(name)?;
    check_empty(folder)?;
    let filled = |text: &str| {
        text.replace("{{name}}", name)
            .replace("{{file}}", &name.replace('-', "_"))
            .replace("{{type}}", &type_name(name))
            .replace("{{sdk}}", &sdk.requirement())
    };
    for (path, text) in FILES {
        let path = folder.join(filled(path));
        let parent = path.parent().unwrap_or(folder);
        fs::create_dir_all(parent).with_context(|| format!("failed to make {}", parent.display()))?;
        ensure!(
            create(&path, filled(text).as_bytes(), Mode::Public)?,
            "{} was there already",
            path.display()
        );
    }
    Ok(())
}

/// Turns a name such as `rate-limit` into the name of a type.
fn type_name(name: &str) -> String {
    let mut capital = true;
    let mut text = String::new();
    for c in name.chars() {
        if c.is_ascii_alphanumeric() {
            text.push(if capital { c.to_ascii_uppercase() } else { c });
        }
        capital = !c.is_ascii_alphanumeric();
    }
    // These names are in scope or are keywords; and a type cannot begin with a digit.
    let taken =
        ["Plugin", "Message", "Verdict", "Kind", "Interests", "Connect", "Value", "Self", "String", "Vec"];
    if taken.contains(&&*text) || !text.starts_with(|first: char| first.is_ascii_alphabetic()) {
        text.insert_str(0, "My");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_has_to_fit_a_file_and_a_crate() {
        for good in ["shout", "rate-limit", "a_b", "_x", "x2"] {
            assert!(check_name(good).is_ok(), "{good}");
        }
        for (bad, why) in [
            ("", "has no name"),
            ("a b", "unusable name"),
            ("a.b", "dot in its name"),
            ("a/b", "unusable name"),
            ("..", "dot in its name"),
            ("10-shout", "name the plugin \"shout\""),
            ("2fa", "expected a letter"),
            ("-a", "expected a letter"),
            ("std", "conflicts with a crate"),
        ] {
            let error = check_name(bad).expect_err(bad).to_string();
            assert!(error.contains(why), "{bad}: {error}");
        }
    }

    #[test]
    fn a_type_is_named_like_the_plugin() {
        for (name, expected) in [
            ("rate-limit", "RateLimit"),
            ("shout", "Shout"),
            ("a_b2c", "AB2c"),
            ("message", "MyMessage"),
            ("_", "My"),
        ] {
            assert_eq!(type_name(name), expected, "{name}");
        }
    }

    #[test]
    fn a_crate_is_complete_and_never_overwritten() {
        let folder = tempfile::tempdir().expect("a folder");
        let crate_folder = folder.path().join("shout");
        write(&crate_folder, "shout", &Sdk::Path("/sdk \"here\"".into())).expect("writable");
        for (file, _) in FILES {
            let file = crate_folder.join(file.replace("{{name}}", "shout"));
            let text = fs::read_to_string(&file).expect("written");
            assert!(!text.contains("{{"), "{}: {text}", file.display());
        }
        let manifest = fs::read_to_string(crate_folder.join("Cargo.toml")).expect("there");
        let manifest: toml::Table = toml::from_str(&manifest).expect("toml");
        assert_eq!(manifest["dependencies"]["gateway-plugin-sdk"]["path"].as_str(), Some("/sdk \"here\""));
        let settings = fs::read(crate_folder.join("shout.toml")).expect("there");
        crate::plugin::settings::Settings::parse(&settings).expect("a settings file");
        let events = fs::read(crate_folder.join("events.jsonl")).expect("there");
        crate::plugin::script::parse(&events).expect("events");
        let test = fs::read(crate_folder.join("self-test.json")).expect("there");
        crate::plugin::self_test::SelfTest::parse(&test).expect("a self-test");

        fs::write(crate_folder.join("Cargo.toml"), "mine").expect("writable");
        let error = write(&crate_folder, "shout", &Sdk::Version).expect_err("not empty").to_string();
        assert!(error.contains("is not empty") && error.contains("nothing was written"), "{error}");
        assert_eq!(fs::read_to_string(crate_folder.join("Cargo.toml")).expect("there"), "mine");
    }
}
