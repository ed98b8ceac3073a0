//! Files of the cache against their checksums. A blob's name is the checksum of its content, so that a file that was damaged
//! on disk, or by another program, is found when it is first used. What was verified is remembered beside the blobs, with
//! the file's size and time of change, and is verified again when either differs.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use anyhow::Context;
use ossmith::Progress;
use sha1::Sha1;
use sha2::{Digest, Sha256};

use crate::failure::fail;
use crate::output::note;
use crate::progress::Bars;

/// Folder of what was verified, in a model's folder, where Hugging Face's tools do not look.
const KNOWN: &str = ".ossmith-verified";

/// How the hub names content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Checksum {
    /// Large files: SHA-256.
    Sha256,
    /// Small ones: git's SHA-1 of a blob.
    Git,
}

impl Checksum {
    pub(super) fn name(self) -> &'static str {
        match self {
            Checksum::Sha256 => "SHA-256",
            Checksum::Git => "git hash",
        }
    }

    /// The kind of a blob's name.
    fn of(blob: &str) -> Option<Checksum> {
        let hexadecimal = blob.bytes().all(|byte| byte.is_ascii_hexdigit());
        match blob.len() {
            64 if hexadecimal => Some(Checksum::Sha256),
            40 if hexadecimal => Some(Checksum::Git),
            _ => None,
        }
    }
}

/// Verifies the files of a snapshot that are links to blobs and were not verified as they are now.
pub(super) fn snapshot(folder: &Path, snapshot: &Path) -> anyhow::Result<()> {
    let entries = std::fs::read_dir(snapshot);
    let entries = entries.with_context(|| format!("cannot list {}", snapshot.display()))?;
    let mut unknown: Vec<(PathBuf, Checksum, u64)> = Vec::new();
    for entry in entries.flatten() {
        let Ok(blob) = entry.path().read_link().and_then(|_| entry.path().canonicalize()) else {
            continue;
        };
        let kind = blob.file_name().and_then(|name| Checksum::of(name.to_str()?));
        if let (Some(kind), false) = (kind, is_known(folder, &blob)) {
            let bytes = blob.metadata().map_or(0, |found| found.len());
            unknown.push((blob, kind, bytes));
        }
    }
    let total: u64 = unknown.iter().map(|(_, _, bytes)| bytes).sum();
    let (mut bars, mut done) = (Bars::new(), 0);
    for (blob, kind, bytes) in unknown {
        let found = checksum(&blob, kind)?;
        let name = blob.file_name().unwrap_or_default().to_string_lossy();
        if !found.eq_ignore_ascii_case(&name) {
            return Err(fail(
                format!(
                    "{} is damaged: its {} is {found}, not its name",
                    blob.display(),
                    kind.name()
                ),
                "remove that file and run it again: it is downloaded anew",
            ));
        }
        if !remember(folder, &blob) {
            note!("{} cannot be written, so its files are verified in every run", folder.display());
        }
        done += bytes;
        bars.show(Progress { stage: "verify", done, total });
    }
    bars.finish();
    Ok(())
}

/// Whether a blob was verified as it is now.
pub(super) fn is_known(folder: &Path, blob: &Path) -> bool {
    let known = std::fs::read_to_string(marker(folder, blob));
    known.is_ok_and(|known| state(blob).is_some_and(|now| now == known))
}

/// Remembers that a blob was verified; false if that cannot be written.
pub(super) fn remember(folder: &Path, blob: &Path) -> bool {
    let Some(state) = state(blob) else { return false };
    std::fs::create_dir_all(folder.join(KNOWN)).is_ok()
        && std::fs::write(marker(folder, blob), state).is_ok()
}

fn marker(folder: &Path, blob: &Path) -> PathBuf {
    folder.join(KNOWN).join(blob.file_name().unwrap_or_default())
}

/// Size and time of change.
fn state(blob: &Path) -> Option<String> {
    let found = blob.metadata().ok()?;
    let changed = found.modified().ok()?.duration_since(UNIX_EPOCH).ok()?;
    Some(format!("{} {}", found.len(), changed.as_nanos()))
}

/// The checksum of a file, in hexadecimal.
pub(super) fn checksum(path: &Path, kind: Checksum) -> anyhow::Result<String> {
    let doing = || format!("cannot read {}", path.display());
    let source = File::open(path).with_context(doing)?;
    let sum = match kind {
        Checksum::Sha256 => sum(Sha256::new(), source),
        Checksum::Git => {
            let bytes = source.metadata().with_context(doing)?.len();
            sum(Sha1::new_with_prefix(format!("blob {bytes}\0")), source)
        }
    };
    sum.with_context(doing)
}

/// The checksum of what `hash` has taken and all of `source`, in hexadecimal.
fn sum(mut hash: impl Digest, mut source: impl Read) -> std::io::Result<String> {
    let mut buffer = vec![0; 1 << 20];
    loop {
        let count = source.read(&mut buffer)?;
        if count == 0 {
            return Ok(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect());
        }
        hash.update(&buffer[..count]);
    }
}
