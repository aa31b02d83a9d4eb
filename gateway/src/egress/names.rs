//! [`Names`] looks names up with the system's resolver, which uses a thread per lookup and cannot be
//! cancelled.
//!
//! So a lookup counts until its thread has ended, even if its callers gave up earlier, and callers that want
//! the same name share the lookup under way.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::net::{IpAddr, ToSocketAddrs as _};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{Semaphore, watch};
use tokio::task::{spawn, spawn_blocking};

/// Result of a lookup: the addresses in the order of the system, or a message.
type Found = Result<Arc<[IpAddr]>, Box<str>>;

/// Looks names up. Cheap to clone; clones share the lookups under way.
#[derive(Clone)]
pub struct Names(Arc<Shared>);

/// Resolves a name with the system.
type System = dyn Fn(&str) -> io::Result<Vec<IpAddr>> + Send + Sync;

struct Shared {
    turns: Arc<Semaphore>,
    under_way: Mutex<HashMap<Box<str>, watch::Receiver<Option<Found>>>>,
    /// Blocking.
    system: Box<System>,
}

impl Names {
    /// At most this many concurrent lookups: each occupies a thread of the runtime, however long the system
    /// takes.
    pub fn new(lookups_max: usize) -> Self {
        Self::with(lookups_max, |host| Ok((host, 0).to_socket_addrs()?.map(|address| address.ip()).collect()))
    }

    fn with(
        lookups_max: usize,
        system: impl Fn(&str) -> io::Result<Vec<IpAddr>> + Send + Sync + 'static,
    ) -> Self {
        let turns = Arc::new(Semaphore::new(lookups_max));
        Self(Arc::new(Shared { turns, under_way: Mutex::default(), system: Box::new(system) }))
    }

    /// The addresses of a host. Dropping the future does not end the lookup, which counts until its thread
    /// ends.
    pub async fn addresses(&self, host: &str) -> Found {
        if let Ok(address) = host.parse() {
            return Ok([address].into());
        }
        let mut looked_up = self.looked_up(host);
        match looked_up.wait_for(Option::is_some).await.as_deref() {
            Ok(Some(found)) => found.clone(),
            _ => Err("the look-up of the name was given up".into()),
        }
    }

    /// Receiver of the addresses of a host, from the lookup under way or from a new one that waits for its
    /// turn.
    fn looked_up(&self, host: &str) -> watch::Receiver<Option<Found>> {
        let mut under_way = self.0.under_way();
        if let Some(looked_up) = under_way.get(host) {
            return looked_up.clone();
        }
        let (answer, looked_up) = watch::channel(None);
        under_way.insert(host.into(), looked_up.clone());
        let (shared, host) = (self.0.clone(), Box::<str>::from(host));
        spawn(async move {
            let Ok(turn) = shared.turns.clone().acquire_owned().await else { return };
            let this = {
                let mut under_way = shared.under_way();
                if answer.receiver_count() == 1 {
                    // No caller waits for it any more.
                    under_way.remove(&host);
                    return;
                }
                UnderWay { shared: shared.clone(), host }
            };
            spawn_blocking(move || {
                let found = (this.shared.system)(&this.host);
                // Later callers start a new lookup.
                drop((this, turn));
                answer.send_replace(Some(match found {
                    Ok(addresses) => Ok(addresses.into()),
                    Err(error) => Err(format!("failed to look up the host: {error}").into()),
                }));
            });
        });
        looked_up
    }
}

impl Shared {
    fn under_way(&self) -> MutexGuard<'_, HashMap<Box<str>, watch::Receiver<Option<Found>>>> {
        self.under_way.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Names {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.under_way().keys()).finish()
    }
}

/// A lookup under way, until it is dropped.
struct UnderWay {
    shared: Arc<Shared>,
    host: Box<str>,
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.shared.under_way().remove(&self.host);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
    use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    const SOON: Duration = Duration::from_secs(5);
    const IMPATIENT: Duration = Duration::from_millis(20);

    /// A resolver that completes one lookup for each message sent; and the number of lookups begun.
    fn slow(lookups_max: usize) -> (Names, SyncSender<()>, Arc<AtomicUsize>) {
        let (go, gone): (_, Receiver<()>) = sync_channel(8);
        let gone = Mutex::new(gone);
        let begun = Arc::new(AtomicUsize::new(0));
        let counted = begun.clone();
        let names = Names::with(lookups_max, move |_| {
            counted.fetch_add(1, Relaxed);
            let _ = gone.lock().expect("nobody panics").recv_timeout(SOON);
            Ok(vec![[192, 0, 2, 7].into()])
        });
        (names, go, begun)
    }

    #[tokio::test]
    async fn a_name_is_looked_up_once_at_a_time_whoever_gives_up() {
        let (names, go, begun) = slow(4);
        for _ in 0..20 {
            assert!(timeout(IMPATIENT, names.addresses("slow.example")).await.is_err());
        }
        assert_eq!(begun.load(Relaxed), 1);
        go.send(()).expect("it waits");
        let found = timeout(SOON, names.addresses("slow.example")).await.expect("soon").expect("known");
        assert_eq!(*found, [IpAddr::from([192, 0, 2, 7])]);
        go.send(()).expect("a channel");
        timeout(SOON, names.addresses("slow.example")).await.expect("soon").expect("known");
        assert!(begun.load(Relaxed) <= 2, "asked anew after the answer");
    }

    #[tokio::test]
    async fn a_look_up_that_was_given_up_has_its_turn_until_it_ends() {
        let (names, go, begun) = slow(2);
        for name in ["a.example", "b.example", "c.example", "d.example"] {
            assert!(timeout(IMPATIENT, names.addresses(name)).await.is_err());
        }
        assert_eq!(begun.load(Relaxed), 2, "as many threads as turns");
        assert_eq!(
            names.addresses("192.0.2.1").await.expect("an address").len(),
            1,
            "an address needs no turn"
        );
        for _ in 0..3 {
            go.send(()).expect("it waits");
        }
        timeout(SOON, names.addresses("e.example")).await.expect("there is a turn again").expect("known");
    }

    #[tokio::test]
    async fn a_resolver_that_panics_fails_those_who_wait_and_nobody_else() {
        let names = Names::with(1, |host| {
            assert_ne!(host, "bad.example", "a bug");
            Ok(vec![])
        });
        assert!(timeout(SOON, names.addresses("bad.example")).await.expect("soon").is_err());
        assert!(timeout(SOON, names.addresses("good.example")).await.expect("soon").is_ok());
    }
}
