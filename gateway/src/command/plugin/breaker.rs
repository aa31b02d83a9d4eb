//! `gateway plugin breaker`: sets the circuit breaker of a plugin.

use clap::ValueEnum;
use serde_json::json;

use crate::command::api::Address;
use crate::command::{Failure, print};

/// Hold the circuit breaker of a plugin open or closed, or release it
///
/// Use it to switch off a plugin that does harm without removing its file. `open` applies the plugin's
/// failure policy to every event without a call. `closed` calls the plugin, no matter how often it fails.
/// `auto` lets the failures decide again.
#[derive(Debug, clap::Args)]
#[command(
    after_long_help = "Examples:\n  gateway plugin breaker rate-limit open\n  gateway plugin breaker rate-limit auto"
)]
pub(super) struct Arguments {
    /// The plugin's name: its file name without the number and `.wasm`
    #[arg(value_name = "NAME")]
    name: String,

    /// The new state
    #[arg(value_name = "STATE")]
    state: State,

    #[command(flatten)]
    address: Address,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum State {
    Open,
    Closed,
    Auto,
}

pub(super) fn run(arguments: &Arguments) -> Result<(), Failure> {
    let Arguments { name, state, address } = arguments;
    let (state, means) = match state {
        State::Open => ("open", "is held open: events meet its failure policy"),
        State::Closed => ("closed", "is held closed: events reach it however often it fails"),
        State::Auto => ("auto", "follows its failures again"),
    };
    address.call("plugin_breaker", &json!({"name": name, "state": state}))?;
    print(&format!("the breaker of {name} {means}\n"))
}
