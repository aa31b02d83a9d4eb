//! [`Store`]: the entries, with fed time. Bounded, and an entry in force never gives way to another one.

use std::collections::BTreeMap;
use std::ops::Bound;

use super::{Entry, Revoked, Subject, TOKEN_ID, TOKEN_ISSUED};

/// How long it is kept that an entry was lifted, at most, in seconds: a gateway that was cut off for longer
/// brings the entry back.
const LIFTED_KEPT: u64 = 7 * 24 * 3600;

/// Entries of other gateways are taken up to this many times the bound.
pub(super) const MERGED_TIMES: usize = 2;

/// What was lifted gives way for this part of the bound at once. To look through all entries for each of many
/// would hold up whoever asks meanwhile.
const ROOM_PART: usize = 16;

/// What a connection knows of its token.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Token<'a> {
    /// Empty for none.
    pub id: &'a str,
    /// Unix time in seconds at which it was issued; 0 if unknown.
    pub issued: u64,
}

impl<'a> Token<'a> {
    /// The token that attributes describe.
    pub fn of(attribute: impl Fn(&str) -> Option<&'a str>) -> Self {
        let issued = attribute(TOKEN_ISSUED).and_then(|seconds| seconds.parse().ok()).unwrap_or(0);
        Self { id: attribute(TOKEN_ID).unwrap_or_default(), issued }
    }
}

/// The list has as many entries as it may.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Full;

/// What became of an entry of another gateway.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Merged {
    /// It was new.
    Changed,
    /// This version, or a later one, was known.
    Known,
    /// It is over.
    Expired,
    /// There is no room.
    Full,
}

/// See the module. Times `now` are Unix times in milliseconds.
#[derive(Debug)]
pub(super) struct Store {
    entries: BTreeMap<Subject, Entry>,
    entries_max: usize,
    /// The highest version that was ever seen.
    newest: u64,
    /// What was removed, with its versions, until it is taken.
    removed: Vec<(Subject, u64)>,
    /// Nothing gives way before this time, unless something changes.
    full_until: u64,
}

impl Store {
    pub(super) fn new(entries_max: usize) -> Self {
        Self { entries: BTreeMap::new(), entries_max, newest: 0, removed: Vec::new(), full_until: 0 }
    }

    pub(super) const fn entries_max(&self) -> usize {
        self.entries_max
    }

    /// Why a client may not stay. The weightiest reason comes first.
    pub(super) fn check(&self, now: u64, user: &str, token: Token<'_>) -> Option<Revoked> {
        if self.entries.is_empty() {
            return None;
        }
        let has = |subject: &Subject, also: fn(&Entry, u64) -> bool| {
            let found = self.entries.get(subject);
            found.is_some_and(|entry| !entry.lifted && !entry.has_expired(now) && also(entry, token.issued))
        };
        if !user.is_empty() {
            if has(&Subject::User(user.into()), |_, _| true) {
                return Some(Revoked::User);
            }
            if has(&Subject::UserTokens(user.into()), |entry, issued| issued < entry.issued_before) {
                return Some(Revoked::UserTokens);
            }
        }
        let by_id = !token.id.is_empty() && has(&Subject::Token(token.id.into()), |_, _| true);
        by_id.then_some(Revoked::Token)
    }

    pub(super) fn revoke(
        &mut self,
        now: u64,
        subject: Subject,
        expires_at: Option<u64>,
        issued_before: u64,
    ) -> Result<(), Full> {
        if !self.entries.contains_key(&subject) && !self.make_room(now, self.entries_max) {
            return Err(Full);
        }
        let version = self.next_version(now);
        self.insert(Entry { subject, version, expires_at, issued_before, lifted: false });
        Ok(())
    }

    /// False if there is nothing to lift. `unread` if another gateway may have it.
    pub(super) fn lift(&mut self, now: u64, subject: &Subject, unread: bool) -> bool {
        let known = self.entries.get(subject).filter(|entry| !entry.lifted && !entry.has_expired(now));
        if known.is_none() && !unread {
            return false;
        }
        let longest = now / 1000 + LIFTED_KEPT;
        let until = known.and_then(|entry| entry.expires_at).map_or(longest, |at| at.min(longest));
        if !self.entries.contains_key(subject) && !self.make_room(now, self.merged_max()) {
            return false;
        }
        let version = self.next_version(now);
        self.insert(Entry { expires_at: Some(until), lifted: true, ..Entry::new(subject.clone(), version) });
        true
    }

