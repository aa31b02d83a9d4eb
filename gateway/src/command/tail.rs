//! `gateway tail`: shows what the plugins of a running gateway decide, as it happens.

use std::fmt::Write as _;
use std::io::IsTerminal as _;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use gateway_plugin_grammar::address;
use serde_json::{Value, json};

use super::api::{Address, Api};
use super::plugin::duration;
use super::{Failure, print, runtime};
use crate::telemetry;

/// Interval between two questions.
const PAUSE: Duration = Duration::from_millis(250);
/// How long the gateway explains after one request, in seconds, and how often the request is repeated.
const SECONDS: u64 = 60;
const RENEW: Duration = Duration::from_secs(30);
/// Explanations in one answer.
const LIMIT: u64 = 1_000;

/// Show what the plugins of a running gateway decide, as it happens
///
/// For each event of a client (connect, message, refresh, disconnect) and each delivery of a publication:
/// which plugin saw it, what it answered, how long it took, and what the chain decided. Sizes and counts are
/// shown, never payloads or tokens. Asks the HTTP API of the admin listener, until Ctrl-C.
///
/// The gateway explains while this command runs, and up to a minute longer. An explained event costs more
/// than another one, so of everything, or of channels, each worker explains at most 100 a second; what is
/// left out is counted.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  gateway tail                                    everything
  gateway tail --user ann --verdict denied        why ann may not
  gateway tail --channel 'chat:*' --plugin router --json")]
pub(super) struct Arguments {
    #[command(flatten)]
    address: Address,

    /// Only events of this user
    #[arg(long, value_name = "USER", conflicts_with_all = ["channel", "attribute"])]
    user: Option<String>,

    /// Only events on channels that match this pattern, such as chat:*
    #[arg(long, value_name = "PATTERN", value_parser = pattern, conflicts_with = "attribute")]
    channel: Option<String>,

    /// Only events of connections with this attribute
    #[arg(long, value_name = "NAME=VALUE", value_parser = attribute)]
    attribute: Option<(String, String)>,

    /// Only events that this plugin was called for
    #[arg(long, value_name = "NAME")]
    plugin: Option<String>,

    /// Only events with this decision of the chain (allowed, denied, dropped, ...) or answer of a plugin
    #[arg(long, value_name = "WORD")]
    verdict: Option<String>,

    /// Print one JSON object per line, as the API has them
    #[arg(long)]
    json: bool,
}

fn pattern(text: &str) -> Result<String, String> {
    let usable = address::is_pattern(text).then(|| text.to_owned());
    usable.ok_or_else(|| "expected a channel, or a pattern such as chat:*".to_owned())
}

fn attribute(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("expected NAME=VALUE, such as tenant=a")?;
    Ok((name.to_owned(), value.to_owned()))
}

pub(super) fn run(arguments: &Arguments) -> Result<(), Failure> {
    let api = arguments.address.resolve()?;
    let runtime = runtime()?;
    runtime.block_on(async {
        tokio::select! {
            ended = follow(&api, arguments) => ended,
            interrupted = tokio::signal::ctrl_c() => {
                interrupted.context("failed to listen for Ctrl-C").map_err(Failure::Unexpected)
            }
        }
    })
}

