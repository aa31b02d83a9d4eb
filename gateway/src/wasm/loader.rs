//! [`Loader`] turns the bytes of a plugin into a factory of instances.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};
use std::time::Instant;

use sha2::{Digest as _, Sha256};
use tokio::runtime::Handle;
use tracing::debug;
use wasmtime::Engine;
use wasmtime::component::{HasSelf, InstancePre, Linker};

use super::adapt::adapt;
use super::bindings::exports::gateway::plugin::{
    configure, on_connect, on_deliver, on_disconnect, on_message, on_timer,
};
use super::bindings::gateway::plugin as host;
use super::call::State;
use super::capabilities::Capabilities;
use super::compile::Compiler;
use super::engine::{self, EngineError};
use super::environment::Environment;
use super::http;
use super::imports::imports;
use super::inspect::{self, Form};
use super::instance::Instance;
use super::mismatch;
use super::output::{Log, LogBudget};
use super::pool::{Parts, Pool, Waits};
use super::process::CompileProcess;
use super::requested::requested_grants;
use super::sockets;
use super::wasi;
use crate::disk::Artifacts;
use crate::egress::{Client, Fetcher};
use crate::plugin::Plugin;
use crate::plugin::async_pool::AsyncInstances;
use crate::plugin::counters::PluginCounters;
use crate::plugin::interests::Hooks;
use crate::plugin::load::{self, About, Cancel, Code, Factory, Import, LoadError};
use crate::plugin::settings::{Limits, Settings};
use crate::upstream::Upstreams;

/// Capacity for plugins.
#[derive(Debug, Clone)]
pub struct LoaderConfig {
    /// Instances that exist at the same time.
    pub instances_max: u32,
}

impl LoaderConfig {
    /// Capacity for this many workers and plugins. While a chain is replaced, a worker has three instances of
    /// a plugin: the old one, its standby instance, and the new one. A few more are only made for checks.
    pub fn sized_for(workers: usize, plugins: usize) -> Self {
        let instances = workers.saturating_mul(plugins).saturating_mul(3).saturating_add(16);
        Self { instances_max: u32::try_from(instances).unwrap_or(u32::MAX) }
    }
}

impl Default for LoaderConfig {
    fn default() -> Self {
        Self { instances_max: 1000 }
    }
}

/// Loads WebAssembly plugins. One per process: all plugins share its engine.
pub struct Loader {
    linker: Linker<State>,
    /// Links instances that may wait.
    waiting: Linker<State>,
    /// The runtime for instances that may wait; without it there are none.
    runtime: Option<Handle>,
    fetcher: Fetcher,
    pub(super) compiler: Compiler,
    upstreams: Arc<Upstreams>,
    /// Components in use, by the digest of the file: other settings or another name need no compile.
    compiled: Mutex<HashMap<[u8; 32], Known>>,
}

/// A file that was loaded, or is being loaded. Locked meanwhile, so that no file is compiled twice at a time.
type Known = Arc<Mutex<Weak<Compiled>>>;

/// A compiled and linked component.
pub(super) struct Compiled {
    pub(super) pre: InstancePre<State>,
    pub(super) waits: Option<Arc<Waits>>,
    pub(super) hooks: HookIndices,
    pub(super) about: About,
}

/// Indices of the hooks that a component exports.
pub(super) struct HookIndices {
    pub(super) configure: Option<configure::GuestIndices>,
    pub(super) on_connect: Option<on_connect::GuestIndices>,
    pub(super) on_message: Option<on_message::GuestIndices>,
    pub(super) on_disconnect: Option<on_disconnect::GuestIndices>,
    pub(super) on_timer: Option<on_timer::GuestIndices>,
    pub(super) on_deliver: Option<on_deliver::GuestIndices>,
}

impl Loader {
    /// Starts the engine and its epoch thread.
    ///
    /// # Errors
    ///
    /// If this machine does not support the engine.
    pub fn new(config: &LoaderConfig) -> Result<Self, EngineError> {
        let (engine, kind) = engine::start(config.instances_max)?;
        Self::on(engine, kind)
    }

    /// Like [`new`](Self::new), with an engine that counts instructions and is slower for it. For plugin
    /// tools.
    ///
    /// # Errors
    ///
    /// If this machine does not support the engine.
    pub fn metered(config: &LoaderConfig) -> Result<Self, EngineError> {
        let (engine, kind) = engine::start_metered(config.instances_max)?;
        Self::on(engine, kind)
    }

