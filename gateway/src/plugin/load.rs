//! [`Loader`] turns the bytes of a plugin into a [`Factory`] of instances. These traits hide the engine.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;

use super::async_pool::AsyncInstances;
use super::chain::Plugin;
use super::counters::PluginCounters;
use super::grants::Grants;
use super::interests::Hooks;
use super::settings::Settings;

/// Makes plugins from bytes.
pub trait Loader: Send + Sync {
    /// Checks and compiles `wasm`. Takes milliseconds, and for a large file a minute, so it must not run on a
    /// thread that serves connections. Several files may be loaded at the same time.
    ///
    /// # Errors
    ///
    /// If the file is refused, or `cancel` ended the load early.
    fn load_unless_cancelled(
        &self,
        name: &str,
        wasm: &[u8],
        settings: &Settings,
        cancel: &Cancel,
    ) -> Result<Arc<dyn Factory>, LoadError>;

    /// The same, to the end in any case.
    ///
    /// # Errors
    ///
    /// If the file is refused.
    fn load(&self, name: &str, wasm: &[u8], settings: &Settings) -> Result<Arc<dyn Factory>, LoadError> {
        self.load_unless_cancelled(name, wasm, settings, &Cancel::default())
    }
}

/// Ends a load whose result is not wanted any more. Clones belong to the same load.
#[derive(Debug, Clone, Default)]
pub struct Cancel(Arc<AtomicBool>);

impl Cancel {
    /// The load ends soon, with an error, unless it is almost done.
    pub fn cancel(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Whether the load should end.
    pub fn is_cancelled(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// A plugin that is compiled, with its settings.
pub trait Factory: Send + Sync {
    /// A new instance, configured and ready. Output beyond the plugin's limits goes to `counters`.
    fn instantiate(&self, counters: &Arc<PluginCounters>) -> Result<Box<dyn Plugin>, LoadError>;

    /// Metadata of the binary.
    fn about(&self) -> &About;

    /// Instances that may wait, shared by all workers. They run `on-connect` of a plugin that needs to wait.
    fn async_instances(&self, counters: &Arc<PluginCounters>) -> Option<Arc<dyn AsyncInstances>> {
        let _ = counters;
        None
    }

    /// The source of its machine code.
    fn code(&self) -> Code {
        Code::Shared
    }

    /// Its imports, for its author.
    fn imports(&self) -> Vec<Import> {
        Vec::new()
    }
}

/// An interface that a binary imports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Import {
    /// With package and version, such as `gateway:plugin/log@0.1.0`.
    pub interface: Box<str>,
    /// The imported functions.
    pub functions: Vec<Box<str>>,
}

/// Source of a plugin's machine code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Code {
    /// It was compiled.
    Compiled,
    /// Loaded from the cache on disk.
    Cached,
    /// Already in memory: another plugin, or the same with other settings, uses the same file.
    Shared,
}

/// Metadata of a plugin's binary.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct About {
    /// The name of its crate, if its SDK stamps it in.
    pub name: Option<Box<str>>,
    /// Its version, if its SDK stamps it in.
    pub version: Option<Box<str>>,
    /// The SDK it was built with, if stamped in.
    pub sdk: Option<Box<str>>,
    /// The version of the plugin interface whose hooks it exports.
    pub interface: Box<str>,
    /// The hooks it exports.
    pub hooks: Hooks,
    /// The capabilities it requests; see [`Grants`].
    pub requested: Grants,
    /// The embedded test, as [`SelfTest`](super::self_test::SelfTest) reads it.
    pub self_test: Option<Bytes>,
}

/// Why a file could not be loaded: a code for programs, a message for the operator.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct LoadError {
    code: LoadCode,
    message: Box<str>,
    /// Caused by something outside the file.
    passing: bool,
}

impl LoadError {
    /// `message` continues "the file ...": its kind, the expected one, and how to fix it.
    pub fn new(code: LoadCode, message: impl Into<Box<str>>) -> Self {
        Self { code, message: message.into(), passing: false }
    }

