//! Rate limits that gateways have together: what each has taken goes to Redis in rounds, and what all have used comes back.
//! Nobody waits for it: workers decide by what this node knows.

use std::sync::Arc;
use std::time::Duration;

use redis::{Cmd, Value};
use tokio::time::{MissedTickBehavior, interval, timeout};

use super::{Runner, Shared};
use crate::backplane::redis::connection::server_connection::ServerConnection;
use crate::backplane::redis::membership::nodes;
use crate::plugin::state::{Bucket, PluginState, Taken, Told};

/// How often a node reports what it has taken.
const ROUND: Duration = Duration::from_millis(200);
/// Keys that a node reports in one round. What is more waits for the next.
const KEYS_MAX: usize = 4096;
/// Keys of one script, so that Redis does something else in between.
const KEYS_PER_SCRIPT: usize = 256;
const SCRIPT: &str = include_str!("lua/limits.lua");

/// Plugins that keep rate limits, by name.
pub type States = Vec<(Arc<str>, Arc<PluginState>)>;

/// Carries what nodes have taken of rate limits between them. Made by [`Runner::reconciler`].
pub struct Reconciler {
    shared: Arc<Shared>,
    /// This process among others.
    node: String,
}

/// Keys of one bucket that are reported together.
struct Batch {
    state: Arc<PluginState>,
    /// What all keys of the bucket are named after.
    name: String,
    bucket: Bucket,
    keys: Vec<Taken>,
}

impl Runner {
    /// What reconciles rate limits over the connections that this runner makes.
    pub fn reconciler(&self) -> Reconciler {
        let shared = self.shared.clone();
        let node = nodes::name(shared.node);
        Reconciler { shared, node }
    }
}

impl Reconciler {
    /// Reports what the plugins' limits have taken, round by round, for as long as the runtime lives. Without Redis nothing
    /// is reported, and every node limits by itself.
    pub async fn run(self, states: impl Fn() -> States + Send) {
        let mut rounds = interval(ROUND);
        rounds.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            rounds.tick().await;
            // On the server where gateways meet: limits are few beside publications.
            if let Some(link) = self.shared.home() {
                let batches = collect(&states());
                if !batches.is_empty() {
                    self.round(&link, batches).await;
                }
            }
        }
    }

    async fn round(&self, link: &ServerConnection, batches: Vec<Batch>) {
        let mut pipeline = redis::pipe();
        for batch in &batches {
            pipeline.add_command(self.command(batch));
        }
        let Some(mut connection) = link.connections.first().cloned() else { return repeat(&batches) };
        let sent = connection.send_packed_commands(&pipeline, 0, batches.len());
        match timeout(self.shared.config.timeout, sent).await {
            Ok(Ok(replies)) if replies.len() == batches.len() => {
                let now = self.shared.clock.now().at_millis();
                for (batch, reply) in batches.iter().zip(replies) {
                    if !batch.settle(&reply, now) {
                        repeat(std::slice::from_ref(batch));
                    }
                }
            }
            // The watch of the link finds out what is wrong.
            _ => repeat(&batches),
        }
    }

    fn command(&self, batch: &Batch) -> Cmd {
        let rule = batch.bucket.rule();
        let mut command = redis::cmd("EVAL");
        command.arg(SCRIPT).arg(batch.keys.len());
        for taken in &batch.keys {
            command.arg(self.shared.keys.limit(&batch.name, &taken.key));
        }
        command.arg(&self.node).arg(rule.algorithm() as u32);
        command.arg(rule.limit()).arg(rule.period()).arg(rule.forgets_after());
        for taken in &batch.keys {
            command.arg(taken.total).arg(taken.known);
        }
        command
    }
}

