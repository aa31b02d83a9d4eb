//! `gateway redis`: shows the data in the Redis that several gateways share.

use std::fmt::Write as _;
use std::path::PathBuf;

use anyhow::{Context as _, anyhow};
use clap::Subcommand;

use super::{Failure, configuration, print, runtime};
use crate::backplane::redis::inspect::{self, Report};
use crate::protocol::channel::Channel;

/// Show data in the Redis that several gateways share
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Inspect(Inspect),
}

/// Show the data of a channel in Redis
///
/// Use it to find out why a channel does not recover or deliver. It prints the position of the stream and the
/// server that began it, the kept publications, the number of gateways that listen, and every key with its
/// type, time to live and memory. It connects to the Redis of the configuration file with the user and
/// password of the gateway, and only reads. On a server with many keys it takes a moment, because it scans
/// all names, at most a million.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Reading the output:
  begun by another server   after a failover or a restart: the next command begins a new epoch, and
                            clients learn that they could not recover
  0 gateways listen         nobody is subscribed, or the gateways use another server or `prefix`
  differs from this file    all gateways apply the larger rule until the last gateway with it is gone
  no stream                 nothing was published lately, or the namespace has `history_size = 0`

Examples:
  gateway redis inspect news:1 --config gateway.toml
  gateway redis inspect '#42' --config gateway.toml --json")]
struct Inspect {
    /// The channel, or an address such as #USER
    #[arg(value_name = "CHANNEL", value_parser = channel)]
    channel: Channel,

    /// The configuration file of a gateway; the command reads its `[redis]`
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,

    /// Print one JSON object; times are Unix times in milliseconds
    #[arg(long)]
    json: bool,
}

fn channel(name: &str) -> Result<Channel, String> {
    Channel::parse(name).map_err(|error| error.to_string())
}

pub(super) fn run(arguments: &Arguments) -> Result<(), Failure> {
    let Command::Inspect(arguments) = &arguments.command;
    let config = configuration(arguments.config.as_deref())?;
    let redis = config.redis.as_ref().ok_or_else(|| {
        let file =
            arguments.config.as_ref().map_or("without --config".into(), |file| file.display().to_string());
        Failure::Runtime(anyhow!(
            "{file}: `[redis]` names no server, so this gateway keeps everything in its process: set `url`, `urls`, `cluster` or `sentinels`"
        ))
    })?;
    let report = runtime()?
        .block_on(inspect::inspect(&config, redis, &arguments.channel))
        .map_err(Failure::Runtime)?;
    if arguments.json {
        let json = serde_json::to_string_pretty(&report).context("failed to write the answer as JSON");
        return print(&format!("{}\n", json.map_err(Failure::Unexpected)?));
    }
    print(&text(&report))
}

fn text(report: &Report) -> String {
    let mut text = format!("channel  {}\n", report.channel);
    match &report.stream {
        Some(stream) => {
            let _ = writeln!(text, "stream   epoch {}, offset {}", stream.epoch, stream.offset);
            if !stream.goes_on {
                let _ = writeln!(
                    text,
                    "         begun by another server ({}, this is {}): the next command begins a new epoch",
                    stream.server, report.server
                );
            }
            if let Some((version, epoch)) = &stream.version {
                let _ = writeln!(text, "version  {version} of epoch {epoch:?}");
            }
        }
        None => text.push_str("stream   no stream: nothing was published lately, or no history is kept\n"),
    }
    let kept = &report.publications;
    if let (Some(oldest), Some(newest)) = (kept.oldest, kept.newest) {
        let ago = |at: u64| time(report.now.saturating_sub(at));
        let _ = writeln!(
            text,
            "kept     {} publications: {}, {} ago, to {}, {} ago",
            kept.count,
            oldest.0,
            ago(oldest.1),
            newest.0,
            ago(newest.1)
        );
    }
    let heard = match report.listeners {
        1 => "1 gateway listens".to_owned(),
        count => format!("{count} gateways listen"),
    };
    let _ = writeln!(text, "heard    {heard}");
    if report.idempotency_keys > 0 {
        let _ = writeln!(text, "once     {} idempotency keys are remembered", report.idempotency_keys);
    }
    if !report.gateways.is_empty() {
        let _ = writeln!(text, "gateways {}", report.gateways.len());
    }
    for gateway in &report.gateways {
        for difference in &gateway.differs {
            let _ = writeln!(text, "         {} differs from this file: {difference}", gateway.name);
        }
    }
    for warning in &report.warnings {
        let _ = writeln!(text, "warning  {warning}");
    }
    table(report, &mut text);
    text
}

