//! A queue of commands, whichever server has it.

use gateway_tests::{Data, Gateway, Nats, Postgres, Redis};
use serde_json::{Value, json};

use crate::tools::readme::{blocks, root};

/// Who has the queue.
#[derive(Debug, Clone, Copy)]
pub(super) enum Kind {
    Redis,
    Postgres,
    Nats,
}

#[derive(Debug)]
pub(super) enum Queue {
    Redis(Redis),
    Postgres(Postgres),
    Nats(Nats),
}

const TOKEN: &str = "the-token-of-the-tests";

/// A publication of a number.
pub(super) fn publish(channel: &str, number: u64) -> (String, Value) {
    ("publish".to_owned(), json!({ "channel": channel, "data": number }))
}

impl Queue {
    pub(super) async fn start(kind: Kind) -> Self {
        match kind {
            Kind::Redis => Self::Redis(Redis::with("").persistent().start().await),
            Kind::Postgres => {
                let postgres = Postgres::start().await;
                let page = std::fs::read_to_string(root().join("gateway/docs/consumers.md")).unwrap();
                postgres.ask(&blocks(&page, "sql")[0]).await;
                Self::Postgres(postgres)
            }
            Kind::Nats => {
                let nats = Nats::start(TOKEN).await;
                nats.make_stream("COMMANDS", &["commands.*"]).await;
                Self::Nats(nats)
            }
        }
    }

    /// The table of the consumer `orders`, with one partition.
    pub(super) fn settings(&self, more: &str) -> String {
        self.settings_of(1, more)
    }

    /// The same with so many partitions.
    pub(super) fn settings_of(&self, partitions: usize, more: &str) -> String {
        let list = |name: &str| {
            (0..partitions).map(|partition| format!("'{name}{partition}'")).collect::<Vec<_>>().join(", ")
        };
        let own = match self {
            Self::Redis(redis) => {
                format!("kind = 'redis-stream'\nurl = '{}'\nstreams = [{}]", redis.url(), list("commands:"))
            }
            Self::Postgres(postgres) => format!(
                "kind = 'postgres'\nurl = '{}'\nusername = '{}'\npassword = 'env:PASSWORD'\npartitions = {partitions}\n\
                 channel = 'gateway_outbox_changed'\npoll_interval = '1m'",
                postgres.url(),
                postgres.login().0
            ),
            Self::Nats(nats) => format!(
                "kind = 'nats'\nurl = '{}'\npassword = 'env:PASSWORD'\nstream = 'COMMANDS'\nsubjects = [{}]",
                nats.url(),
                list("commands.")
            ),
        };
        format!(
            "[consumers.orders]\nreconnect_pause_max = '200ms'\nretry_pause_max = '200ms'\n{own}\n{more}\n"
        )
    }

    /// A gateway that knows the password.
    pub(super) async fn gateway(&self, config: &str) -> Gateway {
        let password = match self {
            Self::Redis(_) => "",
            Self::Postgres(postgres) => postgres.login().1,
            Self::Nats(_) => TOKEN,
        };
        Gateway::with(config).environment("PASSWORD", password).start().await
    }

    /// Puts commands into a partition, in order.
    pub(super) async fn put(&self, partition: usize, commands: &[(String, Value)]) {
        match self {
            Self::Redis(redis) => {
                let stream = format!("commands:{partition}");
                let add = "for i = 1, #ARGV, 2 do \
                           redis.call('XADD', KEYS[1], '*', 'method', ARGV[i], 'payload', ARGV[i + 1]) end";
                let payloads: Vec<_> = commands.iter().map(|(_, payload)| payload.to_string()).collect();
                let mut command = vec!["EVAL", add, "1", &stream];
                for ((method, _), payload) in commands.iter().zip(&payloads) {
                    command.extend([&**method, payload]);
                }
                redis.ask(&command).await;
            }
            Self::Postgres(postgres) => {
                let rows = commands
                    .iter()
                    .map(|(method, payload)| format!("('{method}', '{payload}', {partition})"));
                let rows = rows.collect::<Vec<_>>().join(", ");
                postgres
                    .ask(&format!("INSERT INTO gateway_outbox (method, payload, partition) VALUES {rows}"))
                    .await;
            }
            Self::Nats(nats) => {
                let payloads: Vec<_> = commands
                    .iter()
                    .map(|(method, payload)| json!({ "method": method, "payload": payload }).to_string())
                    .collect();
                nats.put(&format!("commands.{partition}"), &payloads).await;
            }
        }
    }

    /// Puts something into the first partition that is no command, as far as the queue accepts that.
    pub(super) async fn put_nonsense(&self) {
        match self {
            Self::Redis(redis) => {
                redis.ask(&["XADD", "commands:0", "*", "nonsense", "1"]).await;
            }
            Self::Postgres(postgres) => {
                let sql = "INSERT INTO gateway_outbox (method, payload) VALUES ('a method', '1')";
                postgres.ask(sql).await;
            }
            Self::Nats(nats) => {
                nats.put("commands.0", &["nonsense".to_owned()]).await;
            }
        }
    }

