//! Rows of an outbox table of PostgreSQL.
//!
//! The gateway that has the advisory lock of a partition takes its rows in the order of their ids and deletes
//! those that are done. The lock belongs to the session: it is gone when the connection ends, or when the
//! gateway is silent for `ack_wait`, which ends the session. Locks of rows with SKIP LOCKED would let another
//! gateway carry out the rows behind those of a slow one.

mod connection;

use std::sync::Arc;

use tokio::sync::Notify;
use tokio::time::sleep;
use tokio_postgres::types::{FromSql, Type};
use tokio_postgres::{Client, Row, Statement};

use self::connection::{Driver, text};
use super::entry::{
    BATCH_BYTES_MAX, COMMAND_BYTES_MAX, Command, Entry, KEPT_BYTES_MAX, METHOD_BYTES_MAX, too_long,
};
use super::partition::{Due, Hold, Interrupted, Partition, STANDBY};
use crate::config::Outbox;

/// Rows that are asked for after a partition was empty.
const ROWS_MIN: usize = 8;

/// A connection, and the lock of a partition once it is taken.
struct Held<'l> {
    partition: &'l Partition,
    client: Client,
    /// Ends the connection when it is dropped.
    _driver: Driver,
    statements: Statements,
    due: Due,
    /// Rows that the server looks at next: it has to read them to know their size.
    rows: usize,
}

struct Statements {
    lock: Statement,
    select: Statement,
    delete: Statement,
}

/// Reads and carries out until the gateway drains.
pub(super) async fn session(partition: &Partition, outbox: &Outbox) -> Result<(), Box<str>> {
    let announced = Arc::new(Notify::new());
    let number = partition.index.to_string();
    let (client, driver) = connection::open(partition, outbox, announced.clone(), &number).await?;
    let Outbox { table, channel, .. } = outbox;
    let silence = partition.config.ack_wait.as_millis();
    let answer = partition.config.timeout.as_millis();
    let mut prepare = format!(
        "SET idle_session_timeout = {silence}; SET lock_timeout = {silence}; SET statement_timeout = {answer};"
    );
    if !channel.is_empty() {
        prepare += &format!("LISTEN \"{channel}\";");
    }
    partition.answer(text(client.batch_execute(&prepare))).await?;
    let lock = format!("SELECT pg_try_advisory_lock(hashtext('gateway:{table}'), {number})");
    let statements = Statements {
        lock: partition.answer(text(client.prepare(&lock))).await?,
        select: partition.answer(text(client.prepare(&select(table, &number)))).await?,
        delete: partition.answer(text(client.prepare(&delete(table, &number)))).await?,
    };
    partition.metrics.connected(partition.index);
    let due = Due::new(partition.config.ack_wait);
    let mut held = Held { partition, client, _driver: driver, statements, due, rows: ROWS_MIN };
    match held.work(outbox, &announced).await {
        Ok(()) | Err(Interrupted::Stopping) => Ok(()),
        Err(Interrupted::Failed(why)) => Err(why),
    }
}

/// The first rows of a partition, as many as fit into `BATCH_BYTES_MAX`, but at least one. Nothing that a row
/// has makes the statement fail: what is no command is found out later.
fn select(table: &str, partition: &str) -> String {
    let table = quoted(table);
    format!(
        "SELECT id, left(method, {METHOD_BYTES_MAX} + 1), \
         CASE WHEN bytes <= {COMMAND_BYTES_MAX} THEN payload ELSE left(payload, {KEPT_BYTES_MAX}) END, bytes, \
         CASE WHEN isfinite(created_at) THEN (extract(epoch FROM created_at) * 1000)::int8 END \
         FROM (SELECT *, row_number() OVER queue AS place, \
               sum(least(bytes, {COMMAND_BYTES_MAX})) OVER queue AS total \
               FROM (SELECT *, coalesce(octet_length(payload), 0) AS bytes \
                     FROM (SELECT entry.id::int8 AS id, entry.method::text AS method, \
                           entry.payload::text AS payload, entry.created_at AS created_at \
                           FROM {table} AS entry WHERE entry.partition = {partition} \
                           ORDER BY entry.id LIMIT $1) AS first) AS measured \
               WINDOW queue AS (ORDER BY id)) AS counted \
         WHERE place = 1 OR total <= {BATCH_BYTES_MAX} ORDER BY place"
    )
}