    fn on(engine: Engine, kind: engine::Kind) -> Result<Self, EngineError> {
        let linked = |http: fn(&mut Linker<State>) -> wasmtime::Result<()>| {
            link(&engine, http).map_err(|error| EngineError::new(&error))
        };
        let (linker, waiting) = (linked(http::refuse)?, linked(http::offer)?);
        let fetcher = Fetcher::new(Client::new());
        let compiler = Compiler::new(engine, kind);
        let upstreams = Upstreams::noop();
        Ok(Self { linker, waiting, runtime: None, fetcher, compiler, upstreams, compiled: Mutex::default() })
    }

    /// Passes events that plugins emit to these upstreams, instead of none.
    pub fn with_upstreams(self, upstreams: Arc<Upstreams>) -> Self {
        Self { upstreams, ..self }
    }

    /// Runs instances that may wait on this runtime, for plugins that send HTTP requests.
    pub fn with_http(self, fetcher: Fetcher, runtime: Handle) -> Self {
        Self { fetcher, runtime: Some(runtime), ..self }
    }

    /// Caches machine code on disk, and reuses it after a restart.
    pub fn with_artifacts(self, artifacts: Arc<Artifacts>) -> Self {
        Self { compiler: self.compiler.with_artifacts(artifacts), ..self }
    }

    /// Compiles in a child process, within bounds. Without one, plugins are compiled on the thread that loads
    /// them.
    pub fn with_compile_process(self, process: Option<CompileProcess>) -> Self {
        Self { compiler: self.compiler.in_process(process), ..self }
    }

    /// All checks and conversions of a file, done once for any number of settings.
    fn compile(&self, name: &str, wasm: &[u8], cancel: &Cancel) -> Result<(Compiled, Code), LoadError> {
        let begin = Instant::now();
        let inspected = inspect::inspect(wasm)?;
        let parsed = Instant::now();
        let adapted = match inspected.form {
            Form::Component => None,
            Form::CoreModule => Some(adapt(wasm, &inspected)?),
        };
        let bytes = adapted.as_deref().unwrap_or(wasm);
        inspect::check_world(bytes, &inspected.stamp)?;
        let checked = Instant::now();
        let (component, code) = self.compiler.compile(name, bytes, cancel)?;
        let compiled = Instant::now();
        let sdk = inspected.stamp.sdk.as_deref();
        let pre = sockets::refuse(&self.linker, &component)
            .and_then(|linker| linker.instantiate_pre(&component))
            .map_err(|error| mismatch::import(&error, sdk))?;
        let waits = sockets::refuse(&self.waiting, &component)
            .and_then(|linker| Waits::of(&component, &linker))
            .map_err(|error| mismatch::import(&error, sdk))?
            .map(Arc::new);
        let hooks = HookIndices {
            configure: configure::GuestIndices::new(&pre).ok(),
            on_connect: on_connect::GuestIndices::new(&pre).ok(),
            on_message: on_message::GuestIndices::new(&pre).ok(),
            on_disconnect: on_disconnect::GuestIndices::new(&pre).ok(),
            on_timer: on_timer::GuestIndices::new(&pre).ok(),
            on_deliver: on_deliver::GuestIndices::new(&pre).ok(),
        };
        let stamp = inspected.stamp;
        let requested = requested_grants(&component, &self.compiler.engine, &stamp)?;
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
                on_timer: hooks.on_timer.is_some(),
                on_deliver: hooks.on_deliver.is_some(),
            },
            requested,
            self_test: inspected.self_test,
        };
        if about.hooks.is_empty() {
            return Err(inspect::no_hooks());
        }
        debug!(
            plugin = name,
            bytes = wasm.len(),
            parse_us = micros(begin, parsed),
            interface_check_us = micros(parsed, checked),
            compile_us = micros(checked, compiled),
            compiled = code == Code::Compiled,
            link_us = micros(compiled, Instant::now()),
            "plugin compiled and linked"
        );
        Ok((Compiled { pre, waits, hooks, about }, code))
    }
}

impl load::Loader for Loader {
    fn load_unless_cancelled(
        &self,
        name: &str,
        wasm: &[u8],
        settings: &Settings,
        cancel: &Cancel,
    ) -> Result<Arc<dyn Factory>, LoadError> {
        let digest: [u8; 32] = Sha256::digest(wasm).into();
        let (compiled, code) = self.compiled(name, &digest, wasm, cancel)?;
        let values = compiled.about.requested.key_value || settings.grants.key_value;
        let capabilities = Capabilities::new(self.upstreams.clone(), &self.fetcher, &settings.grants, values);
        Ok(Arc::new(Configured {
            name: name.into(),
            compiled,
            code,
            limits: Arc::new(settings.limits.clone()),
            settings: settings.clone(),
            runtime: self.runtime.clone(),
            pool: OnceLock::new(),
            capabilities: Arc::new(capabilities),
            budget: Arc::new(LogBudget::new(settings.limits.log_lines_per_second)),
            environment: Arc::new(Environment::new(&settings.grants.environment, |name| {
                std::env::var(name).ok()
            })),
        }))
    }
}

