//! [`PluginRunner`] runs plugins in tests with the engine of production: the same loader, limits and checks,
//! without a gateway.
//!
//! The test kit of the SDK runs a plugin's code natively and knows its types; this module runs the `.wasm`
//! file. The plugin's crate has `gateway` as a dev-dependency and its tests in `tests/`:
//!
//! ```no_run
//! use gateway::plugin::script::Answer;
//! use gateway::testing::PluginRunner;
//!
//! # fn test() -> anyhow::Result<()> {
//! let mut plugin = PluginRunner::build_and_load(env!("CARGO_MANIFEST_DIR"), "[config]\nwords = ['darn']")?;
//! plugin.check(
//!     r#"
//!     {"event": "connect", "token": "", "expect": "not-called"}
//!     {"event": "message", "kind": "publish", "channel": "news", "payload": "oh darn", "expect": {"verdict": "deny"}}
//!     "#,
//! )?;
//! # Ok(())
//! # }
//! ```
//!
//! [`script`] describes the format of a script.

pub(crate) mod bench;
mod lines;
mod waiting;

use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use anyhow::{Context as _, anyhow, bail};
use bytes::Bytes;

use self::lines::Lines;
use self::waiting::Waiting;
use crate::egress::{Client, Fetcher};
use crate::plugin::Plugin;
use crate::plugin::async_pool::AsyncInstances;
use crate::plugin::counters::PluginCounters;
use crate::plugin::interests::Interests;
use crate::plugin::load::{About, Factory, Import, LoadCode, LoadError, Loader as _};
use crate::plugin::script::{self, Answer, Event, Occurrence, Outcome, Player, Step};
use crate::plugin::self_test::{SelfTest, Tally};
use crate::plugin::settings::{Limits, Settings};
use crate::plugin::usage::Usage;
use crate::plugin_tools::cargo::{Cargo, TARGET};
use crate::testing::bench::processor_time_of;
use crate::wasm::{EngineError, Loader, LoaderConfig, noop_plugin};

pub use self::lines::Line;

/// A metered engine is slower, and it is used for counts instead of times.
const METERED_DEADLINES: u32 = 20;

/// The engine that runs a plugin.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Engine {
    /// The engine of production.
    #[default]
    Production,
    /// An engine that counts instructions. It is slower and has longer deadlines for that reason.
    Metered,
}

/// A plugin with one instance, as on a worker. A plugin that sends requests in `on-connect` really sends
/// them, as far as its settings grant it.
pub struct PluginRunner {
    factory: Arc<dyn Factory>,
    counters: Arc<PluginCounters>,
    instance: Box<dyn Plugin>,
    /// Called for clients instead of `instance`, if the plugin may wait for other servers.
    async_instances: Option<Arc<dyn AsyncInstances>>,
    player: Player,
    lines: Lines,
    configured: Played,
}

/// Result and cost of one event.
#[derive(Debug, Clone)]
pub struct Played {
    /// The plugin's verdict and effects.
    pub outcome: Outcome,
    /// Its log lines, standard output included, up to its limits.
    pub log: Vec<Line>,
    /// Elapsed wall-clock time.
    pub time: Duration,
    /// The resources used.
    pub usage: Usage,
}

impl PluginRunner {
    /// Loads a plugin file with the text of a settings file; `""` means no settings file.
    ///
    /// # Errors
    ///
    /// If a file cannot be read, or the gateway would not run the plugin.
    pub fn load(file: impl AsRef<Path>, settings: &str) -> anyhow::Result<Self> {
        let file = file.as_ref();
        let wasm = std::fs::read(file).with_context(|| format!("failed to read {}", file.display()))?;
        let name = file.file_stem().unwrap_or_default().to_string_lossy();
        Self::load_bytes(&name, &wasm, settings.as_bytes(), Engine::Production)
            .map_err(|error| anyhow!("{}: {error}", file.display()))
    }

    /// Builds the plugin of a crate like `gateway plugin build`, and loads it.
    ///
    /// # Errors
    ///
    /// If the crate does not build, or the gateway would not run its plugin.
    pub fn build_and_load(crate_folder: impl AsRef<Path>, settings: &str) -> anyhow::Result<Self> {
        Self::load(build(crate_folder.as_ref(), TARGET)?, settings)
    }

