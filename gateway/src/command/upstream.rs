//! `gateway upstream`: the services behind a gateway.

mod list;
mod replay;
mod weight;

use clap::Subcommand;

use super::Failure;

/// Show the upstreams of a running gateway, move weights, and send events again
///
/// An upstream is a service behind the gateway with one or more servers, its targets. `list` and `weight`
/// call the HTTP API of the admin listener with the key from the environment. `replay` reads the file
/// `dead_letter` of an upstream, in which the gateway keeps events that it has given up.
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    List(list::Arguments),
    Replay(replay::Arguments),
    Weight(weight::Arguments),
}

pub(super) fn run(arguments: &Arguments) -> Result<(), Failure> {
    match &arguments.command {
        Command::List(arguments) => list::run(arguments),
        Command::Replay(arguments) => replay::run(arguments),
        Command::Weight(arguments) => weight::run(arguments),
    }
}
