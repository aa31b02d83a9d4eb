//! [`SHIPPED`] lists the plugins that come with the gateway, and [`Source`] gets their modules: from the
//! program itself, if it carries them, or built from the source tree.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;

use super::bundle::Bundle;
use super::cargo::{Artifact, Cargo, TARGET, TARGETS};
use super::random::random_bytes;
use super::tree;
use crate::telemetry;

/// A plugin that comes with the gateway.
#[derive(Debug)]
pub(crate) struct Shipped {
    /// Name of the plugin and of its crate.
    pub(crate) name: &'static str,
    /// Its usual place in the chain.
    pub(crate) order: u16,
    /// What it does, for a list.
    pub(crate) about: &'static str,
    /// A settings file to edit, with the placeholder `{{secret}}`.
    settings: Option<&'static str>,
}

/// All of them, in the order of the chain.
pub(crate) const SHIPPED: [Shipped; 5] = [
    Shipped {
        name: "auth-jwt",
        order: 10,
        about: "admits clients by a signed token",
        settings: Some(include_str!("shipped/auth-jwt.toml")),
    },
    Shipped {
        name: "rate-limit",
        order: 20,
        about: "refuses what exceeds a table of limits",
        settings: Some(include_str!("shipped/rate-limit.toml")),
    },
    Shipped {
        name: "schema",
        order: 40,
        about: "checks payloads against JSON Schema",
        settings: Some(include_str!("shipped/schema.toml")),
    },
    Shipped {
        name: "router",
        order: 50,
        about: "decides by a table of rules",
        settings: Some(include_str!("shipped/router.toml")),
    },
    Shipped { name: "echo", order: 90, about: "answers with the same message", settings: None },
];

impl Shipped {
    /// The plugin of this name.
    ///
    /// # Errors
    ///
    /// The error lists the names that exist.
    pub(crate) fn find(name: &str) -> anyhow::Result<&'static Self> {
        let found = SHIPPED.iter().find(|shipped| shipped.name == name);
        found.with_context(|| {
            let names: Vec<_> = SHIPPED.iter().map(|shipped| shipped.name).collect();
            format!("no plugin {name:?} comes with the gateway: there are {}", names.join(", "))
        })
    }

    /// A new settings file, with a secret of its own if the plugin needs one.
    pub(crate) fn settings(&self) -> anyhow::Result<Option<String>> {
        let Some(text) = self.settings else { return Ok(None) };
        let secret = BASE64_STANDARD.encode(random_bytes::<32>()?);
        Ok(Some(text.replace("{{secret}}", &secret)))
    }
}

/// Where the modules of the shipped plugins come from.
#[derive(Debug)]
pub(crate) enum Source {
    /// The program carries them.
    Carried(Bundle),
    /// They are built in this source tree.
    Tree(PathBuf),
}

impl Source {
    /// The given source tree; else the program itself, if it carries plugins; else the source tree around it.
    ///
    /// # Errors
    ///
    /// Fails if there is none of these.
    pub(crate) fn find(given: Option<&Path>) -> anyhow::Result<Self> {
        if given.is_none()
            && let Some(bundle) = Bundle::of_this_program()?
        {
            return Ok(Self::Carried(bundle));
        }
        tree::find(given)?.map(Self::Tree).context(
            "this program carries no plugins, and there is no source tree of the gateway to build them from: run it \
             there, name the tree with --source DIR, or take a program that carries them (`gateway pack` makes one)",
        )
    }

    /// The modules of these plugins, in their order. Builds them if necessary and reports progress on
    /// standard error.
    pub(crate) fn modules(&self, names: &[&'static str]) -> anyhow::Result<Vec<Module>> {
        match self {
            Self::Carried(bundle) => {
                let carried = |&name: &&'static str| {
                    let wasm = bundle.read(name)?.with_context(|| {
                        let names: Vec<_> = bundle.names().collect();
                        format!("this program carries no plugin {name}; it carries {}", names.join(", "))
                    })?;
                    Ok(Module { name, wasm })
                };
                names.iter().map(carried).collect()
            }
            Self::Tree(root) => build(root, names),
        }
    }
}

/// A compiled plugin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Module {
    /// Its name.
    pub(crate) name: &'static str,
    /// The contents of its file.
    pub(crate) wasm: Vec<u8>,
}

fn build(root: &Path, names: &[&'static str]) -> anyhow::Result<Vec<Module>> {
    let cargo = Cargo::new(root);
    cargo.add_targets(&TARGETS, TARGET)?;
    telemetry::say(&format!("Building the plugins {}", names.join(", ")));
    let mut arguments: Vec<OsString> = ["--profile", "plugin", "--target", TARGET].map(Into::into).into();
    arguments.extend(names.iter().flat_map(|name| ["--package", name]).map(Into::into));
    let artifacts = cargo.build(arguments)?;
    names.iter().map(|name| module(name, &artifacts)).collect()
}

fn module(name: &'static str, artifacts: &[Artifact]) -> anyhow::Result<Module> {
    let Some(artifact) = artifacts.iter().find(|artifact| artifact.library == name) else {
        bail!("failed to find the file that cargo made of plugin {name}");
    };
    let wasm =
        fs::read(&artifact.wasm).with_context(|| format!("failed to read {}", artifact.wasm.display()))?;
    Ok(Module { name, wasm })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plugin::settings::Settings;

    #[test]
    fn the_settings_of_every_plugin_are_a_settings_file_and_secrets_differ() {
        for shipped in &SHIPPED {
            if let Some(text) = shipped.settings().expect("random bytes") {
                assert!(!text.contains("{{"), "{text}");
                Settings::parse(text.as_bytes()).expect(shipped.name);
            }
        }
        let auth = Shipped::find("auth-jwt").expect("there");
        assert_ne!(auth.settings().expect("random"), auth.settings().expect("random"));
    }

    #[test]
    fn the_order_of_the_chain_is_that_of_the_list() {
        assert!(SHIPPED.is_sorted_by_key(|shipped| shipped.order));
    }

    #[test]
    fn an_unknown_name_is_answered_with_the_known_ones() {
        let error = Shipped::find("auth").expect_err("unknown").to_string();
        assert!(error.contains("auth-jwt, rate-limit, schema, router, echo"), "{error}");
    }
}
