//! Files of clients, on disk, and places for the batches that read them: a folder for each tenant, and in it two files for
//! each of theirs, the content and what is known about it. All have a bound together and a lifetime, and what one tenant has
//! does not exist for another.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::http::StatusCode;
use serde_json::{Value, json};

use crate::error::{ApiError, Result};
use crate::ids::{new_id_of, unix_seconds};
use crate::tenant::Tenant;
use crate::tenant_slots::TenantSlots;

/// Where files are kept and how many there may be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileLimits {
    /// The folder.
    pub folder: PathBuf,
    /// Most bytes of all files; where requests are told apart by their keys, one key's may take half.
    pub bytes: u64,
    /// Most bytes of one.
    pub file_bytes: u64,
    /// How long one is kept.
    pub lifetime: Duration,
}

/// Batches that run at a time, and those of one tenant among them; others wait.
const RUNNING_BATCHES: usize = 8;
const RUNNING_BATCHES_OF_TENANT: usize = 2;
/// Batches that run or wait. A batch may take a day, so where there are tenants one of them has half of these at most.
const OPEN_BATCHES: usize = 64;

/// Places for batches.
#[derive(Debug)]
pub(crate) struct BatchSlots {
    pub(crate) running: TenantSlots,
    pub(crate) open: TenantSlots,
    /// Batches of one tenant that run or wait.
    pub(crate) most_open: usize,
}

impl BatchSlots {
    pub(crate) fn new(has_tenants: bool) -> BatchSlots {
        let most_open = OPEN_BATCHES / if has_tenants { 2 } else { 1 };
        BatchSlots {
            running: TenantSlots::new(RUNNING_BATCHES, RUNNING_BATCHES_OF_TENANT),
            open: TenantSlots::new(OPEN_BATCHES, most_open),
            most_open,
        }
    }
}

/// Most files of one tenant.
const MAX_FILES: usize = 1000;
/// What the id of a file begins with.
const PREFIX: &str = "file";

/// The files of all tenants.
#[derive(Clone, Debug)]
pub(crate) struct Files {
    limits: FileLimits,
    tenant_bytes: u64,
    room: Arc<Mutex<Room>>,
}

/// What is taken of the room for files, by the folders of their tenants: what was on disk when it was last measured, and what
/// has been claimed since. So uploads at the same time cannot exceed it together.
#[derive(Debug, Default)]
struct Room {
    taken: HashMap<PathBuf, u64>,
    /// Bytes claimed by each file that is being written.
    writing: HashMap<PathBuf, u64>,
    /// How many read the folders now, which takes a while and holds up nobody.
    measuring: usize,
    /// Files that were written to their end meanwhile: their bytes, or none if they were given up.
    finished: HashMap<PathBuf, Option<u64>>,
}

/// The sizes of files, by their folders.
type Sizes = HashMap<PathBuf, HashMap<PathBuf, u64>>;

impl Room {
    /// Takes over what was found on disk by one who began to read when [`Room::measuring`] was raised. Returns how many files
    /// `own` has.
    fn measured(&mut self, mut found: Sizes, own: &Path) -> usize {
        let finished = match self.measuring {
            0 => std::mem::take(&mut self.finished),
            _ => self.finished.clone(),
        };
        // They were read while they changed, or not at all.
        let changed =
            finished.into_iter().chain(self.writing.keys().map(|path| (path.clone(), None)));
        for (path, bytes) in changed {
            let Some(folder) = path.parent() else { continue };
            let files = found.entry(folder.to_owned()).or_default();
            match bytes {
                Some(bytes) => files.insert(path, bytes),
                None => files.remove(&path),
            };
        }
        let has_content = |path: &PathBuf| path.extension().is_some_and(|name| name == "jsonl");
        let kept =
            found.get(own).map_or(0, |files| files.keys().filter(|path| has_content(path)).count());
        let written = self.writing.keys().filter(|path| path.parent() == Some(own)).count();
        let on_disk = found.into_iter().map(|(folder, files)| (folder, files.values().sum()));
        self.taken = on_disk.collect();
        for (path, bytes) in &self.writing {
            if let Some(folder) = path.parent() {
                *self.taken.entry(folder.to_owned()).or_default() += bytes;
            }
        }
        kept + written
    }
}

