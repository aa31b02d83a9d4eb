//! [`Revocations`]: which tokens do not count any more, and which users are blocked, each until a time. One
//! list for all workers, and for all gateways that share a Redis.
//!
//! A connection says which token it came with by two reserved attributes, [`TOKEN_ID`] and [`TOKEN_ISSUED`]:
//! the plugin that verifies the token sets them in the identity, and no plugin can change them later.
//!
//! A check on the path of a message is one atomic load: only if the [generation](Revocations::generation)
//! differs from that of the last check of a connection is the list asked. Whoever is idle is found by the
//! worker, which looks through its connections in portions after each change.

mod entry;
mod keep;
mod store;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use tokio::sync::{Notify, watch};

pub use self::entry::{Entry, Subject};
pub use self::keep::{Keeper, KeeperError};
pub use self::store::{Full, Token};
use self::store::{Merged, Store};
use crate::protocol::code::Close;

/// The attribute with the id of the token, at most [`TOKEN_ID_BYTES_MAX`] bytes. Without it the token cannot
/// be revoked by its id.
pub const TOKEN_ID: &str = "token.id";

/// The attribute with the Unix time in seconds at which the token was issued. A connection without it counts
/// as issued before any time.
pub const TOKEN_ISSUED: &str = "token.issued";

/// Longest id of a token in bytes.
pub const TOKEN_ID_BYTES_MAX: usize = 256;

/// Whether only the identity of a client may have this attribute.
pub fn is_reserved(attribute: &str) -> bool {
    attribute == TOKEN_ID || attribute == TOKEN_ISSUED
}

/// Whether a reserved attribute has a value that can be compared. An empty one removes it.
pub fn is_valid(attribute: &str, value: &str) -> bool {
    match attribute {
        TOKEN_ISSUED => value.is_empty() || value.parse::<u64>().is_ok(),
        _ => value.len() <= TOKEN_ID_BYTES_MAX,
    }
}

/// Why a client may not stay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Revoked {
    /// Its token was revoked.
    Token,
    /// The tokens of its user that were issued before a time were revoked.
    UserTokens,
    /// Its user is blocked.
    User,
}

impl Revoked {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Token, Self::UserTokens, Self::User];

    /// The name in the API and in metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Token => "token",
            Self::UserTokens => "user_tokens",
            Self::User => "user",
        }
    }

    /// What the client gets. Client libraries give up after both.
    pub const fn close(self) -> Close {
        match self {
            Self::Token | Self::UserTokens => Close::INVALID_TOKEN,
            Self::User => Close::FORCE_DISCONNECT,
        }
    }
}

/// A change made at this gateway, to wait until it is kept.
#[derive(Debug)]
pub struct Change {
    subject: Subject,
    generation: u64,
}

/// See the module.
#[derive(Debug)]
pub struct Revocations {
    store: RwLock<Store>,
    /// Rises with each change of the list; 0 while nothing was ever revoked.
    generation: AtomicU64,
    /// The same, for who waits for changes.
    changed: watch::Sender<u64>,
    /// Whether gateways share the list, by Redis.
    shared: bool,
    /// Whether the list of the others has been read over the connection in use.
    synced: watch::Sender<bool>,
    /// What the others do not have yet.
    unshared: Mutex<BTreeSet<Subject>>,
    /// Expired entries, with their versions, that the others may drop as well.
    expired: Mutex<BTreeMap<Subject, u64>>,
    /// Whether the exchange with the others fails although there is a connection.
    failing: AtomicBool,
    /// Notified when the list of the others may have changed, or lacks something of this one.
    look: Notify,
    /// The generation that is on disk.
    on_disk: AtomicU64,
    /// Notified with each step of keeping.
    kept: watch::Sender<()>,
    /// Clients that were refused or closed, in the order of [`Revoked::ALL`].
    refusals: [AtomicU64; 3],
    /// An entry of another gateway did not fit.
    overflowed: AtomicBool,
}

impl Revocations {
    /// An empty list with room for this many. `shared` if gateways share it by Redis.
    pub fn new(entries_max: usize, shared: bool) -> Self {
        Self {
            store: RwLock::new(Store::new(entries_max)),
            generation: AtomicU64::new(0),
            changed: watch::Sender::new(0),
            shared,
            synced: watch::Sender::new(false),
            unshared: Mutex::default(),
            expired: Mutex::default(),
            failing: AtomicBool::new(false),
            look: Notify::new(),
            on_disk: AtomicU64::new(0),
            kept: watch::Sender::new(()),
            refusals: Default::default(),
            overflowed: AtomicBool::new(false),
        }
    }

    /// Rises with each change.
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// Tells of each change.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// Why a client with this user and token may not stay, at this Unix time in milliseconds. Counts it.
    pub fn check(&self, now: u64, user: &str, token: Token<'_>) -> Option<Revoked> {
        if self.generation() == 0 {
            return None;
        }
        let revoked = self.store().check(now, user, token)?;
        self.refusals[revoked as usize].fetch_add(1, Ordering::Relaxed);
        Some(revoked)
    }

