//! The `gateway` program; `gateway --help` explains it.

use std::process::ExitCode;

use clap::Parser;
use gateway::command::Cli;

fn main() -> ExitCode {
    match Cli::parse().run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("gateway: {failure}");
            ExitCode::from(failure.exit_code())
        }
    }
}