/// A file that is being written. It is removed unless it is kept.
#[derive(Debug)]
pub(crate) struct NewFile {
    pub(crate) id: String,
    /// Where its content goes.
    pub(crate) path: PathBuf,
    about: PathBuf,
    files: Files,
    folder: PathBuf,
    kept: bool,
}

impl NewFile {
    /// Takes the room for this many more bytes.
    ///
    /// # Errors
    /// The file is larger than one may be, or there is no room.
    pub(crate) fn claim(&self, bytes: u64) -> Result<()> {
        let Files { limits, tenant_bytes, .. } = &self.files;
        let mut room = self.files.lock();
        let all: u64 = room.taken.values().sum();
        let mine = room.taken.get(&self.folder).copied().unwrap_or(0);
        let own = room.writing.get(&self.path).copied().unwrap_or(0);
        let status = StatusCode::PAYLOAD_TOO_LARGE;
        if own + bytes > limits.file_bytes {
            // No word of a request's body: the results of a batch come here too.
            let why = format!("the file is over {} bytes, the most of one file", limits.file_bytes);
            return Err(ApiError { status, ..ApiError::bad("file", why) });
        }
        if all + bytes > limits.bytes || mine + bytes > *tenant_bytes {
            let why = format!("there is no room for the rest of the file; yours take {mine} bytes");
            return Err(ApiError { status, ..no_room(&why) });
        }
        room.taken.insert(self.folder.clone(), mine + bytes);
        room.writing.insert(self.path.clone(), own + bytes);
        Ok(())
    }
}

impl Drop for NewFile {
    fn drop(&mut self) {
        // Removed while its claim counts, so that nobody measures it as one that was kept.
        if !self.kept {
            let _ = fs::remove_file(&self.path);
        }
        let mut room = self.files.lock();
        let claimed = room.writing.remove(&self.path).unwrap_or(0);
        if room.measuring > 0 {
            room.finished.insert(self.path.clone(), self.kept.then_some(claimed));
        }
        if !self.kept
            && let Some(taken) = room.taken.get_mut(&self.folder)
        {
            *taken = taken.saturating_sub(claimed);
        }
    }
}

fn no_room(why: &str) -> ApiError {
    ApiError { code: Some("no_room"), ..ApiError::bad("file", format!("{why}; delete some")) }
}

/// What was done with a file; none if another request has removed the file meanwhile.
fn if_there<T>(done: io::Result<T>) -> io::Result<Option<T>> {
    match done {
        Err(why) if why.kind() == io::ErrorKind::NotFound => Ok(None),
        done => done.map(Some),
    }
}

fn disk(action: &str, why: &io::Error) -> ApiError {
    tracing::error!(action, %why, "the folder of files cannot be used");
    ApiError::internal(format!("the server cannot {action} its folder of files"))
}

impl Files {
    pub(crate) fn new(limits: FileLimits, has_tenants: bool) -> Files {
        let tenant_bytes = limits.bytes / if has_tenants { 2 } else { 1 };
        Files { limits, tenant_bytes, room: Arc::default() }
    }

    fn lock(&self) -> MutexGuard<'_, Room> {
        self.room.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn folder(&self, tenant: Tenant) -> PathBuf {
        self.limits.folder.join(tenant.hex())
    }

    /// The paths of a file's content and of what is known about it.
    fn paths(&self, tenant: Tenant, id: &str) -> Option<(PathBuf, PathBuf)> {
        let digits = id.strip_prefix(PREFIX)?.strip_prefix('-')?;
        let known = !digits.is_empty() && digits.bytes().all(|digit| digit.is_ascii_hexdigit());
        let folder = self.folder(tenant);
        known.then(|| (folder.join(format!("{id}.jsonl")), folder.join(format!("{id}.json"))))
    }

