//! [`Demo`] prepares the demo: a folder with the shipped plugins to play with, and a chat page that shows
//! what they do.
//!
//! `gateway serve` runs none of it.

mod folder;
mod page;
mod token;
mod workspace;

use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context as _, bail};

use self::folder::Folder;
use self::page::DemoSite;
use self::token::Issuer;
use self::workspace::Workspace;
use crate::config::{API_KEY_VARIABLE, Config, ConfigErrors};
use crate::gateway::MakeSite;

/// The options of the demo.
#[derive(Debug, Clone)]
pub struct Options {
    /// Where the page and its clients are served.
    pub listen: SocketAddr,
    /// Where health, metrics and the HTTP API are served.
    pub admin: SocketAddr,
    /// The source tree; `None` to search for it.
    pub source: Option<PathBuf>,
    /// The plugin folder; `None` for one in the source tree.
    pub folder: Option<PathBuf>,
}

/// A demo with built plugins in their folder.
pub struct Demo {
    listen: SocketAddr,
    admin: SocketAddr,
    api_key: String,
    folder: Folder,
    issuer: Issuer,
}

impl Demo {
    /// Finds the source tree, builds the plugins and fills their folder. Reports progress on standard error.
    pub fn prepare(options: &Options) -> anyhow::Result<Self> {
        for (name, address) in [("--listen", options.listen), ("--admin", options.admin)] {
            if !address.ip().is_loopback() {
                bail!(
                    "{name} {address} can be reached from other machines, and the demo gives a token to every visitor: \
                     choose a loopback address such as 127.0.0.1:8000, or write a configuration for `gateway serve`"
                );
            }
        }
        let listen = with_port(options.listen)?;
        let workspace = Workspace::find(options.source.as_deref())?;
        workspace.add_targets()?;
        let built = workspace.build_plugins()?;
        let folder = options.folder.clone().unwrap_or_else(|| workspace.root().join("target/demo/plugins"));
        let folder = Folder::fill(&folder, &built)?;
        let issuer = Issuer::new(folder.secret());
        let api_key = match std::env::var(API_KEY_VARIABLE) {
            Ok(key) => key,
            Err(_) => token::random_text()?,
        };
        Ok(Self { listen, admin: options.admin, api_key, folder, issuer })
    }

    /// The configuration of the demo's gateway.
    pub fn config(&self) -> Result<Config, ConfigErrors> {
        let port = self.listen.port();
        let mut own = vec![format!("http://localhost:{port}"), format!("http://{}", self.listen)];
        if port == 80 {
            own = own.iter().filter_map(|origin| origin.strip_suffix(":80")).map(str::to_owned).collect();
        }
        let text = format!(
            r#"
                listen.address = "{listen}"
                admin = {{ address = "{admin}", api_key = {api_key} }}
                handshake.origins = {own:?}
                raw.enabled = true

                # Who may do what is for the router to say: its rules lie in the plugin folder.
                [namespaces.chat]
                history_size = 100
                history_ttl = "1h"
                recovery = true
                presence = true
                join_leave = true
            "#,
            listen = self.listen,
            admin = self.admin,
            api_key = toml::Value::from(&*self.api_key),
        );
        let mut config = Config::parse(&text, "the demo")?;
        config.plugins.folder = self.folder.path().to_owned();
        Ok(config)
    }

    /// The pages of the demo, for its gateway.
    pub fn site(&self) -> MakeSite {
        let issuer = self.issuer.clone();
        Box::new(move |control| Arc::new(DemoSite::new(issuer, control.clone())))
    }

    /// A few lines about what to try.
    pub fn what_next(&self) -> String {
        let (folder, key) = (self.folder.path().display(), &self.api_key);
        format!(
            "\
The demo is at http://{listen}/

  1. Open it in two tabs, as two users, and chat.
  2. Change the rules while they are connected: take the # off the first rule of
       {folder}/50-router.toml
     and nobody can write any more; the tabs stay connected.
  3. Remove the plugin and restore it:
       mv {folder}/50-router.wasm /tmp/ && sleep 5 && mv /tmp/50-router.wasm {folder}/
  4. Publish from a server:
       curl -H 'X-API-Key: {key}' http://{admin}/api/publish \\
         -d '{{\"channel\":\"chat:lobby\",\"data\":{{\"text\":\"hello from the server\"}}}}'
  5. Stop the demo with Ctrl-C and start it again: the tabs reconnect.",
            listen = self.listen,
            admin = self.admin,
        )
    }
}

/// Replaces port 0 by a free port: the origin of the page must be known before the gateway binds.
fn with_port(address: SocketAddr) -> anyhow::Result<SocketAddr> {
    if address.port() != 0 {
        return Ok(address);
    }
    TcpListener::bind(address)
        .and_then(|listener| listener.local_addr())
        .with_context(|| format!("failed to find a free port on {}", address.ip()))
}

#[cfg(test)]
mod tests;
