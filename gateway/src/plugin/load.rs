//! [`Loader`] turns the bytes of a plugin into a [`Factory`] of instances. These traits hide the engine.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;

use super::async_pool::AsyncInstances;
use super::chain::Plugin;
use super::counters::PluginCounters;
use super::grants::Grants;
use super::interests::Hooks;
use super::settings::Settings;

/// Makes plugins of one kind out of bytes.
pub trait Loader: Send + Sync {
    /// Checks and compiles `wasm`. Takes milliseconds to seconds: not for a thread that serves connections.
    fn load(&self, name: &str, wasm: &[u8], settings: &Settings) -> Result<Arc<dyn Factory>, LoadError>;
}

/// A plugin that was compiled with its settings.
pub trait Factory: Send + Sync {
    /// A new instance, configured and ready. Output beyond the plugin's limits goes to `counters`.
    fn instantiate(&self, counters: &Arc<PluginCounters>) -> Result<Box<dyn Plugin>, LoadError>;

    /// What the binary says of itself.
    fn about(&self) -> &About;

    /// The instances that may wait, for a plugin that has something to wait for: its `on-connect` is asked there. The same
    /// for all workers.
    fn elsewhere(&self, counters: &Arc<PluginCounters>) -> Option<Arc<dyn AsyncInstances>> {
        let _ = counters;
        None
    }

    /// Where its machine code came from.
    fn code(&self) -> Code {
        Code::Shared
    }

    /// What it imports, for its author to read.
    fn imports(&self) -> Vec<Import> {
        Vec::new()
    }
}

/// An interface that a binary imports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Import {
    /// With package and version, such as `gateway:plugin/log@0.1.0`.
    pub interface: Box<str>,
    /// The functions that are used.
    pub functions: Vec<Box<str>>,
}

/// Where a plugin's machine code came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Code {
    /// It was compiled.
    Compiled,
    /// An earlier compile left it in the cache on disk.
    Cached,
    /// It was in memory: another plugin, or the same with other settings, is made of the same file.
    Shared,
}

/// What a plugin's binary says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct About {
    /// The name of its crate, if its SDK stamps one in.
    pub name: Option<Box<str>>,
    /// Its version, if its SDK stamps one in.
    pub version: Option<Box<str>>,
    /// The SDK it was built with, if it says so.
    pub sdk: Option<Box<str>>,
    /// The version of the plugin interface whose hooks it exports.
    pub interface: Box<str>,
    /// The hooks it exports.
    pub hooks: Hooks,
    /// What it asks for: see [`Grants`] for what counts.
    pub asks: Grants,
    /// The test that its author put in, as [`SelfTest`](super::self_test::SelfTest) reads it.
    pub self_test: Option<Bytes>,
}

/// Why a file did not become a plugin: a code for programs, a sentence for the operator.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{sentence}")]
pub struct LoadError {
    code: LoadCode,
    sentence: Box<str>,
    /// Its cause lies outside the file.
    passing: bool,
}

impl LoadError {
    /// `sentence` continues "the file ...": what it is, what was expected, what to do.
    pub fn new(code: LoadCode, sentence: impl Into<Box<str>>) -> Self {
        Self { code, sentence: sentence.into(), passing: false }
    }

    /// The same with a cause outside the file, such as a disk that fails: the same file may work later.
    #[must_use]
    pub fn passing(self) -> Self {
        Self { passing: true, ..self }
    }

    /// Whether the same file may work later because the cause lies outside of it.
    pub fn may_pass(&self) -> bool {
        self.passing
    }

    /// The class of the error.
    pub fn code(&self) -> LoadCode {
        self.code
    }

    /// The error in words.
    pub fn message(&self) -> &str {
        &self.sentence
    }
}

/// The classes of load errors.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LoadCode {
    /// The file cannot be read.
    Unreadable,
    /// Somebody else than the gateway's user and root could have written the file.
    Untrusted,
    /// The file is larger than a plugin may be.
    TooLarge,
    /// The file name does not give a usable plugin name.
    InvalidName,
    /// An earlier file has the same plugin name.
    DuplicateName,
    /// There are as many plugins as the configuration allows.
    TooMany,
    /// The settings file has mistakes.
    Settings,
    /// Its name is that of a plugin, and it is no regular file of the folder.
    NotAFile,
    /// It is named almost like a plugin.
    Misnamed,
    /// A settings file without its plugin.
    NoModule,
    /// A folder with plugins in it, which are not looked at.
    SubFolder,
    /// The file has no bytes.
    Empty,
    /// The file is something else than WebAssembly.
    NotWasm,
    /// The file was compiled for one machine already.
    Precompiled,
    /// The file ends too early.
    Truncated,
    /// The file is WebAssembly, but damaged.
    Malformed,
    /// A core module without a description of its interface.
    CoreModuleWithoutInterface,
    /// Hooks or host calls of another interface version, or with other types.
    InterfaceMismatch,
    /// A component that exports no hook.
    NoHooks,
    /// It imports something that plugins do not get.
    ImportNotOffered,
    /// It asks for more than its settings file grants.
    NotGranted,
    /// The compiler refused it.
    Compile,
    /// The compiler took too long.
    CompileTimeout,
    /// The compiler needs more memory for it than there is.
    CompileMemory,
    /// No compiler can be started now.
    CompilerBusy,
    /// It failed while it was being instantiated.
    Instantiate,
    /// Its `configure` hook failed or refused the settings.
    Configure,
    /// It does not do what the test that its author put in says.
    SelfTest,
}

impl LoadCode {
    /// Whether a good file that is still being written can be refused like this.
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

    /// The stable spelling.
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
