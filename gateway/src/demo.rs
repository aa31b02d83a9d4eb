//! [`Demo`] prepares the demo: a folder with the shipped plugins to play with, and a chat page that shows
//! what they do.
//!
//! `gateway serve` runs none of it.

mod folder;
mod page;
mod token;

use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context as _, bail};

use self::folder::{Folder, PLUGINS};
use self::page::DemoSite;
use crate::config::{API_KEY_VARIABLE, Config, ConfigErrors};
use crate::gateway::MakeSite;
use crate::plugin_tools::files::{Mode, replace};
use crate::plugin_tools::random::random_text;
use crate::plugin_tools::shipped::Source;
use crate::plugin_tools::token::Signer;

/// The configuration file of the demo, in the source tree. Commands find the address and the key there.
pub(crate) const CONFIG_IN_TREE: &str = "target/demo/gateway.toml";
/// The same where there is no source tree, in the folder where the demo was started.
pub(crate) const CONFIG_OUTSIDE: &str = "gateway-demo/gateway.toml";
/// The first line of this file: a file without it belongs to somebody else.
const CONFIG_HEAD: &str = "# Written by `gateway demo` at each start: changes are lost.";

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
    signer: Signer,
}

impl Demo {
    /// Gets the plugins, from the program or built from the source tree, and fills their folder. Reports
    /// progress on standard error.
    ///
    /// # Errors
    ///
    /// If an address is in use or not on loopback, there is no source tree, a plugin does not build, or the
    /// folder cannot be written.
    pub fn prepare(options: &Options) -> anyhow::Result<Self> {
        for (name, address) in [("--listen", options.listen), ("--admin", options.admin)] {
            if !address.ip().is_loopback() {
                bail!(
                    "{name} {address} can be reached from other machines, and the demo gives a token to every visitor: \
                     choose a loopback address such as 127.0.0.1:8000, or write a configuration for `gateway serve`"
                );
            }
        }
        let listen = free("--listen", options.listen)?;
        free("--admin", options.admin)?;
        let source = Source::find(options.source.as_deref())?;
        let folder = match (&options.folder, &source) {
            (Some(folder), _) => folder.clone(),
            (None, Source::Tree(root)) => root.join("target/demo/plugins"),
            (None, Source::Carried(_)) => PathBuf::from("gateway-demo/plugins"),
        };
        let folder = Folder::fill(&folder, &source.modules(&PLUGINS)?)?;
        let signer = Signer::with_secret(folder.secret())?;
        let api_key = match std::env::var(API_KEY_VARIABLE) {
            Ok(key) => key,
            Err(_) => random_text()?,
        };
        Ok(Self { listen, admin: options.admin, api_key, folder, signer })
    }

    /// The configuration of the demo's gateway.
    ///
    /// # Errors
    ///
    /// The errors of the configuration, which the demo itself has written.
    pub fn config(&self) -> Result<Config, ConfigErrors> {
        let mut config = Config::parse(&self.settings(), "the demo")?;
        config.plugins.folder = self.folder.path().to_owned();
        Ok(config)
    }

    /// Writes the configuration next to the plugin folder, for the commands that ask a running gateway. A
    /// file that is not of a demo stays as it is.
    pub fn write_config(&self) -> anyhow::Result<()> {
        let folder = self.folder.path();
        let file = folder.with_file_name("gateway.toml");
        let foreign = std::fs::read_to_string(&file).is_ok_and(|text| !text.starts_with(CONFIG_HEAD));
        if foreign {
            return Ok(());
        }
        let plugins = toml::Value::from(folder.to_string_lossy().into_owned());
        let mut text = format!("{CONFIG_HEAD}\n{}\n[plugins]\nfolder = {plugins}\n", self.settings());
        if std::env::var_os(API_KEY_VARIABLE).is_some() {
            // The key of the environment belongs there: the commands find it as well.
            text = text.replace(&self.api_key, "");
        }
        replace(&file, text.as_bytes(), Mode::Private)
    }

    fn settings(&self) -> String {
        let port = self.listen.port();
        let mut own = vec![format!("http://localhost:{port}"), format!("http://{}", self.listen)];
        if port == 80 {
            own = own.iter().filter_map(|origin| origin.strip_suffix(":80")).map(str::to_owned).collect();
        }
        format!(
            r#"
listen.address = "{listen}"
admin = {{ address = "{admin}", api_key = {api_key} }}
handshake.origins = {own:?}
raw.enabled = true

# The router decides who may do what: its rules are in the plugin folder.
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
        )
    }

    /// The pages of the demo, for its gateway.
    pub fn site(&self) -> MakeSite {
        let signer = self.signer.clone();
        Box::new(move |control| Arc::new(DemoSite::new(signer, control.clone())))
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

/// Checks that nothing listens on an address yet, before minutes are spent on a build. Replaces port 0 by a
/// free port: the origin of the page must be known before the gateway binds.
fn free(name: &str, address: SocketAddr) -> anyhow::Result<SocketAddr> {
    TcpListener::bind(address).and_then(|listener| listener.local_addr()).with_context(|| {
        format!(
            "failed to listen on {name} {address}: end the program that listens there, such as another demo, or choose \
             another address with {name}"
        )
    })
}

#[cfg(test)]
mod tests;
