//! [`Usage`]: the cost of calls, for plugin tools and traces.

/// What an instance used. Times are the caller's to take.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Calls from the plugin to the gateway during the last hook, those of its standard library included.
    pub host_calls: u32,
    /// Bytes of memory that the instance has.
    pub memory: usize,
    /// WebAssembly instructions since the last question; `None` unless the engine counts them.
    pub instructions: Option<u64>,
}
