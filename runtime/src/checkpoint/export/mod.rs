//! Writing a checkpoint in the published layout: a folder of safetensors files with experts in MXFP4, as Hugging Face has
//! gpt-oss, whatever the weights were read from.
//!
//! [`layout`] says which tensors there are and in which file each is, [`record`] keeps what was finished, so that an
//! interrupted export continues, and [`folder`] writes files that appear under their names when they are whole.

mod folder;
mod layout;
mod record;

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::Path;

use ossmith_plan::{ModelSpec, Weight};
use serde_json::json;

use super::added_error::AddedError;
use super::source::Made;
use super::{Checkpoint, LoadedTensor, Tensor};
use crate::{Error, Progress, Result};
use folder::{Folder, NewFile};
use layout::{ExportWeight, Part, Shard};
use record::Record;
pub use record::{ExportedTensor, RECORD};

/// The stage that [`Checkpoint::export`] reports.
const STAGE: &str = "write weights";

/// The name of the list of all tensors.
const INDEX: &str = "model.safetensors.index.json";

/// Where and how a checkpoint is exported.
#[derive(Clone, Debug)]
pub struct ExportOptions<'a> {
    /// The folder; it is made if need be.
    pub folder: &'a Path,
    /// Files beside the weights: their names, and what they hold. `config.json` must be one of them.
    pub files: &'a [(String, Vec<u8>)],
    /// The most bytes of weights in a file; a weight that is larger has a file of its own.
    pub shard_bytes: u64,
}

/// What an export wrote, and what conversion added to each tensor.
#[derive(Clone, Debug, PartialEq)]
pub struct Export {
    /// Whether all is written; if not, the export was interrupted, and the same call continues it.
    pub complete: bool,
    /// Files of weights that an earlier call had finished, whose checksums were compared.
    pub kept: usize,
    /// Files of weights in all.
    pub shards: usize,
    /// The tensors that are written, in their order.
    pub tensors: Vec<ExportedTensor>,
}

impl Checkpoint {
    /// Writes all weights of the model `spec` and `options.files` to a folder in the published layout, one weight in memory at a time. What an
    /// earlier call finished is verified and kept; nothing that another program wrote is replaced. `progress` can end
    /// it between two weights; what is finished by then is kept.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] for a folder that holds other files or an export of other weights, or has too little room;
    /// [`Error::File`] for what cannot be written; [`Error::Weight`] for values that cannot be converted.
    pub fn export(
        &self,
        spec: &ModelSpec,
        options: &ExportOptions<'_>,
        progress: &mut dyn FnMut(Progress) -> ControlFlow<()>,
    ) -> Result<Export> {
        let mut weights = layout::weights(spec, self.graph);
        if spec.tied_embeddings && self.is_tied()? {
            weights.retain(|weight| weight.info.weight != Weight::Unembedding);
        }
        let shards = layout::shards(weights, options.shard_bytes);
        let mut record = Record::new(self.identity(), &shards);
        let folder = Folder::open(options.folder)?;
        record.resume(&folder)?;
        let kept = record.verify(&folder)?;
        // What an interrupted run left takes room that the whole files need.
        shards.iter().for_each(|shard| folder.remove_partial(&shard.name));
        let missing: u64 =
            shards.iter().filter(|shard| !record.has(&shard.name)).map(Shard::file_bytes).sum();
        folder.require(missing)?;
        record.save(&folder)?;
        for (name, content) in options.files {
            folder.write_whole(name, content)?;
        }
        let total = shards.iter().map(Shard::data_bytes).sum();
        let mut done = 0;
        let mut complete = true;
        for shard in &shards {
            if record.has(&shard.name) {
                done += shard.data_bytes();
                continue;
            }
            let written = self.write_shard(&folder, shard, &mut record, &mut |bytes| {
                done += bytes;
                progress(Progress { stage: STAGE, done, total })
            })?;
            if !written {
                complete = false;
                break;
            }
        }
        if complete {
            folder.write_whole(INDEX, index(&shards, total).as_bytes())?;
            record.complete = true;
        }
        record.save(&folder)?;
        Ok(Export { complete, kept, shards: shards.len(), tensors: record.tensors(&shards) })
    }

