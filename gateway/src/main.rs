//! The `gateway` program; `gateway --help` explains it.

use std::process::ExitCode;

use clap::Parser;
use gateway::command::Cli;
use gateway::telemetry;

fn main() -> ExitCode {
    let code = match Cli::parse().run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            telemetry::say(&format!("gateway: {failure}"));
            ExitCode::from(failure.exit_code())
        }
    };
    telemetry::flush();
    code
}
