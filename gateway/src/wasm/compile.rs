//! From a component to machine code: from the cache on disk, or by the compiler, once and within a time limit.

use std::hash::{Hash as _, Hasher};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use sha2::{Digest as _, Sha256};
use tracing::{debug, info};
use wasmtime::Engine;
use wasmtime::component::Component;

use crate::disk::Artifacts;
use crate::plugin::load::{Code, LoadCode, LoadError};

/// How nice the compiler is to threads that serve connections.
const COMPILE_NICE: i32 = 3;
/// How long one plugin may take, unless it is configured.
const TIMEOUT: Duration = Duration::from_secs(60);
/// How often a long compile is said to be one.
const REPORT: Duration = Duration::from_secs(5);
/// Compiles that passed their limit and still run. Such a thread cannot be ended from outside.
const LEFT_RUNNING_MAX: usize = 2;

/// Makes machine code of components, one at a time: a second file waits for the first, and finds what that one made.
pub(super) struct Compiler {
    pub(super) engine: Engine,
    artifacts: Option<Arc<Artifacts>>,
    /// Everything but the component that decides what its machine code is.
    environment: String,
    threads: Threads,
}

impl Compiler {
    pub(super) fn new(engine: Engine) -> Self {
        let environment = environment(&engine);
        let threads = Threads { limit: TIMEOUT, report: REPORT, left_running: Mutex::default() };
        Self { engine, artifacts: None, environment, threads }
    }

    pub(super) fn with_artifacts(self, artifacts: Arc<Artifacts>) -> Self {
        Self { artifacts: Some(artifacts), ..self }
    }

    pub(super) fn with_timeout(mut self, timeout: Duration) -> Self {
        self.threads.limit = timeout;
        self
    }

    /// The machine code of a component, and where it came from.
    pub(super) fn compile(&self, component: &[u8]) -> Result<(Component, Code), LoadError> {
        // Of what is compiled, and not of the file it was made of: how a core module becomes a component may change.
        let hex: String = Sha256::digest(component).iter().map(|byte| format!("{byte:02x}")).collect();
        let key = format!("{hex}-{}", self.environment);
        if let Some(component) = self.cached(&key) {
            return Ok((component, Code::Cached));
        }
        let (engine, bytes, artifacts) = (self.engine.clone(), component.to_vec(), self.artifacts.clone());
        let compiled = self.threads.run(&hex[..12], move || {
            let component = Component::new(&engine, &bytes)?;
            // Here, so that a compile that took too long was not for nothing: the file is found when it is dropped again.
            if let Some(artifacts) = artifacts {
                artifacts.put(&key, &component.serialize()?);
            }
            Ok::<_, wasmtime::Error>(component)
        })?;
        let component = compiled.map_err(|error| {
            LoadError::new(LoadCode::Compile, format!("does not compile: {}", error.root_cause()))
        })?;
        Ok((component, Code::Compiled))
    }

    fn cached(&self, key: &str) -> Option<Component> {
        let artifacts = self.artifacts.as_ref()?;
        let artifact = artifacts.get(key)?;
        match deserialize(&self.engine, &artifact) {
            Ok(component) => Some(component),
            Err(error) => {
                artifacts.reject(key, &error.root_cause().to_string());
                None
            }
        }
    }
}

#[expect(
    unsafe_code,
    reason = "the bytes are what this gateway's compiler wrote: the cache checks owner, mode and digest before it gives them"
)]
fn deserialize(engine: &Engine, artifact: &[u8]) -> wasmtime::Result<Component> {
    // SAFETY: see the reason above; another engine's artifact is refused by its header.
    unsafe { Component::deserialize(engine, artifact) }
}

