//! Implements the host functions for rate limits and values.

use wasmtime::bail;

use super::{Error, code, error};
use crate::plugin::state::{Bucket, IncrementError, KEY_BYTES_MAX, Rule, Scope, TooLarge};
use crate::wasm::bindings::gateway::plugin::{buckets, key_value};
use crate::wasm::call::{Hook, State};

/// Most buckets of one instance.
const BUCKETS_MAX: usize = 64;
/// Longest name of a bucket in bytes.
const NAME_BYTES_MAX: usize = 256;

/// The values of `rule.scope`.
mod scope {
    pub(super) const NODE: u32 = 1;
    pub(super) const CLUSTER: u32 = 2;
}

impl buckets::Host for State {
    fn declare(&mut self, name: String, rule: buckets::Rule) -> Result<u32, Error> {
        self.only_in_configure()?;
        let scope = match rule.scope {
            scope::NODE => Scope::Node,
            // Without other nodes, this node is the cluster.
            scope::CLUSTER => Scope::Cluster,
            other => {
                return Err(error(code::INVALID_RULE, format!("there is no scope {other}; expected 1 or 2")));
            }
        };
        if self.buckets.len() >= BUCKETS_MAX {
            return Err(error(code::TOO_MANY_EFFECTS, format!("more than {BUCKETS_MAX} buckets")));
        }
        if name.len() > NAME_BYTES_MAX {
            let message = format!("the name of a bucket has more than {NAME_BYTES_MAX} bytes");
            return Err(error(code::INVALID_NAME, message));
        }
        let rule = Rule::new(rule.algorithm, rule.limit, rule.period, rule.burst)
            .map_err(|invalid| error(code::INVALID_RULE, invalid.to_string()))?;
        let bucket = self.kept.declare(&name, rule, scope);
        self.buckets.push(bucket);
        Ok(self.buckets.len() as u32 - 1)
    }

    fn take(&mut self, bucket: u32, key: Vec<u8>, cost: u32) -> wasmtime::Result<u64> {
        let bucket = self.bucket(bucket)?;
        Ok(self.kept.take(&bucket, &key, cost, self.event.at))
    }

    fn take_connection(&mut self, bucket: u32, cost: u32) -> wasmtime::Result<u64> {
        let bucket = self.bucket(bucket)?;
        if self.event.hook != Hook::Message {
            bail!("only a message carries the rate limits of its connection");
        }
        Ok(self.meters.take(&bucket, cost, self.event.at))
    }

    fn peek(&mut self, bucket: u32, key: Vec<u8>) -> wasmtime::Result<(u64, u64)> {
        let bucket = self.bucket(bucket)?;
        let room = self.kept.room(&bucket, &key, self.event.at);
        Ok((room.remaining, room.full_in))
    }
}

impl key_value::Host for State {
    fn ask(&mut self) -> Result<(), Error> {
        self.only_in_configure()?;
        self.asked.key_value = true;
        Ok(())
    }

    fn get(&mut self, key: String) -> Option<Vec<u8>> {
        if !self.capabilities.values {
            return None;
        }
        self.kept.get(key.as_bytes(), self.event.at)
    }

    fn set(&mut self, key: String, value: Vec<u8>, ttl: Option<u64>) -> Result<(), Error> {
        self.pay_for_value(key.len() + value.len())?;
        self.kept.set(key.as_bytes(), &value, ttl, self.event.at).map_err(|TooLarge| too_large())
    }

    fn add(&mut self, key: String, value: Vec<u8>, ttl: Option<u64>) -> Result<bool, Error> {
        self.pay_for_value(key.len() + value.len())?;
        self.kept.add(key.as_bytes(), &value, ttl, self.event.at).map_err(|TooLarge| too_large())
    }

