//! `gateway upstream`: the services behind a running gateway.

mod list;
mod weight;

use clap::Subcommand;

use super::Failure;

/// Show the upstreams of a running gateway, and move the weights of their targets
///
/// An upstream is a service behind the gateway with one or more servers, its targets. Both commands call the
/// HTTP API of the admin listener with the key from the environment.
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    List(list::Arguments),
    Weight(weight::Arguments),
}

pub(super) fn run(arguments: &Arguments) -> Result<(), Failure> {
    match &arguments.command {
        Command::List(arguments) => list::run(arguments),
        Command::Weight(arguments) => weight::run(arguments),
    }
}