fn table(report: &Report, text: &mut String) {
    let mut rows = vec![["KEY", "TYPE", "EXPIRES IN", "BYTES"].map(str::to_owned)];
    rows.extend(report.keys.iter().map(|key| {
        let expires = key.expires_in.map_or("never".to_owned(), time);
        [key.name.clone(), key.kind.clone(), expires, key.bytes.to_string()]
    }));
    if rows.len() > 1 {
        let width = |column: usize| rows.iter().map(|row| row[column].len()).max().unwrap_or(0);
        let widths = [width(0), width(1), width(2), width(3)];
        text.push('\n');
        for [name, kind, expires, bytes] in &rows {
            let [a, b, c, d] = widths;
            let _ = writeln!(text, "{name:<a$}  {kind:<b$}  {expires:>c$}  {bytes:>d$}");
        }
    }
    if report.more_keys > 0 {
        let _ = writeln!(text, "and {} keys more", report.more_keys);
    }
    if report.incomplete {
        text.push_str("the server has too many keys to scan them all: there may be more\n");
    }
}

/// Milliseconds in a readable unit.
fn time(millis: u64) -> String {
    match millis {
        0..10_000 => format!("{millis}ms"),
        10_000..120_000 => format!("{}s", millis / 1_000),
        120_000..7_200_000 => format!("{}m", millis / 60_000),
        7_200_000..172_800_000 => format!("{}h", millis / 3_600_000),
        _ => format!("{}d", millis / 86_400_000),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backplane::redis::inspect::{Gateway, Key, Publications, Stream};

    fn report() -> Report {
        Report {
            channel: "news:1".to_owned(),
            now: 1_000_000,
            server: "this".to_owned(),
            stream: None,
            publications: Publications::default(),
            listeners: 0,
            idempotency_keys: 0,
            keys: Vec::new(),
            more_keys: 0,
            incomplete: false,
            gateways: Vec::new(),
            warnings: Vec::new(),
        }
    }

    #[test]
    fn a_channel_is_shown_with_all_that_is_known() {
        let stream = Stream {
            epoch: "ab".to_owned(),
            offset: 57,
            server: "other".to_owned(),
            goes_on: false,
            version: Some((7, "v".to_owned())),
        };
        let publications =
            Publications { count: 2, oldest: Some((56, 400_000)), newest: Some((57, 999_000)) };
        let key = |name: &str, expires_in, bytes| Key {
            name: name.to_owned(),
            kind: "hash".to_owned(),
            expires_in,
            bytes,
        };
        let keys = vec![key("gw:top:{news:1}", Some(86_400_000), 212), key("gw:x:{news:1}", None, 9)];
        let stream = Some(stream);
        let gateway = |name: &str| Gateway {
            uid: name.to_owned(),
            name: name.to_owned(),
            version: "1".to_owned(),
            differs: if name == "a" {
                Vec::new()
            } else {
                vec!["channel.presence: true there, false here".to_owned()]
            },
        };
        let full = Report {
            stream,
            publications,
            listeners: 3,
            keys,
            more_keys: 4,
            idempotency_keys: 5,
            gateways: ["a", "b"].map(gateway).into(),
            warnings: vec!["`maxmemory-policy` is allkeys-lru".to_owned()],
            ..report()
        };
        let expected = "\
channel  news:1
stream   epoch ab, offset 57
         begun by another server (other, this is this): the next command begins a new epoch
version  7 of epoch \"v\"
kept     2 publications: 56, 10m ago, to 57, 1000ms ago
heard    3 gateways listen
once     5 idempotency keys are remembered
gateways 2
         b differs from this file: channel.presence: true there, false here
warning  `maxmemory-policy` is allkeys-lru

KEY              TYPE  EXPIRES IN  BYTES
gw:top:{news:1}  hash         24h    212
gw:x:{news:1}    hash       never      9
and 4 keys more
";
        assert_eq!(text(&full), expected);
    }

    #[test]
    fn nothing_is_told_with_what_it_means() {
        let shown = text(&Report { incomplete: true, ..report() });
        assert!(
            shown.contains("no stream") && shown.contains("0 gateways") && shown.contains("too many keys"),
            "{shown}"
        );
    }
}
