//! `gateway user`: blocks and unblocks a user.

use std::time::Duration;

use clap::Subcommand;
use serde_json::json;

use super::api::Address;
use super::token::duration;
use super::{Failure, print};
use crate::clock::Clock;

/// Block a user at all gateways, or let the user in again
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Block(Block),
    Unblock(Unblock),
}

/// Close the connections of a user at all gateways, and refuse new ones
#[derive(Debug, clap::Args)]
#[command(after_long_help = "Examples:\n  gateway user block ann\n  gateway user block ann --for 1d")]
struct Block {
    /// The user's id, as in the tokens
    #[arg(value_name = "NAME")]
    name: String,

    /// How long, such as `10m`, `1h` or `1d` [default: until `gateway user unblock`]
    #[arg(long = "for", value_name = "DURATION", value_parser = duration)]
    time: Option<Duration>,

    #[command(flatten)]
    address: Address,
}

/// Let a blocked user in again
#[derive(Debug, clap::Args)]
#[command(after_long_help = "Example:\n  gateway user unblock ann")]
struct Unblock {
    /// The user's id, as in the tokens
    #[arg(value_name = "NAME")]
    name: String,

    #[command(flatten)]
    address: Address,
}

pub(super) fn run(arguments: &Arguments) -> Result<(), Failure> {
    match &arguments.command {
        Command::Block(Block { name, time, address }) => {
            let now = Clock::start().now().unix / 1000;
            // 0 does not end by itself.
            let expire_at = time.map_or(0, |time| now + time.as_secs().max(1));
            address.call("block_user", &json!({"user": name, "expire_at": expire_at}))?;
            print(&format!("{name} is blocked at all gateways\n"))
        }
        Command::Unblock(Unblock { name, address }) => {
            address.call("unblock_user", &json!({"user": name}))?;
            print(&format!("{name} may connect again\n"))
        }
    }
}
