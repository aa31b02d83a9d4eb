//! From bytes to something that can be instantiated.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::thread;

use sha2::{Digest as _, Sha256};
use tracing::debug;
use wasmtime::Engine;
use wasmtime::component::{Component, HasSelf, InstancePre, Linker};

use super::adapt::adapt;
use super::asks::asks;
use super::bindings::exports::gateway::plugin::{configure, on_connect, on_disconnect, on_message};
use super::bindings::gateway::plugin as host;
use super::call::State;
use super::engine::{self, EngineError};
use super::inspect::{self, Form};
use super::instance::Instance;
use super::output::{Log, LogBudget};
use super::wasi;
use crate::plugin::Plugin;
use crate::plugin::counters::PluginCounters;
use crate::plugin::interests::Hooks;
use crate::plugin::load::{self, About, Factory, LoadCode, LoadError};
use crate::plugin::settings::{Limits, Settings};

/// How nice the compiler is to threads that serve connections.
const COMPILE_NICE: i32 = 3;

/// How many plugins fit.
#[derive(Debug, Clone)]
pub struct LoaderConfig {
    /// Instances that exist at the same time: workers, times plugins, times two while a chain is swapped.
    pub instances_max: u32,
}

impl Default for LoaderConfig {
    fn default() -> Self {
        Self { instances_max: 1000 }
    }
}

/// Loads WebAssembly plugins. One per process: everything it compiled shares one engine.
pub struct Loader {
    pub(super) engine: Engine,
    linker: Linker<State>,
    /// What is compiled and in use, by the digest of the file: other settings or another name compile nothing.
    compiled: Mutex<HashMap<[u8; 32], Weak<Compiled>>>,
}

/// A component, compiled and linked.
pub(super) struct Compiled {
    pub(super) pre: InstancePre<State>,
    pub(super) hooks: HookIndices,
    pub(super) about: About,
}

/// Where the hooks are that a component exports.
pub(super) struct HookIndices {
    pub(super) configure: Option<configure::GuestIndices>,
    pub(super) on_connect: Option<on_connect::GuestIndices>,
    pub(super) on_message: Option<on_message::GuestIndices>,
    pub(super) on_disconnect: Option<on_disconnect::GuestIndices>,
}

impl Loader {
    /// Starts the engine and its clock.
    pub fn new(config: &LoaderConfig) -> Result<Self, EngineError> {
        let engine = engine::start(config.instances_max)?;
        let linker = link(&engine).map_err(|error| EngineError::new(&error))?;
        Ok(Self { engine, linker, compiled: Mutex::default() })
    }

    fn compile(&self, wasm: &[u8]) -> Result<Compiled, LoadError> {
        let inspected = inspect::inspect(wasm)?;
        let adapted = match inspected.form {
            Form::Component => None,
            Form::CoreModule => Some(adapt(wasm, &inspected)?),
        };
        let bytes = adapted.as_deref().unwrap_or(wasm);
        inspect::check_world(bytes, &inspected.stamp)?;
        let component = self.on_compile_thread(bytes)?;
        let pre = self.linker.instantiate_pre(&component).map_err(|error| mismatch(&error))?;
        let hooks = HookIndices {
            configure: configure::GuestIndices::new(&pre).ok(),
            on_connect: on_connect::GuestIndices::new(&pre).ok(),
            on_message: on_message::GuestIndices::new(&pre).ok(),
            on_disconnect: on_disconnect::GuestIndices::new(&pre).ok(),
        };
        let stamp = inspected.stamp;
        let asks = asks(&component, &self.engine, &stamp)?;
        let about = About {
            name: stamp.name,
            version: stamp.version,
            sdk: stamp.sdk,
            interface: inspect::INTERFACE.into(),
            hooks: Hooks {
                configure: hooks.configure.is_some(),
                on_connect: hooks.on_connect.is_some(),
                on_message: hooks.on_message.is_some(),
                on_disconnect: hooks.on_disconnect.is_some(),
            },
            asks,
        };
        if about.hooks.is_empty() {
            return Err(inspect::no_hooks());
        }
        Ok(Compiled { pre, hooks, about })
    }

