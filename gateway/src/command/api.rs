//! `Address` calls the HTTP API of a running gateway.

use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use serde_json::Value;

use super::Failure;
use crate::config::API_KEY_VARIABLE;
use crate::egress::{Client, Error, Reach, Request, Url};

/// Time for one call, including the connection.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Maximum bytes of a response.
const ANSWER_BYTES_MAX: usize = 16 << 20;

/// Address of the gateway and the key of its API.
#[derive(Debug, clap::Args)]
pub(super) struct Address {
    /// The address of the gateway's admin listener, `admin.address` in its configuration
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:8001")]
    address: String,

    /// The environment variable that holds the key of the API
    #[arg(long, value_name = "VARIABLE", default_value = API_KEY_VARIABLE)]
    key_env: String,
}

impl Address {
    /// Calls a method and returns its result. Every error says what to try.
    pub(super) fn call(&self, method: &str, body: &Value) -> Result<Value, Failure> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.context("failed to start a runtime").map_err(Failure::Unexpected)?;
        runtime.block_on(self.send(method, body)).map_err(Failure::Runtime)
    }

    async fn send(&self, method: &str, body: &Value) -> anyhow::Result<Value> {
        let key = std::env::var(&self.key_env).unwrap_or_default();
        ensure!(
            !key.is_empty(),
            "the API asks for a key: put the gateway's `admin.api_key` into the environment variable {}, or name another one \
             with --key-env",
            self.key_env
        );
        let url = format!("{}/api/{method}", self.address.trim_end_matches('/'));
        let url = Url::parse(&url).ok().with_context(|| {
            format!(
                "--address {}: expected http:// or https:// and the address of the gateway's admin listener",
                self.address
            )
        })?;
        let headers = [("content-type", "application/json"), ("x-api-key", &*key)];
        let request = Request::new("POST", &url, headers, body.to_string().into());
        let request =
            request.with_context(|| format!("{} does not hold a key that can be sent", self.key_env))?;
        // The admin listener is on this machine or in a private network.
        let answer = Client::new().send(request, Reach::Anywhere, TIMEOUT, ANSWER_BYTES_MAX).await;
        let answer = answer.map_err(|error| {
            let what = match &error {
                Error::Timeout(_) | Error::TooLarge(_) => {
                    format!("failed to read the answer of {}", self.address)
                }
                _ => format!(
                    "failed to reach {}: is the gateway running, and is this its `admin.address`?",
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