    pub(super) fn merge(&mut self, now: u64, entry: Entry) -> Merged {
        self.newest = self.newest.max(entry.version);
        if let Some(known) = self.entries.get(&entry.subject) {
            if !entry.outranks(known) {
                return Merged::Known;
            }
        } else if entry.has_expired(now) {
            return Merged::Expired;
        } else if !self.make_room(now, self.merged_max()) {
            return Merged::Full;
        }
        self.insert(entry);
        Merged::Changed
    }

    /// Of so many entries after one, those that have expired; and the last of them all, if there is one.
    pub(super) fn expired(
        &self,
        now: u64,
        after: Option<&Subject>,
        limit: usize,
    ) -> (Vec<Subject>, Option<Subject>) {
        let (mut expired, mut last) = (Vec::new(), None);
        for entry in self.after(after).take(limit) {
            last = Some(&entry.subject);
            if entry.has_expired(now) {
                expired.push(entry.subject.clone());
            }
        }
        (expired, last.cloned())
    }

    /// Removes those of these that have expired.
    pub(super) fn remove_expired(&mut self, now: u64, subjects: &[Subject]) {
        for subject in subjects {
            if self.entries.get(subject).is_some_and(|entry| entry.has_expired(now)) {
                self.remove(subject);
            }
        }
    }

    /// Takes what was removed, with its versions.
    pub(super) fn take_removed(&mut self) -> Vec<(Subject, u64)> {
        std::mem::take(&mut self.removed)
    }

    pub(super) fn page(&self, now: u64, after: Option<&Subject>, limit: usize) -> Vec<Entry> {
        self.after(after).filter(|entry| in_force(entry, now)).take(limit).cloned().collect()
    }

    /// So many entries after one, with what was lifted.
    pub(super) fn portion(&self, after: Option<&Subject>, limit: usize) -> Vec<Entry> {
        self.after(after).take(limit).cloned().collect()
    }

    fn after(&self, subject: Option<&Subject>) -> impl Iterator<Item = &Entry> {
        let from = subject.map_or(Bound::Unbounded, Bound::Excluded);
        self.entries.range::<Subject, _>((from, Bound::Unbounded)).map(|(_, entry)| entry)
    }

    pub(super) fn count(&self, now: u64) -> usize {
        self.entries.values().filter(|entry| in_force(entry, now)).count()
    }

    pub(super) fn get(&self, subject: &Subject) -> Option<&Entry> {
        self.entries.get(subject)
    }

    const fn merged_max(&self) -> usize {
        self.entries_max.saturating_mul(MERGED_TIMES)
    }

    /// Higher than all that this gateway has seen, whatever the clocks of the gateways say: a change counts
    /// instead of everything that was known when it was made.
    fn next_version(&mut self, now: u64) -> u64 {
        self.newest = now.max(self.newest.saturating_add(1));
        self.newest
    }

    fn insert(&mut self, entry: Entry) {
        self.full_until = 0;
        self.entries.insert(entry.subject.clone(), entry);
    }

    fn remove(&mut self, subject: &Subject) {
        if let Some((subject, entry)) = self.entries.remove_entry(subject) {
            self.removed.push((subject, entry.version));
        }
    }

    /// Makes room for one more: what has expired goes, and then what was lifted, the earliest first. Looks
    /// through all entries, but not again for each of many that come one after the other.
    fn make_room(&mut self, now: u64, most: usize) -> bool {
        if self.entries.len() < most {
            return true;
        }
        if now < self.full_until {
            return false;
        }
        let (mut expired, mut lifted, mut next_end) = (Vec::new(), Vec::new(), u64::MAX);
        for Entry { subject, expires_at, lifted: is_lifted, .. } in self.entries.values() {
            let end = expires_at.map_or(u64::MAX, |seconds| seconds.saturating_mul(1000));
            if end <= now {
                expired.push(subject.clone());
            } else if *is_lifted {
                lifted.push((end, subject.clone()));
            } else {
                next_end = next_end.min(end);
            }
        }
        expired.iter().for_each(|subject| self.remove(subject));
        if self.entries.len() < most {
            return true;
        }
        let needed = self.entries.len() - most + 1;
        if lifted.len() < needed {
            if lifted.is_empty() {
                self.full_until = next_end;
            }
            return false;
        }
        lifted.sort_unstable();
        let many = needed + most / ROOM_PART;
        lifted.iter().take(many).for_each(|(_, subject)| self.remove(subject));
        true
    }
}

