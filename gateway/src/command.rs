//! [`Cli`] is the command line of the program; [`Failure`] defines its exit codes.

mod api;
mod check;
mod compile;
mod demo;
mod init;
mod inspect;
mod live;
mod pack;
mod plugin;
mod redis;
mod serve;
mod signals;
mod tail;
mod token;
mod upstream;
mod user;

use std::fmt;
use std::io::{ErrorKind, Write};
use std::path::Path;

use anyhow::{Context as _, anyhow};
use clap::{Parser, Subcommand};
use tokio::runtime::Runtime;

use crate::config::{Config, ConfigErrors, DEFAULTS};
use crate::supervisor::PartEnded;
use crate::transport::tls;
use crate::wasm::COMPILE_COMMAND;

const ABOUT: &str = "A realtime gateway whose rules are hot-reloadable WebAssembly plugins.";

const LONG_ABOUT: &str = "A realtime gateway whose rules are hot-reloadable WebAssembly plugins.

Clients connect by WebSocket, with any client library of the Centrifuge protocol or with messages in their own format. \
Every connect and every message passes a chain of plugins: the .wasm files of a folder, in the order of their names. A \
file dropped into the folder changes the rules at once and closes no connection.";

const AFTER_LONG_HELP: &str = "\
Examples:
  gateway demo                            build the shipped plugins and serve a chat page
  gateway init my-gateway                 begin your own gateway: configuration, plugins, a page
  gateway token --user ann                make a token that its auth-jwt accepts
  gateway config                          print every key of the configuration with its meaning
  gateway check --config gateway.toml     find every error in it and in the plugins
  gateway serve --config gateway.toml     serve until SIGTERM or Ctrl-C
  gateway inspect                         show the plugins of a running gateway
  gateway tail                            show what its plugins decide, as it happens
  gateway user block ann --for 1d         close the connections of a user and refuse new ones
  gateway redis inspect news:1 --config gateway.toml
                                          show the keys of a channel in Redis
  gateway upstream list                   show the services behind it, and their servers
  gateway upstream replay dead.jsonl      send events again that a backend did not accept
  gateway plugin new shout                create a plugin; `gateway plugin --help` goes on
  gateway pack --output gateway-full      make a program that carries the shipped plugins

Environment:
  GATEWAY_ADMIN_API_KEY    the key of the HTTP API; overrides `admin.api_key` in the file;
                           `gateway inspect` sends it

Exit codes:
  0  done
  1  unexpected error
  2  error in the command line
  3  error in the configuration, or in a file of events
  4  the gateway refuses a plugin
  5  the gateway could not start (for example: address in use, folder missing), failed, or cannot
     be reached
  6  a plugin did not answer as its events expect
  7  a part of a running gateway failed: it drained and must be started again";

/// Name of the configuration file that commands look for in the current folder.
const CONFIG_FILE: &str = "gateway.toml";

/// The command line.
#[derive(Debug, Parser)]
#[command(name = "gateway", version, about = ABOUT, long_about = LONG_ABOUT, after_long_help = AFTER_LONG_HELP)]
#[command(after_help = "`gateway --help` has examples and the exit codes.")]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Serve(serve::Arguments),
    Check(check::Arguments),
    /// Print the default configuration: every key with its meaning
    #[command(
        long_about = "Print the default configuration: every key with its meaning, unit and accepted values.\n\n\
        Use it to start a configuration file. The output is a valid one: keep the keys that you change and delete the \
        rest, because a missing key has its default.\n\n\
        Example:\n  gateway config > gateway.toml"
    )]
    Config,
    Demo(demo::Arguments),
    Init(init::Arguments),
    Token(token::Arguments),
    Plugin(plugin::Arguments),
    Inspect(inspect::Arguments),
    Tail(tail::Arguments),
    User(user::Arguments),
    Redis(redis::Arguments),
    Upstream(upstream::Arguments),
    Pack(pack::Arguments),
    #[command(name = COMPILE_COMMAND, hide = true)]
    CompileForParent(compile::Arguments),
}

impl Cli {
    /// Runs the command. `serve` and `demo` return after a signal.
    ///
    /// # Errors
    ///
    /// Why the command has failed; it also selects the exit code.
    pub fn run(self) -> Result<(), Failure> {
        crate::wasm::offer_to_compile();
        match self.command {
            Command::Serve(arguments) => serve::run(&arguments),
            Command::Check(arguments) => check::run(&arguments),
            Command::Config => print(DEFAULTS),
            Command::Demo(arguments) => demo::run(&arguments),
            Command::Init(arguments) => init::run(&arguments),
            Command::Token(arguments) => token::run(&arguments),
            Command::Plugin(arguments) => plugin::run(&arguments),
            Command::Inspect(arguments) => inspect::run(&arguments),
            Command::Tail(arguments) => tail::run(&arguments),
            Command::User(arguments) => user::run(&arguments),
            Command::Redis(arguments) => redis::run(&arguments),
            Command::Upstream(arguments) => upstream::run(&arguments),
            Command::Pack(arguments) => pack::run(&arguments),
            Command::CompileForParent(arguments) => compile::run(&arguments),
        }
    }
}

