//! Runs plugins that are WebAssembly components with wasmtime. The rest of the gateway uses [`Loader`] and
//! the traits it implements.
//!
//! A file becomes a plugin in this order: [`inspect`] identifies the bytes, [`adapt`] turns a core module
//! into a component, [`compile`] compiles it to machine code once, [`loader`] links it, and [`instance`] is
//! what a worker calls. [`host`], [`wasi`] and [`sockets`] implement the imports: everything a plugin can
//! reach. [`pool`] runs the instances that may wait, away from the workers.
//!
//! Three rules protect the gateway from plugins. A call on a worker never waits: no import blocks, and an
//! epoch deadline ends a call that computes too long. A call never applies part of its effects: effects are
//! recorded and handed over at the end. An instance whose call did not end normally is never called again.

mod engine;

mod inspect;
mod requested;
mod mismatch;
mod adapt;
mod compile;
mod process;
mod imports;
mod loader;

mod instance;
mod answer;
mod backtrace;
mod call;
mod pool;

mod host;
mod http;
mod sockets;
mod wasi;
mod capabilities;
mod output;
mod environment;
mod limits;
mod deadline;
mod bindings;
mod noop;

pub use engine::EngineError;
pub use inspect::debug_bytes;
pub use loader::{Loader, LoaderConfig};
pub use noop::noop_plugin;
pub use process::{COMMAND as COMPILE_COMMAND, CompileProcess, compile_for_parent, offer_to_compile};

#[cfg(test)]
mod tests;
