//! `gateway token`: creates a token that the plugin auth-jwt accepts.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use clap::builder::PossibleValuesParser;
use gateway_plugin_grammar::{address, units, wildcard};
use serde_json::Value;

use super::{Failure, config_or_here, print};
use crate::clock::Clock;
use crate::config::Config;
use crate::plugin_tools::folder::PluginFolder;
use crate::plugin_tools::token::{ALGORITHMS, AuthSettings, Key, Signer, TokenOptions};

/// Make a token that the plugin auth-jwt accepts
///
/// Signs with the shared secret in the settings of auth-jwt, and sets the claims that these settings ask for:
/// the user, the issuer, the audience. The token is all that is printed, so that a script can use it. With
/// --key a private key from a file signs instead, for settings that hold public keys. With --subscription it
/// is a token for one channel, which `token_channels` in the settings asks for. For development and
/// tests: in production the backend of your application makes the tokens.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  gateway token --user ann
  gateway token --user ann --valid-for 10m --info '{\"name\": \"Ann\"}' --channel chat:lobby
  gateway token --user ann --subscription private:1
  gateway token --user ann --claim plan=pro --claim '/realm/roles=[\"chat\"]'
  gateway token --user ann --settings plugins/10-auth-jwt.toml --key private.pem --algorithm ES256")]
pub(super) struct Arguments {
    /// The user; an empty text for an anonymous client
    #[arg(long, value_name = "USER", value_parser = user)]
    user: String,

    /// How long the token is good
    #[arg(long, value_name = "DURATION", default_value = "1h", value_parser = duration)]
    valid_for: Duration,

    /// JSON that other clients see in presence, join and leave messages and publications
    #[arg(long, value_name = "JSON", value_parser = json)]
    info: Option<Value>,

    /// A channel that the client is subscribed to; may be repeated
    #[arg(long = "channel", value_name = "CHANNEL", value_parser = channel)]
    channels: Vec<String>,

    /// Make a token for the subscription to this channel, instead of one for a connection
    #[arg(long, value_name = "CHANNEL", value_parser = channel, conflicts_with_all = ["channels", "info"])]
    subscription: Option<String>,

    /// Another claim, as JSON or else as a text; a name that begins with a slash is a JSON pointer; may be
    /// repeated
    #[arg(long = "claim", value_name = "NAME=VALUE", value_parser = claim)]
    claims: Vec<(String, Value)>,

    /// The configuration file of the gateway, for its plugin folder [default: gateway.toml in the current
    /// folder]
    #[arg(long, value_name = "FILE", conflicts_with = "settings")]
    config: Option<PathBuf>,

    /// The settings file of auth-jwt itself
    #[arg(long, value_name = "FILE")]
    settings: Option<PathBuf>,

    /// The issuer, if the settings have several
    #[arg(long, value_name = "ISSUER")]
    issuer: Option<String>,

    /// The `kid` of the key, if the settings have several; with --key what the header of the token says
    #[arg(long, value_name = "KID")]
    key_id: Option<String>,

    /// A file with the private key as PEM, or with the shared secret
    #[arg(long, value_name = "FILE", requires = "algorithm")]
    key: Option<PathBuf>,

    /// What --key is for
    #[arg(long, value_name = "NAME", requires = "key", value_parser = PossibleValuesParser::new(ALGORITHMS))]
    algorithm: Option<String>,
}

fn user(text: &str) -> Result<String, String> {
    address::check_user(text).map(|()| text.to_owned()).map_err(|invalid| format!("the user {invalid}"))
}

fn channel(text: &str) -> Result<String, String> {
    wildcard::check_subscription(text)
        .map(|()| text.to_owned())
        .map_err(|invalid| format!("the channel {invalid}"))
}

pub(super) fn duration(text: &str) -> Result<Duration, String> {
    units::duration(text).filter(|duration| duration.as_secs() > 0).ok_or_else(|| {
        "expected a whole number and a unit, at least a second: \"90s\", \"10m\", \"1h\", \"30d\"".to_owned()
    })
}

