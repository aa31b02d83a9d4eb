//! Which server is the master is what the Sentinels say. An isolated old master goes on acknowledging what will be lost: so
//! they are asked again for as long as a link lives.

use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Client, Value};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::link::{call, cause, client};
use super::status::Cause;
use crate::config::{self, RedisSentinels, RedisServer};
use crate::telemetry::backplane::Trouble;

/// How often the Sentinels are asked while a link lives.
const ASKED: Duration = Duration::from_secs(1);

/// See the module. Keeps one connection to each Sentinel.
pub(super) struct Sentinels {
    config: RedisSentinels,
    each: Vec<Sentinel>,
    time: Duration,
}

struct Sentinel {
    client: Client,
    connection: Option<MultiplexedConnection>,
}

impl Sentinels {
    /// Nothing connects before somebody asks.
    pub(super) fn new(redis: &config::Redis, config: &RedisSentinels) -> Result<Self, Cause> {
        let each = config.sentinels.iter().map(|sentinel| {
            // A Sentinel has no databases.
            let sentinel = RedisServer { database: 0, ..sentinel.clone() };
            let client = client(redis, &sentinel, &config.username, config.password.as_ref())?;
            Ok(Sentinel { client, connection: None })
        });
        Ok(Self { each: each.collect::<Result<_, _>>()?, config: config.clone(), time: redis.timeout })
    }

    /// The server that most of those name that answer.
    pub(super) async fn master(&mut self) -> Result<RedisServer, Cause> {
        let votes = self.ask().await;
        let named: Vec<_> = votes.iter().filter_map(|vote| vote.as_ref().ok()?.as_ref()).collect();
        if let Some(master) = elected(&named) {
            return Ok(master.clone());
        }
        let name = &self.config.master;
        let unknown = || Cause::new(Trouble::Unreachable, format!("no sentinel knows a master named {name}"));
        let silent =
            |cause: Cause| Cause { detail: format!("no sentinel answers: {}", cause.detail).into(), ..cause };
        let refused = |cause: &Cause| cause.trouble == Trouble::Refused;
        match votes.into_iter().collect::<Result<Vec<_>, _>>() {
            Ok(_) => Err(unknown()),
            Err(cause) if refused(&cause) => Err(Cause::new(
                Trouble::Refused,
                "wrong `redis.sentinel_username` or `redis.sentinel_password`",
            )),
            Err(cause) => Err(silent(cause)),
        }
    }

    /// Ends when most of those that answer name another server than this one.
    pub(super) async fn depose(&mut self, server: &RedisServer) -> Cause {
        loop {
            sleep(ASKED).await;
            let votes = self.ask().await;
            let named: Vec<_> = votes.iter().filter_map(|vote| vote.as_ref().ok()?.as_ref()).collect();
            if is_deposed(server, &named) {
                return Cause::new(
                    Trouble::Unreachable,
                    format!("{server} is not the master any more: the sentinels name another one"),
                );
            }
        }
    }

    /// What each of those says that answer in time; not all are waited for if most agree.
    async fn ask(&mut self) -> Vec<Result<Option<RedisServer>, Cause>> {
        let mut asking = JoinSet::new();
        for (index, Sentinel { client, connection }) in self.each.iter_mut().enumerate() {
            // Whoever is not waited for is connected to anew.
            let asked = ask(client.clone(), connection.take(), self.config.clone(), self.time);
            asking.spawn(async move { (index, asked.await) });
        }
        let mut votes = Vec::new();
        while let Some(asked) = asking.join_next().await {
            let Ok((index, asked)) = asked else { continue };
            votes.push(asked.map(|(connection, named)| {
                self.each[index].connection = Some(connection);
                named
            }));
            let named = votes.iter().filter_map(|vote| vote.as_ref().ok()?.as_ref());
            let most = named
                .clone()
                .any(|one| named.clone().filter(|other| *other == one).count() > self.each.len() / 2);
            if most {
                break;
            }
        }
        votes
    }
}

async fn ask(
    client: Client,
    connection: Option<MultiplexedConnection>,
    config: RedisSentinels,
    time: Duration,
) -> Result<(MultiplexedConnection, Option<RedisServer>), Cause> {
    let asked = async {
        let mut connection = match connection {
            Some(connection) => connection,
            None => {
                let config = AsyncConnectionConfig::new()
                    .set_connection_timeout(Some(time))
                    .set_response_timeout(None);
                let connected = client.get_multiplexed_async_connection_with_config(&config).await;
                connected.map_err(|error| cause(&error))?
            }
        };
        let mut command = redis::cmd("SENTINEL");
        command.arg("GET-MASTER-ADDR-BY-NAME").arg(&*config.master);
        let answer = call(&mut connection, &command, time).await?;
        Ok((connection, named(answer, &config.sentinels[0])))
    };
    let late = || Cause::new(Trouble::Silent, format!("no answer within {time:?}"));
    timeout(time, asked).await.unwrap_or_else(|_| Err(late()))
}

/// The server that a Sentinel names. It is reached as the Sentinels are.
fn named(answer: Value, like: &RedisServer) -> Option<RedisServer> {
    let Value::Array(parts) = answer else { return None };
    let [Value::BulkString(host), Value::BulkString(port)] = <[Value; 2]>::try_from(parts).ok()? else {
        return None;
    };
    let (host, port) = (String::from_utf8(host).ok()?, std::str::from_utf8(&port).ok()?.parse().ok()?);
    Some(RedisServer { host: host.into(), port, ..like.clone() })
}

/// Who has the most votes; the first of those with the same number.
fn elected<'a>(named: &[&'a RedisServer]) -> Option<&'a RedisServer> {
    let count = |one: &RedisServer| named.iter().filter(|other| **other == one).count();
    named.iter().copied().reduce(|best, one| if count(one) > count(best) { one } else { best })
}

fn is_deposed(server: &RedisServer, named: &[&RedisServer]) -> bool {
    2 * named.iter().filter(|one| **one != server).count() > named.len()
}

/// A task that waits for the Sentinels while a link lives; without Sentinels it never ends.
pub(super) async fn depose(sentinels: Option<&mut Sentinels>, server: &RedisServer) -> Cause {
    match sentinels {
        Some(sentinels) => sentinels.depose(server).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    fn server(port: u16) -> RedisServer {
        RedisServer { tls: true, host: "10.0.0.5".into(), port, database: 3 }
    }

    #[test]
    fn most_sentinels_decide() {
        let [a, b] = [&server(1), &server(2)];
        assert_eq!(elected(&[a, b, b]), Some(b));
        assert_eq!(elected(&[b, a]), Some(b), "nobody has more: the first");
        assert_eq!(elected(&[]), None);
        assert!(is_deposed(a, &[a, b, b]) && is_deposed(a, &[b]));
        assert!(!is_deposed(a, &[a, a, b]) && !is_deposed(a, &[a, b]));
        assert!(!is_deposed(a, &[]), "no sentinel answers: that says nothing of the master");
    }

    #[test]
    fn the_master_is_reached_as_the_sentinels_are() {
        let bulk = |text: &str| Value::BulkString(text.into());
        let answer = Value::Array(vec![bulk("10.0.0.5"), bulk("6390")]);
        assert_eq!(named(answer, &server(1)).unwrap(), server(6390));
        for foreign in [Value::Nil, Value::Array(vec![bulk("a")]), Value::Array(vec![bulk("a"), bulk("x")])] {
            assert_eq!(named(foreign, &server(1)), None, "an unknown name");
        }
    }
}
