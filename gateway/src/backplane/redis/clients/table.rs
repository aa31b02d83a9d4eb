//! `ClientTable` holds the clients of this node and tracks which of them have not been written to Redis.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustc_hash::FxHashMap;
use tokio::sync::Notify;

use crate::connection_id::ConnectionIds;
use crate::plugin::event::Client;

/// See the module. One part per worker, so that no worker waits for another one.
pub(crate) struct ClientTable {
    parts: Box<[Mutex<Part>]>,
    changed: Notify,
}

#[derive(Default)]
struct Part {
    /// By client number.
    clients: FxHashMap<u64, Registered>,
    /// Clients whose current record is not in Redis. Each is queued once; those that have left since are
    /// skipped.
    unwritten: VecDeque<u64>,
    /// Clients that have left and may still be in Redis.
    gone: Vec<Arc<str>>,
}

struct Registered {
    client: Arc<Client>,
    since: u64,
    /// Whether it is in `unwritten`.
    queued: bool,
    /// Whether a write is under way, so that Redis may have a record from now on.
    under_way: bool,
    /// Whether Redis has confirmed a record, possibly an older one.
    known: bool,
}

/// The next changes to write: complete records, not differences.
#[derive(Default)]
pub(crate) struct Changes {
    /// Clients that are here, and since when.
    pub(super) came: Vec<(Arc<Client>, u64)>,
    /// Clients that have left.
    pub(super) gone: Vec<Arc<str>>,
}

/// Changes under way to Redis. If dropped before a response, they are queued again: a connection may end at
/// any time.
pub(super) struct Batch<'a> {
    table: &'a ClientTable,
    pub(super) changes: Changes,
}

impl Batch<'_> {
    pub(super) fn is_empty(&self) -> bool {
        self.changes.came.is_empty() && self.changes.gone.is_empty()
    }

    /// Redis has carried it out.
    pub(super) fn done(mut self) {
        for (client, _) in std::mem::take(&mut self.changes).came {
            if let Some(registered) = self.table.part(client.number).clients.get_mut(&client.number) {
                (registered.under_way, registered.known) = (false, true);
            }
        }
    }

    /// Redis has refused it.
    pub(super) fn refused(mut self) {
        self.table.again(std::mem::take(&mut self.changes), false);
    }
}

impl Drop for Batch<'_> {
    fn drop(&mut self) {
        if !self.is_empty() {
            self.table.again(std::mem::take(&mut self.changes), true);
        }
    }
}

impl ClientTable {
    pub(crate) fn new(workers: usize) -> Self {
        Self { parts: (0..workers.max(1)).map(|_| Mutex::default()).collect(), changed: Notify::new() }
    }

