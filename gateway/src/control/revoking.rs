//! Revokes tokens and blocks users for the server API.

use std::time::Duration;

use super::Control;
use crate::log_users;
use crate::protocol::code::ReplyError;
use crate::revocation::{Change, Entry, Full, Subject};

/// How long a call waits until a change is kept.
const KEPT: Duration = Duration::from_secs(2);

/// The last second of the year 9999: a larger number is most often milliseconds.
const SECONDS_MAX: u64 = 253_402_300_799;

impl Control {
    /// Revokes something at all gateways until a Unix time in seconds, or until it is lifted. It is in force
    /// at this gateway when this returns, also with the error 100. `issued_before` counts for the tokens of a
    /// user only.
    ///
    /// # Errors
    ///
    /// If the time has passed, the list is full, or the change could not be kept in time.
    pub async fn revoke(
        &self,
        subject: Subject,
        expires_at: Option<u64>,
        issued_before: u64,
    ) -> Result<(), ReplyError> {
        let now = self.now().unix;
        if expires_at.is_some_and(|seconds| seconds <= now / 1000 || seconds > SECONDS_MAX) {
            let why = "`expire_at` is not a Unix time in seconds in the future";
            return Err(ReplyError::BAD_REQUEST.because(why));
        }
        let revocations = &self.inner.revocations;
        let (kind, user) = (subject.kind(), named(&subject));
        let change = revocations.revoke(now, subject, expires_at, issued_before).map_err(|Full| {
            let max = self.inner.config.memory.revocations_max;
            let why = format!(
                "the gateway keeps as many revocations as it may, {max}: lift some, or raise `memory.revocations_max`"
            );
            ReplyError::LIMIT_EXCEEDED.because(why)
        })?;
        tracing::info!(kind, user = user.as_deref(), expires_at, "revoked by the API");
        self.kept(change).await
    }

    /// Lifts a revocation at all gateways. False if there is none.
    ///
    /// # Errors
    ///
    /// If the change could not be kept in time.
    pub async fn lift(&self, subject: &Subject) -> Result<bool, ReplyError> {
        let revocations = &self.inner.revocations;
        // Another gateway may have made the entry a moment ago: what this one lifts has to be later.
        let unread = revocations.is_shared()
            && (!revocations.is_synced()
                || tokio::time::timeout(KEPT, revocations.caught_up()).await.is_err());
        let Some(change) = revocations.lift(self.now().unix, subject, unread) else { return Ok(false) };
        tracing::info!(
            kind = subject.kind(),
            user = named(subject).as_deref(),
            "a revocation was lifted by the API"
        );
        self.kept(change).await.map(|()| true)
    }

    /// A page of the revocations in force, in the order of their ids: those after one of them.
    pub fn revocations(&self, after: Option<&Subject>, limit: usize) -> Vec<Entry> {
        self.inner.revocations.page(self.now().unix, after, limit)
    }

    async fn kept(&self, change: Change) -> Result<(), ReplyError> {
        let revocations = &self.inner.revocations;
        if tokio::time::timeout(KEPT, revocations.kept(&change)).await.is_ok() {
            return Ok(());
        }
        Err(ReplyError::INTERNAL.because(match revocations.is_shared() {
            true => {
                "this is in force at this gateway, but redis has not taken it yet: the other gateways follow when it \
                 does, if this one does not stop before"
            }
            false => {
                "this is in force, but the state folder has not taken it yet, so a restart would forget it: see the log"
            }
        }))
    }
}

/// The user of a subject as the log may name it. The id of a token is not logged.
fn named(subject: &Subject) -> Option<String> {
    match subject {
        Subject::Token(_) => None,
        Subject::User(user) | Subject::UserTokens(user) => log_users::user(user).map(Into::into),
    }
}
