//! [`Site`] serves pages on the public listener, in addition to the endpoints.

use bytes::Bytes;

/// Serves paths that are not endpoints.
pub trait Site: Send + Sync {
    /// The page at a path; `None` if there is none.
    fn respond(&self, path: &str, query: Option<&str>) -> Option<Page>;
}

/// One page.
#[derive(Debug, Clone)]
pub struct Page {
    /// HTTP status.
    pub status: u16,
    /// Its `Content-Type`.
    pub content_type: &'static str,
    /// Further headers; names in lower case.
    pub headers: &'static [(&'static str, &'static str)],
    /// The contents of the page.
    pub body: Bytes,
}