    fn increment(&mut self, key: String, by: i64, ttl: Option<u64>) -> Result<i64, Error> {
        self.pay_for_value(key.len())?;
        self.kept.increment(key.as_bytes(), by, ttl, self.event.at).map_err(|failed| match failed {
            IncrementError::NotANumber => error(code::NOT_A_NUMBER, "the value is not a number"),
            IncrementError::Overflow => error(code::NOT_A_NUMBER, "the number would not fit into 64 bits"),
            IncrementError::TooLarge => too_large(),
        })
    }

    fn delete(&mut self, key: String) -> bool {
        self.capabilities.values && self.kept.delete(key.as_bytes(), self.event.at)
    }
}

impl State {
    fn bucket(&self, number: u32) -> wasmtime::Result<Bucket> {
        match self.buckets.get(number as usize) {
            Some(bucket) => Ok(*bucket),
            None => bail!("there is no bucket {number}: this instance has declared {}", self.buckets.len()),
        }
    }

    fn pay_for_value(&mut self, bytes: usize) -> Result<(), Error> {
        if !self.capabilities.values {
            return Err(error(code::NOT_GRANTED, "values are not granted (grants.key-value)"));
        }
        self.spend(bytes).map_err(|exhausted| self.exhausted(exhausted))
    }
}