/// What is to be reported in a round.
fn collect(states: &States) -> Vec<Batch> {
    let share = KEYS_MAX / states.len().max(1);
    let mut batches = Vec::new();
    for (plugin, state) in states {
        for reports in state.reports(share) {
            let rule = reports.bucket.rule();
            let name = format!(
                "{plugin}/{}/{}-{}-{}-{}",
                reports.name,
                rule.algorithm() as u32,
                rule.limit(),
                rule.period(),
                rule.burst()
            );
            let mut keys = reports.keys;
            while !keys.is_empty() {
                let rest = keys.split_off(keys.len().min(KEYS_PER_SCRIPT));
                let keys = std::mem::replace(&mut keys, rest);
                batches.push(Batch {
                    state: state.clone(),
                    name: name.clone(),
                    bucket: reports.bucket,
                    keys,
                });
            }
        }
    }
    batches
}

/// Nobody knows whether Redis has heard these. A report that is repeated counts once.
fn repeat(batches: &[Batch]) {
    for batch in batches {
        for taken in &batch.keys {
            batch.state.report_again(&batch.bucket, taken);
        }
    }
}

impl Batch {
    /// Takes the answer. False if it is none.
    fn settle(&self, reply: &Value, now: u64) -> bool {
        let Some(told) = answers(reply).filter(|told| told.len() == self.keys.len()) else { return false };
        for (taken, told) in self.keys.iter().zip(told) {
            self.state.reconcile(&self.bucket, taken, told, now);
        }
        true
    }
}

/// What the script answers: three numbers for each key.
fn answers(reply: &Value) -> Option<Vec<Told>> {
    let Value::Array(answers) = reply else { return None };
    let answer = |value: &Value| {
        let Value::BulkString(text) = value else { return None };
        let mut numbers = std::str::from_utf8(text).ok()?.split(' ').map(|number| {
            // Redis counts in floating point: what is too large for 64 bits is as much as there is.
            number.parse::<u64>().or_else(|_| number.parse::<f64>().map(|number| number as u64))
        });
        let mut next = || numbers.next()?.ok();
        Some(Told { used: next()?, before: next()?, age: next()? })
    };
    answers.iter().map(answer).collect()
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;
    use crate::plugin::state::{Rule, Scope};

    fn text(text: &str) -> Value {
        Value::BulkString(text.into())
    }

    #[test]
    fn an_answer_is_three_numbers_for_each_key() {
        let reply = Value::Array(vec![text("1500 0 7"), text("36893488147419103232 2 0")]);
        let told = answers(&reply).unwrap();
        assert_eq!(
            told,
            [Told { used: 1500, before: 0, age: 7 }, Told { used: u64::MAX, before: 2, age: 0 }]
        );
        for foreign in [Value::Nil, Value::Array(vec![Value::Int(1)]), Value::Array(vec![text("1 2")])] {
            assert_eq!(answers(&foreign), None, "{foreign:?}");
        }
    }

    #[test]
    fn many_keys_become_scripts_of_one_bucket_each() {
        let state = Arc::new(PluginState::default());
        let rule = Rule::new(1, 10, 1000, 20).unwrap();
        let buckets = ["a", "b"].map(|name| state.declare(name, rule, Scope::Cluster));
        for key in 0..300_u32 {
            assert_eq!(state.take(&buckets[0], &key.to_le_bytes(), 1, 0), 0);
        }
        assert_eq!(state.take(&buckets[1], b"k", 1, 0), 0);
        let batches = collect(&vec![("plugin".into(), state.clone())]);
        let sizes: Vec<_> = batches.iter().map(|batch| (&*batch.name, batch.keys.len())).collect();
        assert_eq!(
            sizes,
            [("plugin/a/1-10-1000-20", 256), ("plugin/a/1-10-1000-20", 44), ("plugin/b/1-10-1000-20", 1)]
        );
        assert!(!batches[2].settle(&Value::Array(vec![]), 0), "an answer to something else");
        assert!(batches[2].settle(&Value::Array(vec![text("20000 0 0")]), 0));
        assert_eq!(state.take(&buckets[1], b"k", 1, 0), 100, "others have used it up");
        repeat(&batches);
        let again = collect(&vec![("plugin".into(), state)]);
        assert_eq!(again.iter().map(|batch| batch.keys.len()).sum::<usize>(), 300, "but what was heard");
    }
}
