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

/// Entries that are copied or looked through before others get the list.
const AT_ONCE: usize = 1_000;

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
    /// Entries that have expired or given way, with their versions: the others may drop them as well.
    removed: Mutex<BTreeMap<Subject, u64>>,
    /// How many rounds of the exchange have begun.
    rounds_begun: AtomicU64,
    /// The last of these that has read the list of the others to its end.
    round_ended: watch::Sender<u64>,
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
            removed: Mutex::default(),
            rounds_begun: AtomicU64::new(0),
            round_ended: watch::Sender::new(0),
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
        self.change(|store| store.revoke(now, subject.clone(), expires_at, issued_before))?;
        Ok(self.has_changed(subject))
    }

    /// Lifts an entry before its time. `None` if there is none. `unread` if the others may have one that this
    /// gateway has not read yet: it is lifted as well.
    pub fn lift(&self, now: u64, subject: &Subject, unread: bool) -> Option<Change> {
        let lifted = self.change(|store| store.lift(now, subject, unread));
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

    /// Drops what has expired, in portions, so that nobody waits long meanwhile. Call it now and then.
    pub fn sweep(&self, now: u64) {
        let mut after = None;
        loop {
            let (expired, last) = self.store().expired(now, after.as_ref(), AT_ONCE);
            if !expired.is_empty() {
                self.change(|store| store.remove_expired(now, &expired));
            }
            if last.is_none() {
                return;
            }
            after = last;
        }
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

    /// Notes that a round of the exchange begins, and returns its number.
    pub fn round_begins(&self) -> u64 {
        self.rounds_begun.fetch_add(1, Ordering::AcqRel) + 1
    }

    /// Notes that a round has read the list of the others to its end.
    pub fn round_ended(&self, round: u64) {
        self.round_ended.send_replace(round);
    }

    /// Waits until everything is known here that others had changed before the call.
    pub async fn caught_up(&self) {
        // One that has begun may have read before the call.
        let next = self.rounds_begun.load(Ordering::Acquire) + 1;
        let mut ended = self.round_ended.subscribe();
        self.look();
        let _ = ended.wait_for(|round| *round >= next).await;
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
        let merged = self.change(|store| store.merge(now, entry));
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

    /// Everything, with what was lifted. It is copied in portions, so that nobody waits long meanwhile.
    pub fn all(&self) -> Vec<Entry> {
        let mut all: Vec<Entry> = Vec::new();
        loop {
            let after = all.last().map(|entry| entry.subject.clone());
            let portion = self.store().portion(after.as_ref(), AT_ONCE);
            if portion.is_empty() {
                return all;
            }
            all.extend(portion);
        }
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

    /// Takes entries that have expired or given way, with their versions: at most so many.
    pub fn take_removed(&self, most: usize) -> Vec<(Subject, u64)> {
        let mut removed = self.removed.lock().unwrap_or_else(PoisonError::into_inner);
        let mut taken = Vec::new();
        while taken.len() < most
            && let Some(one) = removed.pop_first()
        {
            taken.push(one);
        }
        taken
    }

    /// Changes the list. The others are told what has given way for it.
    fn change<T>(&self, change: impl FnOnce(&mut Store) -> T) -> T {
        let mut store = self.store_mut();
        let result = change(&mut store);
        let removed = store.take_removed();
        drop(store);
        self.drop_elsewhere(removed);
        result
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
        let entries_max = self.entries_max();
        let mut removed = self.removed.lock().unwrap_or_else(PoisonError::into_inner);
        let room = entries_max.saturating_sub(removed.len());
        removed.extend(all.into_iter().take(room));
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
    use std::task::{Context, Poll, Waker};

    use super::*;

    fn user(name: &str) -> Subject {
        Subject::User(name.into())
    }

    /// The result of a future that is polled once.
    fn now_or_never<T>(future: &mut (impl Future<Output = T> + Unpin)) -> Option<T> {
        match std::pin::Pin::new(future).poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(result) => Some(result),
            Poll::Pending => None,
        }
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
        let lifted = list.lift(1_001, &user("ann"), false).expect("it is there");
        list.has_shared(&first);
        assert_eq!(list.to_share(1_001, 10).len(), 1, "the later version is not written yet");
        list.has_shared(&list.to_share(1_001, 10));
        list.kept(&change).await;
        list.kept(&lifted).await;
    }

    #[test]
    fn a_gateway_that_has_not_read_the_list_lifts_what_it_does_not_know() {
        let list = Revocations::new(10, true);
        assert!(list.lift(5_000, &user("ann"), true).is_some());
        assert!(list.lift(5_000, &user("bob"), false).is_none());
        let earlier = Entry { version: 4_000, ..Entry::new(user("ann"), 0) };
        list.merge(5_000, earlier);
        assert_eq!(list.check(5_000, "ann", Token::default()), None);
    }

    #[tokio::test]
    async fn who_waits_for_the_others_waits_for_a_round_that_began_later() {
        let list = Revocations::new(10, true);
        let before = list.round_begins();
        let mut waiting = Box::pin(list.caught_up());
        assert!(now_or_never(&mut waiting).is_none());
        list.round_ended(before);
        assert!(now_or_never(&mut waiting).is_none(), "it may have read before");
        list.looked().await;
        let next = list.round_begins();
        list.round_ended(next);
        waiting.await;
    }

    #[test]
    fn the_list_is_copied_and_swept_in_portions() {
        let list = Revocations::new(10_000, true);
        for number in 0..2_500 {
            let until = if number % 2 == 0 { 2 } else { 3 };
            list.revoke(1_000, user(&number.to_string()), Some(until), 0).expect("room");
        }
        assert_eq!(list.all().len(), 2_500);
        list.sweep(2_000);
        assert_eq!((list.all().len(), list.take_removed(9_999).len()), (1_250, 1_250));
    }

    #[test]
    fn a_reserved_attribute_has_a_value_that_can_be_compared() {
        assert!(is_valid(TOKEN_ISSUED, "1700000000") && is_valid(TOKEN_ISSUED, ""));
        assert!(!is_valid(TOKEN_ISSUED, "-1") && !is_valid(TOKEN_ISSUED, "today"));
        assert!(is_valid(TOKEN_ID, &"a".repeat(TOKEN_ID_BYTES_MAX)));
        assert!(!is_valid(TOKEN_ID, &"a".repeat(TOKEN_ID_BYTES_MAX + 1)));
    }
}