    /// The same error with a cause outside the file, such as a failing disk: the same file may work later.
    #[must_use]
    pub fn passing(self) -> Self {
        Self { passing: true, ..self }
    }

    /// Whether the same file may work later because the cause is outside of it.
    pub fn may_pass(&self) -> bool {
        self.passing
    }

    /// The class of the error.
    pub fn code(&self) -> LoadCode {
        self.code
    }

    /// The error message.
    pub fn message(&self) -> &str {
        &self.message
    }
}

/// The classes of load errors.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LoadCode {
    /// The file cannot be read.
    Unreadable,
    /// A user other than the gateway's and root could have written the file.
    Untrusted,
    /// The file is larger than a plugin may be.
    TooLarge,
    /// The file name does not give a usable plugin name.
    InvalidName,
    /// An earlier file has the same plugin name.
    DuplicateName,
    /// There are as many plugins as the configuration allows.
    TooMany,
    /// The settings file is invalid.
    Settings,
    /// It has the name of a plugin but is not a regular file.
    NotAFile,
    /// Its name resembles that of a plugin.
    Misnamed,
    /// A settings file without its plugin.
    NoModule,
    /// A folder that contains plugins; folders are not searched.
    SubFolder,
    /// The file is empty.
    Empty,
    /// The file is not WebAssembly.
    NotWasm,
    /// The file is precompiled for one machine.
    Precompiled,
    /// The file is truncated.
    Truncated,
    /// The file is WebAssembly, but damaged.
    Malformed,
    /// A core module without a description of its interface.
    CoreModuleWithoutInterface,
    /// Hooks or imports of another interface version, or with other types.
    InterfaceMismatch,
    /// A component that exports no hook.
    NoHooks,
    /// It imports a function that plugins do not get.
    ImportNotOffered,
    /// It requests more than its settings file grants.
    NotGranted,
    /// It is being compiled, and may be used afterwards.
    Compiling,
    /// The compiler refused the file.
    Compile,
    /// The compiler took too long.
    CompileTimeout,
    /// The compiler needs more memory than it may use.
    CompileMemory,
    /// No compile process can be started now.
    CompilerBusy,
    /// It failed during instantiation.
    Instantiate,
    /// Its `configure` hook failed or refused the settings.
    Configure,
    /// It fails its embedded test.
    SelfTest,
}

impl LoadCode {
    /// Whether a valid file that is still being written can cause this error.
    pub const fn may_be_half_a_file(self) -> bool {
        matches!(
            self,
            Self::Empty
                | Self::NotWasm
                | Self::Truncated
                | Self::Malformed
                | Self::CoreModuleWithoutInterface
                | Self::InterfaceMismatch
                | Self::NoHooks
                | Self::Settings
        )
    }

    /// The stable name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Unreadable => "unreadable",
            Self::Untrusted => "untrusted",
            Self::TooLarge => "too-large",
            Self::InvalidName => "invalid-name",
            Self::DuplicateName => "duplicate-name",
            Self::TooMany => "too-many",
            Self::Settings => "settings",
            Self::NotAFile => "not-a-file",
            Self::Misnamed => "misnamed",
            Self::NoModule => "no-module",
            Self::SubFolder => "sub-folder",
            Self::Empty => "empty",
            Self::NotWasm => "not-wasm",
            Self::Precompiled => "precompiled",
            Self::Truncated => "truncated",
            Self::Malformed => "malformed",
            Self::CoreModuleWithoutInterface => "core-module-without-interface",
            Self::InterfaceMismatch => "interface-mismatch",
            Self::NoHooks => "no-hooks",
            Self::ImportNotOffered => "import-not-offered",
            Self::NotGranted => "not-granted",
            Self::Compiling => "compiling",
            Self::Compile => "compile",
            Self::CompileTimeout => "compile-timeout",
            Self::CompileMemory => "compile-memory",
            Self::CompilerBusy => "compiler-busy",
            Self::Instantiate => "instantiate",
            Self::Configure => "configure",
            Self::SelfTest => "self-test",
        }
    }
}

impl fmt::Display for LoadCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
