//! `gateway upstream list`: shows the upstreams of a running gateway.

use std::fmt::Write as _;

use serde_json::{Value, json};

use crate::command::api::Address;
use crate::command::{Failure, print};

/// Show the upstreams of a running gateway
///
/// Use it to see which servers get requests. For each upstream it prints the questions and events that wait,
/// and for each target its weight, its state and its requests. A target is `up`, `open` (it failed, and gets
/// nothing for a while), `half-open` (one request probes it) or `unhealthy` (it failed its checks).
#[derive(Debug, clap::Args)]
#[command(after_long_help = "Example:\n  gateway upstream list --config gateway.toml")]
pub(super) struct Arguments {
    #[command(flatten)]
    address: Address,

    /// Print the response of the API unchanged
    #[arg(long)]
    json: bool,
}

pub(super) fn run(arguments: &Arguments) -> Result<(), Failure> {
    let answer = arguments.address.call("upstreams", &json!({}))?;
    if arguments.json {
        return print(&format!("{answer:#}\n"));
    }
    print(&shown(&answer))
}

/// The response of the API as text.
fn shown(answer: &Value) -> String {
    let mut text = String::new();
    for upstream in answer["upstreams"].as_array().into_iter().flatten() {
        let (asks, events) = (&upstream["asks"], &upstream["events"]);
        let _ = writeln!(
            text,
            "{}: {} questions in flight, {} waiting; {} events queued",
            upstream["name"].as_str().unwrap_or("-"),
            asks["in_flight"],
            asks["waiting"],
            events["queued"]
        );
        for (index, target) in upstream["targets"].as_array().into_iter().flatten().enumerate() {
            let word = |key: &str| target[key].as_str().unwrap_or("-");
            let count = |outcome: &str| target["requests"][outcome].as_u64().unwrap_or(0);
            let all = target["requests"].as_object().into_iter().flatten();
            let all: u64 = all.filter_map(|(_, count)| count.as_u64()).sum();
            let failed = all - count("ok") - count("refused");
            let _ = writeln!(
                text,
                "  {index}  weight {:<4}  {:<9}  {all} requests, {failed} failed  {}",
                target["weight"].as_u64().unwrap_or(0),
                word("state"),
                word("url")
            );
        }
    }
    if text.is_empty() {
        text.push_str("no upstream is configured ([upstreams.NAME])\n");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_target_is_one_line() {
        let answer = json!({"upstreams": [{
            "name": "orders",
            "asks": {"waiting": 2, "in_flight": 1},
            "events": {"queued": 3},
            "targets": [
                {"url": "https://a.example/orders", "weight": 80, "state": "up", "requests": {"ok": 5, "refused": 1}},
                {"url": "https://b.example", "weight": 20, "state": "half-open", "requests": {"ok": 1, "timeout": 2, "error": 4}},
            ],
        }]});
        assert_eq!(
            shown(&answer),
            "orders: 1 questions in flight, 2 waiting; 3 events queued\n  \
             0  weight 80    up         6 requests, 0 failed  https://a.example/orders\n  \
             1  weight 20    half-open  7 requests, 6 failed  https://b.example\n"
        );
        assert!(shown(&json!({"upstreams": []})).contains("[upstreams.NAME]"));
    }
}