/// A short name for the engine, its settings and this processor.
fn environment(engine: &Engine) -> String {
    struct Sha(Sha256);
    impl Hasher for Sha {
        fn write(&mut self, bytes: &[u8]) {
            self.0.update(bytes);
        }
        /// Not asked for: the whole digest is taken.
        fn finish(&self) -> u64 {
            0
        }
    }
    let mut sha = Sha(Sha256::new());
    engine.precompile_compatibility_hash().hash(&mut sha);
    sha.write(env!("CARGO_PKG_VERSION").as_bytes());
    sha.0.finalize().iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

/// Threads that compile behind everything else that wants the processor.
struct Threads {
    limit: Duration,
    report: Duration,
    left_running: Mutex<Vec<JoinHandle<()>>>,
}

impl Threads {
    /// Waits for `job` until its time is over. A job that goes on after that is left to end by itself; files that come
    /// later are compiled beside it, but not beside two of them.
    fn run<T: Send + 'static>(
        &self,
        digest: &str,
        job: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, LoadError> {
        let refused = |code, sentence: String| Err(LoadError::new(code, sentence));
        let mut left_running = self.left_running.lock().unwrap_or_else(PoisonError::into_inner);
        left_running.retain(|thread| !thread.is_finished());
        if left_running.len() >= LEFT_RUNNING_MAX {
            let sentence = "is not compiled: earlier plugins that took too long still keep the compiler busy; drop it again \
                            in a while, or restart the gateway";
            return refused(LoadCode::CompilerBusy, sentence.into());
        }
        let (sender, result) = sync_channel(1);
        let compile = move || {
            // Without permission it compiles at the ordinary priority.
            #[cfg(target_os = "linux")]
            if let Err(error) = rustix::process::nice(COMPILE_NICE) {
                debug!(%error, "cannot lower the priority of the compile thread");
            }
            // Nobody waits any more if the time is over.
            let _ = sender.send(catch_unwind(AssertUnwindSafe(job)));
        };
        let thread = match thread::Builder::new().name("plugin-compile".into()).spawn(compile) {
            Ok(thread) => thread,
            Err(error) => {
                return refused(
                    LoadCode::CompilerBusy,
                    format!("is not compiled: no thread for the compiler: {error}"),
                );
            }
        };
        let begin = Instant::now();
        loop {
            let left = self.limit.saturating_sub(begin.elapsed());
            match result.recv_timeout(left.min(self.report)) {
                Ok(Ok(done)) => return Ok(done),
                Ok(Err(_)) | Err(RecvTimeoutError::Disconnected) => {
                    let sentence = "makes the compiler panic; build it with another optimisation level";
                    return refused(LoadCode::Compile, sentence.into());
                }
                Err(RecvTimeoutError::Timeout) if begin.elapsed() < self.limit => {
                    info!(digest, so_far = ?begin.elapsed(), limit = ?self.limit, "plugin is still being compiled");
                }
                Err(RecvTimeoutError::Timeout) => {
                    left_running.push(thread);
                    let sentence = format!(
                        "takes longer than {:?} to compile (plugins.compile_timeout) and goes on in the background: drop it \
                         again in a while. Raise the limit where the machine is busy, or build it smaller: with optimisation, \
                         without debug information",
                        self.limit
                    );
                    return refused(LoadCode::CompileTimeout, sentence);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failing test may panic")]

    use std::sync::mpsc::{Sender, channel};

    use super::*;

    fn threads(limit: u64) -> Threads {
        let limit = Duration::from_millis(limit);
        Threads { limit, report: limit / 2, left_running: Mutex::default() }
    }

    /// A job that never ends by itself, and what ends it.
    fn endless() -> (impl FnOnce() + Send + 'static, Sender<()>) {
        let (end, ended) = channel::<()>();
        let job = move || {
            let _ = ended.recv();
        };
        (job, end)
    }

    #[test]
    fn a_compile_that_takes_too_long_is_refused_and_does_not_hold_up_the_next_one() {
        let threads = threads(20);
        let (job, _end) = endless();
        let error = threads.run("a", job).unwrap_err();
        assert_eq!(error.code(), LoadCode::CompileTimeout);
        assert!(error.sentence().contains("takes longer than 20ms to compile"), "{error}");
        assert_eq!(threads.run("b", || 7).unwrap(), 7);
    }

    #[test]
    fn the_compiles_that_are_left_running_are_bounded_and_their_end_is_noticed() {
        let threads = threads(5);
        let ends: Vec<_> = (0..LEFT_RUNNING_MAX)
            .map(|_| {
                let (job, end) = endless();
                assert_eq!(threads.run("a", job).unwrap_err().code(), LoadCode::CompileTimeout);
                end
            })
            .collect();
        assert_eq!(threads.run("b", || 7).unwrap_err().code(), LoadCode::CompilerBusy);
        drop(ends);
        let begin = Instant::now();
        while threads.run("b", || 7).is_err() {
            assert!(begin.elapsed() < Duration::from_secs(5));
            thread::yield_now();
        }
    }

    #[test]
    fn a_compiler_that_panics_refuses_the_file() {
        let error = threads(5000).run("a", || -> u8 { panic!("a bug") }).unwrap_err();
        assert_eq!(error.code(), LoadCode::Compile);
        assert!(error.sentence().contains("makes the compiler panic"), "{error}");
    }
}
