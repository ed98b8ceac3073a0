//! The bytes of one checkpoint file, mapped or in memory.

use std::fs::File;
use std::ops::Deref;
use std::path::Path;

use memmap2::Mmap;

use super::lost_pages::MappedFile;
use crate::{Error, Result};

/// A file's content.
#[derive(Debug)]
pub(super) enum Content {
    Mapped(MappedFile),
    InMemory(Vec<u8>),
}

impl Deref for Content {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Content::Mapped(map) => map.bytes(),
            Content::InMemory(bytes) => bytes,
        }
    }
}

/// Maps a file, which must be a regular one; `kind` completes the error otherwise: "a safetensors file".
#[allow(unsafe_code)]
pub(super) fn map(path: &Path, kind: &str) -> Result<Content> {
    check_regular(path, kind)?;
    let failed = |action| move |source| Error::File { action, path: path.to_owned(), source };
    let file = File::open(path).map_err(failed("open"))?;
    // SAFETY: the map is private and read-only, and every access is bounds-checked against the length that it was
    // created with. Another process that truncates or rewrites the file while it is mapped breaks this, as with
    // every memory-mapped file; `Checkpoint::open` states that as its condition.
    let map = unsafe { Mmap::map(&file) }.map_err(failed("map"))?;
    Ok(Content::Mapped(MappedFile::new(map, path)))
}

/// Reads a whole file, which must be a regular one, too.
pub(super) fn read(path: &Path, kind: &str) -> Result<Content> {
    check_regular(path, kind)?;
    let failed = |source| Error::File { action: "read", path: path.to_owned(), source };
    Ok(Content::InMemory(std::fs::read(path).map_err(failed)?))
}

/// Refuses what is no regular file before it is opened, because opening a pipe would wait for its writer.
fn check_regular(path: &Path, kind: &str) -> Result<()> {
    let failed = |source| Error::File { action: "read", path: path.to_owned(), source };
    if path.metadata().map_err(failed)?.is_file() {
        return Ok(());
    }
    let problem = format!("not a regular file; expected {kind}");
    Err(Error::Checkpoint { path: path.to_owned(), problem })
}