    fn part(&self, number: u64) -> MutexGuard<'_, Part> {
        lock(&self.parts[ConnectionIds::worker(number) % self.parts.len()])
    }

    /// Registers a client, or new facts that plugins know of it.
    pub(crate) fn register(&self, client: &Arc<Client>, since: u64) {
        let mut part = self.part(client.number);
        let first = part.is_written();
        let new = Registered { client: client.clone(), since, queued: false, under_way: false, known: false };
        let registered = part.clients.entry(client.number).or_insert(new);
        registered.client = client.clone();
        if !std::mem::replace(&mut registered.queued, true) {
            part.unwritten.push_back(client.number);
        }
        drop(part);
        if first {
            self.changed.notify_one();
        }
    }

    /// Removes a client.
    pub(crate) fn deregister(&self, number: u64) {
        let mut part = self.part(number);
        let first = part.is_written();
        let Some(registered) = part.clients.remove(&number) else { return };
        // Redis never had a record, so there is none to remove: while Redis takes nothing, this list does not
        // grow.
        if registered.known || registered.under_way {
            part.gone.push(registered.client.id.clone());
            drop(part);
            if first {
                self.changed.notify_one();
            }
        }
    }

    /// Whether a client with this number and id is here.
    pub(super) fn has(&self, number: u64, id: &str) -> bool {
        self.part(number).clients.get(&number).is_some_and(|registered| *registered.client.id == *id)
    }

    /// Queues the removal of a client that is in Redis and not here.
    pub(super) fn forget(&self, id: Arc<str>) {
        lock(&self.parts[0]).gone.push(id);
        self.changed.notify_one();
    }

    /// Waits until there may be something to write. Dropping the future loses nothing.
    pub(super) async fn changed(&self) {
        self.changed.notified().await;
    }

    /// Whether everything is written to Redis.
    pub(crate) fn is_written(&self) -> bool {
        self.parts.iter().all(|part| lock(part).is_written())
    }

    /// Takes the next changes to write.
    pub(super) fn take(&self, clients_max: usize, bytes_max: usize) -> Batch<'_> {
        let (mut changes, mut bytes) = (Changes::default(), 0);
        for part in &self.parts {
            let mut part = lock(part);
            let gone = part.gone.len().min(clients_max.saturating_sub(changes.gone.len()));
            changes.gone.extend(part.gone.drain(..gone));
            // Removals come first, so that a client that registers again is written after its removal.
            while part.gone.is_empty() && changes.came.len() < clients_max && bytes < bytes_max {
                let Some(number) = part.unwritten.pop_front() else { break };
                if let Some(registered) = part.clients.get_mut(&number) {
                    (registered.queued, registered.under_way) = (false, true);
                    bytes += size(&registered.client);
                    changes.came.push((registered.client.clone(), registered.since));
                }
            }
        }
        Batch { table: self, changes }
    }

    /// Queues changes again. With `doubt`, Redis may have carried them out.
    fn again(&self, changes: Changes, doubt: bool) {
        for id in changes.gone {
            self.forget(id);
        }
        for (client, _) in changes.came {
            let mut part = self.part(client.number);
            let Some(registered) = part.clients.get_mut(&client.number) else { continue };
            registered.under_way = false;
            registered.known |= doubt;
            if !std::mem::replace(&mut registered.queued, true) {
                part.unwritten.push_back(client.number);
            }
        }
        self.changed.notify_one();
    }

    /// Treats nothing as written. Forgets clients that have left.
    pub(crate) fn write_anew(&self) {
        for part in &self.parts {
            let mut part = lock(part);
            let Part { clients, unwritten, gone } = &mut *part;
            *gone = Vec::new();
            for (number, registered) in clients.iter_mut() {
                if !std::mem::replace(&mut registered.queued, true) {
                    unwritten.push_back(*number);
                }
            }
            // Removes clients that came and left while nothing could be written.
            unwritten.retain(|number| clients.contains_key(number));
        }
        self.changed.notify_one();
    }
}

impl Part {
    fn is_written(&self) -> bool {
        self.unwritten.is_empty() && self.gone.is_empty()
    }
}

