//! Which server is the master is what the Sentinels say. An isolated old master goes on acknowledging what will be lost: so
//! they are asked again for as long as a link lives.

use std::time::Duration;

use redis::Value;
use tokio::time::sleep;

use super::status::Cause;
use super::witness::{self, Witness};
use crate::config::{self, RedisSentinels, RedisServer};
use crate::telemetry::backplane::Trouble;

/// How often the Sentinels are asked while a link lives.
const ASKED: Duration = Duration::from_secs(1);

/// See the module. Keeps one connection to each Sentinel.
pub(super) struct Sentinels {
    config: RedisSentinels,
    each: Vec<Witness>,
    time: Duration,
}

impl Sentinels {
    /// Nothing connects before somebody asks.
    pub(super) fn new(redis: &config::Redis, config: &RedisSentinels) -> Result<Self, Cause> {
        let each = config.sentinels.iter().map(|sentinel| {
            // A Sentinel has no databases.
            let sentinel = RedisServer { database: 0, ..sentinel.clone() };
            Witness::new(redis, &sentinel, &config.username, config.password.as_ref())
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
        let Self { config, each, time } = self;
        let mut command = redis::cmd("SENTINEL");
        command.arg("GET-MASTER-ADDR-BY-NAME").arg(&*config.master);
        let (like, all) = (&config.sentinels[0], each.len());
        let most = |answers: &[Result<((), Value), Cause>]| {
            let named: Vec<_> = answers.iter().flatten().map(|(_, value)| named(value, like)).collect();
            let agree =
                |one: &&Option<RedisServer>| named.iter().filter(|other| other == one).count() > all / 2;
            named.iter().any(|one| one.is_some() && agree(&one))
        };
        let answers = witness::ask(each.iter_mut().map(|each| ((), each)), &command, *time, most).await;
        answers.into_iter().map(|answer| answer.map(|(_, value)| named(&value, like))).collect()
    }
}

/// The server that a Sentinel names. It is reached as the Sentinels are.
fn named(answer: &Value, like: &RedisServer) -> Option<RedisServer> {
    let Value::Array(parts) = answer else { return None };
    let [Value::BulkString(host), Value::BulkString(port)] = &parts[..] else { return None };
    let (host, port) = (std::str::from_utf8(host).ok()?, std::str::from_utf8(port).ok()?.parse().ok()?);
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
        assert_eq!(named(&answer, &server(1)).unwrap(), server(6390));
        for foreign in [Value::Nil, Value::Array(vec![bulk("a")]), Value::Array(vec![bulk("a"), bulk("x")])] {
            assert_eq!(named(&foreign, &server(1)), None, "an unknown name");
        }
    }
}