    /// The sizes of all files, after those are removed whose time is over; `writing` are left alone.
    fn measure(&self, own: &Path, writing: &HashSet<PathBuf>) -> io::Result<Sizes> {
        fs::create_dir_all(own)?;
        let mut found = HashMap::new();
        for folder in fs::read_dir(&self.limits.folder)? {
            let folder = folder?.path();
            if folder.is_dir() {
                let sizes = self.tidy(&folder, writing)?;
                found.insert(folder, sizes);
            }
        }
        Ok(found)
    }

    fn tidy(&self, folder: &Path, writing: &HashSet<PathBuf>) -> io::Result<HashMap<PathBuf, u64>> {
        let mut found = HashMap::new();
        for entry in fs::read_dir(folder)? {
            let entry = entry?;
            let Some(data) = if_there(entry.metadata())? else { continue };
            if writing.contains(&entry.path()) {
                continue;
            }
            if data.modified()?.elapsed().is_ok_and(|age| age > self.limits.lifetime) {
                if_there(fs::remove_file(entry.path()))?;
                continue;
            }
            found.insert(entry.path(), data.len());
        }
        Ok(found)
    }

    /// A new file.
    ///
    /// # Errors
    /// There is no room, or the folder cannot be used.
    pub(crate) fn create(&self, tenant: Tenant) -> Result<NewFile> {
        let own = self.folder(tenant);
        let writing = {
            let mut room = self.lock();
            room.measuring += 1;
            room.writing.keys().cloned().collect()
        };
        let found = self.measure(&own, &writing);
        let mut room = self.lock();
        room.measuring -= 1;
        let count = match found {
            Ok(found) => room.measured(found, &own),
            Err(why) => {
                if room.measuring == 0 {
                    room.finished.clear();
                }
                return Err(disk("read", &why));
            }
        };
        let all: u64 = room.taken.values().sum();
        let mine = room.taken.get(&own).copied().unwrap_or(0);
        if all >= self.limits.bytes || mine >= self.tenant_bytes || count >= MAX_FILES {
            return Err(no_room(&format!(
                "there is no room for more files: there are {count} of {MAX_FILES}, with {mine} bytes"
            )));
        }
        let id = new_id_of(PREFIX).replacen('_', "-", 1);
        let (path, about) = (own.join(format!("{id}.jsonl")), own.join(format!("{id}.json")));
        room.writing.insert(path.clone(), 0);
        drop(room);
        Ok(NewFile { id, path, about, files: self.clone(), folder: own, kept: false })
    }

    /// Keeps a file under its name. Returns the file's object.
    pub(crate) fn keep(
        &self,
        mut file: NewFile,
        filename: &str,
        purpose: &str,
        lifetime: Option<Duration>,
    ) -> Result<Value> {
        let now = unix_seconds();
        let lifetime = lifetime.unwrap_or(self.limits.lifetime).min(self.limits.lifetime);
        let keep = || -> io::Result<Value> {
            let object = json!({
                "id": file.id,
                "object": "file",
                "bytes": fs::metadata(&file.path)?.len(),
                "created_at": now,
                "expires_at": now.saturating_add(lifetime.as_secs()),
                "filename": filename,
                "purpose": purpose,
                "status": "processed",
                "status_details": null,
            });
            fs::write(&file.about, object.to_string())?;
            Ok(object)
        };
        let object = keep().map_err(|why| disk("write to", &why))?;
        file.kept = true;
        Ok(object)
    }

    /// A file's object.
    pub(crate) fn get(&self, tenant: Tenant, id: &str) -> Result<Value> {
        let found = self.paths(tenant, id).and_then(|(_, about)| read(&about));
        found.ok_or_else(|| missing(id))
    }

    /// Where a file's content is.
    pub(crate) fn content(&self, tenant: Tenant, id: &str) -> Result<PathBuf> {
        self.get(tenant, id)?;
        self.paths(tenant, id).map(|(path, _)| path).ok_or_else(|| missing(id))
    }

