//! [`report`] says what a running gateway makes of a plugin that was just put into its folder.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use serde_json::{Value, json};

use super::api::{Address, Api};
use super::{CONFIG_FILE, Failure, print, runtime};
use crate::config::Config;
use crate::digest::sha256;
use crate::plugin_tools::folder::PluginFolder;
use crate::telemetry;

/// Interval between two questions.
const PAUSE: Duration = Duration::from_millis(100);
/// Interval of the lines about a gateway that compiles.
const REPORT: Duration = Duration::from_secs(5);
/// The longest time to wait for a gateway that does not compile.
const PATIENCE: Duration = Duration::from_secs(60);

/// The gateway whose configuration names a plugin folder. It may not be running.
pub(super) struct Gateway {
    api: Api,
}

impl Gateway {
    /// The gateway of this configuration; without one, of the gateway.toml next to the folder. `None` if
    /// nothing says which gateway it is.
    ///
    /// # Errors
    ///
    /// Fails if a configuration was given that cannot be used, or that names another folder.
    pub(super) fn of(folder: &PluginFolder, config: Option<&Path>) -> Result<Option<Self>, Failure> {
        let Some(file) = config else { return Ok(Self::next_to(folder)) };
        let named = Config::load(file).map_err(Failure::Configuration)?.plugins.folder;
        if named.canonicalize().ok() != folder.path().canonicalize().ok() {
            return Err(Failure::Unexpected(anyhow::anyhow!(
                "--config {} names the plugin folder {} and not {}: name one of the two",
                file.display(),
                named.display(),
                folder.path().display()
            )));
        }
        Address::of(file.to_owned()).resolve().map(|api| Some(Self { api }))
    }

    fn next_to(folder: &PluginFolder) -> Option<Self> {
        let own = folder.path().canonicalize().ok()?;
        let file = own.parent()?.join(CONFIG_FILE);
        let named = Config::load(&file).ok()?.plugins.folder;
        let is_own = named.canonicalize().ok()? == own;
        is_own.then(|| Address::of(file).resolve().ok().map(|api| Self { api }))?
    }
}

/// What the gateway says of a plugin.
#[derive(Debug, PartialEq, Eq)]
enum Word {
    /// It runs, since this generation of the chain.
    Live(u64),
    /// It does not run, for this reason.
    Refused(String),
    /// The file at its place was not read, for this reason. It may be the file that was there before.
    Unread(String),
    /// It has been compiled for so many seconds.
    Compiling(u64),
    /// It has not been looked at yet.
    Nothing,
}

/// Waits for the answer of the gateway and prints it.
///
/// # Errors
///
/// Fails if the gateway refuses the plugin, or says nothing of it for a long time. A gateway that is not
/// running is no error.
pub(super) fn report(gateway: Option<&Gateway>, folder: &PluginFolder, name: &str) -> Result<(), Failure> {
    let Some(Gateway { api }) = gateway else {
        return print("  it is live as soon as a gateway serves with this folder\n");
    };
    let digests = digests(folder, name).map_err(Failure::Unexpected)?;
    match runtime()?.block_on(wait(api, folder, name, &digests)) {
        // Not reached, or the key is another one: the error says which.
        Err(error) => print(&format!(
            "  no gateway with this folder answers, so it is live as soon as one serves: {error:#}\n"
        )),
        Ok(Word::Live(generation)) => print(&format!("  live, generation {generation}\n")),
        Ok(Word::Refused(why) | Word::Unread(why)) => {
            Err(Failure::Plugins(format!("the gateway refuses {name}: it {why}; what ran before goes on")))
        }
        Ok(Word::Compiling(_) | Word::Nothing) => Err(Failure::Runtime(anyhow::anyhow!(
            "the gateway has said nothing of {name} for {} s: the file is in the folder and becomes live when the gateway has \
             finished its other plugins; see `gateway inspect`, or its log",
            PATIENCE.as_secs()
        ))),
    }
}

/// SHA-256 of the plugin file and of its settings file.
type Digests = (String, Option<String>);

