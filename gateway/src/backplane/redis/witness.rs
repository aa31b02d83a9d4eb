//! Servers that are asked over and over what they know of others: one connection to each of them, kept.

use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{Client, Cmd, Value};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout, timeout_at};

use super::link::{call, cause, client, settings};
use super::status::Cause;
use crate::config::{self, RedisServer, Secret};
use crate::telemetry::backplane::Trouble;

/// How long the others are waited for when enough have answered.
const OTHERS: Duration = Duration::from_millis(50);

/// See the module.
pub(super) struct Witness {
    client: Client,
    connection: Option<MultiplexedConnection>,
}

impl Witness {
    /// Nothing connects before it is asked.
    pub(super) fn new(
        redis: &config::Redis,
        server: &RedisServer,
        username: &str,
        password: Option<&Secret>,
    ) -> Result<Self, Cause> {
        Ok(Self { client: client(redis, server, username, password)?, connection: None })
    }
}

/// The answers of those that answer in time, in the order in which they come. When there are enough of them the others are not
/// waited for much longer.
pub(super) async fn ask<'a, T>(
    witnesses: impl IntoIterator<Item = (T, &'a mut Witness)>,
    command: &Cmd,
    time: Duration,
    enough: impl Fn(&[Result<(T, Value), Cause>]) -> bool,
) -> Vec<Result<(T, Value), Cause>> {
    let mut asking = JoinSet::new();
    let mut asked = Vec::new();
    for (index, (name, witness)) in witnesses.into_iter().enumerate() {
        // Whoever is not waited for is connected to anew.
        let answer = one(witness.client.clone(), witness.connection.take(), command.clone(), time);
        asking.spawn(async move { (index, answer.await) });
        asked.push(Some((name, witness)));
    }
    let mut answers = Vec::new();
    let mut until = Instant::now() + time + OTHERS;
    while let Ok(Some(joined)) = timeout_at(until, asking.join_next()).await {
        let Ok((index, answer)) = joined else { continue };
        let Some((name, witness)) = asked[index].take() else { continue };
        answers.push(answer.map(|(connection, value)| {
            witness.connection = Some(connection);
            (name, value)
        }));
        if enough(&answers) {
            until = until.min(Instant::now() + OTHERS);
        }
    }
    answers
}

async fn one(
    client: Client,
    connection: Option<MultiplexedConnection>,
    command: Cmd,
    time: Duration,
) -> Result<(MultiplexedConnection, Value), Cause> {
    let asked = async {
        let mut connection = match connection {
            Some(connection) => connection,
            None => {
                let connected = client.get_multiplexed_async_connection_with_config(&settings(time)).await;
                connected.map_err(|error| cause(&error))?
            }
        };
        let answer = call(&mut connection, &command, time).await?;
        Ok((connection, answer))
    };
    let late = || Cause::new(Trouble::Silent, format!("no answer within {time:?}"));
    timeout(time, asked).await.unwrap_or_else(|_| Err(late()))
}
