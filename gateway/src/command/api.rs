//! Calls of a running gateway's HTTP API.

use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::{Request, Uri, header};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::Failure;
use crate::config::API_KEY_VARIABLE;

/// Time for one call, connecting included.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Largest answer.
const ANSWER_BYTES_MAX: usize = 16 << 20;

/// Where the gateway is, and how to be let in.
#[derive(Debug, clap::Args)]
pub(super) struct Address {
    /// The admin listener of the gateway, `admin.address` in its configuration
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:8001")]
    address: String,

    /// The environment variable that holds the key of the API
    #[arg(long, value_name = "VARIABLE", default_value = API_KEY_VARIABLE)]
    key_env: String,
}

impl Address {
    /// The result of a method. Every failure says what to try.
    pub(super) fn call(&self, method: &str, body: &Value) -> Result<Value, Failure> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.context("failed to start a runtime").map_err(Failure::Unexpected)?;
        let call = async {
            timeout(TIMEOUT, self.send(method, body))
                .await
                .with_context(|| format!("{} did not answer within {TIMEOUT:?}", self.address))?
        };
        runtime.block_on(call).map_err(Failure::Runtime)
    }

    async fn send(&self, method: &str, body: &Value) -> anyhow::Result<Value> {
        let key = std::env::var(&self.key_env).unwrap_or_default();
        ensure!(
            !key.is_empty(),
            "the API asks for a key: put the gateway's `admin.api_key` into the environment variable {}, or name another one \
             with --key-env",
            self.key_env
        );
        let uri: Uri =
            self.address.parse().with_context(|| format!("--address {} is not a URL", self.address))?;
        let (Some("http"), Some(authority)) = (uri.scheme_str(), uri.authority()) else {
            bail!(
                "--address {}: expected http:// and the address of the gateway's admin listener",
                self.address
            );
        };
        let (host, port) = (authority.host().trim_matches(['[', ']']), authority.port_u16().unwrap_or(80));
        let unreachable = || {
            format!(
                "failed to reach {}: is the gateway running, and is this its `admin.address`?",
                self.address
            )
        };
        let socket = TcpStream::connect((host, port)).await.with_context(unreachable)?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(socket)).await.with_context(unreachable)?;
        tokio::spawn(connection);
        let request = Request::post(format!("/api/{method}"))
            .header(header::HOST, authority.as_str())
            .header(header::CONTENT_TYPE, "application/json")
            .header("x-api-key", key)
            .body(Full::new(Bytes::from(body.to_string())))
            .with_context(|| format!("{} does not hold a key that can be sent", self.key_env))?;
        let answer = sender.send_request(request).await.with_context(unreachable)?;
        let status = answer.status();
        let bytes = Limited::new(answer.into_body(), ANSWER_BYTES_MAX).collect().await;
        let bytes = bytes
            .map_err(|error| anyhow::anyhow!("failed to read the answer of {}: {error}", self.address))?;
        let answer: Value = serde_json::from_slice(&bytes.to_bytes())
            .with_context(|| format!("{} answered {status} and no JSON: is it a gateway?", self.address))?;
        if let Some(result) = answer.get("result") {
            return Ok(result.clone());
        }
        let message = answer["error"]["message"].as_str().unwrap_or("no reason given");
        bail!("{} refuses {method}: {message} ({status})", self.address)
    }
}
