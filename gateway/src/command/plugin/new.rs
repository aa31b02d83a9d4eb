//! `gateway plugin new`: creates the crate of a new plugin, or its folder in another language.

use std::path::{Path, PathBuf};

use anyhow::Context as _;

use crate::command::{Failure, print};
use crate::plugin_tools::crates::{Hook, Sdk, check_name, write};
use crate::plugin_tools::languages::{C, JAVASCRIPT, PYTHON, Template, ZIG};
use crate::plugin_tools::tree;
use crate::plugin_tools::workspace::Membership;

/// Create the crate of a new plugin that builds and passes its tests
///
/// Use it to start a plugin in Rust. The crate has a plugin with settings and one hook, tests, a settings
/// file, events for `gateway plugin run`, and a README with the next commands. In a cargo workspace the crate
/// becomes a member, and all plugins of the workspace share one build of the SDK. With `--lang` the folder
/// has a plugin in another language, the interface that its tools read, a settings file, a small
/// configuration of a gateway, and a README with the commands that build it. The command overwrites nothing.
#[derive(Debug, clap::Args)]
#[command(
    after_long_help = "Examples:\n  gateway plugin new shout\n  gateway plugin new door --hook auth\n  gateway plugin new shout \
                       --path work/plugins/shout\n  gateway plugin new shout --lang python"
)]
pub(super) struct Arguments {
    /// The plugin's name: letters, digits, `-` and `_`, a letter first
    #[arg(value_name = "NAME")]
    name: String,

    /// The language
    #[arg(long, value_name = "LANG", default_value = "rust")]
    lang: Language,

    /// The folder of the crate [default: a folder with the plugin's name]
    #[arg(long, value_name = "DIR")]
    path: Option<PathBuf>,

    /// What the plugin does, in Rust [default: refuse messages with a word from its settings]
    #[arg(long, value_name = "HOOK")]
    hook: Option<Hook>,
}

/// A language with a template.
#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum Language {
    Rust,
    Javascript,
    Python,
    C,
    Zig,
}

impl Language {
    /// The template of another language than Rust.
    fn template(self) -> Option<Template> {
        match self {
            Self::Rust => None,
            Self::Javascript => Some(JAVASCRIPT),
            Self::Python => Some(PYTHON),
            Self::C => Some(C),
            Self::Zig => Some(ZIG),
        }
    }
}

pub(super) fn run(arguments: &Arguments) -> Result<(), Failure> {
    let Arguments { name, lang, path, hook } = arguments;
    check_name(name).map_err(Failure::Unexpected)?;
    let folder = path.clone().unwrap_or_else(|| PathBuf::from(name));
    if let Some(template) = lang.template() {
        if hook.is_some() {
            let why = "--hook chooses among templates in Rust: leave it out, or leave out --lang";
            return Err(Failure::Unexpected(anyhow::anyhow!(why)));
        }
        return other(&template, name, &folder);
    }
    let sdk = match tree::find(None).map_err(Failure::Unexpected)? {
        Some(root) => Sdk::Path(root.join("plugin-sdk")),
        None => Sdk::Version,
    };
    let membership = write(&folder, name, *hook, &sdk).map_err(Failure::Unexpected)?;
    let folder =
        folder.canonicalize().context("failed to find what was written").map_err(Failure::Unexpected)?;
    let from = match &sdk {
        Sdk::Path(path) => format!("the SDK comes from the source tree, {}", path.display()),
        Sdk::Version => format!(
            "no source tree of the gateway was found, so the crate requests the SDK by its version, {}: where no registry \
             has it, change the line `gateway-plugin-sdk` in Cargo.toml to a path",
            env!("CARGO_PKG_VERSION")
        ),
    };
    let workspace = match &membership {
        Membership::Alone => String::new(),
        Membership::Listed(root) => format!("\n  it is a member of the workspace {}", root.display()),
        Membership::Added(root) => {
            format!("\n  it was added to the members of the workspace {}", root.display())
        }
    };
    print(&format!(
        "\
Made the plugin {name} in {folder}
  {from}{workspace}

Next, in that folder:
  cargo test                       try the hooks in src/lib.rs
  gateway plugin build             build the WebAssembly file; prints its path, FILE below
  gateway plugin run FILE --settings {name}.toml --events events.jsonl
  gateway plugin build --into DIR  build it, drop it into the plugin folder of a gateway, and wait until it is live
",
        folder = folder.display(),
    ))
}

/// Makes the folder of a plugin in another language.
fn other(template: &Template, name: &str, folder: &Path) -> Result<(), Failure> {
    template.write(folder, name).map_err(Failure::Unexpected)?;
    let folder =
        folder.canonicalize().context("failed to find what was written").map_err(Failure::Unexpected)?;
    let commands = template.commands(name).join("\n  ");
    print(&format!(
        "Made the plugin {name} in {}\n\nNext, in that folder, as its README.md says:\n  {commands}\n",
        folder.display()
    ))
}