fn in_force(entry: &Entry, now: u64) -> bool {
    !entry.lifted && !entry.has_expired(now)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_700_000_000_000;
    const SECONDS: u64 = NOW / 1000;

    fn store() -> Store {
        Store::new(3)
    }

    fn user(name: &str) -> Subject {
        Subject::User(name.into())
    }

    fn token(id: &str) -> Token<'_> {
        Token { id, issued: SECONDS }
    }

    #[test]
    fn a_block_counts_until_its_time_and_for_this_user_only() {
        let mut store = store();
        store.revoke(NOW, user("ann"), Some(SECONDS + 10), 0).expect("room");
        assert_eq!(store.check(NOW, "ann", Token::default()), Some(Revoked::User));
        assert_eq!(store.check(NOW + 9_999, "ann", Token::default()), Some(Revoked::User));
        assert_eq!(store.check(NOW + 10_000, "ann", Token::default()), None);
        assert_eq!(store.check(NOW, "bob", Token::default()), None);
        assert_eq!(store.check(NOW, "", Token::default()), None, "an anonymous client is nobody");
    }

    #[test]
    fn a_token_is_revoked_by_its_id_whoever_has_it() {
        let mut store = store();
        store.revoke(NOW, Subject::Token("t1".into()), None, 0).expect("room");
        assert_eq!(store.check(NOW, "ann", token("t1")), Some(Revoked::Token));
        assert_eq!(store.check(NOW, "", token("t1")), Some(Revoked::Token));
        assert_eq!(store.check(NOW, "ann", token("t2")), None);
        assert_eq!(store.check(NOW, "ann", token("")), None);
    }

    #[test]
    fn tokens_issued_before_a_time_are_revoked_and_so_is_one_that_does_not_say() {
        let mut store = store();
        store.revoke(NOW, Subject::UserTokens("ann".into()), None, SECONDS).expect("room");
        let at = |issued| store.check(NOW, "ann", Token { id: "", issued });
        assert_eq!(at(SECONDS - 1), Some(Revoked::UserTokens));
        assert_eq!(at(0), Some(Revoked::UserTokens));
        assert_eq!(at(SECONDS), None);
        assert_eq!(store.check(NOW, "bob", Token::default()), None);
    }

    #[test]
    fn a_full_list_refuses_and_keeps_what_is_in_force() {
        let mut store = store();
        for name in ["a", "b", "c"] {
            store.revoke(NOW, user(name), Some(SECONDS + 10), 0).expect("room");
        }
        assert_eq!(store.revoke(NOW, user("d"), None, 0), Err(Full));
        store.revoke(NOW, user("a"), Some(SECONDS + 20), 0).expect("the same subject needs no room");
        assert_eq!(store.count(NOW), 3);
        store.revoke(NOW + 10_000, user("d"), None, 0).expect("what has expired makes room");
        assert_eq!(store.count(NOW + 10_000), 2);
    }

    #[test]
    fn what_was_lifted_gives_way_and_the_earliest_first() {
        let mut store = store();
        for (name, until) in [("a", 20), ("b", 10), ("c", 30)] {
            store.revoke(NOW, user(name), Some(SECONDS + until), 0).expect("room");
        }
        assert!(store.lift(NOW, &user("a"), false) && store.lift(NOW, &user("b"), false));
        assert!(!store.lift(NOW, &user("a"), false), "once");
        store.revoke(NOW, user("d"), None, 0).expect("room");
        assert!(store.get(&user("b")).is_none() && store.get(&user("a")).is_some());
    }

    #[test]
    fn an_entry_of_another_gateway_counts_if_it_is_newer() {
        let (mut here, mut there) = (store(), store());
        here.revoke(NOW, user("ann"), None, 0).expect("room");
        let blocked = here.get(&user("ann")).cloned().expect("there");
        assert_eq!(there.merge(NOW, blocked.clone()), Merged::Changed);
        assert_eq!(there.merge(NOW, blocked.clone()), Merged::Known);
        // The clock of the other gateway is an hour behind.
        assert!(there.lift(NOW - 3_600_000, &user("ann"), false));
        let lifted = there.get(&user("ann")).cloned().expect("kept for a while");
        assert_eq!(here.merge(NOW, lifted), Merged::Changed);
        assert_eq!(here.check(NOW, "ann", Token::default()), None);
        assert_eq!(here.merge(NOW, blocked), Merged::Known, "a gateway that was cut off writes it back");
        assert_eq!(here.check(NOW, "ann", Token::default()), None);
    }

    #[test]
    fn two_changes_at_the_same_time_come_to_the_same_at_every_gateway() {
        let block = Entry::new(user("ann"), NOW);
        let lift = Entry { lifted: true, expires_at: Some(SECONDS + 9), ..block.clone() };
        for all in [[block.clone(), lift.clone()], [lift, block]] {
            let mut store = store();
            for entry in all {
                store.merge(NOW, entry);
            }
            assert_eq!(store.check(NOW, "ann", Token::default()), Some(Revoked::User));
        }
    }

    #[test]
    fn entries_of_others_are_bounded_too_and_expired_ones_are_not_taken() {
        let mut store = store();
        let merge = |store: &mut Store, name: &str| store.merge(NOW, Entry::new(user(name), NOW));
        for name in ["a", "b", "c", "d", "e", "f"] {
            assert_eq!(merge(&mut store, name), Merged::Changed, "{name}");
        }
        assert_eq!(merge(&mut store, "g"), Merged::Full);
        let over = Entry { expires_at: Some(SECONDS), ..Entry::new(user("a2"), NOW) };
        assert_eq!(store.merge(NOW, over), Merged::Expired);
    }

    #[test]
    fn pages_follow_one_another_and_leave_out_what_was_lifted() {
        let mut store = Store::new(10);
        for name in ["a", "b", "c", "d"] {
            store.revoke(NOW, user(name), None, 0).expect("room");
        }
        assert!(store.lift(NOW, &user("c"), false));
        let names = |page: &[Entry]| page.iter().map(|entry| entry.subject.to_string()).collect::<Vec<_>>();
        let first = store.page(NOW, None, 2);
        assert_eq!(names(&first), ["user:a", "user:b"]);
        assert_eq!(names(&store.page(NOW, Some(&first[1].subject), 2)), ["user:d"]);
        assert!(store.page(NOW, Some(&user("d")), 2).is_empty());
    }

    #[test]
    fn what_has_expired_is_removed_with_its_version() {
        let mut store = store();
        store.revoke(NOW, user("a"), Some(SECONDS + 1), 0).expect("room");
        store.revoke(NOW, user("b"), None, 0).expect("room");
        assert_eq!(store.expired(NOW + 999, None, 9), (vec![], Some(user("b"))));
        let (expired, last) = store.expired(NOW + 1_000, None, 1);
        assert_eq!((&*expired, last), (&[user("a")][..], Some(user("a"))));
        store.remove_expired(NOW + 1_000, &[user("a"), user("b")]);
        assert_eq!(store.take_removed(), [(user("a"), NOW)]);
        assert_eq!(store.portion(None, 9).len(), 1);
    }

    #[test]
    fn what_gives_way_is_told_so_that_the_others_forget_it_too() {
        let mut store = store();
        for name in ["a", "b", "c"] {
            store.revoke(NOW, user(name), Some(SECONDS + 10), 0).expect("room");
        }
        assert!(store.lift(NOW, &user("b"), false));
        let lifted = store.get(&user("b")).expect("kept").version;
        store.revoke(NOW, user("d"), None, 0).expect("room");
        assert_eq!(store.take_removed(), [(user("b"), lifted)]);
        store.revoke(NOW + 10_000, user("e"), None, 0).expect("room");
        assert_eq!(store.take_removed().len(), 2, "a and c have expired");
    }

    #[test]
    fn many_give_way_at_once_and_a_full_list_is_not_looked_through_again() {
        let mut store = Store::new(160);
        let name = |number: usize| user(&number.to_string());
        for number in 0..160 {
            store.revoke(NOW, name(number), Some(SECONDS + 9), 0).expect("room");
            assert!(number >= 80 || store.lift(NOW, &name(number), false));
        }
        store.revoke(NOW, name(200), None, 0).expect("room");
        assert_eq!(store.take_removed().len(), 11, "one, and a part of the bound");
        (201..=279).for_each(|number| store.revoke(NOW, name(number), None, 0).expect("room"));
        assert_eq!(store.revoke(NOW, name(280), None, 0), Err(Full));
        assert_eq!(store.full_until, (SECONDS + 9) * 1000);
        store.revoke(NOW + 9_000, name(280), None, 0).expect("what has expired makes room");
        assert_eq!(store.count(NOW + 9_000), 81);
    }

    #[test]
    fn a_change_counts_instead_of_all_that_was_known_whatever_the_clock_says() {
        let (mut here, mut there) = (store(), store());
        // The clock of the other gateway is an hour ahead.
        there.revoke(NOW + 3_600_000, user("ann"), None, 0).expect("room");
        assert!(there.lift(NOW + 3_600_000, &user("ann"), false));
        there.revoke(NOW + 3_600_000, user("bob"), None, 0).expect("room");
        let [ann, bob] = ["ann", "bob"].map(|name| there.get(&user(name)).cloned().expect("there"));
        // That ann was let in again has given way here.
        here.merge(NOW, bob);
        here.revoke(NOW, user("ann"), None, 0).expect("room");
        let blocked = here.get(&user("ann")).cloned().expect("there");
        assert_eq!(here.merge(NOW, ann), Merged::Known);
        assert_eq!(there.merge(NOW, blocked), Merged::Changed);
        assert_eq!(there.check(NOW, "ann", Token::default()), Some(Revoked::User));
    }
}
