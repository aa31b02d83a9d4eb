//! Writes the folder of a new plugin in another language than Rust for `gateway plugin new --lang`: a copy of
//! the example in that language under another name, with the interface beside it.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, ensure};

use super::files::{Mode, check_empty, create};

/// An example of the source tree, which is a template as well.
#[derive(Debug)]
pub(crate) struct Template {
    /// The name of its plugin, which stands for the name of the new one.
    name: &'static str,
    readme: &'static str,
    /// The files besides the README and the interface.
    files: &'static [(&'static str, &'static str)],
}

/// A file of an example, by its path.
macro_rules! file {
    ($folder:literal, $path:literal) => {
        ($path, include_str!(concat!("../../../examples/", $folder, "/", $path)))
    };
}

pub(crate) const JAVASCRIPT: Template = Template {
    name: "emoji",
    readme: include_str!("../../../examples/javascript-plugin/README.md"),
    files: &[
        file!("javascript-plugin", "plugin.js"),
        file!("javascript-plugin", "utf8.js"),
        file!("javascript-plugin", "package.json"),
        file!("javascript-plugin", "package-lock.json"),
        file!("javascript-plugin", ".npmrc"),
        file!("javascript-plugin", "wit/world.wit"),
        file!("javascript-plugin", "gateway.toml"),
        file!("javascript-plugin", "plugins/10-emoji.toml"),
    ],
};

pub(crate) const PYTHON: Template = Template {
    name: "dice",
    readme: include_str!("../../../examples/python-plugin/README.md"),
    files: &[
        file!("python-plugin", "plugin.py"),
        file!("python-plugin", "wit/world.wit"),
        file!("python-plugin", "gateway.toml"),
        file!("python-plugin", "plugins/10-dice.toml"),
    ],
};

pub(crate) const C: Template = Template {
    name: "brief",
    readme: include_str!("../../../examples/c-plugin/README.md"),
    files: &[
        file!("c-plugin", "plugin.c"),
        file!("c-plugin", "wit/world.wit"),
        file!("c-plugin", "gateway.toml"),
        file!("c-plugin", "plugins/10-brief.toml"),
    ],
};

pub(crate) const ZIG: Template = Template {
    name: "calm",
    readme: include_str!("../../../examples/zig-plugin/README.md"),
    files: &[
        file!("zig-plugin", "plugin.zig"),
        file!("zig-plugin", "wit/world.wit"),
        file!("zig-plugin", "gateway.toml"),
        file!("zig-plugin", "plugins/10-calm.toml"),
    ],
};

/// The interface, which the tools of these languages read.
const INTERFACE: (&str, &str) = (
    "wit/deps/gateway-plugin/gateway-plugin.wit",
    include_str!("../../../plugin-sdk/wit/v0.1/gateway-plugin.wit"),
);

/// What builds make.
const IGNORED: (&str, &str) = (
    ".gitignore",
    "/node_modules/\n/venv/\n/generated/\n/.zig-cache/\n__pycache__/\n*.wasm\n/.plugins.state/\n",
);

impl Template {
    /// Writes the folder. Writes nothing if it exists and is not empty.
    pub(crate) fn write(&self, folder: &Path, name: &str) -> anyhow::Result<()> {
        check_empty(folder)?;
        let readme = self.readme(name);
        let others = [("README.md", &*readme), INTERFACE, IGNORED];
        for (path, text) in self.files.iter().copied().chain(others) {
            // The sources do not depend on the name of the plugin.
            let text = if path == "package.json" { self.renamed(text, name) } else { text.to_owned() };
            let path = folder.join(self.renamed(path, name));
            let parent = path.parent().unwrap_or(folder);
            fs::create_dir_all(parent).with_context(|| format!("failed to make {}", parent.display()))?;
            let is_new = create(&path, text.as_bytes(), Mode::Public)?;
            ensure!(is_new, "{} was there already", path.display());
        }
        Ok(())
    }

    /// The commands that build the plugin, check it and start a gateway with it, in its folder.
    pub(crate) fn commands(&self, name: &str) -> Vec<String> {
        let readme = self.readme(name);
        readme.lines().filter_map(|line| line.strip_prefix("$ ")).map(str::to_owned).collect()
    }

    /// The README of the example runs the gateway out of the source tree.
    fn readme(&self, name: &str) -> String {
        self.renamed(self.readme, name).replace("cargo run --release --", "gateway")
    }

    /// Only in names of files: a text may have the same word.
    fn renamed(&self, text: &str, name: &str) -> String {
        let (module, settings) = (format!("{}.wasm", self.name), format!("{}.toml", self.name));
        text.replace(&module, &format!("{name}.wasm")).replace(&settings, &format!("{name}.toml"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_complete_and_never_overwritten() {
        for template in [JAVASCRIPT, PYTHON, C, ZIG] {
            let place = tempfile::tempdir().expect("a folder");
            let folder = place.path().join("shout");
            template.write(&folder, "shout").expect("writable");
            let read = |path: &str| fs::read_to_string(folder.join(path)).expect(path);
            let settings = read("plugins/10-shout.toml");
            crate::plugin::settings::Settings::parse(settings.as_bytes()).expect("a settings file");
            crate::config::Config::load(&folder.join("gateway.toml")).expect("a configuration");
            assert!(read(INTERFACE.0).contains("package gateway:plugin@"));
            let readme = read("README.md");
            let name = template.name;
            for left in [format!("{name}.wasm"), format!("{name}.toml"), "cargo run".to_owned()] {
                assert!(!readme.contains(&left), "{left}: {readme}");
            }
            let commands = template.commands("shout");
            for command in [
                "gateway plugin check shout.wasm --settings plugins/10-shout.toml",
                "cp shout.wasm plugins/10-shout.wasm",
                "gateway serve --config gateway.toml",
            ] {
                assert!(commands.iter().any(|line| line == command), "{command}: {commands:?}");
            }

            let error = template.write(&folder, "shout").expect_err("not empty").to_string();
            assert!(error.contains("is not empty") && error.contains("nothing was written"), "{error}");
        }
    }
}
