//! A book of events: what happened at gateways, what a backend was told, and what was given up. The headline
//! figure is *lost silently*: it happened, the backend was never told, and no dead letter says so.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde_json::Value;

use crate::endpoint::Received;

/// What a test knows to have happened: a text that only this event has, such as a type with a channel and a
/// payload.
pub type Fact = String;

/// The figures.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct EventReport {
    /// Facts that the backend was told.
    pub told: usize,
    /// Facts that it was told more than once, under one id.
    pub repeated: usize,
    /// Facts that it was told under different ids.
    pub doubled: BTreeSet<Fact>,
    /// Facts that were given up, and are in a dead-letter file.
    pub dead: usize,
    /// Facts of which nothing is known.
    pub lost_silently: BTreeSet<Fact>,
}

/// The events in the bodies of requests that the endpoint has accepted, in order.
pub fn events_of(requests: &[Received]) -> Vec<Value> {
    let events = |request: &Received| {
        let body: Value = serde_json::from_slice(&request.body).expect("a body is JSON");
        body["events"].as_array().unwrap_or_else(|| panic!("no list of events: {body}")).clone()
    };
    requests.iter().flat_map(events).collect()
}

/// The events in a dead-letter file.
pub fn dead_events(file: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(file).unwrap_or_default();
    let payload = |line: &str| {
        let mut line: Value = serde_json::from_str(line).expect("a dead letter is JSON");
        line["payload"].take()
    };
    text.lines().map(payload).collect()
}

/// Compares what happened with what was told and given up. `fact` names the fact of an event; `None` for an
/// event that is not in the book.
pub fn compare(
    happened: &BTreeSet<Fact>,
    told: &[Value],
    dead: &[Value],
    fact: impl Fn(&Value) -> Option<Fact>,
) -> EventReport {
    let mut ids: BTreeMap<Fact, Vec<&str>> = BTreeMap::new();
    for event in told {
        if let Some(fact) = fact(event) {
            ids.entry(fact).or_default().push(event["id"].as_str().expect("an event has an id"));
        }
    }
    let given_up: BTreeSet<Fact> = dead.iter().filter_map(&fact).collect();
    let mut report = EventReport::default();
    for fact in happened {
        match ids.get(fact) {
            Some(ids) => {
                report.told += 1;
                let different: BTreeSet<_> = ids.iter().collect();
                if different.len() > 1 {
                    report.doubled.insert(fact.clone());
                }
                report.repeated += usize::from(ids.len() > different.len());
            }
            None if given_up.contains(fact) => report.dead += 1,
            None => _ = report.lost_silently.insert(fact.clone()),
        }
    }
    report
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_neither_told_nor_given_up_is_lost_silently() {
        let fact = |event: &Value| event["n"].as_u64().map(|n| n.to_string());
        let happened = (1..=5).map(|n| n.to_string()).collect();
        let event = |n: u64, id: &str| json!({ "n": n, "id": id });
        let told =
            [event(1, "a"), event(2, "b"), event(2, "b"), event(3, "c"), event(3, "d"), json!({ "id": "e" })];
        let report = compare(&happened, &told, &[event(4, "f"), event(1, "a")], fact);
        let set = |n: &str| BTreeSet::from([n.to_owned()]);
        let expected =
            EventReport { told: 3, repeated: 1, doubled: set("3"), dead: 1, lost_silently: set("5") };
        assert_eq!(report, expected);
    }
}
