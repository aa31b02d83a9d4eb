//! The methods of the API about revoked tokens and blocked users.

use serde::Serialize;

use super::answer::Nothing;
use super::fields::{Failure, Fields, bad_request};
use crate::control::Control;
use crate::protocol::code::ReplyError;
use crate::revocation::{Entry, Subject, TOKEN_ID_BYTES_MAX};

/// Entries of a page, if the request does not say how many.
const LIMIT: usize = 100;

/// Maximum number of entries of a page.
const LIMIT_MAX: usize = 1_000;

/// Longest id of an entry in bytes.
const ID_BYTES_MAX: usize = 512;

/// One entry.
#[derive(Serialize)]
pub(super) struct Revocation {
    id: String,
    kind: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    uid: Option<Box<str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    user: Option<Box<str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    issued_before: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    expire_at: Option<u64>,
}

/// A page of entries.
#[derive(Serialize)]
pub(super) struct Page {
    revocations: Vec<Revocation>,
    /// For the next request; missing on the last page.
    #[serde(skip_serializing_if = "Option::is_none")]
    cursor: Option<String>,
}

impl From<Entry> for Revocation {
    fn from(Entry { subject, expires_at, issued_before, .. }: Entry) -> Self {
        let (id, kind) = (subject.to_string(), subject.kind());
        let (uid, user, issued_before) = match subject {
            Subject::Token(uid) => (Some(uid), None, None),
            Subject::UserTokens(user) => (None, Some(user), Some(issued_before)),
            Subject::User(user) => (None, Some(user), None),
        };
        Self { id, kind, uid, user, issued_before, expire_at: expires_at }
    }
}

pub(super) async fn revoke_token(control: &Control, mut fields: Fields) -> Result<Nothing, Failure> {
    let uid = fields.text("uid", TOKEN_ID_BYTES_MAX)?.ok_or_else(|| bad_request("`uid` is missing"))?;
    let expires_at = expire_at(&mut fields)?;
    fields.finish()?;
    control.revoke(Subject::Token(uid), expires_at, 0).await?;
    Ok(Nothing {})
}

pub(super) async fn invalidate_user_tokens(
    control: &Control,
    mut fields: Fields,
) -> Result<Nothing, Failure> {
    let user = user(&mut fields)?;
    if fields.optional::<Box<str>>("channel")?.is_some_and(|channel| !channel.is_empty()) {
        let why = "`channel` is not supported: the gateway does not know the tokens of single subscriptions. Without it \
                   all connections of the user with an earlier token end, and with them their subscriptions";
        return Err(ReplyError::NOT_AVAILABLE.because(why).into());
    }
    let issued_before: Option<u64> = fields.optional("issued_before")?;
    let expires_at = expire_at(&mut fields)?;
    fields.finish()?;
    // A token says in which second it was issued: those of this second are revoked as well.
    let now = control.now().unix / 1000 + 1;
    let issued_before = issued_before.filter(|seconds| *seconds != 0).unwrap_or(now);
    control.revoke(Subject::UserTokens(user), expires_at, issued_before).await?;
    Ok(Nothing {})
}

pub(super) async fn block_user(control: &Control, mut fields: Fields) -> Result<Nothing, Failure> {
    let user = user(&mut fields)?;
    let expires_at = expire_at(&mut fields)?;
    fields.finish()?;
    control.revoke(Subject::User(user), expires_at, 0).await?;
    Ok(Nothing {})
}

pub(super) async fn unblock_user(control: &Control, mut fields: Fields) -> Result<Nothing, Failure> {
    let user = user(&mut fields)?;
    fields.finish()?;
    // To unblock somebody who is not blocked is no error, so that a call can be repeated.
    control.lift(&Subject::User(user)).await?;
    Ok(Nothing {})
}

pub(super) async fn lift(control: &Control, mut fields: Fields) -> Result<Nothing, Failure> {
    let id = fields.text("id", ID_BYTES_MAX)?.ok_or_else(|| bad_request("`id` is missing"))?;
    fields.finish()?;
    if !control.lift(&subject("id", &id)?).await? {
        return Err(bad_request("`id` is not the id of a revocation in force: see `revocations`").into());
    }
    Ok(Nothing {})
}

pub(super) fn list(control: &Control, mut fields: Fields) -> Result<Page, Failure> {
    let cursor = fields.text("cursor", ID_BYTES_MAX)?;
    let limit = fields.optional::<usize>("limit")?.filter(|limit| *limit > 0).unwrap_or(LIMIT);
    fields.finish()?;
    let after = cursor.map(|cursor| subject("cursor", &cursor)).transpose()?;
    let limit = limit.min(LIMIT_MAX);
    // One more tells whether there is another page.
    let mut entries = control.revocations(after.as_ref(), limit + 1);
    let more = entries.len() > limit;
    entries.truncate(limit);
    let cursor = entries.last().filter(|_| more).map(|last| last.subject.to_string());
    Ok(Page { revocations: entries.into_iter().map(Into::into).collect(), cursor })
}

fn user(fields: &mut Fields) -> Result<Box<str>, Failure> {
    Ok(fields.user()?.ok_or_else(|| bad_request("`user` is missing"))?)
}

/// When a revocation ends; `None` for not by itself.
fn expire_at(fields: &mut Fields) -> Result<Option<u64>, Failure> {
    Ok(fields.optional("expire_at")?.filter(|seconds| *seconds != 0))
}

fn subject(field: &str, id: &str) -> Result<Subject, Failure> {
    let why = || format!("`{field}` does not begin with `token:`, `user_tokens:` or `user:`");
    Ok(Subject::parse(id).ok_or_else(|| bad_request(why()))?)
}
