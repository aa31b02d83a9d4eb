//! Starts the wasmtime engine, and the thread that advances its epoch to end long calls.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::thread;
use std::time::{Duration, Instant};

use tracing::{debug, info};
use wasmtime::{Config, Engine, InstanceAllocationStrategy, PoolingAllocationConfig};

use crate::resources::{self, show};

/// Unit of deadlines.
pub(super) const TICK: Duration = Duration::from_millis(1);

/// Largest table of one instance, in elements: enough for the function table of a large program; also the
/// slot size of the pool.
pub(super) const TABLE_ELEMENTS_MAX: usize = 20_000;
/// Most memories and tables of one component.
pub(super) const PARTS_MAX: u32 = 16;
/// Most core instances of one component. A converted core module has four: itself, the WASI adapter, and two
/// small ones that connect them. A runtime of several libraries has one for each: Python has 14, and 38 if it
/// is built without WASI.
pub(super) const CORE_INSTANCES_MAX: u32 = 64;

/// Most instances of all plugins that may wait.
const STACKS_MAX: u32 = 512;

/// The engine could not be started.
#[derive(Debug, thiserror::Error)]
#[error("failed to start the WebAssembly engine: {0}; this machine or its limits do not support it")]
pub struct EngineError(Box<str>);

impl EngineError {
    pub(super) fn new(error: &wasmtime::Error) -> Self {
        Self(format!("{error:#}").into())
    }
}

/// Address space that an instance reserves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Space {
    /// The largest possible memory, so that accesses need no bounds checks.
    Ample,
    /// Only the memory in use, because address space is limited. Accesses are checked, which slows down
    /// computation.
    Scarce,
}

/// Configuration of an engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Kind {
    pub(super) space: Space,
    /// Counts instructions, which doubles the cost of computation.
    pub(super) metered: bool,
}

/// Starts the engine and its epoch thread, which ends when the last handle of the engine is dropped.
///
/// For `instances_max` instances, only address space is reserved, not memory. If address space is limited, or
/// the system refuses it, each instance allocates its own when it is made.
pub(super) fn start(instances_max: u32) -> Result<(Engine, Kind), EngineError> {
    start_with(instances_max, false)
}

/// The same with an engine that counts instructions.
pub(super) fn start_metered(instances_max: u32) -> Result<(Engine, Kind), EngineError> {
    start_with(instances_max, true)
}

/// An engine that only compiles; it has no epoch thread.
pub(super) fn compiler(kind: Kind) -> wasmtime::Result<Engine> {
    Engine::new(&config(kind, None))
}

fn start_with(instances_max: u32, metered: bool) -> Result<(Engine, Kind), EngineError> {
    let limit = resources::address_space();
    let kind = |space| Kind { space, metered };
    let ample = pool_space(instances_max);
    let engine = match limit {
        Some(limit) if limit.free / 2 < ample => None,
        _ => match Engine::new(&config(kind(Space::Ample), Some(instances_max))) {
            Ok(engine) => Some((engine, kind(Space::Ample))),
            Err(error) => {
                let error = format!("{error:#}");
                debug!(error, "failed to reserve address space for all plugin instances");
                None
            }
        },
    };
    let (engine, kind) = match engine {
        Some(made) => made,
        None => {
            info!(
                wanted = show(ample),
                limit = limit.map(|limit| show(limit.total)),
                "address space limited; instances allocate memory on demand, which makes plugins slower; remove `ulimit -v`, \
                 or lower the number of workers and plugins.max"
            );
            let kind = kind(Space::Scarce);
            (Engine::new(&config(kind, None)).map_err(|error| EngineError::new(&error))?, kind)
        }
    };
    let weak = engine.weak();
    let clock = move || {
        let mut due = Instant::now();
        loop {
            // Ticks are scheduled by due time, not after the previous tick: otherwise delays of the sleep add
            // up and prolong every call that uses its deadline.
            let now = Instant::now();
            due = if due > now { due } else { due + TICK };
            due = if due > now { due } else { now + TICK };
            thread::sleep(due - now);
            match weak.upgrade() {
                Some(engine) => engine.increment_epoch(),
                None => return,
            }
        }
    };
    // A separate thread: on a runtime it would starve exactly when a plugin keeps the runtime busy. No call
    // ends without it, so it is restarted after any failure.
    let started = thread::Builder::new()
        .name("plugin-clock".into())
        .spawn(move || while catch_unwind(AssertUnwindSafe(&clock)).is_err() {});
    started.map_err(|error| EngineError(format!("no thread for the clock of deadlines: {error}").into()))?;
    Ok((engine, kind))
}