    /// Writes one file; false if `progress` ended it.
    fn write_shard(
        &self,
        folder: &Folder,
        shard: &Shard,
        record: &mut Record,
        progress: &mut dyn FnMut(u64) -> ControlFlow<()>,
    ) -> Result<bool> {
        let mut file = NewFile::create(folder, &shard.name)?;
        file.write(&shard.header())?;
        let mut tensors = Vec::new();
        for weight in &shard.weights {
            tensors.extend(self.write_weight(&mut file, weight)?);
            if progress(weight.bytes()).is_break() {
                return Ok(false);
            }
        }
        let checksum = file.checksum();
        file.finish(|| {
            // The record comes first: a file that it does not name is another program's.
            record.add_shard(&shard.name, checksum, tensors);
            record.save(folder)
        })?;
        Ok(true)
    }

    fn write_weight(
        &self,
        file: &mut NewFile<'_>,
        weight: &ExportWeight,
    ) -> Result<Vec<ExportedTensor>> {
        let ExportWeight { info, layer, tensors } = weight;
        let made;
        let (tensor, from, error) =
            match self.source(info.weight, *layer).stored(info.weight, *layer) {
                Some(stored) => (stored, "", None),
                None => {
                    made = self.make(info.weight, *layer);
                    let Made { tensor, from, error } = made
                        .as_ref()
                        .map_err(|problem| super::bad_values(info.weight, *layer, problem))?;
                    (tensor.as_tensor(), *from, *error)
                }
            };
        for (_, part) in tensors {
            match (part, &tensor) {
                (Part::Bytes(range), Tensor::Bf16 { parts }) => {
                    let mut at = 0;
                    for part in parts {
                        let from = range.start.clamp(at, at + part.len());
                        let to = range.end.clamp(at, at + part.len());
                        file.write(&part[from - at..to - at])?;
                        at += part.len();
                    }
                }
                (Part::Blocks, Tensor::Mxfp4 { blocks, .. }) => file.write(blocks)?,
                (Part::Scales, Tensor::Mxfp4 { scales, .. }) => file.write(scales)?,
                _ => {
                    let problem = "experts were opened in bf16, and the published layout has MXFP4";
                    return Err(Error::Internal(problem.to_owned()));
                }
            }
        }
        let relative_error = error.as_ref().map_or(0.0, AddedError::relative);
        let of_tensor = |stored: &layout::TensorLayout| {
            ExportedTensor::new(&stored.name, from, stored.format(), relative_error)
        };
        Ok(tensors.iter().map(|(stored, _)| of_tensor(stored)).collect())
    }

    /// Whether the unembedding has the bytes of the embedding.
    fn is_tied(&self) -> Result<bool> {
        let (embedding, unembedding) =
            (self.load(Weight::Embedding, 0)?, self.load(Weight::Unembedding, 0)?);
        let bytes = |tensor: &LoadedTensor<'_>| match tensor.as_tensor() {
            Tensor::Bf16 { parts } => parts.concat(),
            Tensor::Mxfp4 { .. } => Vec::new(),
        };
        Ok(match (embedding.as_tensor(), unembedding.as_tensor()) {
            (Tensor::Bf16 { parts: a }, Tensor::Bf16 { parts: b }) if a.len() == b.len() => a == b,
            _ => bytes(&embedding) == bytes(&unembedding),
        })
    }
}

/// The list of all tensors that transformers reads.
fn index(shards: &[Shard], total: u64) -> String {
    let names: BTreeMap<&str, &str> = shards
        .iter()
        .flat_map(|shard| shard.tensors().map(|tensor| (tensor.name.as_str(), shard.name.as_str())))
        .collect();
    let index = json!({"metadata": {"total_size": total}, "weight_map": names});
    format!("{index:#}\n")
}
