//! Servers that are asked over and over what they know of others: one connection to each of them, kept.

use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{Client, Cmd, Value};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout, timeout_at};

use crate::backplane::redis::connection::server_connection::{call, cause, client, settings};
use crate::backplane::redis::connection::status::Cause;
use crate::config::{self, RedisServer, Secret};
use crate::telemetry::backplane::Trouble;

/// How long the others are waited for when enough have answered.
const OTHERS: Duration = Duration::from_millis(50);

/// See the module.
pub(crate) struct PolledServer {
    client: Client,
    connection: Option<MultiplexedConnection>,
}

impl PolledServer {
    /// Nothing connects before it is asked.
    pub(crate) fn new(
        redis: &config::Redis,
        server: &RedisServer,
        username: &str,
        password: Option<&Secret>,
    ) -> Result<Self, Cause> {
        Ok(Self { client: client(redis, server, username, password)?, connection: None })
    }
}

/// What each was asked as, and its answer if it came in time, in the order in which they come. When there are enough of them the others are not
/// waited for much longer.
pub(crate) async fn ask<'a, T>(
    polled_servers: impl IntoIterator<Item = (T, &'a mut PolledServer)>,
    command: &Cmd,
    time: Duration,
    enough: impl Fn(&[(T, Result<Value, Cause>)]) -> bool,
) -> Vec<(T, Result<Value, Cause>)> {
    let mut asking = JoinSet::new();
    let mut asked = Vec::new();
    for (index, (name, polled)) in polled_servers.into_iter().enumerate() {
        // Whoever is not waited for is connected to anew.
        let answer = one(polled.client.clone(), polled.connection.take(), command.clone(), time);
        asking.spawn(async move { (index, answer.await) });
        asked.push(Some((name, polled)));
    }
    let mut answers = Vec::new();
    let (mut until, mut waits) = (Instant::now() + time + OTHERS, true);
    while let Ok(Some(joined)) = timeout_at(until, asking.join_next()).await {
        let Ok((index, answer)) = joined else { continue };
        let Some((name, polled)) = asked[index].take() else { continue };
        let answer = answer.map(|(connection, value)| {
            polled.connection = Some(connection);
            value
        });
        answers.push((name, answer));
        if enough(&answers) {
            until = until.min(Instant::now() + OTHERS);
            waits = false;
        }
    }
    // Those that were not waited for have not failed.
    if waits {
        let late = || Cause::new(Trouble::Silent, format!("no answer within {time:?}"));
        answers.extend(asked.into_iter().flatten().map(|(name, _)| (name, Err(late()))));
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