    /// Revokes something until a Unix time in seconds, or until it is lifted; in place of an earlier entry of
    /// the same subject. `issued_before`, in seconds, counts for [`Subject::UserTokens`] only.
    ///
    /// # Errors
    ///
    /// If the list has as many entries as it may.
    pub fn revoke(
        &self,
        now: u64,
        subject: Subject,
        expires_at: Option<u64>,
        issued_before: u64,
    ) -> Result<Change, Full> {
        self.store_mut().revoke(now, subject.clone(), expires_at, issued_before)?;
        Ok(self.has_changed(subject))
    }

    /// Lifts an entry before its time. `None` if there is none.
    pub fn lift(&self, now: u64, subject: &Subject) -> Option<Change> {
        // The others may have one that this gateway has not read yet.
        let unread = self.shared && !self.is_synced();
        let lifted = self.store_mut().lift(now, subject, unread);
        lifted.then(|| self.has_changed(subject.clone()))
    }

    /// A page of what is in force, in the order of the ids: those after one of them.
    pub fn page(&self, now: u64, after: Option<&Subject>, limit: usize) -> Vec<Entry> {
        self.store().page(now, after, limit)
    }

    /// How many are in force.
    pub fn count(&self, now: u64) -> usize {
        self.store().count(now)
    }

    /// How many clients were refused or closed for this reason.
    pub fn refusals(&self, of: Revoked) -> u64 {
        self.refusals[of as usize].load(Ordering::Relaxed)
    }

    /// Waits until a change is kept: by Redis if gateways share the list, otherwise on disk.
    pub async fn kept(&self, change: &Change) {
        let mut kept = self.kept.subscribe();
        loop {
            kept.borrow_and_update();
            let is_kept = if self.shared {
                !self.unshared().contains(&change.subject)
            } else {
                self.on_disk.load(Ordering::Acquire) >= change.generation
            };
            if is_kept || kept.changed().await.is_err() {
                return;
            }
        }
    }

    /// How many there may be.
    pub fn entries_max(&self) -> usize {
        self.store().entries_max()
    }

    /// Whether gateways share the list.
    pub const fn is_shared(&self) -> bool {
        self.shared
    }

    /// Drops what has expired. Call it now and then.
    pub fn sweep(&self, now: u64) {
        let expired = self.store_mut().sweep(now);
        self.drop_elsewhere(expired);
    }

    /// Whether the list of the others has been read over the connection in use.
    pub fn is_synced(&self) -> bool {
        *self.synced.borrow()
    }

    /// Waits for that.
    pub async fn synced(&self) {
        let _ = self.synced.subscribe().wait_for(|synced| *synced).await;
    }

    /// Notes whether it has been read.
    pub fn set_synced(&self, synced: bool) {
        self.synced.send_if_modified(|known| std::mem::replace(known, synced) != synced);
    }

    /// Notes whether the exchange with the others fails although there is a connection. Returns what was
    /// noted before.
    pub fn set_failing(&self, failing: bool) -> bool {
        self.failing.swap(failing, Ordering::Relaxed)
    }

    /// Whether it fails.
    pub fn is_failing(&self) -> bool {
        self.failing.load(Ordering::Relaxed)
    }

    /// The list of the others may have changed: it is read at once.
    pub fn look(&self) {
        self.look.notify_one();
    }

    /// Waits for [`look`](Self::look).
    pub async fn looked(&self) {
        self.look.notified().await;
    }

    /// Takes in an entry of another gateway, or of the disk. The newer version of two counts.
    pub fn merge(&self, now: u64, entry: Entry) {
        let (subject, version) = (entry.subject.clone(), entry.version);
        let merged = self.store_mut().merge(now, entry);
        match merged {
            Merged::Changed => drop(self.announce()),
            Merged::Known => (),
            Merged::Expired => self.drop_elsewhere([(subject, version)]),
            Merged::Full => {
                if !self.overflowed.swap(true, Ordering::Relaxed) {
                    tracing::error!(
                        "a revocation of another gateway does not fit and is not in force here: raise \
                         `memory.revocations_max`, which must be the same at all gateways"
                    );
                }
            }
        }
    }

    /// Whether an entry of another gateway did not fit.
    pub fn has_overflowed(&self) -> bool {
        self.overflowed.load(Ordering::Relaxed)
    }

    /// Everything, with what was lifted.
    pub fn all(&self) -> Vec<Entry> {
        self.store().all()
    }

    /// The others lack these: they are written again.
    pub fn write_again(&self, subjects: impl IntoIterator<Item = Subject>) {
        self.unshared().extend(subjects);
    }

