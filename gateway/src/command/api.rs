//! [`Address`] finds the HTTP API of a running gateway, and [`Api`] calls it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, bail};
use serde_json::Value;

use super::{CONFIG_FILE, Failure, runtime};
use crate::config::{API_KEY_VARIABLE, Config};
use crate::demo;
use crate::egress::{Client, Error, Reach, Request, Url};
use crate::plugin_tools::tree;

/// Where the admin listener is if nothing says so.
const DEFAULT: &str = "http://127.0.0.1:8001";

/// Time for one call, including the connection.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Maximum bytes of a response.
const ANSWER_BYTES_MAX: usize = 16 << 20;

/// Where the gateway is, and how to be let in.
#[derive(Debug, Clone, Default, clap::Args)]
pub(super) struct Address {
    /// The configuration file of the gateway, for the address and the key of its API [default: gateway.toml
    /// in the current folder, or that of the demo, if there is one]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,

    /// The admin listener of the gateway [default: `admin.address` in the configuration file, or
    /// http://127.0.0.1:8001]
    #[arg(long, value_name = "URL")]
    address: Option<String>,

    /// The environment variable that holds the key of the API; it wins over `admin.api_key` in the file
    #[arg(long, value_name = "VARIABLE", default_value = API_KEY_VARIABLE)]
    key_env: String,
}

/// A gateway whose address and key are known.
#[derive(Clone)]
pub(super) struct Api {
    address: String,
    key: String,
    /// Keeps its connection for the next call.
    client: Client,
}

impl Address {
    /// The address of the gateway with this configuration file.
    pub(super) fn of(config: PathBuf) -> Self {
        Self { config: Some(config), address: None, key_env: API_KEY_VARIABLE.to_owned() }
    }

    /// Calls a method and returns its result. Every error says what to try.
    pub(super) fn call(&self, method: &str, body: &Value) -> Result<Value, Failure> {
        let api = self.resolve()?;
        runtime()?.block_on(api.send(method, body)).map_err(Failure::Runtime)
    }

    /// Finds out the address and the key.
    pub(super) fn resolve(&self) -> Result<Api, Failure> {
        let file = match &self.config {
            Some(file) => Some(file.clone()),
            None if self.address.is_none() => default_file(),
            None => None,
        };
        let admin = match &file {
            Some(file) => Some(Config::load(file).map_err(Failure::Configuration)?.admin),
            None => None,
        };
        let (listener, in_file, tls) =
            admin.map_or((None, None, None), |admin| (admin.address, admin.api_key, admin.tls));
        let key = std::env::var(&self.key_env).ok().filter(|key| !key.is_empty());
        let key = key.or_else(|| in_file.map(|key| key.expose().to_owned())).with_context(|| {
            let file = file.as_ref().map_or("gateway.toml".into(), |file| file.display().to_string());
            format!(
                "the API asks for a key: name the configuration file of the gateway with --config, with `admin.api_key` in it \
                 (looked at: {file}), or put the key into the environment variable {}",
                self.key_env
            )
        });
        let listener = listener.map(|mut listener| {
            // What listens on every address is reached on this machine.
            match listener.ip() {
                IpAddr::V4(ip) if ip.is_unspecified() => listener.set_ip(Ipv4Addr::LOCALHOST.into()),
                IpAddr::V6(ip) if ip.is_unspecified() => listener.set_ip(Ipv6Addr::LOCALHOST.into()),
                _ => {}
            }
            format!("{}://{listener}", if tls.is_some() { "https" } else { "http" })
        });
        // One that cannot be read may be trusted by the system, and the handshake says so if it is not.
        let files = tls.into_iter().flat_map(|tls| tls.certificates);
        let certificates: Vec<_> = files.filter_map(|files| std::fs::read(files.certificate).ok()).collect();
        let address = self.address.clone().or(listener).unwrap_or_else(|| DEFAULT.to_owned());
        let client = Client::knowing(&certificates);
        Ok(Api { address, key: key.map_err(Failure::Runtime)?, client })
    }
}

/// The configuration file next to which a command runs, or that of the demo.
fn default_file() -> Option<PathBuf> {
    let demo = tree::find(None).ok().flatten().map(|root| root.join(demo::CONFIG_IN_TREE));
    let all = [Some(PathBuf::from(CONFIG_FILE)), demo, Some(PathBuf::from(demo::CONFIG_OUTSIDE))];
    all.into_iter().flatten().find(|file| file.is_file())
}

impl Api {
    pub(super) fn address(&self) -> &str {
        &self.address
    }

    /// Calls a method and returns its result. Every error says what to try.
    pub(super) async fn send(&self, method: &str, body: &Value) -> anyhow::Result<Value> {
        let url = format!("{}/api/{method}", self.address.trim_end_matches('/'));
        let url = Url::parse(&url).ok().with_context(|| {
            format!(
                "--address {}: expected http:// or https:// and the address of the gateway's admin listener",
                self.address
            )
        })?;
        let headers = [("content-type", "application/json"), ("x-api-key", &*self.key)];
        let request = Request::new("POST", &url, headers, body.to_string().into());
        let request = request.context("the key of the API holds characters that cannot be sent")?;
        // The admin listener is on this machine or in a private network.
        let answer = self.client.send(request, Reach::Anywhere, TIMEOUT, ANSWER_BYTES_MAX).await;
        let answer = answer.map_err(|error| {
            let what = match &error {
                Error::Timeout(_) | Error::TooLarge(_) => {
                    format!("failed to read the answer of {}", self.address)
                }
                _ => format!(
                    "failed to reach {}: is the gateway running, is this its `admin.address`, and does it speak TLS there?",
                    self.address
                ),
            };
            anyhow::Error::new(error).context(what)
        })?;
        let status = answer.status;
        let answer: Value = serde_json::from_slice(&answer.body)
            .with_context(|| format!("{} answered {status} and no JSON: is it a gateway?", self.address))?;
        if let Some(result) = answer.get("result") {
            return Ok(result.clone());
        }
        let message = answer["error"]["message"].as_str().unwrap_or("no reason given");
        bail!("{} refuses {method}: {message} ({status})", self.address)
    }
}
