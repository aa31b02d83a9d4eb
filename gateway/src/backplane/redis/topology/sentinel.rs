//! `Sentinels` finds the master by asking the Sentinels. An isolated old master still acknowledges writes
//! that will be lost, so they are polled for as long as a connection lives.

use std::time::Duration;

use redis::Value;
use tokio::time::sleep;

use crate::backplane::redis::connection::status::Cause;
use crate::backplane::redis::topology::poll::{self, PolledServer};
use crate::config::{self, RedisSentinels, RedisServer};
use crate::telemetry::backplane::Trouble;

/// Poll interval while a connection lives.
const ASKED: Duration = Duration::from_secs(1);

/// See the module. Keeps one connection to each Sentinel.
pub(crate) struct Sentinels {
    config: RedisSentinels,
    each: Vec<PolledServer>,
    time: Duration,
}

impl Sentinels {
    /// Connects with the first poll.
    pub(crate) fn new(redis: &config::Redis, config: &RedisSentinels) -> Result<Self, Cause> {
        let each = config.sentinels.iter().map(|sentinel| {
            // Sentinels have no databases.
            let sentinel = RedisServer { database: 0, ..sentinel.clone() };
            PolledServer::new(redis, &sentinel, &config.username, config.password.as_ref())
        });
        Ok(Self { each: each.collect::<Result<_, _>>()?, config: config.clone(), time: redis.timeout })
    }

    /// The server named by most of the Sentinels that answer.
    pub(crate) async fn master(&mut self) -> Result<RedisServer, Cause> {
        let votes = self.ask().await;
        if let Some(master) = elected(&voted(&votes)) {
            return Ok(master.clone());
        }
        let refused = |(_, vote): &Vote| matches!(vote, Err(Cause { trouble: Trouble::Refused, .. }));
        let said = said(&votes);
        if votes.iter().any(refused) {
            let why = format!("wrong `redis.sentinel_username` or `redis.sentinel_password`: {said}");
            return Err(Cause::new(Trouble::Refused, why));
        }
        let name = &self.config.master;
        let silent = votes.iter().find_map(|(_, vote)| vote.as_ref().err()).map(|cause| cause.trouble);
        let what = match silent {
            None => format!("no sentinel knows a master named {name}"),
            Some(_) => format!("no sentinel names a master {name}"),
        };
        Err(Cause::new(silent.unwrap_or(Trouble::Unreachable), format!("{what}: {said}")))
    }

    /// The current answers of all Sentinels, in one sentence.
    pub(crate) async fn opinions(&mut self) -> String {
        said(&self.ask().await)
    }

    /// Returns when most of the Sentinels that answer name another server.
    pub(crate) async fn depose(&mut self, server: &RedisServer) -> Cause {
        loop {
            sleep(ASKED).await;
            let votes = self.ask().await;
            if is_deposed(server, &voted(&votes)) {
                return Cause::new(
                    Trouble::Unreachable,
                    format!("{server} is not the master any more: the sentinels name another one"),
                );
            }
        }
    }

    /// Asks all Sentinels; returns early if most agree.
    async fn ask(&mut self) -> Vec<Vote> {
        let Self { config, each, time } = self;
        let mut command = redis::cmd("SENTINEL");
        command.arg("GET-MASTER-ADDR-BY-NAME").arg(&*config.master);
        let (like, all) = (&config.sentinels[0], each.len());
        let most = |answers: &[(RedisServer, Result<Value, Cause>)]| {
            let named: Vec<_> =
                answers.iter().filter_map(|(_, answer)| Some(named(answer.as_ref().ok()?, like))).collect();
            let agree =
                |one: &&Option<RedisServer>| named.iter().filter(|other| other == one).count() > all / 2;
            named.iter().any(|one| one.is_some() && agree(&one))
        };
        let asked = config.sentinels.iter().cloned().zip(each);
        let answers = poll::ask(asked, &command, *time, most).await;
        answers.into_iter().map(|(at, answer)| (at, answer.map(|value| named(&value, like)))).collect()
    }
}

/// A Sentinel and its answer.
type Vote = (RedisServer, Result<Option<RedisServer>, Cause>);

/// The servers that were named.
fn voted(votes: &[Vote]) -> Vec<&RedisServer> {
    votes.iter().filter_map(|(_, vote)| vote.as_ref().ok()?.as_ref()).collect()
}

/// Describes the answers of the Sentinels.
fn said(votes: &[Vote]) -> String {
    let said = |(at, vote): &Vote| match vote {
        Ok(Some(server)) => format!("{at} names {server}"),
        Ok(None) => format!("{at} knows no such master"),
        Err(cause) => format!("{at}: {}", cause.detail),
    };
    votes.iter().map(said).collect::<Vec<_>>().join("; ")
}

/// Parses the server named by a Sentinel. It has the transport of the Sentinels.
fn named(answer: &Value, like: &RedisServer) -> Option<RedisServer> {
    let Value::Array(parts) = answer else { return None };
    let [Value::BulkString(host), Value::BulkString(port)] = &parts[..] else { return None };
    let (host, port) = (std::str::from_utf8(host).ok()?, std::str::from_utf8(port).ok()?.parse().ok()?);
    Some(RedisServer { host: host.into(), port, ..like.clone() })
}

/// The server with the most votes; the first one if several have the same number.
fn elected<'a>(named: &[&'a RedisServer]) -> Option<&'a RedisServer> {
    let count = |one: &RedisServer| named.iter().filter(|other| **other == one).count();
    named.iter().copied().reduce(|best, one| if count(one) > count(best) { one } else { best })
}

fn is_deposed(server: &RedisServer, named: &[&RedisServer]) -> bool {
    2 * named.iter().filter(|one| **one != server).count() > named.len()
}

/// Runs [`Sentinels::depose`] while a connection lives; without Sentinels it never ends.
pub(crate) async fn depose(sentinels: Option<&mut Sentinels>, server: &RedisServer) -> Cause {
    match sentinels {
        Some(sentinels) => sentinels.depose(server).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use crate::backplane::redis::topology::sentinel::*;

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
    fn each_sentinel_is_told_with_what_it_says() {
        let votes = [
            (server(1), Ok(Some(server(7)))),
            (server(2), Ok(None)),
            (server(3), Err(Cause::new(Trouble::Unreachable, "refused"))),
        ];
        assert_eq!(
            said(&votes),
            "10.0.0.5:1 names 10.0.0.5:7; 10.0.0.5:2 knows no such master; 10.0.0.5:3: refused"
        );
    }

    #[test]
    fn the_master_is_reached_as_the_sentinels_are() {
        let bulk = |text: &str| Value::BulkString(text.into());
        let answer = Value::Array(vec![bulk("10.0.0.5"), bulk("6390")]);
        assert_eq!(named(&answer, &server(1)).unwrap(), server(6390));
        for foreign in [Value::Nil, Value::Array(vec![bulk("a")]), Value::Array(vec![bulk("a"), bulk("x")])] {
            assert_eq!(named(&foreign, &server(1)), None, "an unknown name");
        }
    }
}