/// Address space of a pool: for each instance the 4 GiB of its memory with guard pages, and its tables.
fn pool_space(instances_max: u32) -> u64 {
    u64::from(instances_max) * (5 << 30)
}

/// The machine code depends on `kind` alone.
fn config(kind: Kind, pool: Option<u32>) -> Config {
    let mut config = Config::new();
    config.consume_fuel(kind.metered);
    if kind.space == Space::Scarce {
        config.memory_reservation(0);
        config.memory_reservation_for_growth(1 << 20);
        config.memory_guard_size(64 << 10);
        config.guard_before_linear_memory(false);
        config.memory_may_move(true);
    }
    // Another crate with wasmtime's default features would enable this and double the cost of a call.
    config.concurrency_support(false);
    config.epoch_interruption(true);
    // The compiler's thread pool would take all cores from serving.
    config.parallel_compilation(false);
    if let Some(instances_max) = pool {
        let mut pool = PoolingAllocationConfig::new();
        pool.total_component_instances(instances_max)
            // Only a count: the pool reserves nothing for a core instance.
            .total_core_instances(instances_max.saturating_mul(CORE_INSTANCES_MAX))
            .total_memories(instances_max)
            .total_tables(instances_max.saturating_mul(4))
            // One for each store that may wait; memory is allocated on use.
            .total_stacks(STACKS_MAX)
            .table_elements(TABLE_ELEMENTS_MAX)
            .max_core_instances_per_component(CORE_INSTANCES_MAX)
            .max_memories_per_component(PARTS_MAX)
            .max_tables_per_component(PARTS_MAX);
        config.allocation_strategy(InstanceAllocationStrategy::Pooling(pool));
    }
    config
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failing test may panic")]

    use std::hash::{DefaultHasher, Hash as _, Hasher as _};

    use super::*;

    const AMPLE: Kind = Kind { space: Space::Ample, metered: false };

    #[test]
    fn calls_do_not_pay_for_concurrency() {
        for pool in [Some(10), None] {
            let engine = Engine::new(&config(AMPLE, pool)).unwrap();
            assert!(!engine.get_concurrency_support(), "{pool:?}");
        }
    }

    #[test]
    fn what_only_compiles_makes_code_for_what_runs_it() {
        let hash = |engine: &Engine| {
            let mut hasher = DefaultHasher::new();
            engine.precompile_compatibility_hash().hash(&mut hasher);
            hasher.finish()
        };
        let kinds =
            [Space::Ample, Space::Scarce].map(|space| [true, false].map(|metered| Kind { space, metered }));
        for kind in kinds.into_iter().flatten() {
            let serves = Engine::new(&config(kind, (kind.space == Space::Ample).then_some(10))).unwrap();
            assert_eq!(hash(&serves), hash(&compiler(kind).unwrap()), "{kind:?}");
        }
    }

    #[test]
    fn the_clock_ends_with_the_engine() {
        let (engine, _) = start(10).unwrap();
        let weak = engine.weak();
        drop(engine);
        // The thread holds the engine only while it ticks, so a few ticks are enough.
        let gone = (0..1000).any(|_| {
            thread::sleep(TICK);
            weak.upgrade().is_none()
        });
        assert!(gone);
    }

    #[test]
    fn without_address_space_for_a_pool_every_instance_takes_its_own() {
        let (engine, kind) = start(u32::MAX / 8).unwrap();
        assert!(engine.pooling_allocator_metrics().is_none());
        assert_eq!(kind.space, Space::Scarce);
    }
}
