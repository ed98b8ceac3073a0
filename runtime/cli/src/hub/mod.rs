//! Checkpoints by name: taken from the local Hugging Face cache, or downloaded into it. The cache has the layout of
//! Hugging Face's tools, so each finds what the other has downloaded. `remote` lists the hub's files, `transfer` downloads
//! one of them, and `verify` compares a file with its checksum when it is first used.

mod remote;
mod transfer;
mod verify;

use std::path::{Path, PathBuf};

use anyhow::Context;
use serde_json::Value;

use crate::failure::fail;
use crate::interrupt;
use crate::output::note;
use crate::progress::Bars;
use remote::Hub;

/// A model on the hub, and which state of it: `openai/gpt-oss-20b`, `someone/tuned@v2`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Repository {
    name: String,
    /// A branch, a tag or a commit.
    revision: String,
}

impl Repository {
    /// The repository of this name, with `@REVISION` behind it or of the branch `main`; none if the text cannot be one. A
    /// bare name of a published model is OpenAI's.
    pub(crate) fn parse(text: &str) -> Option<Repository> {
        let fine = |part: &str| {
            let word = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
            !part.is_empty() && !part.starts_with(['.', '-']) && part.chars().all(word)
        };
        let (name, revision) = text.split_once('@').unwrap_or((text, "main"));
        // `refs/pr/1` is a revision too.
        if !revision.split('/').all(fine) {
            return None;
        }
        let name = match name.split_once('/') {
            Some((owner, model)) => (fine(owner) && fine(model)).then(|| name.to_owned())?,
            None => fine(name).then(|| format!("openai/{name}"))?,
        };
        Some(Repository { name, revision: revision.to_owned() })
    }

    /// Its folder in the cache.
    fn folder(&self, cache: &Path) -> PathBuf {
        cache.join(format!("models--{}", self.name.replace('/', "--")))
    }

    /// The file in the cache that has the commit of the revision; none for a commit, which is its own.
    fn reference(&self, folder: &Path) -> Option<PathBuf> {
        let is_commit =
            self.revision.len() == 40 && self.revision.bytes().all(|byte| byte.is_ascii_hexdigit());
        (!is_commit).then(|| folder.join("refs").join(&self.revision))
    }
}

impl std::fmt::Display for Repository {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.revision.as_str() {
            "main" => f.write_str(&self.name),
            revision => write!(f, "{}@{revision}", self.name),
        }
    }
}

/// The folder of a model's files; they are downloaded if they are not all there.
pub(crate) fn snapshot(repository: &Repository) -> anyhow::Result<PathBuf> {
    let Some(cache) = cache() else {
        return Err(fail("there is no folder for downloads", "set HF_HOME or HOME"));
    };
    if let Some(found) = find(&cache, repository) {
        verify::snapshot(&repository.folder(&cache), &found)?;
        return Ok(found);
    }
    if is_offline() {
        return Err(fail(
            format!("there are no weights of {repository} in {}", cache.display()),
            format!(
                "HF_HUB_OFFLINE forbids the download: unset it, give the checkpoint's folder with --model, or use random weights with --model synthetic:{}",
                repository.name.trim_start_matches("openai/")
            ),
        ));
    }
    download(&cache, repository)
}

