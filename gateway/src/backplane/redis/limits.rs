//! [`Reconciler`] shares rate limits between gateways: each gateway periodically reports its use to Redis and
//! reads the use of all. No request waits for this: workers decide by what their node knows.

use std::sync::Arc;
use std::time::Duration;

use redis::{Cmd, Value};
use tokio::time::{MissedTickBehavior, interval, timeout};

use crate::backplane::redis::connection::server_connection::ServerConnection;
use crate::backplane::redis::context::Context;
use crate::backplane::redis::topology::Topology;
use crate::plugin::state::{Bucket, MeterState, PluginState, Taken};

/// Interval between two reports of a node.
const ROUND: Duration = Duration::from_millis(200);
/// Maximum number of keys that a node reports in one round. Further keys wait for the next.
const KEYS_MAX: usize = 4096;
/// Keys per script, so that Redis can do something else in between.
const KEYS_PER_SCRIPT: usize = 256;
const SCRIPT: &str = include_str!("lua/limits.lua");

/// Plugins that keep rate limits, by name.
pub type States = Vec<(Arc<str>, Arc<PluginState>)>;

/// Exchanges the use of rate limits between nodes. Created by
/// [`Runner::reconciler`](super::Runner::reconciler).
pub struct Reconciler {
    context: Arc<Context>,
    topology: Arc<Topology>,
    /// Identifier of this process.
    node: String,
}

/// Keys of one bucket that are reported together.
struct Batch {
    state: Arc<PluginState>,
    /// Common name of all keys of the bucket.
    name: String,
    bucket: Bucket,
    keys: Vec<Taken>,
}

impl Reconciler {
    pub(crate) fn new(context: Arc<Context>, topology: Arc<Topology>) -> Self {
        Self { node: context.node_name(), context, topology }
    }

    /// Reports the use of the plugins' limits in rounds, for as long as the runtime lives. Without Redis
    /// nothing is reported, and every node limits independently.
    pub async fn run(self, states: impl Fn() -> States + Send) {
        let mut rounds = interval(ROUND);
        rounds.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            rounds.tick().await;
            // All limits are on the shared server: they are few compared to publications.
            if let Some(server) = self.topology.shared_server() {
                let batches = collect(&states());
                if !batches.is_empty() {
                    self.round(&server, batches).await;
                }
            }
        }
    }

    async fn round(&self, server: &ServerConnection, batches: Vec<Batch>) {
        let mut pipeline = redis::pipe();
        for batch in &batches {
            pipeline.add_command(self.command(batch));
        }
        let Some(mut connection) = server.connections.first().cloned() else { return repeat(&batches) };
        let sent = connection.send_packed_commands(&pipeline, 0, batches.len());
        match timeout(self.context.config.timeout, sent).await {
            Ok(Ok(replies)) if replies.len() == batches.len() => {
                let now = self.context.clock.now().at_millis();
                for (batch, reply) in batches.iter().zip(replies) {
                    if !batch.settle(&reply, now) {
                        repeat(std::slice::from_ref(batch));
                    }
                }
            }
            // The connection's health check finds out what is wrong.
            _ => repeat(&batches),
        }
    }

    fn command(&self, batch: &Batch) -> Cmd {
        let rule = batch.bucket.rule();
        let mut command = redis::cmd("EVAL");
        command.arg(SCRIPT).arg(batch.keys.len());
        for taken in &batch.keys {
            command.arg(self.context.keys.limit(&batch.name, &taken.key));
        }
        command.arg(&self.node).arg(rule.algorithm() as u32);
        command.arg(rule.limit()).arg(rule.period()).arg(rule.forgets_after());
        for taken in &batch.keys {
            command.arg(taken.total).arg(taken.known);
        }
        command
    }
}

/// Collects the reports of a round.
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

/// Redis may or may not have received these reports. A repeated report counts once.
fn repeat(batches: &[Batch]) {
    for batch in batches {
        for taken in &batch.keys {
            batch.state.report_again(&batch.bucket, taken);
        }
    }
}

impl Batch {
    /// Takes in the reply. False if it is invalid.
    fn settle(&self, reply: &Value, now: u64) -> bool {
        let Some(uses) = answers(reply).filter(|uses| uses.len() == self.keys.len()) else { return false };
        for (taken, uses) in self.keys.iter().zip(uses) {
            self.state.reconcile(&self.bucket, taken, uses, now);
        }
        true
    }
}

/// Reads the reply of the script: three numbers for each key.
fn answers(reply: &Value) -> Option<Vec<MeterState>> {
    let Value::Array(answers) = reply else { return None };
    let answer = |value: &Value| {
        let Value::BulkString(text) = value else { return None };
        let mut numbers = std::str::from_utf8(text).ok()?.split(' ').map(|number| {
            // Redis counts in floating point: a number too large for 64 bits is the maximum.
            number.parse::<u64>().or_else(|_| number.parse::<f64>().map(|number| number as u64))
        });
        let mut next = || numbers.next()?.ok();
        Some(MeterState { used: next()?, before: next()?, age: next()? })
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
        let uses = answers(&reply).unwrap();
        assert_eq!(
            uses,
            [MeterState { used: 1500, before: 0, age: 7 }, MeterState { used: u64::MAX, before: 2, age: 0 }]
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
