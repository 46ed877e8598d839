//! Which files of a folder hold the weights.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use crate::Error;
use crate::error::short;

/// Bytes of an index; those of real checkpoints have about 100,000.
const MAX_INDEX: u64 = 1 << 24;

/// The chosen files.
pub(super) struct Selected {
    /// Sorted.
    pub(super) files: Vec<PathBuf>,
    /// Tensor and file, as the index of shards has them.
    pub(super) indexed: BTreeMap<String, PathBuf>,
}

#[derive(serde::Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

/// Chooses as [`super::Weights::open`] says.
pub(super) fn select(dir: &Path, stem: &str, variant: Option<&str>) -> Result<Selected, Error> {
    let names = file_names(dir)?;
    if let Some(wanted) = variant
        && let Some(selected) = files_of(dir, stem, Some(wanted), &names)?
    {
        return Ok(selected);
    }
    if let Some(selected) = files_of(dir, stem, None, &names)? {
        return Ok(selected);
    }
    let others: Vec<String> = variants(stem, &names).into_iter().collect();
    match (variant, others.as_slice()) {
        (None, [only]) => files_of(dir, stem, Some(only), &names)?.ok_or_else(|| missing(dir, stem)),
        (None, [_, ..]) => Err(Error::Model(format!(
            "{} holds several variants of {stem} ({}) and no plain one; keep one of them",
            dir.display(),
            others.join(", ")
        ))),
        (None, []) | (Some(_), _) => Err(missing(dir, stem)),
    }
}

fn missing(dir: &Path, stem: &str) -> Error {
    Error::Model(format!(
        "{} holds neither {stem}.safetensors nor {stem}.safetensors.index.json; \
         is it a part of a model in the diffusers layout?",
        dir.display()
    ))
}

/// The file or shards of one variant, or nothing.
fn files_of(
    dir: &Path,
    stem: &str,
    variant: Option<&str>,
    names: &BTreeSet<String>,
) -> Result<Option<Selected>, Error> {
    let dotted = variant.map_or_else(String::new, |v| format!(".{v}"));
    let single = format!("{stem}{dotted}.safetensors");
    if names.contains(&single) {
        return Ok(Some(Selected { files: vec![dir.join(single)], indexed: BTreeMap::new() }));
    }
    let index = format!("{stem}.safetensors.index{dotted}.json");
    if names.contains(&index) {
        return shards(dir, &dir.join(index)).map(Some);
    }
    Ok(None)
}

fn shards(dir: &Path, index: &Path) -> Result<Selected, Error> {
    let broken = |what: String| Error::Model(format!("weights index {}: {what}", index.display()));
    let text = crate::files::read_text(index, MAX_INDEX).map_err(|e| broken(e.to_string()))?;
    let map = serde_json::from_str::<Index>(&text).map_err(|e| broken(short(e)))?.weight_map;
    if map.is_empty() {
        return Err(broken("names no tensor".to_owned()));
    }
    let mut files = BTreeSet::new();
    let mut indexed = BTreeMap::new();
    for (tensor, file) in map {
        // An index may come from anywhere; it must not lead out of its folder.
        if Path::new(&file).file_name() != Some(file.as_ref()) {
            return Err(broken(format!("{} is no plain file name", short(format!("{file:?}")))));
        }
        let path = dir.join(file);
        if !files.contains(&path) {
            if !path.is_file() {
                return Err(broken(format!("{} is missing; download the folder again", path.display())));
            }
            files.insert(path.clone());
        }
        indexed.insert(tensor, path);
    }
    Ok(Selected { files: files.into_iter().collect(), indexed })
}

/// Variants that the folder has: `v` of `stem.v.safetensors` and `stem.safetensors.index.v.json`.
fn variants(stem: &str, names: &BTreeSet<String>) -> BTreeSet<String> {
    let inner = |name: &str, start: &str, end: &str| {
        let variant = name.strip_prefix(start)?.strip_suffix(end)?;
        (!variant.is_empty() && !variant.contains('.') && !variant.contains("-of-"))
            .then(|| variant.to_owned())
    };
    names
        .iter()
        .filter_map(|name| {
            inner(name, &format!("{stem}."), ".safetensors")
                .or_else(|| inner(name, &format!("{stem}.safetensors.index."), ".json"))
        })
        .collect()
}

fn file_names(dir: &Path) -> Result<BTreeSet<String>, Error> {
    let failed = |e: std::io::Error| Error::Model(format!("list model folder {}: {e}", dir.display()));
    let mut names = BTreeSet::new();
    for entry in std::fs::read_dir(dir).map_err(failed)? {
        if let Ok(name) = entry.map_err(failed)?.file_name().into_string() {
            names.insert(name);
        }
    }
    Ok(names)
}