fn delete(table: &str, partition: &str) -> String {
    format!("DELETE FROM {} WHERE partition = {partition} AND id = ANY($1::int8[])", quoted(table))
}

/// A name that the configuration has checked, with quotes: it may be a word of SQL, such as `order`.
fn quoted(table: &str) -> String {
    table.split('.').map(|part| format!("\"{part}\"")).collect::<Vec<_>>().join(".")
}

impl Held<'_> {
    async fn work(&mut self, outbox: &Outbox, announced: &Notify) -> Result<(), Interrupted> {
        let partition = self.partition;
        // More often than the session may be silent.
        let pause = outbox.poll_interval.min(partition.config.ack_wait / 4);
        let mut is_locked = false;
        while !partition.stop.is_set() {
            is_locked = is_locked || self.lock().await?;
            let pause = if is_locked { pause } else { pause.min(STANDBY) };
            let entries = if is_locked { self.select().await? } else { Vec::new() };
            if entries.is_empty() {
                partition.metrics.took(partition.index, 0);
                tokio::select! {
                    () = sleep(pause) => (),
                    () = announced.notified() => (),
                    () = partition.stop.wait() => (),
                }
                continue;
            }
            partition.carry_out(&entries, self).await?;
        }
        Ok(())
    }

    async fn lock(&self) -> Result<bool, Box<str>> {
        let row = self.partition.answer(text(self.client.query_one(&self.statements.lock, &[]))).await?;
        row.try_get(0).map_err(|error| error.to_string().into())
    }

    async fn select(&mut self) -> Result<Vec<Entry>, Box<str>> {
        let rows = i64::try_from(self.rows).unwrap_or(i64::MAX);
        let rows = self.partition.answer(text(self.client.query(&self.statements.select, &[&rows]))).await?;
        // As many as were returned would have been enough.
        self.rows = (2 * rows.len()).max(ROWS_MIN);
        self.rows = self.rows.min(self.partition.config.batch_max);
        let entries: Result<Vec<Entry>, tokio_postgres::Error> = rows.iter().map(entry).collect();
        entries.map_err(|error| error.to_string().into())
    }
}

/// The bytes of a text, whether they are UTF-8 or not.
struct Text<'r>(&'r [u8]);

impl<'r> FromSql<'r> for Text<'r> {
    fn from_sql(_: &Type, raw: &'r [u8]) -> Result<Self, Box<dyn std::error::Error + Sync + Send>> {
        Ok(Self(raw))
    }

    fn accepts(kind: &Type) -> bool {
        *kind == Type::TEXT
    }
}

fn entry(row: &Row) -> Result<Entry, tokio_postgres::Error> {
    let (id, bytes, at): (i64, i32, Option<i64>) = (row.try_get(0)?, row.try_get(3)?, row.try_get(4)?);
    let (method, payload): (Option<Text<'_>>, Option<Text<'_>>) = (row.try_get(1)?, row.try_get(2)?);
    let fields = [(&b"method"[..], method), (&b"payload"[..], payload)];
    let fields = fields.iter().filter_map(|(name, value)| Some((*name, value.as_ref()?.0)));
    let command = match usize::try_from(bytes) {
        Ok(bytes) if bytes > COMMAND_BYTES_MAX => Err(too_long(fields)),
        _ => Command::of_fields(fields),
    };
    let at = at.unwrap_or_default();
    // A table that was emptied may count from 1 again.
    let id = format!("{id}:{at}").into();
    Ok(Entry { id, at: u64::try_from(at).unwrap_or_default(), command })
}

/// The id of the row of an entry.
fn row_id(entry: &Entry) -> Option<i64> {
    entry.id.split_once(':')?.0.parse().ok()
}

impl Hold for Held<'_> {
    async fn keep(&mut self) -> Result<(), Box<str>> {
        if self.due.is(self.partition.clock.at()) {
            // Any statement tells that the session is in use, and fails if it has ended.
            self.partition.answer(text(self.client.batch_execute(""))).await?;
        }
        Ok(())
    }

    async fn acknowledge(&mut self, entries: &[Entry]) -> Result<(), Box<str>> {
        let ids: Vec<i64> = entries.iter().filter_map(row_id).collect();
        self.partition.answer(text(self.client.execute(&self.statements.delete, &[&ids]))).await.map(drop)
    }
}
