//! What an export has finished: a file beside the weights, which is also the report of what conversion added.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::folder::Folder;
use super::layout::Shard;
use crate::{Error, Result};

/// The record's name in the folder.
pub const RECORD: &str = "ossmith-conversion.json";

/// A tensor that was written, and what that did to its values.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ExportedTensor {
    /// Its name in the published layout.
    pub name: String,
    /// The format that it was converted from; empty if its bytes are those of the source.
    pub from: String,
    /// `bf16` or `MXFP4`.
    pub to: String,
    /// Root mean square of the differences over that of the values, of the whole weight that the tensor is a part of.
    pub relative_error: f64,
}

impl ExportedTensor {
    pub(super) fn new(name: &str, from: &str, to: &str, relative_error: f64) -> ExportedTensor {
        ExportedTensor { name: name.into(), from: from.into(), to: to.into(), relative_error }
    }
}

/// The file's content.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Record {
    /// The weights that are exported.
    source: Vec<String>,
    /// The names of all files of weights.
    shards: Vec<String>,
    /// Bytes of weights in each of them.
    shard_bytes: Vec<u64>,
    /// BLAKE3 of each file that is finished.
    finished: BTreeMap<String, String>,
    /// Whether all files are written.
    pub(super) complete: bool,
    tensors: Vec<ExportedTensor>,
}

impl Record {
    /// Nothing is finished.
    pub(super) fn new(source: Vec<String>, shards: &[Shard]) -> Record {
        Record {
            source,
            shards: shards.iter().map(|shard| shard.name.clone()).collect(),
            shard_bytes: shards.iter().map(Shard::data_bytes).collect(),
            finished: BTreeMap::new(),
            complete: false,
            tensors: Vec::new(),
        }
    }

    /// Goes on with what the folder's record has finished.
    pub(super) fn resume(&mut self, folder: &Folder) -> Result<()> {
        let Some(text) = folder.read(RECORD)? else {
            return folder.require_empty();
        };
        let refused = |problem: String| Error::Checkpoint { path: folder.path(RECORD), problem };
        let found: Record = serde_json::from_slice(&text).map_err(|why| {
            refused(format!("is no record of a conversion: {why}; choose another folder"))
        })?;
        let other = if found.source != self.source {
            Some(format!("{} were being converted", found.source.join("; ")))
        } else if (&found.shards, &found.shard_bytes) != (&self.shards, &self.shard_bytes) {
            Some(format!("its weights were divided into {} files", found.shards.len()))
        } else {
            None
        };
        match other {
            Some(what) => Err(refused(format!(
                "records another conversion, in which {what}; choose another folder, or remove this one"
            ))),
            None => {
                *self = Record { complete: false, ..found };
                Ok(())
            }
        }
    }

    /// Compares the files that are finished with their checksums, and returns how many there are. One that is not there was
    /// recorded just before an interruption, and is written anew.
    pub(super) fn verify(&mut self, folder: &Folder) -> Result<usize> {
        for name in &self.shards {
            let expected = self.finished.get(name);
            match (expected, folder.checksum(name)?) {
                (None, None) => {}
                (Some(expected), Some(found)) if *expected == found => {}
                (Some(_), None) => {
                    self.finished.remove(name);
                }
                (expected, Some(_)) => {
                    let what = match expected {
                        Some(_) => "was changed after it was written",
                        None => "was not written by this conversion",
                    };
                    let problem = format!("{what}; move it away, and it is written anew");
                    return Err(Error::Checkpoint { path: folder.path(name), problem });
                }
            }
        }
        Ok(self.finished.len())
    }

    pub(super) fn has(&self, shard: &str) -> bool {
        self.finished.contains_key(shard)
    }

    /// Adds a file with its tensors, in place of what an earlier attempt recorded of them.
    pub(super) fn add_shard(&mut self, name: &str, checksum: String, tensors: Vec<ExportedTensor>) {
        self.finished.insert(name.to_owned(), checksum);
        self.tensors.retain(|known| tensors.iter().all(|new| new.name != known.name));
        self.tensors.extend(tensors);
    }

    /// The tensors in the order of the files.
    pub(super) fn tensors(&self, shards: &[Shard]) -> Vec<ExportedTensor> {
        let known: BTreeMap<&str, &ExportedTensor> =
            self.tensors.iter().map(|tensor| (tensor.name.as_str(), tensor)).collect();
        let names = shards.iter().flat_map(Shard::tensors);
        names.filter_map(|tensor| known.get(tensor.name.as_str()).copied().cloned()).collect()
    }

    /// Writes the record, in place of the last one.
    pub(super) fn save(&self, folder: &Folder) -> Result<()> {
        let text = serde_json::to_string_pretty(self)
            .map_err(|why| Error::Internal(format!("the record cannot be written: {why}")))?;
        folder.replace(RECORD, text.as_bytes())
    }
}
