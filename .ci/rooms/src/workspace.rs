//! Which files there are: `cargo metadata` names the targets, their modules follow from the source.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, ensure};
use serde_json::Value;

use crate::tree::Crate;

fn metadata() -> anyhow::Result<Value> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args(["metadata", "--no-deps", "--offline", "--format-version", "1"])
        .output()
        .context("cannot run cargo metadata")?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(serde_json::from_slice(&output.stdout)?)
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or_default()
}

fn list<'a>(value: &'a Value, key: &str) -> &'a [Value] {
    value[key].as_array().map_or(&[], Vec::as_slice)
}

/// The folder that the workspace lies in.
pub(crate) fn root() -> anyhow::Result<PathBuf> {
    Ok(PathBuf::from(text(&metadata()?, "workspace_root")))
}

/// Each library and program of the workspace as a tree of modules; tests, benches and examples as single files of the
/// package's first tree.
pub(crate) fn read(root: &Path) -> anyhow::Result<Vec<Crate>> {
    let load = |file: &str| fs::read_to_string(root.join(file)).ok();
    let mut crates = Vec::new();
    for package in list(&metadata()?, "packages") {
        let name = text(package, "name");
        let dependencies: Vec<String> = list(package, "dependencies")
            .iter()
            .map(|one| one["rename"].as_str().unwrap_or(text(one, "name")).replace('-', "_"))
            .collect();
        let first = crates.len();
        for target in list(package, "targets") {
            let kind = list(target, "kind").first().and_then(Value::as_str).unwrap_or_default();
            if !matches!(kind, "lib" | "bin" | "custom-build") {
                continue;
            }
            let source = Path::new(text(target, "src_path")).strip_prefix(root)?;
            let mut externs = dependencies.clone();
            // A program names its own package's library.
            externs.push(name.replace('-', "_"));
            let source = source.to_str().context("a path that is not UTF-8")?;
            crates.push(Crate::read(name, source, externs, &load)?);
        }
        let folder = Path::new(text(package, "manifest_path")).parent().unwrap_or(root);
        for side in ["tests", "benches", "examples"] {
            for file in rust_files(&folder.join(side))? {
                let file = file.strip_prefix(root)?.to_string_lossy().into_owned();
                let lines = load(&file).with_context(|| file.clone())?.lines().count();
                crates[first].test_files.push((file, lines));
            }
        }
    }
    Ok(crates)
}

fn rust_files(folder: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    if !folder.is_dir() {
        return Ok(found);
    }
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            found.extend(rust_files(&path)?);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}
