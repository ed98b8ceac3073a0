//! Checkpoints by name: looked for in the local Hugging Face cache, else downloaded into it by [`remote`]. The layout is that
//! of Hugging Face's tools, so each finds what the other has fetched.

mod remote;
mod transfer;

use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::failure::fail;

/// A model on the hub: `openai/gpt-oss-20b`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Repository(String);

impl Repository {
    /// The repository of this name; none if the text cannot be one. A bare name of a published model is OpenAI's.
    pub(crate) fn parse(name: &str) -> Option<Repository> {
        let fine = |part: &str| {
            let word = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
            !part.is_empty() && !part.starts_with(['.', '-']) && part.chars().all(word)
        };
        match name.split_once('/') {
            Some((owner, model)) => {
                (fine(owner) && fine(model)).then(|| Repository(name.to_owned()))
            }
            None => fine(name).then(|| Repository(format!("openai/{name}"))),
        }
    }

    /// Its folder in the cache.
    fn folder(&self, cache: &Path) -> PathBuf {
        cache.join(format!("models--{}", self.0.replace('/', "--")))
    }
}

/// The folder of a model's files; they are downloaded if they are not all there.
pub(crate) fn snapshot(repository: &Repository) -> anyhow::Result<PathBuf> {
    let Some(cache) = cache() else {
        return Err(fail("there is no folder for downloads", "set HF_HOME or HOME"));
    };
    if let Some(found) = find(&cache, repository) {
        return Ok(found);
    }
    if is_offline() {
        return Err(fail(
            format!("there are no weights of {} in {}", repository.0, cache.display()),
            format!(
                "HF_HUB_OFFLINE forbids to fetch them: unset it, give the checkpoint's folder with --model, or take random weights with --model synthetic:{}",
                repository.0.trim_start_matches("openai/")
            ),
        ));
    }
    remote::fetch(&cache, repository)
}

fn is_offline() -> bool {
    let set = |name: &str| {
        std::env::var(name)
            .is_ok_and(|value| !["", "0", "false"].contains(&value.to_ascii_lowercase().as_str()))
    };
    set("HF_HUB_OFFLINE")
}

/// The snapshot that `refs/main` names, if it is whole.
fn find(cache: &Path, repository: &Repository) -> Option<PathBuf> {
    let folder = repository.folder(cache);
    let commit = std::fs::read_to_string(folder.join("refs/main")).ok()?;
    let snapshot = folder.join("snapshots").join(commit.trim());
    is_whole(&snapshot).then_some(snapshot)
}

/// Whether a folder has the configuration and every file of weights that its index names.
fn is_whole(snapshot: &Path) -> bool {
    if !snapshot.join("config.json").is_file() {
        return false;
    }
    let index = std::fs::read_to_string(snapshot.join("model.safetensors.index.json"));
    let index: Option<Value> = index.ok().and_then(|text| serde_json::from_str(&text).ok());
    match index.as_ref().and_then(|index| index["weight_map"].as_object()) {
        Some(map) => {
            map.values().all(|file| file.as_str().is_some_and(|file| snapshot.join(file).is_file()))
        }
        None => snapshot.join("model.safetensors").is_file(),
    }
}

/// Where the Hugging Face tools keep models: `HF_HUB_CACHE`, `HF_HOME/hub` or `~/.cache/huggingface/hub`.
fn cache() -> Option<PathBuf> {
    set("HF_HUB_CACHE").or_else(|| Some(home()?.join("hub")))
}

/// Where they keep everything: `HF_HOME` or `~/.cache/huggingface`.
fn home() -> Option<PathBuf> {
    let default = || {
        let cache = set("XDG_CACHE_HOME").or_else(|| Some(set("HOME")?.join(".cache")))?;
        Some(cache.join("huggingface"))
    };
    set("HF_HOME").or_else(default)
}

fn set(name: &str) -> Option<PathBuf> {
    std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;

    #[test]
    fn names_are_repositories_or_not() {
        for (name, repository) in [
            ("gpt-oss-20b", Some("openai/gpt-oss-20b")),
            ("openai/gpt-oss-20b", Some("openai/gpt-oss-20b")),
            ("someone/tuned_2.1", Some("someone/tuned_2.1")),
            ("a/b/c", None),
            ("../x", None),
            ("/x", None),
            ("", None),
            ("a b/c", None),
        ] {
            assert_eq!(Repository::parse(name).map(|r| r.0).as_deref(), repository, "{name}");
        }
    }

    #[test]
    fn only_a_whole_snapshot_is_found() {
        let cache = tempfile::tempdir().unwrap();
        let repository = Repository::parse("openai/gpt-oss-20b").unwrap();
        let folder = cache.path().join("models--openai--gpt-oss-20b");
        let write = |name: &str, text: &str| {
            let path = folder.join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        let found = || find(cache.path(), &repository);
        assert_eq!(found(), None);
        write("refs/main", "abc\n");
        write("snapshots/abc/config.json", "{}");
        assert_eq!(found(), None, "no weights yet");
        write(
            "snapshots/abc/model.safetensors.index.json",
            r#"{"weight_map": {"a": "one", "b": "two"}}"#,
        );
        write("snapshots/abc/one", "");
        assert_eq!(found(), None, "the second file of weights is missing");
        write("snapshots/abc/two", "");
        assert_eq!(found(), Some(folder.join("snapshots/abc")));
    }
}
