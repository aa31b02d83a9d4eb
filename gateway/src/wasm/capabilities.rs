//! [`Capabilities`]: upstreams and HTTP origins that a plugin may reach, as granted by its operator.

use std::sync::Arc;

use crate::egress::{Fetch, FetchRefused, Fetcher, Origin, Reach, Response, Wanted};
use crate::plugin::grants::Grants;
use crate::upstream::{NoRoom, Upstreams};

/// Shared by all instances of a plugin.
pub(super) struct Capabilities {
    upstreams: Arc<Upstreams>,
    granted: Box<[Box<str>]>,
    http: Fetch,
    /// Whether the plugin may keep values in the gateway.
    pub(super) values: bool,
}

/// Why a plugin cannot emit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum CannotEmit {
    NotGranted,
    NoRoom(NoRoom),
}

impl Capabilities {
    pub(super) fn new(upstreams: Arc<Upstreams>, fetcher: &Fetcher, grants: &Grants, values: bool) -> Self {
        // The wider permission first: it applies to an origin in both lists.
        let private = grants.http_private.iter().map(|origin| (origin, Reach::Anywhere));
        let public = grants.http.iter().map(|origin| (origin, Reach::Public));
        let origins =
            private.chain(public).filter_map(|(origin, reach)| Some((Origin::parse(origin).ok()?, reach)));
        Self { upstreams, granted: grants.upstreams.clone(), http: fetcher.granted(origins), values }
    }

    /// Whether a payload of this size can be emitted now.
    pub(super) fn can_emit(&self, upstream: &str, bytes: usize) -> Result<(), CannotEmit> {
        if !self.granted.iter().any(|granted| **granted == *upstream) {
            return Err(CannotEmit::NotGranted);
        }
        self.upstreams.room(upstream, bytes).map_err(CannotEmit::NoRoom)
    }

    /// Whether any origin is granted.
    pub(super) fn can_fetch(&self) -> bool {
        self.http.is_granted_any()
    }

    /// See [`Fetch::fetch`].
    pub(super) async fn fetch(&self, wanted: &Wanted) -> Result<(Arc<Response>, bool), FetchRefused> {
        self.http.fetch(wanted).await
    }
}

#[cfg(test)]
impl Default for Capabilities {
    /// Nothing is granted except values.
    fn default() -> Self {
        let fetcher = Fetcher::new(crate::egress::Client::new());
        Self::new(Upstreams::noop(), &fetcher, &Grants::default(), true)
    }
}
