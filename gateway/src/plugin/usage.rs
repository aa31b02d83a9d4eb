//! [`Usage`]: the cost of calls, for plugin tools and traces.

/// Cost of an instance's calls. Callers measure times themselves.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Calls from the plugin to the gateway during the last hook, including those of its standard library.
    pub host_calls: u32,
    /// Bytes of memory that the instance has.
    pub memory: usize,
    /// WebAssembly instructions since the last reading; `None` unless the engine counts them.
    pub instructions: Option<u64>,
}
