//! Writes the crate of a new plugin for `gateway plugin new`.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, ensure};

use super::files::{Mode, check_empty, create, replace};
use super::workspace::{Membership, join};
use crate::plugin::registry::plugin_name;

/// The end of the manifest of a crate that is no member of a workspace.
const ALONE: &str = include_str!("template/alone.txt");

/// What a new plugin does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Hook {
    /// Admit clients by the tokens in its settings
    Auth,
    /// Send what is published in a channel to other addresses
    Route,
    /// Limit how many messages a user may send
    Limit,
    /// Mask words in what subscribers receive
    Redact,
}

/// The parts of a new crate that depend on what the plugin does.
struct Template {
    /// What it does, after "this plugin".
    about: &'static str,
    /// The rows of the table of its settings.
    keys: &'static str,
    library: &'static str,
    config: &'static str,
    self_test: &'static str,
    events: &'static str,
}

/// The template in this folder.
macro_rules! template {
    ($folder:literal, about: $about:literal, keys: $keys:literal) => {
        Template {
            about: $about,
            keys: $keys,
            library: include_str!(concat!("template/", $folder, "/lib.txt")),
            config: include_str!(concat!("template/", $folder, "/config.txt")),
            self_test: include_str!(concat!("template/", $folder, "/self-test.txt")),
            events: include_str!(concat!("template/", $folder, "/events.txt")),
        }
    };
}

impl Template {
    /// Without a wish, a plugin that refuses messages.
    fn of(hook: Option<Hook>) -> Self {
        match hook {
            None => template!(
                "filter",
                about: "refuses messages that contain a word from its settings, and passes everything else to the next\nplugins",
                keys: "| `words` | texts that a message must not contain |\n"
            ),
            Some(Hook::Auth) => template!(
                "auth",
                about: "admits clients by the tokens in its settings, each token as one user, and refuses\neverybody else",
                keys: "| `users` | a table of tokens and their users |\n"
            ),
            Some(Hook::Route) => template!(
                "route",
                about: "sends what a client publishes in a channel of its settings to other addresses instead",
                keys: "| `routes` | a table of channels, each with a list of addresses |\n"
            ),
            Some(Hook::Limit) => template!(
                "limit",
                about: "limits how many messages a user may send",
                keys: "| `messages` | messages of one user in a period |\n| `seconds` | the period |\n"
            ),
            Some(Hook::Redact) => template!(
                "redact",
                about: "masks the words of its settings in what subscribers receive",
                keys: "| `channels` | patterns of the channels |\n| `words` | texts to mask |\n"
            ),
        }
    }

    /// Paths and texts of its files, with placeholders.
    fn files(&self) -> [(&'static str, String); 7] {
        let settings = include_str!("template/settings.txt").replace("{{config}}", self.config);
        let readme = include_str!("template/readme.txt");
        let readme = readme.replace("{{about}}", self.about).replace("{{keys}}", self.keys);
        [
            ("Cargo.toml", include_str!("template/manifest.txt").to_owned()),
            ("src/lib.rs", self.library.to_owned()),
            ("{{name}}.toml", settings),
            ("self-test.json", self.self_test.to_owned()),
            ("events.jsonl", self.events.to_owned()),
            ("README.md", readme),
            (".gitignore", "/target\n".to_owned()),
        ]
    }
}

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

/// Writes the crate and joins the workspace around the folder, if there is one. Writes nothing if the folder
/// exists and is not empty.
pub(crate) fn write(folder: &Path, name: &str, hook: Option<Hook>, sdk: &Sdk) -> anyhow::Result<Membership> {
    check_name(name)?;
    check_empty(folder)?;
    let filled = |text: &str| {
        text.replace("{{name}}", name)
            .replace("{{type}}", &type_name(name))
            .replace("{{sdk}}", &sdk.requirement())
    };
    for (path, text) in Template::of(hook).files() {
        let path = folder.join(filled(path));
        let parent = path.parent().unwrap_or(folder);
        fs::create_dir_all(parent).with_context(|| format!("failed to make {}", parent.display()))?;
        ensure!(
            create(&path, filled(&text).as_bytes(), Mode::Public)?,
            "{} was there already",
            path.display()
        );
    }
    let membership = join(folder);
    if membership == Membership::Alone {
        let manifest = folder.join("Cargo.toml");
        let failed = || format!("failed to write {}", manifest.display());
        let text = fs::read_to_string(&manifest).with_context(failed)?;
        replace(&manifest, format!("{text}{ALONE}").as_bytes(), Mode::Public)?;
    }
    Ok(membership)
}

/// Types that are in scope in a new crate, and keywords that look like one.
const TAKEN_TYPES: [&str; 24] = [
    "BTreeMap",
    "Box",
    "Bucket",
    "Connect",
    "Connecting",
    "Delivery",
    "Disconnected",
    "Duration",
    "Interests",
    "Kind",
    "Kit",
    "Message",
    "Option",
    "Outgoing",
    "Plugin",
    "Rate",
    "Result",
    "Self",
    "Settings",
    "String",
    "Timer",
    "Value",
    "Verdict",
    "Vec",
];

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
    // A type cannot begin with a digit.
    if TAKEN_TYPES.contains(&&*text) || !text.starts_with(|first: char| first.is_ascii_alphabetic()) {
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
        for hook in [None, Some(Hook::Auth), Some(Hook::Route), Some(Hook::Limit), Some(Hook::Redact)] {
            check_crate(hook);
        }
    }

    fn check_crate(hook: Option<Hook>) {
        let folder = tempfile::tempdir().expect("a folder");
        let crate_folder = folder.path().join("shout");
        let sdk = Sdk::Path("/sdk \"here\"".into());
        let membership = write(&crate_folder, "shout", hook, &sdk).expect("writable");
        assert_eq!(membership, Membership::Alone, "no workspace is around a temporary folder");
        for (file, _) in Template::of(hook).files() {
            let file = crate_folder.join(file.replace("{{name}}", "shout"));
            let text = fs::read_to_string(&file).expect("written");
            assert!(!text.contains("{{"), "{}: {text}", file.display());
        }
        let manifest = fs::read_to_string(crate_folder.join("Cargo.toml")).expect("there");
        let manifest: toml::Table = toml::from_str(&manifest).expect("toml");
        assert_eq!(manifest["dependencies"]["gateway-plugin-sdk"]["path"].as_str(), Some("/sdk \"here\""));
        assert!(manifest.contains_key("workspace"), "a workspace of its own");
        let settings = fs::read(crate_folder.join("shout.toml")).expect("there");
        crate::plugin::settings::Settings::parse(&settings).expect("a settings file");
        let events = fs::read(crate_folder.join("events.jsonl")).expect("there");
        crate::plugin::script::parse(&events).expect("events");
        let test = fs::read(crate_folder.join("self-test.json")).expect("there");
        crate::plugin::self_test::SelfTest::parse(&test).expect("a self-test");

        fs::write(crate_folder.join("Cargo.toml"), "mine").expect("writable");
        let error = write(&crate_folder, "shout", hook, &Sdk::Version).expect_err("not empty").to_string();
        assert!(error.contains("is not empty") && error.contains("nothing was written"), "{error}");
        assert_eq!(fs::read_to_string(crate_folder.join("Cargo.toml")).expect("there"), "mine");
    }
}