/// Downloads what a model needs, and returns its folder.
fn download(cache: &Path, repository: &Repository) -> anyhow::Result<PathBuf> {
    let _hint = interrupt::Hint::new("what was downloaded is kept: run it again to continue");
    let hub = Hub::from_environment();
    let listing = hub.list(repository)?;
    let commit = listing["sha"].as_str().filter(|sha| remote::is_plain(sha));
    let commit = commit.with_context(|| format!("the hub's list of {repository} has no commit"))?;
    let files = remote::needed(&listing);
    if !files.iter().any(|file| file.name.ends_with(".safetensors")) {
        return Err(fail(
            format!("{repository} has no safetensors files"),
            "give a repository with a checkpoint of the gpt-oss architecture",
        ));
    }
    // Sizes are what the hub claims.
    let total = files.iter().fold(0_u64, |total, file| total.saturating_add(file.bytes));
    let folder = repository.folder(cache);
    note!("downloading {repository} ({:.1} GB) into {}", total as f64 / 1e9, folder.display());
    let snapshot = folder.join("snapshots").join(commit);
    let mut bars = Bars::new();
    let mut before = 0_u64;
    for file in &files {
        let url = hub.url(repository, &format!("resolve/{commit}/{}", file.name));
        let mut show = |done: u64| {
            bars.show(ossmith::Progress {
                stage: "download",
                done: before.saturating_add(done),
                total,
            });
        };
        let blob = transfer::file(&hub, &url, file, &folder, &mut show)?;
        link(&blob, &snapshot.join(&file.name))?;
        before = before.saturating_add(file.bytes);
    }
    bars.finish();
    // Written last, so that an interrupted download is never taken for a complete one.
    if let Some(reference) = repository.reference(&folder) {
        write(&reference, commit)?;
    }
    Ok(snapshot)
}

fn is_offline() -> bool {
    let set = |name: &str| {
        std::env::var(name)
            .is_ok_and(|value| !["", "0", "false"].contains(&value.to_ascii_lowercase().as_str()))
    };
    set("HF_HUB_OFFLINE")
}

/// The snapshot of the revision, if it is whole.
fn find(cache: &Path, repository: &Repository) -> Option<PathBuf> {
    let folder = repository.folder(cache);
    let commit = match repository.reference(&folder) {
        Some(reference) => std::fs::read_to_string(reference).ok()?,
        None => repository.revision.clone(),
    };
    let snapshot = folder.join("snapshots").join(commit.trim());
    is_whole(&snapshot).then_some(snapshot)
}

/// Whether a folder has the configuration and every file of weights that its index names.
fn is_whole(snapshot: &Path) -> bool {
    if !snapshot.join("config.json").is_file() {
        return false;
    }
    // A model need not have this one, but a blob that was removed is to be downloaded anew.
    let generation = snapshot.join("generation_config.json");
    if generation.is_symlink() && !generation.is_file() {
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

/// Puts a blob into the snapshot: a relative link, as Hugging Face's tools make it.
fn link(blob: &Path, place: &Path) -> anyhow::Result<()> {
    let doing = || format!("cannot make {}", place.display());
    if let Some(folder) = place.parent() {
        std::fs::create_dir_all(folder).with_context(doing)?;
    }
    let name = blob.file_name().unwrap_or_default();
    if place.symlink_metadata().is_ok() {
        std::fs::remove_file(place).with_context(doing)?;
    }
    std::os::unix::fs::symlink(Path::new("../../blobs").join(name), place).with_context(doing)
}

fn write(path: &Path, text: &str) -> anyhow::Result<()> {
    let doing = || format!("cannot write {}", path.display());
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).with_context(doing)?;
    }
    std::fs::write(path, text).with_context(doing)
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
            ("someone/tuned@v2.1", Some("someone/tuned@v2.1")),
            ("gpt-oss-20b@refs/pr/3", Some("openai/gpt-oss-20b@refs/pr/3")),
            ("openai/gpt-oss-20b@main", Some("openai/gpt-oss-20b")),
            ("a/b@", None),
            ("a/b@../main", None),
            ("a/b@c@d", None),
            ("a/b@/c", None),
        ] {
            assert_eq!(
                Repository::parse(name).map(|r| r.to_string()).as_deref(),
                repository,
                "{name}"
            );
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
        let generation = folder.join("snapshots/abc/generation_config.json");
        std::os::unix::fs::symlink("../../blobs/removed", generation).unwrap();
        assert_eq!(found(), None, "the link to it leads nowhere");
    }
}