    /// What the others lack at this Unix time in milliseconds, at most so many.
    pub fn to_share(&self, now: u64, most: usize) -> Vec<Entry> {
        let mut unshared = self.unshared();
        let store = self.store();
        // What is over need not be written.
        unshared.retain(|subject| store.get(subject).is_some_and(|entry| !entry.has_expired(now)));
        unshared.iter().take(most).filter_map(|subject| store.get(subject).cloned()).collect()
    }

    /// The others have these versions now.
    pub fn has_shared(&self, entries: &[Entry]) {
        let mut unshared = self.unshared();
        let store = self.store();
        for Entry { subject, version, .. } in entries {
            if store.get(subject).is_none_or(|known| known.version == *version) {
                unshared.remove(subject);
            }
        }
        drop((unshared, store));
        self.kept.send_replace(());
    }

    /// Takes expired entries, with their versions, that the others may drop: at most so many.
    pub fn take_expired(&self, most: usize) -> Vec<(Subject, u64)> {
        let mut expired = self.expired.lock().unwrap_or_else(PoisonError::into_inner);
        let mut taken = Vec::new();
        while taken.len() < most
            && let Some(one) = expired.pop_first()
        {
            taken.push(one);
        }
        taken
    }

    fn has_changed(&self, subject: Subject) -> Change {
        if self.shared {
            self.unshared().insert(subject.clone());
        }
        let generation = self.announce();
        self.look();
        Change { subject, generation }
    }

    /// Makes a change seen. The list has been changed before, so who sees the generation sees the change.
    fn announce(&self) -> u64 {
        let generation = self.generation.fetch_add(1, Ordering::AcqRel) + 1;
        self.changed.send_modify(|known| *known = (*known).max(generation));
        generation
    }

    fn drop_elsewhere(&self, all: impl IntoIterator<Item = (Subject, u64)>) {
        if !self.shared {
            return;
        }
        let mut expired = self.expired.lock().unwrap_or_else(PoisonError::into_inner);
        let room = self.store().entries_max().saturating_sub(expired.len());
        expired.extend(all.into_iter().take(room));
    }

    fn store(&self) -> RwLockReadGuard<'_, Store> {
        self.store.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn store_mut(&self) -> RwLockWriteGuard<'_, Store> {
        self.store.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn unshared(&self) -> MutexGuard<'_, BTreeSet<Subject>> {
        self.unshared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(name: &str) -> Subject {
        Subject::User(name.into())
    }

    #[test]
    fn a_change_is_seen_by_the_generation_and_counted_when_it_refuses() {
        let list = Revocations::new(10, false);
        assert_eq!(list.generation(), 0);
        let mut changes = list.changes();
        list.revoke(1_000, user("ann"), None, 0).expect("room");
        assert_eq!(list.generation(), 1);
        assert!(changes.has_changed().expect("the list is there") && *changes.borrow_and_update() == 1);
        assert_eq!(list.check(1_000, "ann", Token::default()), Some(Revoked::User));
        assert_eq!(list.check(1_000, "bob", Token::default()), None);
        assert_eq!(Revoked::ALL.map(|of| list.refusals(of)), [0, 0, 1]);
    }

    #[tokio::test]
    async fn a_change_of_gateways_that_share_is_kept_when_the_others_have_this_version() {
        let list = Revocations::new(10, true);
        let change = list.revoke(1_000, user("ann"), None, 0).expect("room");
        let first = list.to_share(1_001, 10);
        assert_eq!(first.len(), 1);
        let lifted = list.lift(1_001, &user("ann")).expect("it is there");
        list.has_shared(&first);
        assert_eq!(list.to_share(1_001, 10).len(), 1, "the later version is not written yet");
        list.has_shared(&list.to_share(1_001, 10));
        list.kept(&change).await;
        list.kept(&lifted).await;
    }

    #[test]
    fn a_gateway_that_has_not_read_the_list_lifts_what_it_does_not_know() {
        let list = Revocations::new(10, true);
        assert!(list.lift(5_000, &user("ann")).is_some());
        list.set_synced(true);
        assert!(list.lift(5_000, &user("bob")).is_none());
        let earlier = Entry { version: 4_000, ..Entry::new(user("ann"), 0) };
        list.merge(5_000, earlier);
        assert_eq!(list.check(5_000, "ann", Token::default()), None);
    }

    #[test]
    fn a_reserved_attribute_has_a_value_that_can_be_compared() {
        assert!(is_valid(TOKEN_ISSUED, "1700000000") && is_valid(TOKEN_ISSUED, ""));
        assert!(!is_valid(TOKEN_ISSUED, "-1") && !is_valid(TOKEN_ISSUED, "today"));
        assert!(is_valid(TOKEN_ID, &"a".repeat(TOKEN_ID_BYTES_MAX)));
        assert!(!is_valid(TOKEN_ID, &"a".repeat(TOKEN_ID_BYTES_MAX + 1)));
    }
}
