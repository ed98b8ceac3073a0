//! Checkpoints that other programs have downloaded: the local Hugging Face cache. Nothing is fetched from here.

use std::path::{Path, PathBuf};

use crate::failure::fail;

/// The folder of a published model's files: `models--openai--NAME/snapshots/COMMIT` in the cache, where
/// `refs/main` names the commit.
pub(crate) fn snapshot(name: &str) -> anyhow::Result<PathBuf> {
    let cache = cache();
    let found = cache.as_deref().and_then(|cache| find(cache, name));
    found.ok_or_else(|| {
        let place = cache.map_or("the Hugging Face cache".into(), |cache| cache.display().to_string());
        fail(
            format!("there are no weights of {name} in {place}"),
            format!("give the checkpoint's folder with --model, or random weights with --model synthetic:{name}"),
        )
    })
}

fn find(cache: &Path, name: &str) -> Option<PathBuf> {
    let repository = cache.join(format!("models--openai--{name}"));
    let commit = std::fs::read_to_string(repository.join("refs/main")).ok()?;
    let folder = repository.join("snapshots").join(commit.trim());
    folder.join("config.json").is_file().then_some(folder)
}

/// Where the Hugging Face tools keep models: `HF_HUB_CACHE`, `HF_HOME/hub` or `~/.cache/huggingface/hub`.
fn cache() -> Option<PathBuf> {
    let set =
        |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let home = || {
        Some(
            set("XDG_CACHE_HOME")
                .or_else(|| Some(set("HOME")?.join(".cache")))?
                .join("huggingface"),
        )
    };
    set("HF_HUB_CACHE").or_else(|| Some(set("HF_HOME").or_else(home)?.join("hub")))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;

    #[test]
    fn the_snapshot_that_main_names_is_found() {
        let cache = tempfile::tempdir().unwrap();
        let repository = cache.path().join("models--openai--gpt-oss-20b");
        std::fs::create_dir_all(repository.join("refs")).unwrap();
        std::fs::create_dir_all(repository.join("snapshots/abc")).unwrap();
        assert_eq!(find(cache.path(), "gpt-oss-20b"), None);
        std::fs::write(repository.join("refs/main"), "abc\n").unwrap();
        assert_eq!(find(cache.path(), "gpt-oss-20b"), None, "no config.json yet");
        std::fs::write(repository.join("snapshots/abc/config.json"), "{}").unwrap();
        assert_eq!(find(cache.path(), "gpt-oss-20b"), Some(repository.join("snapshots/abc")));
        assert_eq!(find(cache.path(), "gpt-oss-120b"), None);
    }
}