fn too_large() -> Error {
    let message = format!(
        "larger than the gateway keeps: a key has at most {KEY_BYTES_MAX} bytes, an entry a sixteenth of \
         state.bytes_max"
    );
    error(code::TOO_LARGE, message)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failing test may panic")]

    use std::sync::Arc;

    use super::buckets::Host as _;
    use super::key_value::Host as _;
    use super::*;
    use crate::plugin::counters::PluginCounters;
    use crate::plugin::interests::Hooks;
    use crate::plugin::settings::Limits;
    use crate::wasm::capabilities::Capabilities;
    use crate::wasm::output::{Log, LogBudget};

    /// An instance in `configure`, of the plugin with these counters.
    fn configuring(counters: &Arc<PluginCounters>) -> State {
        let log = Log {
            plugin: "test".into(),
            budget: Arc::new(LogBudget::new(1)),
            counters: counters.clone(),
            environment: Arc::default(),
        };
        let limits = Limits { effect_bytes_max: 1000, ..Limits::default() };
        State::new(Arc::new(limits), Hooks::default(), Arc::default(), log)
    }

    fn one_a_second(scope: u32) -> buckets::Rule {
        buckets::Rule { algorithm: 1, limit: 1, period: 1000, burst: 0, scope }
    }

    fn refused<T: std::fmt::Debug>(answer: Result<T, Error>) -> u32 {
        answer.unwrap_err().code
    }

    #[test]
    fn what_is_declared_is_checked() {
        let mut state = configuring(&Arc::new(PluginCounters::new(1)));
        assert_eq!(state.declare("a".into(), one_a_second(1)).unwrap(), 0);
        assert_eq!(state.declare("b".into(), one_a_second(1)).unwrap(), 1);
        assert_eq!(state.declare("a".into(), one_a_second(2)).unwrap(), 2);
        assert_eq!(refused(state.declare("a".into(), one_a_second(3))), code::INVALID_RULE);
        let never = buckets::Rule { limit: 0, ..one_a_second(1) };
        assert_eq!(refused(state.declare("a".into(), never)), code::INVALID_RULE);
        assert_eq!(refused(state.declare("a".repeat(257), one_a_second(1))), code::INVALID_NAME);
        while state.buckets.len() < BUCKETS_MAX {
            state.declare("more".into(), one_a_second(1)).unwrap();
        }
        assert_eq!(refused(state.declare("c".into(), one_a_second(1))), code::TOO_MANY_EFFECTS);
        state.event.hook = Hook::Message;
        assert_eq!(refused(state.declare("c".into(), one_a_second(1))), code::NOT_IN_THIS_HOOK);
    }

    #[test]
    fn the_next_instance_goes_on_where_the_last_one_was() {
        let counters = Arc::new(PluginCounters::new(1));
        let mut first = configuring(&counters);
        let bucket = first.declare("a".into(), one_a_second(1)).unwrap();
        first.event.at = 500;
        assert_eq!(first.take(bucket, b"k".to_vec(), 1).unwrap(), 0);
        first.set("k".into(), b"v".to_vec(), None).unwrap();
        drop(first);
        let mut second = configuring(&counters);
        second.declare("another".into(), one_a_second(1)).unwrap();
        let bucket = second.declare("a".into(), one_a_second(1)).unwrap();
        second.event.at = 600;
        assert_eq!(second.take(bucket, b"k".to_vec(), 1).unwrap(), 900);
        assert_eq!(second.peek(bucket, b"k".to_vec()).unwrap(), (0, 900));
        assert_eq!(second.get("k".into()).as_deref(), Some(&b"v"[..]));
        assert!(second.delete("k".into()));
        assert_eq!(counters.read().state.entries, 1);
    }

    #[test]
    fn values_count_against_the_budget_of_a_call() {
        let mut state = configuring(&Arc::new(PluginCounters::new(1)));
        state.set("a".into(), vec![0; 900], None).unwrap();
        assert_eq!(refused(state.set("a".into(), vec![0; 100], None)), code::TOO_MANY_BYTES);
        assert_eq!(refused(state.add("a".into(), vec![0; 100], None)), code::TOO_MANY_BYTES);
        assert_eq!(refused(state.increment("n".repeat(100), 1, None)), code::TOO_MANY_BYTES);
    }

    /// A plugin that declares `key-value` in `configure` is loaded without the grant, and may call undeclared
    /// functions.
    #[test]
    fn without_the_grant_nothing_is_kept_or_found() {
        let mut state = configuring(&Arc::new(PluginCounters::new(1)));
        state.ask().unwrap();
        assert_eq!(state.asked.names(), ["key-value"]);
        state.set("k".into(), b"v".to_vec(), None).unwrap();
        state.event.hook = Hook::Message;
        assert_eq!(refused(state.ask()), code::NOT_IN_THIS_HOOK);

        let mut capabilities = Capabilities::default();
        capabilities.values = false;
        state.capabilities = Arc::new(capabilities);
        assert_eq!(state.get("k".into()), None);
        assert!(!state.delete("k".into()));
        assert_eq!(refused(state.set("k".into(), vec![], None)), code::NOT_GRANTED);
        assert_eq!(refused(state.add("n".into(), vec![], None)), code::NOT_GRANTED);
        assert_eq!(refused(state.increment("n".into(), 1, None)), code::NOT_GRANTED);
        state.capabilities = Arc::default();
        assert_eq!(state.get("k".into()).as_deref(), Some(&b"v"[..]));
    }

    #[test]
    fn what_is_wrong_with_a_value_has_a_code() {
        let mut state = configuring(&Arc::new(PluginCounters::new(1)));
        assert_eq!(refused(state.set("k".repeat(513), vec![], None)), code::TOO_LARGE);
        state.set("k".into(), b"x".to_vec(), None).unwrap();
        assert_eq!(refused(state.increment("k".into(), 1, None)), code::NOT_A_NUMBER);
        assert_eq!(state.increment("n".into(), i64::MAX, None).unwrap(), i64::MAX);
        assert_eq!(refused(state.increment("n".into(), 1, None)), code::NOT_A_NUMBER);
    }

    #[test]
    fn only_messages_have_the_limits_of_their_connection() {
        let mut state = configuring(&Arc::new(PluginCounters::new(1)));
        let bucket = state.declare("a".into(), one_a_second(1)).unwrap();
        for hook in [Hook::Configure, Hook::Connect, Hook::Disconnect, Hook::Timer] {
            state.event.hook = hook;
            assert!(state.take_connection(bucket, 1).is_err(), "{hook:?}");
        }
        state.event.hook = Hook::Message;
        assert_eq!([0; 2].map(|_: u8| state.take_connection(bucket, 1).unwrap()), [0, 1000]);
        assert!(state.take_connection(bucket + 1, 1).is_err());
    }
}