    /// Loads bytes into a chosen engine. Every error that would keep the gateway from running the plugin is
    /// returned here, with the same message.
    ///
    /// # Errors
    ///
    /// Why the gateway would not run the plugin.
    pub fn load_bytes(name: &str, wasm: &[u8], settings: &[u8], engine: Engine) -> Result<Self, LoadError> {
        let mut settings = settings_of(settings)?;
        if engine == Engine::Metered {
            settings.limits.deadline *= METERED_DEADLINES;
            settings.limits.configure_deadline *= METERED_DEADLINES;
        }
        let factory = loader(engine)?.load(name, wasm, &settings)?;
        factory.about().requested.check(&settings.grants, "its settings file")?;
        let counters = Arc::new(PluginCounters::new(1));
        counters.state().set_bounds(settings.state);
        let lines = Lines::default();
        let begin = Instant::now();
        let mut instance = lines.during(|| factory.instantiate(&counters))?;
        let outcome = Outcome { answer: Answer::Done, effects: Vec::new(), changed: None };
        let configured =
            Played { outcome, log: lines.take(), time: begin.elapsed(), usage: instance.usage() };
        let async_instances = factory.async_instances(&counters);
        Ok(Self { factory, counters, instance, async_instances, player: Player::new(), lines, configured })
    }

    /// The smallest possible plugin, which makes no decisions.
    ///
    /// # Errors
    ///
    /// If the engine cannot run it.
    pub fn empty(engine: Engine) -> Result<Self, LoadError> {
        Self::load_bytes("empty", &noop_plugin(), b"", engine)
    }

    /// The binary's description of itself.
    pub fn about(&self) -> &About {
        self.factory.about()
    }

    /// What the binary imports.
    pub fn imports(&self) -> Vec<Import> {
        self.factory.imports()
    }

    /// Result of creating and configuring the first instance.
    pub fn configured(&self) -> &Played {
        &self.configured
    }

    /// Passes one event to the plugin. After a failure the next event gets a new instance, as in the gateway.
    ///
    /// # Errors
    ///
    /// If a new instance was needed and could not be made.
    pub fn play(&mut self, step: &Step) -> Result<Played, LoadError> {
        let (player, instance) = (&mut self.player, &mut *self.instance);
        let begin = Instant::now();
        let (outcome, mut usage) = match self.async_instances.as_deref() {
            Some(async_instances) => {
                let mut plugin =
                    Waiting { instance, async_instances, lines: self.lines.clone(), usage: None };
                (self.lines.during(|| player.play(&mut plugin, step)), plugin.usage())
            }
            None => (self.lines.during(|| player.play(&mut *instance, step)), instance.usage()),
        };
        let time = begin.elapsed();
        match &outcome.answer {
            Answer::NotCalled => usage.host_calls = 0,
            Answer::Failed(failure) if failure.cause.ends_instance() => {
                let (factory, counters) = (&self.factory, &self.counters);
                self.instance = self.lines.during(|| factory.instantiate(counters))?;
                // The cost of configuring is not part of the next event.
                self.instance.usage();
            }
            _ => {}
        }
        Ok(Played { outcome, log: self.lines.take(), time, usage })
    }

    /// Plays a whole script.
    ///
    /// # Errors
    ///
    /// Every unexpected result; or why the script cannot be played.
    pub fn check(&mut self, script: &str) -> anyhow::Result<Vec<Played>> {
        let script = script::parse(script.as_bytes()).context("failed to read the script")?;
        let mut unmet = Vec::new();
        let mut all = Vec::new();
        for step in &script.steps {
            let played = self.play(step)?;
            unmet.extend(
                step.unmet(&played.outcome.to_json())
                    .into_iter()
                    .map(|text| format!("{}: {text}", step.place)),
            );
            all.push(played);
        }
        if !unmet.is_empty() {
            bail!("{}", unmet.join("\n"));
        }
        Ok(all)
    }

    /// The events that the plugin wants.
    pub fn interests(&self) -> &Interests {
        self.instance.interests()
    }