    /// Puts into the first partition what hurts a careless reader, as far as the queue accepts that: entries
    /// of 10 MB, without a value, without a time, and nested without end. Returns how many they are.
    pub(super) async fn put_poison(&self) -> usize {
        let nested =
            format!(r#"{{"channel":"news:1","data":{}}}"#, ["[".repeat(50_000), "]".repeat(50_000)].concat());
        match self {
            Self::Redis(redis) => {
                let huge = "redis.call('XADD', KEYS[1], '*', 'method', 'publish', 'payload', string.rep('x', 1e7)) \
                            redis.call('XADD', KEYS[1], '*', 'method', string.rep('m', 1e7), 'payload', '{}') \
                            redis.call('XADD', KEYS[1], '*', 'method', 'publish', 'payload', '\"\\255')";
                redis.ask(&["EVAL", huge, "1", "commands:0"]).await;
                redis.ask(&["XADD", "commands:0", "*", "method", "publish", "payload", &nested]).await;
                let more = ["method", "publish", "payload", "{}", "trace", "7"];
                redis.ask(&[&["XADD", "commands:0", "*"][..], &more].concat()).await;
                5
            }
            Self::Postgres(postgres) => {
                postgres
                    .ask(
                        "ALTER TABLE gateway_outbox ALTER method DROP NOT NULL, ALTER payload DROP NOT NULL, \
                         ALTER created_at DROP NOT NULL; \
                         INSERT INTO gateway_outbox (method, payload, created_at) VALUES \
                         (NULL, '{}', now()), ('publish', NULL, now()), ('publish', '{}', NULL), \
                         ('publish', '{}', 'infinity'), ('publish', '{}', '294276-12-31'), \
                         ('publish', to_jsonb(repeat('x', 10000000)), now()), \
                         (repeat('m', 10000000), '{}', now())",
                    )
                    .await;
                7
            }
            Self::Nats(nats) => {
                let nested = format!(r#"{{"method":"publish","payload":{nested}}}"#);
                nats.put("commands.0", &[nested, String::new(), "\u{0}".to_owned()]).await;
                3
            }
        }
    }

    /// Puts entries of a megabyte into the first partition, each with a method that does not exist.
    pub(super) async fn put_large(&self, count: usize) {
        match self {
            Self::Redis(redis) => {
                // One at a time: the server writes each to its file before it answers.
                let payload = "x".repeat(1_000_000);
                for _ in 0..count {
                    redis.ask(&["XADD", "commands:0", "*", "method", "unknown", "payload", &payload]).await;
                }
            }
            Self::Postgres(postgres) => {
                let add = format!(
                    "INSERT INTO gateway_outbox (method, payload) \
                     SELECT 'unknown', to_jsonb(repeat('x', 1000000)) FROM generate_series(1, {count})"
                );
                postgres.ask(&add).await;
            }
            Self::Nats(_) => unreachable!("it gives one entry at a time, whatever is in it"),
        }
    }

    /// How many commands are not acknowledged.
    pub(super) async fn left(&self) -> u64 {
        match self {
            Self::Redis(redis) => {
                let mut left = 0;
                for stream in ["commands:0", "commands:1"] {
                    // The number of the pending ones, and those that were never read: all before the gateway
                    // has made its group.
                    let read = "local g = redis.call('XINFO', 'GROUPS', KEYS[1])[1]; \
                        if not g then return redis.call('XLEN', KEYS[1]) end; return g[6] + (g[12] or 0)";
                    let count = "if redis.call('EXISTS', KEYS[1]) == 0 then return 0 end; ";
                    let answer = redis.ask(&["EVAL", &format!("{count}{read}"), "1", stream]).await;
                    left += u64::try_from(answer.number()).unwrap();
                }
                left
            }
            Self::Postgres(postgres) => {
                postgres.ask("SELECT count(*) FROM gateway_outbox").await.parse().unwrap()
            }
            Self::Nats(nats) => nats.left("COMMANDS", "gateway").await,
        }
    }

    pub(super) async fn kill(&mut self) {
        match self {
            Self::Redis(redis) => redis.kill(),
            Self::Postgres(postgres) => postgres.kill().await,
            Self::Nats(nats) => nats.kill(),
        }
    }

    pub(super) async fn revive(&mut self) {
        match self {
            Self::Redis(redis) => redis.revive(Data::Kept).await,
            Self::Postgres(postgres) => postgres.revive().await,
            Self::Nats(nats) => nats.revive().await,
        }
    }

    pub(super) async fn freeze(&self) {
        match self {
            Self::Redis(redis) => redis.freeze().await,
            Self::Postgres(postgres) => postgres.freeze(),
            Self::Nats(nats) => nats.freeze(),
        }
    }

    pub(super) fn thaw(&self) {
        match self {
            Self::Redis(redis) => redis.thaw(),
            Self::Postgres(postgres) => postgres.thaw(),
            Self::Nats(nats) => nats.thaw(),
        }
    }
}
