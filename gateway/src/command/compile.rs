//! The process in which a gateway compiles a plugin. Only the gateway starts it.

use super::Failure;
use crate::wasm;

/// Compile a plugin for the gateway that started this process
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// How much address space instances may reserve
    #[arg(value_parser = ["ample", "scarce"])]
    space: String,
    /// Whether the code counts instructions
    #[arg(value_parser = ["plain", "metered"])]
    counting: String,
    /// Maximum memory in bytes
    bytes: u64,
}

pub(super) fn run(arguments: &Arguments) -> Result<(), Failure> {
    let Arguments { space, counting, bytes } = arguments;
    wasm::compile_for_parent(space == "scarce", counting == "metered", *bytes)
        .map_err(|error| Failure::Unexpected(error.into()))
}