    /// Passes one event to the plugin repeatedly. Returns the processor time of all calls, and the usage of
    /// the last one. Effects and log lines are dropped.
    pub(crate) fn repeat(&mut self, step: &Step, calls: u32) -> (Duration, Usage) {
        let mut occurrence = self.player.again(step);
        let original = match &step.event {
            Event::Message(message) => Bytes::copy_from_slice(&message.payload),
            _ => Bytes::new(),
        };
        let (instance, mut effects) = (&mut self.instance, Vec::new());
        instance.usage();
        let time = self.lines.during(|| {
            processor_time_of(|| {
                for _ in 0..calls {
                    if let Occurrence::Message(message) = &mut occurrence {
                        message.content.payload.clone_from(&original);
                    }
                    let _ = black_box(occurrence.meet(&mut **instance, &mut effects));
                    effects.clear();
                }
            })
        });
        self.lines.take();
        (time, self.instance.usage())
    }
}

/// Plays the self-test of a plugin, if it has one, in both engines: one has the real limits, the other one
/// counts.
pub(crate) fn self_test(name: &str, wasm: &[u8], settings: &[u8]) -> Result<Option<Tally>, LoadError> {
    let limits = settings_of(settings)?.limits;
    let mut tally = None;
    for (engine, factor) in [(Engine::Production, 1), (Engine::Metered, METERED_DEADLINES)] {
        let loader = loader(engine)?;
        let factory = loader.load(name, wasm, &Settings::default())?;
        let About { requested, self_test: Some(section), .. } = factory.about() else { return Ok(None) };
        let limits = Limits {
            deadline: limits.deadline * factor,
            configure_deadline: limits.configure_deadline * factor,
            ..limits.clone()
        };
        tally = Some(SelfTest::parse(section)?.run(loader, name, wasm, requested, &limits)?);
    }
    Ok(tally)
}

fn settings_of(file: &[u8]) -> Result<Settings, LoadError> {
    Settings::parse(file).map_err(|errors| {
        LoadError::new(LoadCode::Settings, format!("has mistakes in its settings file: {errors}"))
    })
}

/// A plugin with default settings that is not instantiated yet.
pub(crate) fn factory(name: &str, wasm: &[u8], engine: Engine) -> Result<Arc<dyn Factory>, LoadError> {
    loader(engine)?.load(name, wasm, &Settings::default())
}

/// The `Cargo.toml` of a crate's folder.
pub(crate) fn manifest(crate_folder: &Path) -> anyhow::Result<PathBuf> {
    let folder = crate_folder
        .canonicalize()
        .with_context(|| format!("failed to open the crate {}", crate_folder.display()))?;
    let manifest = folder.join("Cargo.toml");
    if !manifest.is_file() {
        bail!(
            "{} has no Cargo.toml: name the folder of a plugin's crate, or make one with `gateway plugin new NAME`",
            folder.display()
        );
    }
    Ok(manifest)
}

/// Builds the plugin of a crate, and returns the path of the file.
pub(crate) fn build(crate_folder: &Path, target: &str) -> anyhow::Result<PathBuf> {
    let manifest = manifest(crate_folder)?;
    let folder = manifest.parent().unwrap_or(crate_folder);
    let cargo = Cargo::new(folder);
    cargo.workspace()?.check_library(&manifest)?;
    cargo.add_targets(&[target], target)?;
    let mut arguments = cargo.plugin_profile()?;
    arguments.extend(["--lib", "--target", target].map(Into::into));
    let artifacts = cargo.build(arguments)?;
    let own = artifacts.into_iter().find(|artifact| artifact.manifest == manifest);
    own.map(|artifact| artifact.wasm)
        .with_context(|| format!("failed to find the file that cargo built in {}", folder.display()))
}

/// One engine of each kind per process: each has a clock and reserves address space.
fn loader(engine: Engine) -> Result<&'static Loader, LoadError> {
    static PRODUCTION: OnceLock<Result<Loader, EngineError>> = OnceLock::new();
    static METERED: OnceLock<Result<Loader, EngineError>> = OnceLock::new();
    let config = LoaderConfig { instances_max: 100 };
    let runtime = waiting::runtime().map_err(|error| LoadError::new(LoadCode::Instantiate, error))?;
    let with_http = |loader: Loader| loader.with_http(Fetcher::new(Client::new()), runtime);
    let loader = match engine {
        Engine::Production => PRODUCTION.get_or_init(|| Loader::new(&config).map(with_http)),
        Engine::Metered => METERED.get_or_init(|| Loader::metered(&config).map(with_http)),
    };
    loader.as_ref().map_err(|error| LoadError::new(LoadCode::Instantiate, error.to_string()))
}