/// Why a command failed.
#[derive(Debug)]
pub enum Failure {
    /// Exit code 1.
    Unexpected(anyhow::Error),
    /// Exit code 3.
    Configuration(ConfigErrors),
    /// Exit code 3.
    Events(String),
    /// Exit code 4.
    Plugins(String),
    /// Exit code 5.
    Runtime(anyhow::Error),
    /// Exit code 6.
    Expectations(String),
    /// Exit code 7.
    Part(PartEnded),
}

impl Failure {
    /// The help text of the program lists the codes. The parser of the command line uses 2.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Unexpected(_) => 1,
            Self::Configuration(_) | Self::Events(_) => 3,
            Self::Plugins(_) => 4,
            Self::Runtime(_) => 5,
            Self::Expectations(_) => 6,
            Self::Part(_) => 7,
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unexpected(error) | Self::Runtime(error) => write!(f, "{error:#}"),
            Self::Part(ended) => write!(f, "{ended}"),
            Self::Configuration(errors) => {
                let count = errors.errors().len();
                let plural = if count == 1 { "" } else { "s" };
                write!(f, "{count} mistake{plural} in the configuration\n{errors}")
            }
            Self::Plugins(message) | Self::Events(message) | Self::Expectations(message) => {
                f.write_str(message)
            }
        }
    }
}

/// The configuration of a file, or the defaults, with the files of TLS checked.
fn configuration(file: Option<&Path>) -> Result<Config, Failure> {
    let config = file.map_or_else(Config::load_defaults, Config::load).map_err(Failure::Configuration)?;
    tls::check(&config).map_err(Failure::Configuration)?;
    Ok(config)
}

/// The given configuration file of a gateway, or else that in the current folder. `otherwise` says what to do
/// without one, after "or".
fn config_or_here<'a>(given: Option<&'a Path>, otherwise: &str) -> Result<&'a Path, Failure> {
    let here = Path::new(CONFIG_FILE);
    given.or_else(|| here.is_file().then_some(here)).ok_or_else(|| {
        Failure::Unexpected(anyhow!(
            "there is no {CONFIG_FILE} in this folder: name the configuration of the gateway with --config FILE, or \
             {otherwise}"
        ))
    })
}

/// A runtime on this thread, for what a command waits for.
fn runtime() -> Result<Runtime, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.context("failed to start a runtime").map_err(Failure::Unexpected)
}

/// Writes to standard output. A reader that has seen enough, such as `head`, is no error.
fn print(text: &str) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            Err(Failure::Unexpected(anyhow::Error::new(error).context("failed to write to standard output")))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;
    use clap::error::ErrorKind;

    use super::*;

    #[test]
    fn the_command_line_is_consistent_and_fits_a_terminal() {
        Cli::command().debug_assert();
        assert!(AFTER_LONG_HELP.lines().all(|line| line.chars().count() <= 100));
    }

    #[test]
    fn the_help_names_every_exit_code() {
        let errors = Config::parse("x = 1", "a.toml").expect_err("no such key");
        let some = || anyhow::anyhow!("some");
        for failure in [
            Failure::Unexpected(some()),
            Failure::Configuration(errors),
            Failure::Plugins(String::new()),
            Failure::Runtime(some()),
            Failure::Expectations(String::new()),
            Failure::Part(PartEnded { part: "some".into(), why: "some".into() }),
        ] {
            assert!(AFTER_LONG_HELP.contains(&format!("\n  {}  ", failure.exit_code())), "{failure:?}");
        }
    }

    #[test]
    fn every_command_has_an_example() {
        for command in Cli::command().get_subcommands().filter(|command| !command.is_hide_set()) {
            assert!(
                AFTER_LONG_HELP.contains(&format!("gateway {} ", command.get_name())),
                "{}",
                command.get_name()
            );
        }
    }

    #[test]
    fn a_command_is_needed_and_known() {
        let kind = |line: &str| Cli::try_parse_from(line.split(' ')).expect_err(line).kind();
        assert_eq!(kind("gateway run"), ErrorKind::InvalidSubcommand);
        assert_eq!(kind("gateway serve --conf a"), ErrorKind::UnknownArgument);
        assert_eq!(kind("gateway --version"), ErrorKind::DisplayVersion);
        assert!(Cli::try_parse_from(["gateway", "serve", "--config", "a.toml"]).is_ok());
        assert!(Cli::try_parse_from(["gateway", "serve"]).is_ok());
    }

    #[test]
    fn mistakes_in_the_configuration_are_counted_and_listed() {
        let errors = Config::parse("x = 1\ny = 2", "a.toml").expect_err("no such keys");
        let shown = Failure::Configuration(errors).to_string();
        assert!(shown.starts_with("2 mistakes in the configuration\na.toml:1:1: x: "), "{shown}");
    }
}
