//! [`MemoryLimit`] bounds the memory of an instance.

use wasmtime::ResourceLimiter;

use super::engine::{CORE_INSTANCES_MAX, PARTS_MAX, TABLE_ELEMENTS_MAX};

/// Most handles of an instance: streams and errors of WASI, a few at a time.
pub(super) const HANDLES_MAX: usize = 1024;
/// Most bytes of a host call in addition to payloads: addresses, reasons, log lines.
pub(super) const HOST_CALL_EXTRA: usize = 64 << 10;

/// Limits all memories of one instance together.
#[derive(Debug)]
pub(super) struct MemoryLimit {
    bytes: usize,
    bytes_max: usize,
    table_elements: usize,
    exceeded: bool,
}

impl MemoryLimit {
    pub(super) fn new(bytes_max: usize) -> Self {
        Self { bytes: 0, bytes_max, table_elements: 0, exceeded: false }
    }

    /// Bytes of all memories of the instance.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether growth was denied since the last call. A program that is denied memory usually traps; the
    /// operator then needs to see the limit and not the trap.
    pub(super) fn take_exceeded(&mut self) -> bool {
        std::mem::take(&mut self.exceeded)
    }
}

impl ResourceLimiter for MemoryLimit {
    fn memory_growing(
        &mut self,
        current: usize,
        desired: usize,
        maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        let sum = self.bytes.saturating_sub(current).saturating_add(desired);
        if sum > self.bytes_max {
            self.exceeded = true;
            return Ok(false);
        }
        // Beyond its own maximum the memory refuses to grow, so nothing is allocated.
        if maximum.is_none_or(|maximum| desired <= maximum) {
            self.bytes = sum;
        }
        Ok(true)
    }

    fn table_growing(
        &mut self,
        current: usize,
        desired: usize,
        maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        let sum = self.table_elements.saturating_sub(current).saturating_add(desired);
        if sum > TABLE_ELEMENTS_MAX {
            self.exceeded = true;
            return Ok(false);
        }
        if maximum.is_none_or(|maximum| desired <= maximum) {
            self.table_elements = sum;
        }
        Ok(true)
    }

    fn instances(&self) -> usize {
        CORE_INSTANCES_MAX as usize
    }

    fn tables(&self) -> usize {
        PARTS_MAX as usize
    }

    fn memories(&self) -> usize {
        PARTS_MAX as usize
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failing test may panic")]

    use super::*;

    #[test]
    fn memories_of_an_instance_count_together() {
        let mut limit = MemoryLimit::new(100);
        assert!(limit.memory_growing(0, 60, None).unwrap());
        assert!(limit.memory_growing(0, 40, None).unwrap(), "a second memory");
        assert!(!limit.take_exceeded());
        assert!(!limit.memory_growing(60, 61, None).unwrap());
        assert!(limit.take_exceeded());
        assert!(!limit.take_exceeded(), "asked once");
    }

    #[test]
    fn growth_beyond_the_memorys_own_maximum_takes_nothing() {
        let mut limit = MemoryLimit::new(100);
        assert!(limit.memory_growing(0, 90, Some(50)).unwrap());
        assert!(limit.memory_growing(0, 100, None).unwrap());
    }
}
