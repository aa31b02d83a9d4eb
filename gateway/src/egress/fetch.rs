//! [`Fetcher`] sends the requests of plugins: only to granted origins, only a bounded number at a time, and
//! from a cache where the plugin asks for it.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use sha2::{Digest as _, Sha256};
use tokio::sync::{Mutex, Semaphore};
use tokio::time::{Instant, timeout_at};

use super::cache::{Cache, Key};
use super::client::{Client, Error, Reach, Request, Response};
use super::url::{Origin, Url};

/// Maximum number of concurrent requests of all plugins.
const REQUESTS_MAX: usize = 128;
/// Maximum number of concurrent requests of one plugin.
const PLUGIN_REQUESTS_MAX: usize = 32;
/// Default time for a request.
const DEADLINE: Duration = Duration::from_secs(3);
/// Maximum time for a request.
const DEADLINE_MAX: Duration = Duration::from_secs(30);
/// Maximum time that a response is cached.
const CACHE_MAX: Duration = Duration::from_secs(24 * 60 * 60);
/// Maximum bytes of the body of a request.
const REQUEST_BYTES_MAX: usize = 256 << 10;
/// Maximum bytes of the body of a response.
const RESPONSE_BYTES_MAX: usize = 1 << 20;

/// Sends the requests of plugins. One per process; cheap to clone.
#[derive(Clone)]
pub struct Fetcher {
    client: Client,
    requests: Arc<Semaphore>,
}

/// The granted origins and cached responses of one plugin.
pub struct Fetch {
    fetcher: Fetcher,
    granted: Box<[(Origin, Reach)]>,
    requests: Semaphore,
    cache: Cache,
}

/// A plugin's request.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// HTTP method, such as `GET`.
    pub method: String,
    /// Absolute URL.
    pub url: String,
    /// Names and values.
    pub headers: Vec<(String, String)>,
    /// May be empty.
    pub body: Bytes,
    /// Time for the whole request; `None` for the default.
    pub deadline: Option<Duration>,
    /// How long the response may be reused for the same request; `None` disables the cache.
    pub cache: Option<Duration>,
}

/// Why a plugin got no response.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// The origin is not granted.
    #[error("{0} is not granted (grants.http)")]
    NotGranted(Origin),
    /// Too many concurrent requests.
    #[error("too many requests at the same time; try again later")]
    Busy,
    /// See the error.
    #[error(transparent)]
    Error(#[from] Error),
}

impl Fetcher {
    /// Creates a fetcher with this client.
    pub fn new(client: Client) -> Self {
        Self { client, requests: Arc::new(Semaphore::new(REQUESTS_MAX)) }
    }

    /// Creates the access of a plugin with these granted origins.
    pub fn granted(&self, origins: impl IntoIterator<Item = (Origin, Reach)>) -> Fetch {
        Fetch {
            fetcher: self.clone(),
            granted: origins.into_iter().collect(),
            requests: Semaphore::new(PLUGIN_REQUESTS_MAX),
            cache: Cache::default(),
        }
    }
}

impl Fetch {
    /// Whether any origin is granted.
    pub fn is_granted_any(&self) -> bool {
        !self.granted.is_empty()
    }

    /// Returns a response, and whether it came from the cache. Equal requests that may be cached are sent
    /// once; concurrent callers wait for that response.
    ///
    /// Dropping the future ends the request; the server may have received it.
    ///
    /// # Errors
    ///
    /// Why there is no response.
    pub async fn fetch(&self, wanted: &Wanted) -> Result<(Arc<Response>, bool), Refused> {
        let invalid = |why: &str| Refused::Error(Error::Invalid(why.into()));
        let url =
            Url::parse(&wanted.url).map_err(|accepted| invalid(&format!("the URL has to be {accepted}")))?;
        let granted = self.granted.iter().find(|(origin, _)| origin == url.origin());
        let (_, reach) = granted.ok_or_else(|| Refused::NotGranted(url.origin().clone()))?;
        if wanted.body.len() > REQUEST_BYTES_MAX {
            return Err(invalid(&format!("the body has more than {REQUEST_BYTES_MAX} bytes")));
        }
        let headers = wanted.headers.iter().map(|(name, value)| (name, value));
        let request = Request::new(&wanted.method, &url, headers, wanted.body.clone())?;
        let allowed = wanted.deadline.unwrap_or(DEADLINE).min(DEADLINE_MAX);
        let until = Instant::now() + allowed;
        let Some(keep) = wanted.cache else {
            return Ok((Arc::new(self.send(request, *reach, allowed).await?), false));
        };
        let slot = self.cache.slot(key(wanted));
        // The first caller sends the request; the others wait here, each up to its own deadline.
        let mut kept = timeout_at(until, slot.lock()).await.map_err(|_| Error::Timeout(allowed))?;
        let now = Instant::now();
        if let Some(response) = kept.fresh(now) {
            return Ok((response, true));
        }
        let left = until.saturating_duration_since(now);
        let response = Arc::new(self.send(request, *reach, left).await?);
        // A status that may change a moment later is not cached.
        if response.status < 500 && response.status != 429 {
            kept.keep(response.clone(), now + keep.min(CACHE_MAX));
            self.cache.grew(&slot, size(&response));
        }
        Ok((response, false))
    }

    async fn send(&self, request: Request, reach: Reach, deadline: Duration) -> Result<Response, Refused> {
        let _own = self.requests.try_acquire().map_err(|_| Refused::Busy)?;
        let _one_of_all = self.fetcher.requests.try_acquire().map_err(|_| Refused::Busy)?;
        Ok(self.fetcher.client.send(request, reach, deadline, RESPONSE_BYTES_MAX).await?)
    }
}

/// A digest, so that no credential is kept as a key.
fn key(wanted: &Wanted) -> Key {
    let mut hash = Sha256::new();
    let mut part = |bytes: &[u8]| {
        hash.update((bytes.len() as u64).to_le_bytes());
        hash.update(bytes);
    };
    part(wanted.method.as_bytes());
    part(wanted.url.as_bytes());
    for (name, value) in &wanted.headers {
        part(name.as_bytes());
        part(value.as_bytes());
    }
    part(&[]);
    part(&wanted.body);
    hash.finalize().into()
}

fn size(response: &Response) -> usize {
    let headers: usize = response.headers.iter().map(|(name, value)| name.len() + value.len()).sum();
    response.body.len() + headers
}

/// The state of one cache entry.
#[derive(Debug, Default)]
pub(super) struct Kept(Option<(Arc<Response>, Instant)>);

pub(super) type Slot = Arc<Mutex<Kept>>;

impl Kept {
    fn fresh(&self, now: Instant) -> Option<Arc<Response>> {
        self.0.as_ref().filter(|(_, until)| now < *until).map(|(response, _)| response.clone())
    }

    fn keep(&mut self, response: Arc<Response>, until: Instant) {
        self.0 = Some((response, until));
    }
}
