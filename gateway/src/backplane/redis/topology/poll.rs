//! `PolledServer` is a Sentinel or Cluster server that is polled over one persistent connection.

use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{Client, Cmd, Value};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout, timeout_at};

use crate::backplane::redis::connection::client::{call, cause, client, settings};
use crate::backplane::redis::connection::status::Cause;
use crate::config::{self, RedisServer, Secret};
use crate::telemetry::backplane::Trouble;

/// How long to wait for the others once enough have answered.
const OTHERS: Duration = Duration::from_millis(50);

/// See the module.
pub(crate) struct PolledServer {
    client: Client,
    connection: Option<MultiplexedConnection>,
}

impl PolledServer {
    /// Connects with the first poll.
    pub(crate) fn new(
        redis: &config::Redis,
        server: &RedisServer,
        username: &str,
        password: Option<&Secret>,
    ) -> Result<Self, Cause> {
        Ok(Self {
            client: client(redis.tls_authority.as_deref(), server, username, password)?,
            connection: None,
        })
    }
}

/// Polls all servers concurrently. Returns their labels and answers in order of arrival. Once there are
/// enough answers, the rest is not waited for much longer.
pub(crate) async fn ask<'a, T>(
    polled_servers: impl IntoIterator<Item = (T, &'a mut PolledServer)>,
    command: &Cmd,
    time: Duration,
    enough: impl Fn(&[(T, Result<Value, Cause>)]) -> bool,
) -> Vec<(T, Result<Value, Cause>)> {
    let mut asking = JoinSet::new();
    let mut asked = Vec::new();
    for (index, (name, polled)) in polled_servers.into_iter().enumerate() {
        // A connection whose answer is not waited for is replaced.
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
    // Servers that were not waited for have not failed.
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
