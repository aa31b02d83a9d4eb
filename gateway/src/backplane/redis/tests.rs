//! Two nodes and a real `redis-server`.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
