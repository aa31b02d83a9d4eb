//! Starts the wasmtime engine, and the thread that advances its epoch to end long calls.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::thread;
use std::time::{Duration, Instant};

use tracing::{debug, info};
use wasmtime::{Config, Engine, InstanceAllocationStrategy, PoolingAllocationConfig};

use crate::resources::{self, show};

/// The unit of deadlines.
pub(super) const TICK: Duration = Duration::from_millis(1);

/// Largest table of one instance, in elements: a table of functions that a large program needs, and the pool's slot.
pub(super) const TABLE_ELEMENTS_MAX: usize = 20_000;
/// Core instances, memories and tables that one component may consist of. A core module that was made a component has
/// four instances: itself, the WASI adapter, and two small ones that connect them.
pub(super) const PARTS_MAX: u32 = 16;

/// Instances of all plugins that may wait.
const STACKS_MAX: u32 = 512;

/// The engine could not be made.
#[derive(Debug, thiserror::Error)]
#[error("failed to start the WebAssembly engine: {0}; this machine or its limits do not support it")]
pub struct EngineError(Box<str>);

impl EngineError {
    pub(super) fn new(error: &wasmtime::Error) -> Self {
        Self(format!("{error:#}").into())
    }
}

/// How much address space an instance takes before it uses any of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Space {
    /// As much as a memory can ever have, so that no access has to be checked.
    Ample,
    /// As much as it uses, because address space is limited. Accesses are checked, which makes computing slower.
    Scarce,
}

/// What an engine is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Kind {
    pub(super) space: Space,
    /// It counts instructions, which doubles the price of what a plugin computes.
    pub(super) metered: bool,
}

/// Makes the engine and starts its clock, which ends when the last handle of the engine is dropped.
///
/// Memory for `instances_max` instances is reserved as address space, not as memory. Where there is a limit on that, or
/// the system refuses it, every instance takes its own when it is made.
pub(super) fn start(instances_max: u32) -> Result<(Engine, Kind), EngineError> {
    start_with(instances_max, false)
}

/// The same with an engine that counts instructions.
pub(super) fn start_metered(instances_max: u32) -> Result<(Engine, Kind), EngineError> {
    start_with(instances_max, true)
}

/// One that only compiles: it has no clock.
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
                debug!(error, "the system refuses to reserve address space for plugin instances together");
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
                "address space is limited: every plugin instance takes what it uses, which makes plugins slower. Without \
                 `ulimit -v`, or with fewer workers and a lower plugins.max, it is reserved for all together"
            );
            let kind = kind(Space::Scarce);
            (Engine::new(&config(kind, None)).map_err(|error| EngineError::new(&error))?, kind)
        }
    };
    let weak = engine.weak();
    let clock = move || {
        let mut due = Instant::now();
        loop {
            // Not a tick after the last one but a tick after it was due: what a sleep takes longer adds up otherwise, and every
            // call that uses its deadline takes it longer too.
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
    // A thread of its own: on a runtime it would starve exactly when a plugin keeps the runtime busy.
    // And without it no call would ever end, so it is begun again whatever happens in it.
    let started = thread::Builder::new()
        .name("plugin-clock".into())
        .spawn(move || while catch_unwind(AssertUnwindSafe(&clock)).is_err() {});
    started.map_err(|error| EngineError(format!("no thread for the clock of deadlines: {error}").into()))?;
    Ok((engine, kind))
}

/// What a pool reserves: for each instance the 4 GiB that a memory can have and the guards around it, and its tables.
fn pool_space(instances_max: u32) -> u64 {
    u64::from(instances_max) * (5 << 30)
}

/// Which machine code comes of it depends on `kind` alone.
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
    // Another crate that asks for wasmtime's default features would switch this on and double the price of a call.
    config.concurrency_support(false);
    config.epoch_interruption(true);
    // The compiler's own pool would take all cores away from serving.
    config.parallel_compilation(false);
    if let Some(instances_max) = pool {
        let mut pool = PoolingAllocationConfig::new();
        pool.total_component_instances(instances_max)
            .total_core_instances(instances_max.saturating_mul(4))
            .total_memories(instances_max)
            .total_tables(instances_max.saturating_mul(4))
            // One for each store that may wait; the memory is taken when it is used.
            .total_stacks(STACKS_MAX)
            .table_elements(TABLE_ELEMENTS_MAX)
            .max_core_instances_per_component(PARTS_MAX)
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
        // The clock holds the engine only while it counts, so a few ticks decide it.
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
