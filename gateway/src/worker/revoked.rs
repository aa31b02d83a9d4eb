//! Closes the connections of a worker that may not stay after a change of the revocations.

use std::rc::Rc;
use std::time::Duration;

use tokio::task::yield_now;
use tokio::time::sleep;

use super::Worker;

/// Connections checked before others get their turn: some microseconds for each, if the list is long.
const CHECKED_MAX: usize = 32;

/// Pause between two looks through all connections.
const PAUSE: Duration = Duration::from_millis(50);

impl Worker {
    /// After each change looks through all connections, in portions: those that are idle send nothing that
    /// would have them checked.
    pub(super) async fn close_revoked(self: Rc<Self>) {
        let mut changes = self.state.revocations.changes();
        while changes.changed().await.is_ok() {
            changes.borrow_and_update();
            for portion in self.state.admitted().chunks(CHECKED_MAX) {
                self.state.close_revoked(self.clock.now().unix, portion);
                yield_now().await;
            }
            // Many changes at once are looked for together.
            sleep(PAUSE).await;
        }
    }
}