impl Loader {
    /// The component of a file. A second load of the same file waits for the first and finds it compiled.
    fn compiled(
        &self,
        name: &str,
        digest: &[u8; 32],
        wasm: &[u8],
        cancel: &Cancel,
    ) -> Result<(Arc<Compiled>, Code), LoadError> {
        let known = self.known(digest);
        let mut known = known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(compiled) = known.upgrade() {
            return Ok((compiled, Code::Shared));
        }
        let (compiled, code) = self.compile(name, wasm, cancel)?;
        let compiled = Arc::new(compiled);
        *known = Arc::downgrade(&compiled);
        Ok((compiled, code))
    }

    fn known(&self, digest: &[u8; 32]) -> Known {
        let mut files = self.compiled.lock().unwrap_or_else(PoisonError::into_inner);
        // One that is being loaded has another owner; otherwise nothing holds its lock.
        files.retain(|_, known| {
            Arc::strong_count(known) > 1
                || known.lock().unwrap_or_else(PoisonError::into_inner).strong_count() > 0
        });
        files.entry(*digest).or_default().clone()
    }
}

/// A compiled plugin with its settings.
struct Configured {
    name: Arc<str>,
    compiled: Arc<Compiled>,
    code: Code,
    settings: Settings,
    limits: Arc<Limits>,
    capabilities: Arc<Capabilities>,
    runtime: Option<Handle>,
    /// Made when the first worker needs it.
    pool: OnceLock<Arc<Pool>>,
    budget: Arc<LogBudget>,
    environment: Arc<Environment>,
}

impl Configured {
    fn log(&self, counters: &Arc<PluginCounters>) -> Log {
        Log {
            plugin: self.name.clone(),
            budget: self.budget.clone(),
            counters: counters.clone(),
            environment: self.environment.clone(),
        }
    }
}

impl Factory for Configured {
    fn instantiate(&self, counters: &Arc<PluginCounters>) -> Result<Box<dyn Plugin>, LoadError> {
        let log = self.log(counters);
        let begin = Instant::now();
        let capabilities = self.capabilities.clone();
        let instance = Instance::new(&self.compiled, &self.settings, self.limits.clone(), capabilities, log)?;
        let took_us = micros(begin, Instant::now());
        debug!(plugin = &*self.name, took_us, "plugin instantiated and configured");
        Ok(Box::new(instance))
    }

    fn async_instances(&self, counters: &Arc<PluginCounters>) -> Option<Arc<dyn AsyncInstances>> {
        // Without a granted origin there is nothing to wait for.
        if !self.capabilities.can_fetch() {
            return None;
        }
        let (waits, runtime) = (self.compiled.waits.clone()?, self.runtime.clone()?);
        let pool = self.pool.get_or_init(|| {
            let (log, limits, capabilities) =
                (self.log(counters), self.limits.clone(), self.capabilities.clone());
            let hooks = self.compiled.about.hooks;
            let state = move || State::new(limits.clone(), hooks, capabilities.clone(), log.clone());
            let parts = Parts { waits, settings: self.settings.clone(), state: Box::new(state) };
            Arc::new(Pool::new(parts, self.settings.http_instances, runtime))
        });
        Some(pool.clone())
    }

    fn about(&self) -> &About {
        &self.compiled.about
    }

    fn code(&self) -> Code {
        self.code
    }

    fn imports(&self) -> Vec<Import> {
        imports(self.compiled.pre.component(), self.compiled.pre.engine())
    }
}

fn micros(begin: Instant, end: Instant) -> u64 {
    u64::try_from((end - begin).as_micros()).unwrap_or(u64::MAX)
}

/// Links all functions that a plugin can import.
fn link(
    engine: &Engine,
    http: fn(&mut Linker<State>) -> wasmtime::Result<()>,
) -> wasmtime::Result<Linker<State>> {
    type Has = HasSelf<State>;
    let state = State::of_host_call;
    let mut linker = Linker::new(engine);
    wasi::add_to_linker(&mut linker)?;
    host::types::add_to_linker::<_, Has>(&mut linker, state)?;
    host::context::add_to_linker::<_, Has>(&mut linker, state)?;
    host::effects::add_to_linker::<_, Has>(&mut linker, state)?;
    host::interests::add_to_linker::<_, Has>(&mut linker, state)?;
    host::buckets::add_to_linker::<_, Has>(&mut linker, state)?;
    host::key_value::add_to_linker::<_, Has>(&mut linker, state)?;
    host::log::add_to_linker::<_, Has>(&mut linker, state)?;
    host::environment::add_to_linker::<_, Has>(&mut linker, state)?;
    http(&mut linker)?;
    Ok(linker)
}