/// Approximate bytes of a client in Redis.
fn size(client: &Client) -> usize {
    let headers = client.headers.iter().map(|(name, value)| name.len() + value.len());
    let attributes = client.attributes.iter().map(|(name, value)| name.len() + value.len());
    100 + client.user.len() + headers.sum::<usize>() + attributes.sum::<usize>()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::net::Ipv4Addr;

    use super::*;

    fn client(number: u64, room: &str) -> Arc<Client> {
        Arc::new(Client {
            number,
            id: format!("id-{number}").into(),
            user: "ann".into(),
            protocol: "raw",
            address: Ipv4Addr::LOCALHOST.into(),
            headers: Arc::new([]),
            attributes: BTreeMap::from([("room".into(), room.into())]),
        })
    }

    /// The ids that came, with their rooms, and the ids that have left, all written successfully.
    fn take(clients: &ClientTable) -> (Vec<String>, Vec<String>) {
        let batch = clients.take(100, 1 << 20);
        let changes = &batch.changes;
        let came =
            changes.came.iter().map(|(client, _)| format!("{} {}", client.id, client.attributes["room"]));
        let changes_there = (came.collect(), changes.gone.iter().map(ToString::to_string).collect());
        batch.done();
        changes_there
    }

    fn texts(texts: &[&str]) -> Vec<String> {
        texts.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_client_is_written_as_it_is_when_it_is_written() {
        let clients = ClientTable::new(2);
        clients.register(&client(1, "a"), 5);
        clients.register(&client(1, "b"), 5);
        assert!(!clients.is_written());
        assert_eq!(take(&clients), (texts(&["id-1 b"]), vec![]));
        assert!(clients.is_written());
        clients.register(&client(1, "c"), 5);
        assert_eq!(take(&clients), (texts(&["id-1 c"]), vec![]));
        clients.deregister(1);
        assert_eq!(take(&clients), (vec![], texts(&["id-1"])));
        assert!(clients.take(9, 9).is_empty());
    }

    #[test]
    fn who_comes_and_goes_between_two_writes_costs_nothing() {
        let clients = ClientTable::new(1);
        clients.register(&client(1, "a"), 5);
        clients.deregister(1);
        clients.deregister(1);
        assert!(clients.take(9, 9).is_empty());
    }

    #[test]
    fn what_was_not_written_is_written_as_it_is_by_then() {
        let clients = ClientTable::new(1);
        clients.register(&client(1, "a"), 5);
        clients.register(&client(2, "a"), 5);
        let failed = clients.take(9, 1 << 20);
        clients.deregister(1);
        clients.register(&client(2, "b"), 5);
        drop(failed);
        assert_eq!(take(&clients), (texts(&["id-2 b"]), texts(&["id-1"])));
        clients.register(&client(3, "a"), 5);
        drop(clients.take(9, 1 << 20));
        clients.deregister(3);
        assert_eq!(take(&clients), (vec![], texts(&["id-3"])), "Redis may have heard of it");
    }

    #[test]
    fn while_redis_takes_nothing_there_is_nobody_to_take_away() {
        let clients = ClientTable::new(1);
        for number in 0..100 {
            clients.register(&client(number, "a"), 5);
            let refused = clients.take(9, 1 << 20);
            refused.refused();
            clients.deregister(number);
        }
        assert!(clients.take(9, 9).is_empty());
        clients.register(&client(100, "a"), 5);
        let under_way = clients.take(9, 1 << 20);
        clients.deregister(100);
        under_way.done();
        assert_eq!(take(&clients), (vec![], texts(&["id-100"])), "Redis may have taken it");
    }

    #[test]
    fn a_batch_is_bounded_and_the_gone_go_first() {
        let clients = ClientTable::new(1);
        for number in 0..10 {
            clients.register(&client(number, "a"), 5);
        }
        let (some, one) = (clients.take(4, 1 << 20), clients.take(100, 1));
        assert_eq!((some.changes.came.len(), one.changes.came.len()), (4, 1), "one at least");
        some.done();
        one.done();
        for number in 0..4 {
            clients.deregister(number);
        }
        let batch = clients.take(3, 1 << 20);
        assert_eq!((batch.changes.came.len(), batch.changes.gone.len()), (0, 3));
        batch.done();
        let batch = clients.take(9, 1 << 20);
        assert_eq!((batch.changes.came.len(), batch.changes.gone.len()), (5, 1));
        batch.done();
        assert!(clients.is_written());
    }

    #[test]
    fn written_anew_everybody_is_and_nobody_who_has_gone() {
        let clients = ClientTable::new(1);
        clients.register(&client(1, "a"), 5);
        clients.register(&client(2, "a"), 5);
        clients.take(9, 1 << 20).done();
        clients.deregister(1);
        clients.write_anew();
        assert_eq!(take(&clients), (texts(&["id-2 a"]), vec![]));
        assert!(clients.has(2, "id-2") && !clients.has(2, "id-1") && !clients.has(1, "id-1"));
        clients.forget("id-1".into());
        assert_eq!(take(&clients), (vec![], texts(&["id-1"])));
    }
}
