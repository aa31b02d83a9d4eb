//! `gateway inspect`: shows the plugins of a running gateway.

use std::fmt::Write as _;
use std::time::Duration;

use serde_json::{Value, json};

use super::api::Address;
use super::{Failure, print, runtime};
use crate::clock::Clock;

/// Show the plugins of a running gateway
///
/// Use it after a deployment, or to find out why a plugin does not run. It prints the chain in order: the
/// state of each plugin, its version and digest, how long it has been live, and how many calls, rejections
/// and failures it has. Below, it says why a file in the folder does not run. It calls the HTTP API of the
/// admin listener with the key from the environment.
#[derive(Debug, clap::Args)]
#[command(
    after_long_help = "Examples:\n  GATEWAY_ADMIN_API_KEY=... gateway inspect\n  gateway inspect --address http://10.0.0.7:8001 --key-env PROD_KEY --json"
)]
pub(super) struct Arguments {
    #[command(flatten)]
    address: Address,

    /// Print the response of the API unchanged
    #[arg(long)]
    json: bool,
}

pub(super) fn run(arguments: &Arguments) -> Result<(), Failure> {
    let api = arguments.address.resolve()?;
    let runtime = runtime()?;
    let call = |method| runtime.block_on(api.send(method, &json!({})));
    let answer = call("plugins").map_err(Failure::Runtime)?;
    if arguments.json {
        return print(&format!("{answer:#}\n"));
    }
    // A gateway of another version may not have this method: then nothing is shown.
    let nodes = call("nodes").unwrap_or_default();
    print(&(table(&answer, Clock::start().now().unix / 1000) + &differences(&nodes)))
}

/// Differences of other gateways from this one.
fn differences(nodes: &Value) -> String {
    let mut text = String::new();
    for node in nodes["nodes"].as_array().into_iter().flatten() {
        let name = node["name"].as_str().unwrap_or("-");
        for difference in node["differs"].as_array().into_iter().flatten().filter_map(Value::as_str) {
            let _ = writeln!(text, "gateway {name} differs: {difference}");
        }
    }
    text
}

/// A plain table, followed by notes that do not fit into a column. `now` is Unix time in seconds.
fn table(answer: &Value, now: u64) -> String {
    let plugins = answer["plugins"].as_array().map(Vec::as_slice).unwrap_or_default();
    let mut rows = vec![
        ["#", "PLUGIN", "STATE", "VERSION", "DIGEST", "LIVE FOR", "BREAKER", "CALLS", "REJECTED", "FAILED"]
            .map(str::to_owned),
    ];
    rows.extend(plugins.iter().map(|plugin| row(plugin, now)));
    let mut widths = [0; 10];
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = cell.len().max(*width);
        }
    }
    let mut text = format!("chain {}\n", answer["generation"]);
    for row in &rows {
        let cells = row.iter().zip(widths).enumerate();
        // Numbers are aligned to the right.
        let cells = cells.map(|(column, (cell, width))| match column {
            0 | 7.. => format!("{cell:>width$}"),
            _ => format!("{cell:<width$}"),
        });
        let _ = writeln!(text, "{}", cells.collect::<Vec<_>>().join("  ").trim_end());
    }
    if plugins.is_empty() {
        text.push_str("no plugins: only the rules of the channels decide\n");
    }
    for plugin in plugins {
        notes(plugin, now, &mut text);
    }
    for left in answer["left_out"].as_array().into_iter().flatten() {
        if let (Some(file), Some(sentence)) = (left["file"].as_str(), left["sentence"].as_str()) {
            let _ = writeln!(text, "{file}: is no plugin: it {sentence}");
        }
    }
    text
}

fn row(plugin: &Value, now: u64) -> [String; 10] {
    let word = |value: &Value| value.as_str().unwrap_or("-").to_owned();
    let counts = &plugin["counts"];
    let number = |value: &Value| value.as_u64().unwrap_or_default().to_string();
    let failures: u64 =
        counts["failures"].as_object().into_iter().flatten().filter_map(|(_, n)| n.as_u64()).sum();
    [
        plugin["order"].as_u64().map_or("-".to_owned(), |order| (order + 1).to_string()),
        word(&plugin["name"]),
        word(&plugin["state"]),
        word(&plugin["version"]),
        word(&plugin["digest"]).chars().take(12).collect(),
        plugin["since"].as_u64().map_or("-".to_owned(), |since| ago(now.saturating_sub(since))),
        breaker(&plugin["breaker"]),
        number(&counts["calls"]),
        number(&counts["rejections"]),
        failures.to_string(),
    ]
}