fn json(text: &str) -> Result<Value, String> {
    serde_json::from_str(text)
        .map_err(|error| format!("expected JSON, such as '{{\"name\": \"Ann\"}}': {error}"))
}

fn claim(text: &str) -> Result<(String, Value), String> {
    let (name, value) = text.split_once('=').ok_or("expected a name, `=` and a value, such as plan=pro")?;
    let value = serde_json::from_str(value).unwrap_or_else(|_| Value::from(value));
    Ok((name.to_owned(), value))
}

pub(super) fn run(arguments: &Arguments) -> Result<(), Failure> {
    let token = match &arguments.settings {
        Some(settings) => AuthSettings::read(settings).and_then(|settings| token(arguments, &settings)),
        None => {
            let otherwise = "the settings file of auth-jwt with --settings FILE";
            of_config(arguments, config_or_here(arguments.config.as_deref(), otherwise)?)?
        }
    };
    print(&format!("{}\n", token.map_err(Failure::Unexpected)?))
}

/// A token for the auth-jwt of the gateway with this configuration.
fn of_config(arguments: &Arguments, config: &Path) -> Result<anyhow::Result<String>, Failure> {
    let folder = Config::load(config).map_err(Failure::Configuration)?.plugins.folder;
    Ok(settings_in(&folder).and_then(|settings| token(arguments, &settings)))
}

fn settings_in(folder: &Path) -> anyhow::Result<AuthSettings> {
    let plugin = PluginFolder::existing(folder)?.file_of("auth-jwt")?;
    let Some(plugin) = plugin else {
        bail!(
            "there is no auth-jwt in {}: `gateway plugin add auth-jwt` puts it there, or name its settings with --settings",
            folder.display()
        );
    };
    AuthSettings::read(&plugin.with_extension("toml"))
}

fn token(arguments: &Arguments, settings: &AuthSettings) -> anyhow::Result<String> {
    let now = Duration::from_millis(Clock::start().now().unix);
    let options = TokenOptions {
        user: &arguments.user,
        expires: now.saturating_add(arguments.valid_for).as_secs(),
        info: arguments.info.clone(),
        channels: &arguments.channels,
        subscription: arguments.subscription.as_deref(),
        issuer: arguments.issuer.as_deref(),
        key_id: arguments.key_id.as_deref().filter(|_| arguments.key.is_none()),
    };
    let mut claims = settings.claims(&options)?;
    for (name, value) in &arguments.claims {
        claims.set(name, value.clone())?;
    }
    let signer = match (&arguments.key, &arguments.algorithm) {
        (Some(file), Some(algorithm)) => {
            let bytes = std::fs::read(file).with_context(|| format!("failed to read {}", file.display()))?;
            ensure!(!bytes.is_empty(), "{} is empty", file.display());
            let key = Key::from_file(algorithm, &bytes)
                .with_context(|| format!("failed to use {}", file.display()))?;
            Signer::new(key, arguments.key_id.clone())
        }
        _ => settings.signer(&options)?,
    };
    signer.token(&claims)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_claim_is_json_or_else_a_text() {
        let parsed = |text: &str| claim(text).expect(text);
        assert_eq!(parsed("plan=pro"), ("plan".into(), "pro".into()));
        assert_eq!(parsed("age=7"), ("age".into(), 7.into()));
        assert_eq!(parsed("/realm/roles=[\"chat\"]"), ("/realm/roles".into(), serde_json::json!(["chat"])));
        assert_eq!(parsed("formula=a=b"), ("formula".into(), "a=b".into()));
        assert!(claim("plan").is_err());
    }

    #[test]
    fn a_token_is_good_for_at_least_a_second() {
        assert_eq!(duration("10m"), Ok(Duration::from_secs(600)));
        for bad in ["", "10", "0s", "10 minutes", "5ms"] {
            assert!(duration(bad).is_err(), "{bad}");
        }
    }
}
