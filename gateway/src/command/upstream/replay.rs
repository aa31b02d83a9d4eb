//! `gateway upstream replay`: sends dead letters again.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use tokio::time::sleep;

use crate::clock::Clock;
use crate::command::{Failure, config_or_here, print, runtime};
use crate::config::Config;
use crate::egress::{Client, Url};
use crate::upstream::replay::{Letter, Letters, send};

/// Failures in a row after which the rest is not tried.
const FAILURES_MAX: usize = 5;

/// Send dead letters again
///
/// Sends every event of a dead-letter file to its upstream, with the id that it had, oldest first. Those that
/// are accepted leave the file; the rest stays, also what the gateway adds meanwhile. After five failures in
/// a row the rest is not tried. The key, the timeout and the URL are those of the configuration. Exit code 1
/// if an event was not accepted.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  gateway upstream replay dead.jsonl --config gateway.toml
  gateway upstream replay dead.jsonl --url https://hooks.example/again --per-second 5")]
pub(super) struct Arguments {
    /// The dead-letter file
    #[arg(value_name = "FILE")]
    file: PathBuf,

    /// The configuration file of the gateway [default: gateway.toml in the current folder]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,

    /// Send all of them to this upstream of the configuration, and not to the one that did not accept them
    #[arg(long, value_name = "NAME")]
    upstream: Option<String>,

    /// Send them to this URL
    #[arg(long, value_name = "URL", value_parser = url)]
    url: Option<Url>,

    /// Events per second
    #[arg(long, value_name = "NUMBER", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    per_second: u32,
}

fn url(text: &str) -> Result<Url, String> {
    Url::parse(text).map_err(str::to_owned)
}

pub(super) fn run(arguments: &Arguments) -> Result<(), Failure> {
    let file = config_or_here(arguments.config.as_deref(), "go to the folder that has it")?;
    let config = Config::load(file).map_err(Failure::Configuration)?;
    let shown = arguments.file.display();
    let letters = Letters::take(&arguments.file);
    let letters = letters.with_context(|| format!("cannot read {shown}")).map_err(Failure::Unexpected)?;
    let left = runtime()?.block_on(replay(arguments, &config, &letters))?;
    let (total, count) = (letters.lines().len(), left.len());
    letters.finish(&left).with_context(|| format!("cannot write {shown}")).map_err(Failure::Unexpected)?;
    print(&format!("{} of {total} events were accepted\n", total - count))?;
    match count {
        0 => Ok(()),
        _ => Err(Failure::Unexpected(anyhow!("{count} events were not accepted; they are in {shown}"))),
    }
}

/// Sends the letters. Returns the lines that were not accepted.
async fn replay(arguments: &Arguments, config: &Config, letters: &Letters) -> Result<Vec<Vec<u8>>, Failure> {
    let (client, clock) = (Client::new(), Clock::start());
    let pause = Duration::from_secs(1) / arguments.per_second;
    let (mut left, mut failures) = (Vec::new(), 0);
    for line in letters.lines() {
        let sent = if failures >= FAILURES_MAX {
            Err(None)
        } else {
            let sent = send_one(arguments, config, &client, clock, line).await;
            sleep(pause).await;
            sent.map_err(Some)
        };
        match sent {
            Ok(()) => failures = 0,
            Err(why) => {
                if let Some(why) = why {
                    failures += 1;
                    let rest = if failures == FAILURES_MAX { "; the rest is not tried" } else { "" };
                    print(&format!("not accepted: {why}{rest}\n"))?;
                }
                left.push(line.clone());
            }
        }
    }
    Ok(left)
}

async fn send_one(
    arguments: &Arguments,
    config: &Config,
    client: &Client,
    clock: Clock,
    line: &[u8],
) -> Result<(), String> {
    let letter = Letter::read(line).ok_or("a line of the file is no dead letter")?;
    let name = arguments.upstream.as_deref().unwrap_or(letter.upstream());
    let upstream = config.upstreams.get(name).ok_or_else(|| {
        format!("the configuration has no upstream {name:?}; name one of it with --upstream")
    })?;
    let sent = send(client, clock, name, upstream, arguments.url.as_ref(), &letter).await;
    sent.map_err(|why| format!("{}: {why}", letter.id()))
}
