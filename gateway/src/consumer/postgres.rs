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
use tokio_postgres::{Client, Row, Statement};

use self::connection::{Driver, text};
use super::entry::{COMMAND_BYTES_MAX, Command, Entry, Unreadable};
use super::partition::{Due, Hold, Interrupted, Partition};
use crate::config::Outbox;

/// A connection, and the lock of a partition once it is taken.
struct Held<'l> {
    partition: &'l Partition,
    client: Client,
    /// Ends the connection when it is dropped.
    _driver: Driver,
    statements: Statements,
    due: Due,
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
    // Table and channel have no characters that need quotes.
    let Outbox { table, channel, .. } = outbox;
    let silence = partition.config.ack_wait.as_millis();
    let mut prepare = format!("SET idle_session_timeout = {silence}; SET lock_timeout = {silence};");
    if !channel.is_empty() {
        prepare += &format!("LISTEN {channel};");
    }
    partition.answer(text(client.batch_execute(&prepare))).await?;
    let select = format!(
        "SELECT id::int8, method::text, \
         CASE WHEN octet_length(payload::text) <= {COMMAND_BYTES_MAX} THEN payload::text END, \
         (extract(epoch FROM created_at) * 1000000)::int8 \
         FROM {table} WHERE partition = {number} ORDER BY id LIMIT {}",
        partition.config.batch_max
    );
    let delete = format!("DELETE FROM {table} WHERE id = ANY($1::int8[])");
    let lock = format!("SELECT pg_try_advisory_lock(hashtext('gateway:{table}'), {number})");
    let statements = Statements {
        lock: partition.answer(text(client.prepare(&lock))).await?,
        select: partition.answer(text(client.prepare(&select))).await?,
        delete: partition.answer(text(client.prepare(&delete))).await?,
    };
    partition.metrics.connected(partition.index);
    let mut held =
        Held { partition, client, _driver: driver, statements, due: Due::new(partition.config.ack_wait) };
    match held.work(outbox, &announced).await {
        Ok(()) | Err(Interrupted::Stopping) => Ok(()),
        Err(Interrupted::Failed(why)) => Err(why),
    }
}

impl Held<'_> {
    async fn work(&mut self, outbox: &Outbox, announced: &Notify) -> Result<(), Interrupted> {
        let partition = self.partition;
        // More often than the session may be silent.
        let pause = outbox.poll_interval.min(partition.config.ack_wait / 4);
        let mut is_locked = false;
        while !partition.stop.is_set() {
            is_locked = is_locked || self.lock().await?;
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

    async fn select(&self) -> Result<Vec<Entry>, Box<str>> {
        let rows = self.partition.answer(text(self.client.query(&self.statements.select, &[]))).await?;
        let entries: Result<Vec<Entry>, tokio_postgres::Error> = rows.iter().map(entry).collect();
        entries.map_err(|error| error.to_string().into())
    }
}

fn entry(row: &Row) -> Result<Entry, tokio_postgres::Error> {
    let (id, at): (i64, i64) = (row.try_get(0)?, row.try_get(3)?);
    let (method, payload): (&str, Option<&str>) = (row.try_get(1)?, row.try_get(2)?);
    let command = match payload {
        Some(payload) => Command::of(method.as_bytes(), payload.as_bytes()),
        None => Err(Unreadable {
            why: format!("the payload is null or has more than {COMMAND_BYTES_MAX} bytes").into(),
            content: Box::default(),
        }),
    };
    // A table that was emptied may count from 1 again.
    let (id, at) = (format!("{id}:{at}").into(), u64::try_from(at / 1_000).unwrap_or_default());
    Ok(Entry { id, at, command })
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
