//! Which files a checkpoint folder consists of. Subfolders are never searched, because Hugging Face downloads have a
//! second copy of the weights in `original/`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Component, Path, PathBuf};

use serde::Deserialize;

use crate::{Error, Result};

const INDEX: &str = "model.safetensors.index.json";
const SINGLE: &str = "model.safetensors";
const EXTENSION: &str = "safetensors";

/// The files to open, and the file of each tensor that an index lists.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Files {
    pub(super) paths: Vec<PathBuf>,
    /// Tensor name to position in `paths`; empty without an index.
    pub(super) indexed: BTreeMap<String, usize>,
}

/// Looks for an index and its shards, then for a single file, then (in OpenAI's layout, which has no index) for every
/// safetensors file of the folder.
pub(super) fn find(folder: &Path) -> Result<Files> {
    if !folder.is_dir() {
        let problem = "no such folder; expected one with config.json and safetensors files";
        return Err(refused(folder, problem.to_owned()));
    }
    let (index, single) = (folder.join(INDEX), folder.join(SINGLE));
    if exists(&index) {
        return from_index(folder, &index);
    }
    if exists(&single) {
        return Ok(Files { paths: vec![single], indexed: BTreeMap::new() });
    }
    let listed = if is_openai(folder)? { list(folder)? } else { Vec::new() };
    if listed.is_empty() {
        let hint = match folder.join("original").is_dir() {
            true => {
                "; its subfolder `original` is not searched: pass that folder itself to load it"
            }
            false => "; the download may be incomplete",
        };
        return Err(refused(folder, format!("contains neither {INDEX} nor {SINGLE}{hint}")));
    }
    Ok(Files { paths: listed, indexed: BTreeMap::new() })
}

fn refused(path: &Path, problem: String) -> Error {
    Error::Checkpoint { path: path.to_owned(), problem }
}

/// Whether the folder has such an entry. A broken link counts, so that it is reported and not skipped.
fn exists(path: &Path) -> bool {
    path.symlink_metadata().is_ok()
}

fn read_text(path: &Path) -> Result<String> {
    fs::read_to_string(path).map_err(|source| Error::File {
        action: "read",
        path: path.to_owned(),
        source,
    })
}

#[derive(Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

fn from_index(folder: &Path, index: &Path) -> Result<Files> {
    let parsed: Index = serde_json::from_str(&read_text(index)?)
        .map_err(|error| refused(index, format!("not an index of safetensors files: {error}")))?;
    if parsed.weight_map.is_empty() {
        return Err(refused(index, "its weight_map names no tensor".to_owned()));
    }
    let names: BTreeSet<&String> = parsed.weight_map.values().collect();
    for name in &names {
        let tensor =
            parsed.weight_map.iter().find(|(_, file)| file == name).map(|(tensor, _)| tensor);
        let tensor = tensor.map_or("", String::as_str);
        let mut components = Path::new(name).components();
        let plain =
            matches!((components.next(), components.next()), (Some(Component::Normal(_)), None));
        if !plain {
            let problem = format!(
                "tensor {tensor}: its file is {name:?}, expected a file name in this folder, without a path"
            );
            return Err(refused(index, problem));
        }
        if !exists(&folder.join(name)) {
            let problem = format!("tensor {tensor}: its file {name} is missing; download it again");
            return Err(refused(index, problem));
        }
    }
    let position: BTreeMap<&String, usize> = names.iter().copied().zip(0..).collect();
    let indexed =
        parsed.weight_map.iter().map(|(tensor, file)| (tensor.clone(), position[file])).collect();
    Ok(Files { paths: names.iter().map(|name| folder.join(name)).collect(), indexed })
}

/// OpenAI's config.json has its own name for the number of experts, and no `model_type`.
fn is_openai(folder: &Path) -> Result<bool> {
    let config = folder.join("config.json");
    if !exists(&config) {
        return Ok(false);
    }
    let fields: serde_json::Map<String, serde_json::Value> =
        serde_json::from_str(&read_text(&config)?)
            .map_err(|error| refused(&config, format!("not a JSON object: {error}")))?;
    Ok(fields.contains_key("num_experts") && !fields.contains_key("model_type"))
}

/// Every safetensors file of a folder, by name.
pub(super) fn list(folder: &Path) -> Result<Vec<PathBuf>> {
    let failed = |source| Error::File { action: "list", path: folder.to_owned(), source };
    let mut paths = Vec::new();
    for entry in fs::read_dir(folder).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        if path.extension().is_some_and(|extension| extension == EXTENSION) && path.is_file() {
            paths.push(path);
        }
    }
    paths.sort();
    Ok(paths)
}