/// State of the breaker, and whether an operator holds it.
fn breaker(breaker: &Value) -> String {
    let state = breaker["state"].as_str().unwrap_or("-");
    if breaker["held"] == true { format!("{state} (held)") } else { state.to_owned() }
}

/// Errors and possible rollbacks, in whole sentences.
fn notes(plugin: &Value, now: u64, text: &mut String) {
    let name = plugin["name"].as_str().unwrap_or("-");
    let failures = plugin["counts"]["failures"].as_object().into_iter().flatten();
    let failures: Vec<_> = failures
        .filter(|(_, count)| count.as_u64() > Some(0))
        .map(|(cause, count)| format!("{count} {cause}"))
        .collect();
    if !failures.is_empty() {
        let _ = writeln!(text, "{name}: failed: {}", failures.join(", "));
    }
    if plugin["counts"]["log_lines_dropped"].as_u64() > Some(0) {
        let _ = writeln!(text, "{name}: {} log lines were too many", plugin["counts"]["log_lines_dropped"]);
    }
    let versions = plugin["versions"].as_array().into_iter().flatten();
    let versions = versions.map(|kept| {
        let digest: String = kept["digest"].as_str().unwrap_or("-").chars().take(12).collect();
        let since = kept["since"].as_u64().map(|since| format!(", {} ago", ago(now.saturating_sub(since))));
        let version = kept["version"].as_str().unwrap_or("of unknown version");
        format!("{digest} ({version}{})", since.unwrap_or_default())
    });
    let versions: Vec<_> = versions.collect();
    if !versions.is_empty() {
        let _ = writeln!(text, "{name}: kept for a rollback: {}", versions.join(", "));
    }
    let error = &plugin["error"];
    if let (Some(code), Some(sentence)) = (error["code"].as_str(), error["sentence"].as_str()) {
        let file = plugin["file"].as_str().unwrap_or(name);
        let at = ago(now.saturating_sub(error["at"].as_u64().unwrap_or(now)));
        let _ = writeln!(text, "{name}: {file} was refused {at} ago: {code}: {sentence}");
    }
}

/// Seconds in a readable unit.
fn ago(seconds: u64) -> String {
    match Duration::from_secs(seconds).as_secs() {
        seconds @ 0..120 => format!("{seconds}s"),
        seconds @ 120..7_200 => format!("{}m", seconds / 60),
        seconds @ 7_200..172_800 => format!("{}h", seconds / 3_600),
        seconds => format!("{}d", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chain_is_a_table_and_what_went_wrong_is_told_below() {
        let answer = json!({"generation": 7, "plugins": [
            {"name": "auth", "file": "10-auth.wasm", "state": "live-older", "order": 0, "version": "1.2.3",
             "digest": "0123456789abcdef", "since": 1000, "breaker": {"state": "open", "held": true},
             "versions": [{"digest": "fedcba9876543210", "version": "1.2.2", "since": 500}],
             "error": {"code": "configure", "sentence": "refuses its settings: no", "at": 1090},
             "counts": {"calls": 12345, "rejections": 2, "failures": {"trap": 3, "memory": 0}, "log_lines_dropped": 0}},
            {"name": "broken", "file": "20-broken.wasm", "state": "refused", "counts": {}},
        ], "left_out": [{"file": "rules/", "sentence": "is a folder with plugins in it"}]});
        let expected = "\
chain 7
#  PLUGIN  STATE       VERSION  DIGEST        LIVE FOR  BREAKER      CALLS  REJECTED  FAILED
1  auth    live-older  1.2.3    0123456789ab  100s      open (held)  12345         2       3
-  broken  refused     -        -             -         -                0         0       0
auth: failed: 3 trap
auth: kept for a rollback: fedcba987654 (1.2.2, 10m ago)
auth: 10-auth.wasm was refused 10s ago: configure: refuses its settings: no
rules/: is no plugin: it is a folder with plugins in it
";
        assert_eq!(table(&answer, 1100), expected);
    }

    #[test]
    fn gateways_that_differ_are_told_below() {
        let nodes = json!({"nodes": [
            {"name": "a", "differs": []}, {"name": "b", "differs": ["plugin echo: none there, 0123 here"]},
        ]});
        assert_eq!(differences(&nodes), "gateway b differs: plugin echo: none there, 0123 here\n");
        assert_eq!(differences(&Value::Null), "");
    }

    #[test]
    fn an_empty_chain_says_what_that_means() {
        assert!(table(&json!({"generation": 1, "plugins": []}), 0).contains("no plugins: only the rules"));
    }

    #[test]
    fn times_are_short() {
        assert_eq!([5, 125, 7_300, 200_000].map(ago), ["5s", "2m", "2h", "2d"]);
    }
}
