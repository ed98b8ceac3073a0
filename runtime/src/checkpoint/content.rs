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
    let failed = |action| move |source| Error::File { action, path: path.to_owned(), source };
    // This is checked before the file is opened, because opening a pipe would wait for its writer.
    if !path.metadata().map_err(failed("read"))?.is_file() {
        let problem = format!("not a regular file; expected {kind}");
        return Err(Error::Checkpoint { path: path.to_owned(), problem });
    }
    let file = File::open(path).map_err(failed("open"))?;
    // SAFETY: the map is private and read-only, and every access is bounds-checked against the length that it was
    // created with. Another process that truncates or rewrites the file while it is mapped breaks this, as with
    // every memory-mapped file; `Checkpoint::open` states that as its condition.
    let map = unsafe { Mmap::map(&file) }.map_err(failed("map"))?;
    Ok(Content::Mapped(MappedFile::new(map, path)))
}
