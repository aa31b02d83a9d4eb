//! Finds the source tree of the gateway, if there is one: plugins in it are built from there, and new plugins
//! use its SDK.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, ensure};

/// Finds a source tree: the given one, which must be valid; else that of `cargo run`, else the one around the
/// current folder, else the one in which this program was built.
pub(crate) fn find(given: Option<&Path>) -> anyhow::Result<Option<PathBuf>> {
    if let Some(given) = given {
        let root =
            given.canonicalize().with_context(|| format!("failed to open --source {}", given.display()))?;
        ensure!(is_root(&root), "--source {} is not the source tree of the gateway", given.display());
        return Ok(Some(root));
    }
    let crate_folder = std::env::var_os("CARGO_MANIFEST_DIR").map(PathBuf::from);
    let program = std::env::current_exe().ok();
    let starts = crate_folder.into_iter().chain(std::env::current_dir().ok()).chain(program);
    Ok(starts.into_iter().find_map(|start| around(&start)))
}

fn around(start: &Path) -> Option<PathBuf> {
    start.ancestors().find(|folder| is_root(folder)).map(Path::to_owned)
}

fn is_root(folder: &Path) -> bool {
    folder.join("Cargo.toml").is_file()
        && folder.join("plugin-sdk/Cargo.toml").is_file()
        && folder.join("plugins").is_dir()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tree_is_found_from_inside_of_it() {
        let folder = tempfile::tempdir().expect("a folder");
        let root = folder.path().canonicalize().expect("it exists");
        let inner = root.join("plugins/router/src");
        for folder in [&inner, &root.join("plugin-sdk")] {
            std::fs::create_dir_all(folder).expect("writable");
        }
        std::fs::write(root.join("plugin-sdk/Cargo.toml"), "[package]").expect("writable");
        assert_eq!(around(&inner), None, "there is no Cargo.toml");
        std::fs::write(root.join("Cargo.toml"), "[workspace]").expect("writable");
        assert_eq!(around(&inner), Some(root.clone()));
        assert_eq!(find(Some(&root)).expect("given"), Some(root.clone()));
        let error = find(Some(&inner)).expect_err("not the root").to_string();
        assert!(error.contains("is not the source tree"), "{error}");
    }
}
