//! A folder that one export at a time writes: files appear under their names when they are whole, and none is replaced.

use std::fs::{self, File, TryLockError};
use std::io::{ErrorKind, Read, Write};
use std::path::{Path, PathBuf};

use crate::{Error, Result};

/// Bytes that are read at once for a checksum.
const CHUNK_BYTES: usize = 1 << 20;

/// A folder, locked while it lives.
#[derive(Debug)]
pub(super) struct Folder {
    path: PathBuf,
    handle: File,
}

impl Folder {
    /// Makes the folder if need be, and locks it.
    pub(super) fn open(path: &Path) -> Result<Folder> {
        let failed = |action| move |source| Error::File { action, path: path.to_owned(), source };
        if path.exists() && !path.is_dir() {
            return Err(refused(path, "is a file; expected a folder, or a name that is free"));
        }
        fs::create_dir_all(path).map_err(failed("make the folder"))?;
        let handle = File::open(path).map_err(failed("open"))?;
        match handle.try_lock() {
            Ok(()) => Ok(Folder { path: path.to_owned(), handle }),
            Err(TryLockError::WouldBlock) => {
                Err(refused(path, "another process is writing it; wait for its end"))
            }
            Err(TryLockError::Error(source)) => Err(failed("lock")(source)),
        }
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Where a file is until it is whole.
    fn partial(&self, name: &str) -> PathBuf {
        self.path(&format!(".{name}.partial"))
    }

    /// Removes what an interrupted run left of a file; a link is not followed.
    pub(super) fn remove_partial(&self, name: &str) {
        let _ = fs::remove_file(self.partial(name));
    }

    /// Refuses a folder with anything in it.
    pub(super) fn require_empty(&self) -> Result<()> {
        let failed = |source| self.failed("list", source);
        match fs::read_dir(&self.path).map_err(failed)?.next() {
            None => Ok(()),
            Some(entry) => {
                let name = entry.map_err(failed)?.file_name();
                let problem = format!(
                    "holds other files, such as {}; give an empty folder or a new one",
                    name.display()
                );
                Err(refused(&self.path, problem))
            }
        }
    }

    /// Refuses a disk with less room than this.
    pub(super) fn require(&self, bytes: u64) -> Result<()> {
        // A file system that does not tell is tried.
        let Ok(found) = rustix::fs::fstatvfs(&self.handle) else { return Ok(()) };
        let free = found.f_bavail.saturating_mul(found.f_frsize);
        if free >= bytes {
            return Ok(());
        }
        let problem = format!("has room for {free} bytes, and {bytes} are to be written");
        Err(refused(&self.path, problem))
    }

    /// The content of a file, if it is there.
    pub(super) fn read(&self, name: &str) -> Result<Option<Vec<u8>>> {
        match fs::read(self.path(name)) {
            Ok(content) => Ok(Some(content)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(source) => Err(Error::File { action: "read", path: self.path(name), source }),
        }
    }

    /// The BLAKE3 of a file, if it is there.
    pub(super) fn checksum(&self, name: &str) -> Result<Option<String>> {
        let path = self.path(name);
        let failed = |source| Error::File { action: "read", path: path.clone(), source };
        if path.symlink_metadata().is_err() {
            return Ok(None);
        }
        let mut file = File::open(&path).map_err(failed)?;
        let (mut hasher, mut chunk) = (blake3::Hasher::new(), vec![0; CHUNK_BYTES]);
        loop {
            match file.read(&mut chunk).map_err(failed)? {
                0 => return Ok(Some(hasher.finalize().to_hex().to_string())),
                read => hasher.update(&chunk[..read]),
            };
        }
    }

    /// Writes a small file, unless it has this content already.
    pub(super) fn write_whole(&self, name: &str, content: &[u8]) -> Result<()> {
        match self.read(name)? {
            Some(found) if found == content => Ok(()),
            Some(_) => {
                let problem = "holds something else than would be written; move it away";
                Err(refused(&self.path(name), problem))
            }
            None => self.replace(name, content),
        }
    }

    /// Writes a small file in place of the one of its name.
    pub(super) fn replace(&self, name: &str, content: &[u8]) -> Result<()> {
        let mut file = NewFile::create(self, name)?;
        file.write(content)?;
        file.rename()
    }

    fn failed(&self, action: &'static str, source: std::io::Error) -> Error {
        Error::File { action, path: self.path.clone(), source }
    }
}

/// A file that has its name once it is whole, and leaves nothing behind otherwise.
#[derive(Debug)]
pub(super) struct NewFile<'a> {
    folder: &'a Folder,
    path: PathBuf,
    partial: PathBuf,
    file: File,
    hasher: blake3::Hasher,
}

impl NewFile<'_> {
    pub(super) fn create<'a>(folder: &'a Folder, name: &str) -> Result<NewFile<'a>> {
        let (path, partial) = (folder.path(name), folder.partial(name));
        folder.remove_partial(name);
        let file = File::create_new(&partial).map_err(|source| Error::File {
            action: "write",
            path: partial.clone(),
            source,
        })?;
        Ok(NewFile { folder, path, partial, file, hasher: blake3::Hasher::new() })
    }

    pub(super) fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.hasher.update(bytes);
        self.file.write_all(bytes).map_err(|source| self.failed(source))
    }

    /// The BLAKE3 of what was written.
    pub(super) fn checksum(&self) -> String {
        self.hasher.finalize().to_hex().to_string()
    }

    /// Gives the file its name, after `record` has noted that it is whole. A file of that name is not replaced.
    pub(super) fn finish(self, record: impl FnOnce() -> Result<()>) -> Result<()> {
        if self.path.symlink_metadata().is_ok() {
            return Err(refused(&self.path, "is there, and was not written by this conversion"));
        }
        self.file.sync_all().map_err(|source| self.failed(source))?;
        record()?;
        self.rename()
    }

    fn rename(self) -> Result<()> {
        let written = self.file.sync_all();
        written.and_then(|()| fs::rename(&self.partial, &self.path)).map_err(|s| self.failed(s))?;
        // The name is on the disk when the folder is. Not every file system can be requested to do so.
        let _ = self.folder.handle.sync_all();
        Ok(())
    }

    fn failed(&self, source: std::io::Error) -> Error {
        Error::File { action: "write", path: self.path.clone(), source }
    }
}

impl Drop for NewFile<'_> {
    fn drop(&mut self) {
        // Gone already if the file was finished.
        let _ = fs::remove_file(&self.partial);
    }
}

fn refused(path: &Path, problem: impl Into<String>) -> Error {
    Error::Checkpoint { path: path.to_owned(), problem: problem.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_without_room_is_refused_with_both_numbers() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let folder = Folder::open(folder.path()).expect("a folder");
        folder.require(1).expect("room for a byte");
        let error = folder.require(u64::MAX).expect_err("no disk has this room").to_string();
        assert!(error.contains("has room for") && error.contains(&u64::MAX.to_string()), "{error}");
    }
}
