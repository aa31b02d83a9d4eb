//! Whoever is told `recovered` has every publication once and in order, and everybody else is told.
//!
//! A schedule is a list of steps from a seed: publications, subscriptions, connections that end with and
//! without a word, history that is trimmed, streams that begin anew, deliveries that come twice, in another
//! order, or never. It runs in two worlds: [`pure`] has the real core, session, hub and memory backplane
//! without a socket and with a clock that is set by hand; [`transports`] has the real gateway and a client
//! for each transport. In both, clients write down what they are told, and [`account`] compares that with
//! what was published.

mod account;
mod client;
mod pure;
mod schedule;
mod transports;

use std::collections::BTreeMap;

/// Channels of a schedule.
const CHANNELS: [&str; 2] = ["short:a", "short:b"];

/// Publications that a channel keeps. Fewer than a client may miss.
const KEPT: usize = 6;

/// A place in a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Position {
    epoch: String,
    offset: u64,
}

/// What was published: by channel and epoch, the number in the payload of each offset.
#[derive(Debug, Clone, Default)]
struct Streams(BTreeMap<(String, String), BTreeMap<u64, u64>>);

impl Streams {
    /// Writes down that a number was published. An offset is used once.
    fn add(&mut self, channel: &str, position: &Position, number: u64) -> Result<(), String> {
        let stream = self.0.entry((channel.to_owned(), position.epoch.clone())).or_default();
        match stream.insert(position.offset, number) {
            None => Ok(()),
            Some(before) => Err(format!("{channel}: {position:?} is that of {before} and of {number}")),
        }
    }

    fn number(&self, channel: &str, epoch: &str, offset: u64) -> Option<u64> {
        self.0.get(&(channel.to_owned(), epoch.to_owned()))?.get(&offset).copied()
    }
}
