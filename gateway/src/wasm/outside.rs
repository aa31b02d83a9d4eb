//! What a plugin reaches beyond the gateway, as far as its operator grants it.

use std::sync::Arc;

use crate::plugin::grants::Grants;
use crate::upstream::{NoRoom, Upstreams};

/// Of all instances of a plugin.
pub(super) struct Outside {
    upstreams: Arc<Upstreams>,
    granted: Box<[Box<str>]>,
}

/// Why a plugin cannot emit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum CannotEmit {
    NotGranted,
    NoRoom(NoRoom),
}

impl Outside {
    pub(super) fn new(upstreams: Arc<Upstreams>, grants: &Grants) -> Self {
        Self { upstreams, granted: grants.upstreams.clone() }
    }

    /// Whether a payload of this size can be emitted now.
    pub(super) fn can_emit(&self, upstream: &str, bytes: usize) -> Result<(), CannotEmit> {
        if !self.granted.iter().any(|granted| **granted == *upstream) {
            return Err(CannotEmit::NotGranted);
        }
        self.upstreams.room(upstream, bytes).map_err(CannotEmit::NoRoom)
    }
}

impl Default for Outside {
    /// Nothing is granted.
    fn default() -> Self {
        Self::new(Upstreams::pretended(), &Grants::default())
    }
}