    /// Compiles behind everything else that wants the processor.
    fn on_compile_thread(&self, component: &[u8]) -> Result<Component, LoadError> {
        let compile = || {
            // Without permission it compiles at the ordinary priority.
            #[cfg(target_os = "linux")]
            if let Err(error) = rustix::process::nice(COMPILE_NICE) {
                debug!(%error, "cannot lower the priority of the compile thread");
            }
            Component::new(&self.engine, component)
        };
        let compiled = thread::scope(|scope| {
            let thread = thread::Builder::new().name("plugin-compile".into()).spawn_scoped(scope, compile)?;
            Ok::<_, std::io::Error>(thread.join())
        });
        let failed = |why: String| Err(LoadError::new(LoadCode::Compile, format!("does not compile: {why}")));
        match compiled {
            Ok(Ok(Ok(component))) => Ok(component),
            Ok(Ok(Err(error))) => failed(error.root_cause().to_string()),
            Ok(Err(_)) => failed("the compiler panicked; try another optimisation level".into()),
            Err(error) => failed(format!("no thread for the compiler: {error}")),
        }
    }
}

impl load::Loader for Loader {
    fn load(&self, name: &str, wasm: &[u8], settings: &Settings) -> Result<Arc<dyn Factory>, LoadError> {
        let digest: [u8; 32] = Sha256::digest(wasm).into();
        let known = self.lock().get(&digest).and_then(Weak::upgrade);
        let compiled = match known {
            Some(compiled) => compiled,
            None => {
                let compiled = Arc::new(self.compile(wasm)?);
                let mut cache = self.lock();
                cache.retain(|_, other| other.strong_count() > 0);
                cache.insert(digest, Arc::downgrade(&compiled));
                compiled
            }
        };
        Ok(Arc::new(Configured {
            name: name.into(),
            compiled,
            limits: Arc::new(settings.limits.clone()),
            settings: settings.clone(),
            budget: Arc::new(LogBudget::new(settings.limits.log_lines_per_second)),
        }))
    }
}

impl Loader {
    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<[u8; 32], Weak<Compiled>>> {
        self.compiled.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A compiled plugin with its settings.
struct Configured {
    name: Arc<str>,
    compiled: Arc<Compiled>,
    settings: Settings,
    limits: Arc<Limits>,
    budget: Arc<LogBudget>,
}

impl Factory for Configured {
    fn instantiate(&self, counters: &Arc<PluginCounters>) -> Result<Box<dyn Plugin>, LoadError> {
        let log = Log { plugin: self.name.clone(), budget: self.budget.clone(), counters: counters.clone() };
        Ok(Box::new(Instance::new(&self.compiled, &self.settings, self.limits.clone(), log)?))
    }

    fn about(&self) -> &About {
        &self.compiled.about
    }
}

fn mismatch(error: &wasmtime::Error) -> LoadError {
    let sentence = format!("imports something with another type than the gateway offers: {error:#}");
    LoadError::new(LoadCode::InterfaceMismatch, sentence)
}

/// Everything a plugin can import.
fn link(engine: &Engine) -> wasmtime::Result<Linker<State>> {
    type Has = HasSelf<State>;
    fn state(state: &mut State) -> &mut State {
        state
    }
    let mut linker = Linker::new(engine);
    wasi::add_to_linker(&mut linker)?;
    host::types::add_to_linker::<_, Has>(&mut linker, state)?;
    host::context::add_to_linker::<_, Has>(&mut linker, state)?;
    host::effects::add_to_linker::<_, Has>(&mut linker, state)?;
    host::interests::add_to_linker::<_, Has>(&mut linker, state)?;
    host::log::add_to_linker::<_, Has>(&mut linker, state)?;
    Ok(linker)
}
