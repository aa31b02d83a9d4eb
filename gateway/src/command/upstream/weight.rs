//! `gateway upstream weight`: moves the weights of the targets of an upstream.

use serde_json::json;

use crate::command::api::Address;
use crate::command::{Failure, print};

/// Move the weights of the targets of an upstream
///
/// Use it to try a new version of a service on a part of the traffic, or to take a server out before it is
/// stopped. The weights count from the next request on; requests under way end as they are. A restart of the
/// gateway brings back the weights of the configuration. Each gateway has its own weights.
#[derive(Debug, clap::Args)]
#[command(
    after_long_help = "Examples:\n  gateway upstream weight orders 95 5\n  gateway upstream weight orders 0 100"
)]
pub(super) struct Arguments {
    /// The upstream's name: that of its table in the configuration
    #[arg(value_name = "NAME")]
    name: String,

    /// One weight for each target, 0 to 1000, in the order of `gateway upstream list`; 0 takes a target out
    #[arg(value_name = "WEIGHT", required = true, num_args = 1..)]
    weights: Vec<u32>,

    #[command(flatten)]
    address: Address,
}

pub(super) fn run(arguments: &Arguments) -> Result<(), Failure> {
    let Arguments { name, weights, address } = arguments;
    address.call("upstream_weights", &json!({"upstream": name, "weights": weights}))?;
    let weights: Vec<String> = weights.iter().map(u32::to_string).collect();
    print(&format!(
        "{name}: weights {} from the next request on, until the next restart\n",
        weights.join(" ")
    ))
}
