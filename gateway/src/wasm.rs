//! Plugins that are WebAssembly components, run by wasmtime. The rest of the gateway sees [`Loader`] and the traits it
//! implements.
//!
//! A file becomes a plugin in this order: [`inspect`] says what the bytes are, [`adapt`] makes a component of a core
//! module, [`compile`] makes machine code of it, once, [`loader`] links it, [`instance`] is what a worker calls. [`host`] and [`wasi`] are the other
//! direction: everything a plugin can reach. [`pool`] has the instances that may wait, off the workers.
//!
//! Three rules keep a plugin from hurting the gateway. A call on a worker never waits: nothing it can import blocks, and an
//! epoch deadline ends what computes too long. A call never leaves half of something: effects are recorded and handed
//! over at the end. And an instance whose call did not end normally is never called again.

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
mod call;
mod pool;

mod host;
mod http;
mod wasi;
mod capabilities;
mod output;
mod environment;
mod limits;
mod deadline;
mod bindings;
mod noop;

pub use engine::EngineError;
pub use loader::{Loader, LoaderConfig};
pub use noop::noop_plugin;
pub use process::{COMMAND as COMPILE_COMMAND, CompileProcess, compile_for_parent, offer_to_compile};

#[cfg(test)]
mod tests;
