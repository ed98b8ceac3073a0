//! The repository's own text files.

use std::fs;
use std::path::{Path, PathBuf};

use ossmith_tests::root;

/// A file and its text.
pub(crate) struct Source {
    /// Path from the root, with `/`.
    pub(crate) path: String,
    /// Contents.
    pub(crate) text: String,
}

impl Source {
    /// Lines with their numbers, from 1.
    pub(crate) fn lines(&self) -> impl Iterator<Item = (usize, &str)> {
        self.text.lines().enumerate().map(|(i, line)| (i + 1, line))
    }
}

/// Folders of data: not ours to style.
const DATA: [&str; 3] = ["target", "codegen/goldens", "runtime/server/src/routes/page/vendor"];
/// Recorded results, of which only the texts beside them are ours.
const RESULTS: &str = "benches/results/";

/// Every text file of the repository with one of these extensions.
pub(crate) fn with(extensions: &[&str]) -> Vec<Source> {
    let mut sources = Vec::new();
    let mut folders = vec![PathBuf::new()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(root().join(&folder)).expect("a folder of the repository") {
            let entry = entry.expect("a folder of the repository");
            let path = folder.join(entry.file_name());
            let name = path.to_string_lossy().replace('\\', "/");
            let hidden = name != ".ci" && entry.file_name().to_string_lossy().starts_with('.');
            if hidden || DATA.contains(&name.as_str()) || name.ends_with("__pycache__") {
                continue;
            }
            if entry.path().is_dir() {
                // Excluded workspaces have build folders of their own.
                if !name.ends_with("/target") {
                    folders.push(path);
                }
            } else if wanted(&path, extensions)
                && (name.ends_with(".md") || !name.starts_with(RESULTS))
            {
                let text = fs::read_to_string(entry.path());
                sources.push(Source {
                    text: text.unwrap_or_else(|why| panic!("{name}: {why}")),
                    path: name,
                });
            }
        }
    }
    assert!(!sources.is_empty(), "no {extensions:?} file was found below {}", root().display());
    sources.sort_by(|a, b| a.path.cmp(&b.path));
    sources
}

fn wanted(path: &Path, extensions: &[&str]) -> bool {
    path.extension().is_some_and(|found| extensions.iter().any(|want| found == *want))
}