async fn follow(api: &Api, arguments: &Arguments) -> Result<(), Failure> {
    let wanted = wanted(arguments);
    let style = Style { colours: std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none() };
    // Errors of the first requests are mistakes of the caller; later ones pass. Asked before anything is
    // explained, the number is that of the first explanation.
    let begin = api.send("explain", &json!({"after": u64::MAX})).await.map_err(Failure::Runtime)?;
    api.send("explain_start", &wanted).await.map_err(Failure::Runtime)?;
    if !arguments.json {
        telemetry::say(&format!("Events of the gateway at {}; Ctrl-C ends", api.address()));
    }
    let number = |key: &str| begin[key].as_u64().unwrap_or_default();
    let (mut renewed, mut after, mut skipped) = (Instant::now(), number("next"), number("skipped"));
    let mut away = false;
    loop {
        if renewed.elapsed() > RENEW && api.send("explain_start", &wanted).await.is_ok() {
            renewed = Instant::now();
        }
        match api.send("explain", &json!({"after": after, "limit": LIMIT})).await {
            Ok(answer) => {
                let next = answer["next"].as_u64().unwrap_or_default();
                if next < after {
                    telemetry::say("the gateway has begun anew");
                    // It explains again only when it is asked.
                    (renewed, after, skipped) = (Instant::now(), 0, 0);
                    api.send("explain_start", &wanted).await.map_err(Failure::Runtime)?;
                    continue;
                }
                after = next;
                away = false;
                show(&answer, arguments, style, &mut skipped)?;
            }
            Err(error) if !away => {
                telemetry::say(&format!("{error:#}; waiting for it"));
                away = true;
            }
            Err(_) => {}
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// The request that makes the gateway explain.
fn wanted(arguments: &Arguments) -> Value {
    match (&arguments.user, &arguments.channel, &arguments.attribute) {
        (Some(user), ..) => json!({"user": user, "seconds": SECONDS}),
        (None, Some(channels), _) => json!({"channels": channels, "seconds": SECONDS}),
        (None, None, Some((name, value))) => json!({"attribute": {name: value}, "seconds": SECONDS}),
        (None, None, None) => json!({"everything": true, "seconds": SECONDS}),
    }
}

fn show(answer: &Value, arguments: &Arguments, style: Style, skipped: &mut u64) -> Result<(), Failure> {
    let number = |key: &str| answer[key].as_u64().unwrap_or_default();
    let lost = number("dropped") + number("skipped").saturating_sub(*skipped);
    *skipped = number("skipped");
    if lost > 0 {
        telemetry::say(&format!("{lost} events are not shown: there are too many"));
    }
    let mut text = String::new();
    for trace in answer["traces"].as_array().into_iter().flatten().filter(|trace| is_meant(trace, arguments))
    {
        if arguments.json {
            let _ = writeln!(text, "{trace}");
        } else {
            lines(trace, style, &mut text);
        }
    }
    print(&text)
}

/// Whether an explanation passes the filters of this command.
fn is_meant(trace: &Value, Arguments { user, channel, plugin, verdict, .. }: &Arguments) -> bool {
    let same =
        |value: &Value, wanted: &Option<String>| wanted.as_deref().is_none_or(|wanted| value == wanted);
    let on_channel = channel.as_ref().is_none_or(|pattern| {
        trace["channel"].as_str().is_some_and(|channel| address::matches(pattern, channel))
    });
    let plugins = || trace["plugins"].as_array().into_iter().flatten();
    let by_plugin = plugin.is_none()
        || plugins().any(|seen| same(&seen["plugin"], plugin) && seen["answer"] != "not-called");
    let decided = same(&trace["decision"], verdict) || plugins().any(|seen| same(&seen["answer"], verdict));
    same(&trace["user"], user) && on_channel && by_plugin && decided
}

#[derive(Debug, Clone, Copy)]
struct Style {
    colours: bool,
}

impl Style {
    fn of(self, decision: &str) -> (&'static str, &'static str) {
        let colour = match decision {
            "allowed" | "accepted" | "replied" | "routed" => "\u{1b}[32m",
            "denied" | "refused" | "disconnected" | "failed" => "\u{1b}[31m",
            "dropped" => "\u{1b}[33m",
            _ => "",
        };
        if self.colours && !colour.is_empty() { (colour, "\u{1b}[0m") } else { ("", "") }
    }
}

/// One line for the event and one for each plugin that saw it.
fn lines(trace: &Value, style: Style, text: &mut String) {
    let word = |key: &str| trace[key].as_str().unwrap_or_default();
    let at = trace["at"].as_u64().unwrap_or_default();
    let (second, milli) = (at / 1_000 % 86_400, at % 1_000);
    let time = format!("{:02}:{:02}:{:02}.{milli:03}", second / 3_600, second / 60 % 60, second % 60);
    let _ = write!(text, "{time}  {}", word("kind"));
    for (label, key) in [("", "channel"), ("method ", "method"), ("user ", "user"), ("client ", "client")] {
        if !word(key).is_empty() {
            let _ = write!(text, "  {label}{}", word(key));
        }
    }
    match trace["payload_bytes"].as_u64() {
        Some(bytes) if bytes > 0 => {
            let _ = write!(text, "  {bytes} B");
        }
        _ => {}
    }
    let decision = word("decision");
    if !decision.is_empty() {
        let (begin, end) = style.of(decision);
        let _ = write!(text, "  {begin}{decision}{end}");
    }
    text.push('\n');
    let plugins = trace["plugins"].as_array().map(Vec::as_slice).unwrap_or_default();
    let width = plugins.iter().filter_map(|seen| seen["plugin"].as_str()).map(str::len).max().unwrap_or(0);
    for seen in plugins {
        let name = seen["plugin"].as_str().unwrap_or_default();
        let _ = writeln!(text, "              {name:<width$}  {}", seen_by(seen));
    }
}

/// What one plugin made of an event.
fn seen_by(seen: &Value) -> String {
    let answer = seen["answer"].as_str().unwrap_or_default();
    if answer == "not-called" {
        return "not called: it does not want such events".to_owned();
    }
    let mut text = answer.to_owned();
    if let Some(code) = seen["code"].as_u64() {
        let _ = write!(text, " {code} {}", seen["reason"]);
    }
    if let Some(class) = seen["class"].as_str() {
        let _ = write!(text, " for {class:?}");
    }
    if let Some(bytes) = seen["answer_bytes"].as_u64() {
        let _ = write!(text, " {bytes} B");
    }
    if let Some(addresses) = seen["addresses"].as_u64() {
        let _ = write!(text, " to {addresses} addresses");
    }
    let effects: Vec<_> =
        seen["effects"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    if !effects.is_empty() {
        let _ = write!(text, ", {}", effects.join(", "));
    }
    let took = Duration::from_nanos(seen["took_ns"].as_u64().unwrap_or_default());
    let _ = write!(text, ", {}", duration(took));
    text
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        arguments: Arguments,
    }

    fn arguments(line: &[&str]) -> Arguments {
        Line::parse_from(std::iter::once("tail").chain(line.iter().copied())).arguments
    }

    fn trace() -> Value {
        json!({
            "at": 3_723_004_u64, "client": "c1", "user": "ann", "kind": "publish", "channel": "chat:a", "method": "",
            "payload_bytes": 12, "generation": 1, "decision": "denied",
            "plugins": [
                {"plugin": "auth-jwt", "answer": "not-called"},
                {"plugin": "router", "answer": "deny", "code": 403, "reason": "read-only", "payload_bytes": 12,
                 "effects": ["publish"], "took_ns": 12_300, "host_calls": 0, "memory_bytes": 1},
            ],
        })
    }

    #[test]
    fn an_event_is_a_line_and_each_plugin_one_below_it() {
        let mut text = String::new();
        lines(&trace(), Style { colours: false }, &mut text);
        let expected = "\
01:02:03.004  publish  chat:a  user ann  client c1  12 B  denied
              auth-jwt  not called: it does not want such events
              router    deny 403 \"read-only\", publish, 12.3 us
";
        assert_eq!(text, expected);
        let mut coloured = String::new();
        lines(&trace(), Style { colours: true }, &mut coloured);
        assert!(coloured.contains("\u{1b}[31mdenied\u{1b}[0m"), "{coloured}");
    }

    #[test]
    fn every_filter_has_to_hold() {
        let meant = |line: &[&str]| is_meant(&trace(), &arguments(line));
        assert!(meant(&[]));
        for (filter, good, bad) in [
            ("--user", "ann", "bob"),
            ("--channel", "chat:*", "news"),
            ("--plugin", "router", "auth-jwt"),
            ("--verdict", "denied", "allowed"),
            ("--verdict", "deny", "allow"),
        ] {
            assert!(meant(&[filter, good]), "{filter} {good}");
            assert!(!meant(&[filter, bad]), "{filter} {bad}");
        }
    }

    #[test]
    fn the_gateway_explains_what_the_filter_needs() {
        assert_eq!(wanted(&arguments(&[]))["everything"], true);
        assert_eq!(wanted(&arguments(&["--user", "ann"]))["user"], "ann");
        assert_eq!(wanted(&arguments(&["--channel", "chat:*", "--plugin", "router"]))["channels"], "chat:*");
        assert_eq!(wanted(&arguments(&["--attribute", "tenant=a"]))["attribute"], json!({"tenant": "a"}));
    }
}
