//! [`Account`] bounds the bytes that one publisher or queue has in flight inside the gateway. A publisher
//! that exceeds its bound is refused; others are not affected.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Bytes in flight for one publisher or one queue. Clones share the same account.
#[derive(Debug, Clone, Default)]
pub struct Account(Arc<AtomicUsize>);

/// Bytes in flight. Dropping the charge returns them to the account.
#[derive(Debug)]
pub struct Charge {
    account: Account,
    bytes: usize,
}

impl Account {
    /// Adds bytes to the account if that keeps it at or below `max`. A message larger than `max` passes only
    /// alone.
    pub fn charge(&self, bytes: usize, max: usize) -> Option<Charge> {
        let before = self.0.fetch_add(bytes, Ordering::Relaxed);
        // Dropped, and so returned, if there is no room.
        let charge = Charge { account: self.clone(), bytes };
        (before == 0 || before.saturating_add(bytes) <= max).then_some(charge)
    }

    /// Bytes in flight.
    pub fn bytes(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.account.0.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_account_takes_so_much_and_gets_it_back() {
        let account = Account::default();
        let first = account.charge(60, 100);
        let second = account.charge(40, 100);
        assert!(first.is_some() && second.is_some());
        assert!(account.charge(1, 100).is_none());
        assert_eq!(account.bytes(), 100, "what was refused counts nothing");
        drop(first);
        assert!(account.charge(60, 100).is_some());
        drop(second);
        assert_eq!(account.bytes(), 0);
        assert!(account.charge(101, 100).is_some(), "what is larger than everything passes alone");
    }
}