fn digests(folder: &PluginFolder, name: &str) -> anyhow::Result<Digests> {
    let file = folder.file_of(name)?.with_context(|| format!("{name} was taken out of the folder again"))?;
    let wasm = fs::read(&file).with_context(|| format!("failed to read {}", file.display()))?;
    let settings = fs::read(file.with_extension("toml")).ok();
    Ok((sha256(&wasm), settings.as_deref().map(sha256)))
}

/// Fails if no gateway with this folder answers.
async fn wait(api: &Api, folder: &PluginFolder, name: &str, digests: &Digests) -> anyhow::Result<Word> {
    let own = folder.path().canonicalize().ok();
    let (mut silent_since, mut next_report) = (Instant::now(), REPORT.as_secs());
    loop {
        let answer = api.send("plugins", &json!({})).await?;
        let served = answer["folder"].as_str().unwrap_or_default();
        ensure!(
            Path::new(served).canonicalize().ok() == own,
            "the gateway at {} serves with the folder {served:?}",
            api.address()
        );
        match word(&answer, name, digests) {
            // The gateway has a limit of its own.
            Word::Compiling(seconds) => {
                silent_since = Instant::now();
                if seconds >= next_report {
                    telemetry::say(&format!("  the gateway compiles it: {seconds} s so far"));
                    next_report = seconds + REPORT.as_secs();
                }
            }
            Word::Nothing if silent_since.elapsed() < PATIENCE => {}
            Word::Unread(_) if silent_since.elapsed() < REPORT => {}
            word => return Ok(word),
        }
        tokio::time::sleep(PAUSE).await;
    }
}

fn word(answer: &Value, name: &str, (wasm, settings): &Digests) -> Word {
    let same = |version: &Value| {
        version["digest"].as_str() == Some(wasm) && version["settings_digest"].as_str() == settings.as_deref()
    };
    let plugins = answer["plugins"].as_array().into_iter().flatten();
    for plugin in plugins.filter(|plugin| plugin["name"].as_str() == Some(name)) {
        let refused = &plugin["error"];
        if refused.is_object() {
            let sentence = refused["sentence"].as_str().unwrap_or("was refused");
            if same(refused) {
                return Word::Refused(sentence.to_owned());
            }
        }
        if same(plugin) && plugin["state"] == "live" {
            return Word::Live(plugin["generation"].as_u64().unwrap_or_default());
        }
        if let Some(seconds) = plugin["compiling"]["seconds"].as_u64() {
            return Word::Compiling(seconds);
        }
        // Without the bytes of the file, the gateway tells its states apart by the reason.
        if let Some(sentence) = refused["sentence"].as_str()
            && refused["digest"].as_str() == Some(&sha256(sentence.as_bytes()))
        {
            return Word::Unread(sentence.to_owned());
        }
    }
    Word::Nothing
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_word_is_about_this_version_with_these_settings() {
        let digests = ("aa".to_owned(), Some("bb".to_owned()));
        let of = |plugin: Value| word(&json!({"plugins": [plugin]}), "router", &digests);
        let live = json!({"name": "router", "state": "live", "digest": "aa", "settings_digest": "bb", "generation": 3});
        assert_eq!(of(live.clone()), Word::Live(3));
        for (key, other) in
            [("name", "echo"), ("digest", "cc"), ("settings_digest", "cc"), ("state", "rolled-back")]
        {
            let mut plugin = live.clone();
            plugin[key] = other.into();
            assert_eq!(of(plugin), Word::Nothing, "{key}");
        }
        let mut refused = live;
        refused["digest"] = "old".into();
        refused["error"] = json!({"sentence": "has no hooks", "digest": "aa", "settings_digest": "bb"});
        assert_eq!(of(refused.clone()), Word::Refused("has no hooks".to_owned()));
        refused["error"]["digest"] = "cc".into();
        assert_eq!(of(refused.clone()), Word::Nothing, "an earlier file was refused");
        refused["error"]["digest"] = sha256(b"has no hooks").into();
        assert_eq!(of(refused.clone()), Word::Unread("has no hooks".to_owned()));
        refused["compiling"] = json!({"since": 1, "seconds": 7});
        assert_eq!(of(refused), Word::Compiling(7), "and this one is not ready");
    }
}
