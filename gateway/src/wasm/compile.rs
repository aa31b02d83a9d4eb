//! [`Compiler`] turns a component into machine code. It takes the code from the cache on disk, or compiles it
//! once, in a child process with bounded memory and time.

use std::hash::{Hash as _, Hasher};
use std::sync::{Arc, Mutex, PoisonError};

use sha2::{Digest as _, Sha256};
use wasmtime::Engine;
use wasmtime::component::Component;

use super::engine::Kind;
use super::process::{CompileProcess, Place};
use crate::digest::{hex, sha256};
use crate::disk::Artifacts;
use crate::plugin::load::{Cancel, Code, LoadCode, LoadError};

/// Compiles components.
pub(super) struct Compiler {
    pub(super) engine: Engine,
    kind: Kind,
    artifacts: Option<Arc<Artifacts>>,
    /// Locked while an entry of the cache is read, because its code is in memory twice meanwhile.
    reading: Mutex<()>,
    /// Everything except the component that determines the machine code.
    environment: String,
    /// The child process; `None` compiles on the caller's thread, within no bounds of time and memory.
    process: Option<CompileProcess>,
}

impl Compiler {
    pub(super) fn new(engine: Engine, kind: Kind) -> Self {
        let environment = environment(&engine);
        Self { engine, kind, artifacts: None, reading: Mutex::default(), environment, process: None }
    }

    pub(super) fn with_artifacts(self, artifacts: Arc<Artifacts>) -> Self {
        Self { artifacts: Some(artifacts), ..self }
    }

    pub(super) fn in_process(self, process: Option<CompileProcess>) -> Self {
        Self { process, ..self }
    }

    /// The machine code of a plugin's component, and its source.
    pub(super) fn compile(
        &self,
        plugin: &str,
        component: &[u8],
        cancel: &Cancel,
    ) -> Result<(Component, Code), LoadError> {
        // The digest of the compiled component, not of its file: the conversion of core modules may change.
        let hex = sha256(component);
        let key = format!("{hex}-{}", self.environment);
        if let Some(component) = self.cached(&key) {
            return Ok((component, Code::Cached));
        }
        let failed = |error: wasmtime::Error| {
            LoadError::new(LoadCode::Compile, format!("does not compile: {}", error.root_cause()))
        };
        let artifact = match &self.process {
            Some(process) => process.compile(self.kind, plugin, component, cancel)?,
            None => {
                let _place = Place::wait(0, cancel)?;
                self.engine.precompile_component(component).map_err(failed)?
            }
        };
        let component = deserialize(&self.engine, &artifact).map_err(failed)?;
        if let Some(artifacts) = &self.artifacts {
            artifacts.put(&key, &artifact);
        }
        Ok((component, Code::Compiled))
    }

    fn cached(&self, key: &str) -> Option<Component> {
        let artifacts = self.artifacts.as_ref()?;
        let _one_at_a_time = self.reading.lock().unwrap_or_else(PoisonError::into_inner);
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
    reason = "the bytes are what this gateway's compiler wrote: they come through a pipe from a process with the same program, or \
              from the cache, which checks owner, mode and digest before it gives them"
)]
fn deserialize(engine: &Engine, artifact: &[u8]) -> wasmtime::Result<Component> {
    // SAFETY: see the reason above; the header check refuses an artifact of another engine.
    unsafe { Component::deserialize(engine, artifact) }
}

/// A short key for the engine, its settings and this processor.
fn environment(engine: &Engine) -> String {
    struct Sha(Sha256);
    impl Hasher for Sha {
        fn write(&mut self, bytes: &[u8]) {
            self.0.update(bytes);
        }
        /// Unused: the whole digest is taken.
        fn finish(&self) -> u64 {
            0
        }
    }
    let mut sha = Sha(Sha256::new());
    engine.precompile_compatibility_hash().hash(&mut sha);
    sha.write(env!("CARGO_PKG_VERSION").as_bytes());
    hex(&sha.0.finalize()[..8])
}