    /// All files of a tenant, the oldest first.
    pub(crate) fn list(&self, tenant: Tenant) -> Vec<Value> {
        let entries = fs::read_dir(self.folder(tenant)).into_iter().flatten().flatten();
        let about = entries
            .map(|entry| entry.path())
            .filter(|path| path.extension().is_some_and(|extension| extension == "json"));
        let mut all: Vec<Value> = about.filter_map(|path| read(&path)).collect();
        all.sort_by_key(|file| {
            (file["created_at"].as_u64(), file["id"].as_str().map(str::to_owned))
        });
        all
    }

    pub(crate) fn remove(&self, tenant: Tenant, id: &str) -> Result<()> {
        self.get(tenant, id)?;
        let (path, about) = self.paths(tenant, id).ok_or_else(|| missing(id))?;
        if_there(fs::remove_file(about))
            .and_then(|_| if_there(fs::remove_file(path)))
            .map(drop)
            .map_err(|why| disk("write to", &why))
    }
}

/// What is known about a file, unless its time is over.
fn read(about: &Path) -> Option<Value> {
    let object: Value = serde_json::from_str(&fs::read_to_string(about).ok()?).ok()?;
    object["expires_at"].as_u64().is_none_or(|end| end > unix_seconds()).then_some(object)
}

fn missing(id: &str) -> ApiError {
    ApiError::not_found(None, format!("there is no file `{id}`"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uploads_at_the_same_time_share_the_room() {
        let folder = tempfile::tempdir().expect("a folder");
        let limits = FileLimits {
            folder: folder.path().to_owned(),
            bytes: 1000,
            file_bytes: 800,
            lifetime: Duration::from_secs(1000),
        };
        let files = Files::new(limits, false);
        let create = || files.create(Tenant::ONLY).expect("room");
        let write = |file: &NewFile, bytes: u64| {
            file.claim(bytes)?;
            let content = vec![b'x'; bytes as usize];
            let mut out = fs::OpenOptions::new().create(true).append(true).open(&file.path);
            let written = out.as_mut().map(|out| io::Write::write_all(out, &content));
            written.expect("a file").expect("a disk");
            Ok::<(), ApiError>(())
        };
        let (first, second) = (create(), create());
        write(&first, 600).expect("room");
        let refused = write(&second, 600).expect_err("there is no room for both");
        assert_eq!((refused.status.as_u16(), refused.code), (413, Some("no_room")));
        // Whoever measures meanwhile counts each byte once.
        write(&second, 300).expect("room");
        drop(create());
        write(&second, 101).expect_err("over the limit of all files");
        // What is given up makes room, and what is kept takes it.
        drop(first);
        write(&second, 400).expect("room");
        files.keep(second, "x", "batch", None).expect("kept");
        let third = create();
        write(&third, 300).expect_err("the file that was kept counts");
        write(&third, 10).expect("room");
        assert_eq!(write(&third, 791).expect_err("too large").code, None);
    }

    #[test]
    fn what_ends_while_the_folders_are_read_counts_once() {
        let (own, other) = (PathBuf::from("/files/a"), PathBuf::from("/files/b"));
        let [half, new, gone, open] =
            ["half", "new", "gone", "open"].map(|name| own.join(name).with_extension("jsonl"));
        let mut room = Room { measuring: 1, ..Room::default() };
        room.writing.insert(open.clone(), 7);
        // Two were read while they were written, and one was not there yet.
        let found = HashMap::from([
            (half.clone(), 10),
            (gone.clone(), 50),
            (open, 3),
            (own.join("half.json"), 1),
        ]);
        for (path, bytes) in [(half, Some(100)), (new, Some(20)), (gone, None)] {
            room.finished.insert(path, bytes);
        }
        let found = HashMap::from([(own.clone(), found), (other.clone(), HashMap::new())]);
        // Another one reads on, and needs the same.
        assert_eq!(room.measured(found.clone(), &own), 3);
        assert_eq!(room.taken, HashMap::from([(own.clone(), 100 + 20 + 1 + 7), (other, 0)]));
        room.measuring = 0;
        assert_eq!(room.measured(found.clone(), &own), 3);
        assert!(room.finished.is_empty());
    }
}
