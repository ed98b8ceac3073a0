//! Weights as they are stored: validated views into safetensors files, memory-mapped or in memory, or seeded random
//! tensors. What no backend reads as it is stored is converted when it is first read. A backend packs weights for its
//! device.
//!
//! [`source`] is what a kind of checkpoint offers. Of safetensors, [`folder`] decides which files a checkpoint consists
//! of, [`safetensors_file`] reads one file's header, [`names`] lists the names of each weight in each layout, and
//! [`stored`] checks names, types and shapes against the model. [`coding`] decodes what is stored, and [`convert`] rounds and
//! quantises.

mod added_error;
mod coding;
mod content;
mod convert;
pub mod export;
mod folder;
mod fp8;
mod gguf;
mod lookup;
mod lora;
mod lost_pages;
mod mxfp4;
mod names;
mod nf4;
mod options;
mod safetensors_file;
mod source;
mod stored;
pub mod synthetic;
mod tensor;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use ossmith_plan::{Graph, Model, ModelSpec, Weight, WeightInfo};

use crate::{Error, Progress, Result};
use added_error::AddedError;
use gguf::GgufWeights;
pub use gguf::{Gguf, GgufTokenizer};
pub(crate) use lora::AdapterPart;
use lora::MergedWeights;
pub use lora::{Adapter, AdapterBounds, AdapterSupport, MAX_RANK};
pub use lost_pages::end_on_lost_pages;
pub use options::{CheckpointOptions, Conversion, ExpertStorage};
use source::{Made, WeightSource};
use stored::StoredWeights;
use synthetic::{Synthetic, SyntheticWeights};
pub(crate) use tensor::OwnedTensor;
pub use tensor::Tensor;

/// A model's weights.
#[derive(Debug)]
pub struct Checkpoint {
    graph: &'static Graph,
    layers: usize,
    source: Arc<dyn WeightSource>,
    /// What came afterwards in the place of the source's weights, by [`weight_index`]; empty if nothing did.
    updates: Vec<Option<Arc<StoredWeights>>>,
    /// What was made of what is stored, by [`weight_index`].
    made: Vec<Arc<OnceLock<std::result::Result<Made, String>>>>,
    /// What conversions added to the values that were read so far, by [`Conversion::weights`], `from` and `to`.
    added: Mutex<BTreeMap<[&'static str; 3], AddedError>>,
    /// What the weights are, if they are random.
    synthetic: Option<Synthetic>,
    /// The form of experts that are not stored in MXFP4.
    experts: ExpertStorage,
}

/// A weight for one use: borrowed from the checkpoint, or made and not kept there.
#[derive(Debug)]
pub(crate) enum LoadedTensor<'a> {
    /// It is kept.
    Borrowed(Tensor<'a>),
    /// It was made for this use.
    Owned(OwnedTensor),
}

impl LoadedTensor<'_> {
    /// The tensor itself.
    pub(crate) fn as_tensor(&self) -> Tensor<'_> {
        match self {
            LoadedTensor::Borrowed(tensor) => tensor.clone(),
            LoadedTensor::Owned(tensor) => tensor.as_tensor(),
        }
    }
}

impl Checkpoint {
    /// Opens a folder in Hugging Face or OpenAI layout and checks every tensor's presence, type and shape against `model`.
    ///
    /// Only the folder itself is read, never one below it: OpenAI's files inside a Hugging Face download are opened
    /// by passing their `original` folder. Tensors that the model does not use are ignored.
    /// The files must not be changed while the checkpoint lives: one that is cut short ends the process when a lost part is
    /// read, by a signal.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] naming the file, the tensor, what was expected and what was found;
    /// [`Error::File`] for a file that cannot be read.
    pub fn open(folder: &Path, model: &'static Model) -> Result<Checkpoint> {
        Checkpoint::open_with(folder, model, CheckpointOptions::default())
    }

    /// The weights of a GGUF file, each checked for its presence, type and shape against `model`.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] naming the file, the tensor, what was expected and what was found.
    pub fn from_gguf(gguf: Gguf, model: &'static Model) -> Result<Checkpoint> {
        let source = GgufWeights::new(gguf, &model.spec, &model.graph)?;
        Ok(Checkpoint::of_source(Arc::new(source), &model.graph, model.spec.layers.len()))
    }

    /// [`Checkpoint::open`], read as `options` ask.
    ///
    /// # Errors
    /// As [`Checkpoint::open`].
    pub fn open_with(
        folder: &Path,
        model: &'static Model,
        options: CheckpointOptions,
    ) -> Result<Checkpoint> {
        Checkpoint::open_shapes(folder, &model.spec, &model.graph, options)
    }

    /// [`Checkpoint::open_with`], with the parts of a model that it needs.
    fn open_shapes(
        folder: &Path,
        spec: &ModelSpec,
        graph: &'static Graph,
        options: CheckpointOptions,
    ) -> Result<Checkpoint> {
        let source = Arc::new(StoredWeights::open(folder, spec, graph, options)?);
        let read = Checkpoint::of_source(source, graph, spec.layers.len());
        Ok(Checkpoint { experts: options.experts, ..read })
    }

    fn of_source(
        source: Arc<dyn WeightSource>,
        graph: &'static Graph,
        layers: usize,
    ) -> Checkpoint {
        Checkpoint {
            graph,
            layers,
            source,
            updates: Vec::new(),
            made: (0..Weight::ALL.len() * layers).map(|_| Arc::default()).collect(),
            added: Mutex::default(),
            synthetic: None,
            experts: ExpertStorage::default(),
        }
    }

    /// The same weights, but for those whose tensors are in a safetensors file, or in the safetensors files of a folder, and
    /// their number. Names, types and shapes are those of a whole checkpoint of either layout; a weight that has several
    /// tensors comes with all of them. Adapters that were merged into a weight before are not added to the new one. The files
    /// are read at once, so they may change afterwards.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] naming the file, the tensor, what was expected and what was found, also for a tensor that the
    /// model does not have; [`Error::File`] for a file that cannot be read.
    pub fn updated(&self, path: &Path, model: &'static Model) -> Result<(Checkpoint, usize)> {
        self.updated_shapes(path, &model.spec, &model.graph)
    }

    /// The weights of a file or folder alone, read as [`Checkpoint::updated`] reads them, and which they are. The others
    /// cannot be read.
    #[cfg(feature = "cuda")]
    pub(crate) fn of_update(
        path: &Path,
        model: &'static Model,
    ) -> Result<(Checkpoint, Vec<(Weight, usize)>)> {
        let options = CheckpointOptions::default();
        let update = StoredWeights::open_update(path, &model.spec, &model.graph, options)?;
        let all = model.graph.all_weights().map(|(info, layer)| (info.weight, layer));
        let changed = all.filter(|&(weight, layer)| update.has(weight, layer)).collect();
        let layers = model.spec.layers.len();
        Ok((Checkpoint::of_source(Arc::new(update), &model.graph, layers), changed))
    }

    fn updated_shapes(
        &self,
        path: &Path,
        spec: &ModelSpec,
        graph: &Graph,
    ) -> Result<(Checkpoint, usize)> {
        let options = CheckpointOptions::default().with_experts(self.experts);
        let update = StoredWeights::open_update(path, spec, graph, options)?;
        let update = Arc::new(update);
        let (mut updates, mut made, mut count) = (self.updates.clone(), self.made.clone(), 0);
        updates.resize(made.len(), None);
        for (info, layer) in self.graph.all_weights() {
            if update.has(info.weight, layer) {
                let index = weight_index(info.weight, layer, self.layers);
                (updates[index], made[index]) = (Some(Arc::clone(&update)), Arc::default());
                count += 1;
            }
        }
        let read = Checkpoint::of_source(Arc::clone(&self.source), self.graph, self.layers);
        Ok((Checkpoint { updates, made, experts: self.experts, ..read }, count))
    }

    /// What the weights are made of; see [`WeightSource::identity`].
    fn identity(&self) -> Vec<String> {
        let updates: BTreeSet<String> =
            self.updates.iter().flatten().flat_map(|update| update.identity()).collect();
        self.source.identity().into_iter().chain(updates).collect()
    }

    /// Where a weight comes from.
    fn source(&self, weight: Weight, layer: usize) -> &dyn WeightSource {
        match self.updates.get(weight_index(weight, layer, self.layers)) {
            Some(Some(update)) => &**update,
            _ => &*self.source,
        }
    }

    /// The same weights with adapters added to them, in the order given. The checkpoint is opened with
    /// [`ExpertStorage::Bf16`] for this, so that experts are rounded once; `experts` is their form afterwards.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] for an adapter that was opened for a model of other shapes than `model`.
    pub fn with_adapters(
        self,
        model: &'static Model,
        adapters: Vec<Arc<Adapter>>,
        experts: ExpertStorage,
    ) -> Result<Checkpoint> {
        if let Some(other) = adapters.iter().find(|adapter| !adapter.fits(&model.spec)) {
            let problem = format!("adapter {} is for a model of other shapes", other.name());
            return Err(Error::Checkpoint { path: other.folder().to_owned(), problem });
        }
        if !self.updates.is_empty() {
            let problem = "adapters are merged before weights are updated".to_owned();
            return Err(Error::invalid_option("adapters", problem));
        }
        let source = Arc::new(MergedWeights::new(self.source, adapters, experts));
        let read = Checkpoint::of_source(source, self.graph, self.layers);
        Ok(Checkpoint { experts, ..read })
    }

    /// Applies the same checks to one safetensors file that is not on disk; errors show `name` as its path.
    ///
    /// # Errors
    /// [`Error::Checkpoint`], as for [`Checkpoint::open`].
    pub fn from_bytes(name: &str, bytes: Vec<u8>, model: &'static Model) -> Result<Checkpoint> {
        Checkpoint::from_bytes_shapes(name, bytes, &model.spec, &model.graph)
    }

    fn from_bytes_shapes(
        name: &str,
        bytes: Vec<u8>,
        spec: &ModelSpec,
        graph: &'static Graph,
    ) -> Result<Checkpoint> {
        let source = StoredWeights::from_bytes(Path::new(name), bytes, spec, graph)?;
        Ok(Checkpoint::of_source(Arc::new(source), graph, spec.layers.len()))
    }

    /// Seeded random weights of the model's shapes, each generated when it is first read (see [`synthetic`]).
    #[must_use]
    pub fn synthetic(model: &'static Model, seed: u64) -> Checkpoint {
        let kind = Synthetic { seed, counts: false };
        Checkpoint::synthetic_shapes(&model.graph, model.spec.layers.len(), kind)
    }

    /// The same, but the likeliest token after `t` is `t + 1` ([`Synthetic::counts`]): for measuring drafts, which random
    /// answers never accept.
    #[must_use]
    pub fn counting(model: &'static Model, seed: u64) -> Checkpoint {
        let kind = Synthetic { seed, counts: true };
        Checkpoint::synthetic_shapes(&model.graph, model.spec.layers.len(), kind)
    }

    fn synthetic_shapes(graph: &'static Graph, layers: usize, kind: Synthetic) -> Checkpoint {
        let source = Arc::new(SyntheticWeights(kind));
        Checkpoint { synthetic: Some(kind), ..Checkpoint::of_source(source, graph, layers) }
    }

    /// The seed, if the weights are synthetic: a device then generates them in its own memory.
    #[must_use]
    pub fn synthetic_seed(&self) -> Option<u64> {
        self.synthetic_kind().map(|kind| kind.seed)
    }

    /// What the weights are, if they are synthetic.
    pub(crate) fn synthetic_kind(&self) -> Option<Synthetic> {
        self.synthetic
    }

    /// What the files hold and the model does without, where other programs would use it: a sentence each.
    #[must_use]
    pub fn notes(&self) -> &[String] {
        self.source.notes()
    }

    /// What conversions did to the values of the weights that were read so far.
    #[must_use]
    pub fn conversions(&self) -> Vec<Conversion> {
        let added = self.added.lock().unwrap_or_else(PoisonError::into_inner);
        let conversion = |(&[weights, from, to], error): (&[&'static str; 3], &AddedError)| {
            Conversion { weights, from, to, relative_error: error.relative() }
        };
        added.iter().map(conversion).collect()
    }

    /// Whether experts are given in bf16, which not every backend computes with.
    #[cfg(feature = "cuda")]
    pub(crate) fn has_bf16_experts(&self) -> bool {
        let mut sources = self.updates.iter().flatten();
        self.source.has_bf16_experts() || sources.any(|update| update.has_bf16_experts())
    }

    /// Converts every weight that is `read` and is not read as it is stored, and keeps the results: for a backend that reads
    /// the checkpoint's memory.
    pub(crate) fn convert_all(
        &self,
        read: &dyn Fn(Weight) -> bool,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<()> {
        let is_made = |&(info, layer): &(&WeightInfo, usize)| {
            read(info.weight)
                && self.source(info.weight, layer).stored(info.weight, layer).is_none()
        };
        let all: Vec<_> = self.graph.all_weights().filter(is_made).collect();
        let total = all.iter().map(|(info, _)| info.bytes() as u64).sum();
        let mut done = 0;
        for (info, layer) in all {
            self.tensor(info.weight, layer)?;
            done += info.bytes() as u64;
            progress(Progress { stage: "convert weights", done, total });
        }
        Ok(())
    }

    /// A tensor; `layer` is ignored for weights that exist once per model. One that must be converted is converted once,
    /// when it is first read, and kept.
    ///
    /// # Errors
    /// [`Error::Internal`] for a layer that the model does not have; [`Error::Weight`] for values that cannot be converted.
    #[doc(hidden)]
    pub fn tensor(&self, weight: Weight, layer: usize) -> Result<Tensor<'_>> {
        let layer = self.layer_of(weight, layer)?;
        if let Some(tensor) = self.source(weight, layer).stored(weight, layer) {
            return Ok(tensor);
        }
        let cell = &self.made[weight_index(weight, layer, self.layers)];
        match cell.get_or_init(|| self.make(weight, layer)) {
            Ok(made) => Ok(made.tensor.as_tensor()),
            Err(problem) => Err(bad_values(weight, layer, problem)),
        }
    }

    /// As [`Checkpoint::tensor`], but what is converted is not kept: for a backend that copies each weight once.
    pub(crate) fn load(&self, weight: Weight, layer: usize) -> Result<LoadedTensor<'_>> {
        let layer = self.layer_of(weight, layer)?;
        let kept = &self.made[weight_index(weight, layer, self.layers)];
        if kept.get().is_some() || self.source(weight, layer).stored(weight, layer).is_some() {
            return self.tensor(weight, layer).map(LoadedTensor::Borrowed);
        }
        match self.make(weight, layer) {
            Ok(made) => Ok(LoadedTensor::Owned(made.tensor)),
            Err(problem) => Err(bad_values(weight, layer, &problem)),
        }
    }

    /// The blocks of a weight that is stored as ggml's q8_0; see [`WeightSource::q8_0`].
    pub(crate) fn q8_0(&self, weight: Weight, layer: usize) -> Option<Vec<&[u8]>> {
        let layer = self.layer_of(weight, layer).ok()?;
        self.source(weight, layer).q8_0(weight, layer)
    }

    fn make(&self, weight: Weight, layer: usize) -> std::result::Result<Made, String> {
        let made = self.source(weight, layer).make(self.graph.weight(weight, layer), layer)?;
        if let Some(error) = made.error {
            let to = match made.tensor {
                OwnedTensor::Bf16(_) => "bf16",
                OwnedTensor::Mxfp4 { .. } => "MXFP4",
            };
            let is_expert = matches!(weight, Weight::GateUp | Weight::Down);
            let weights = if is_expert { "experts" } else { "dense weights" };
            let mut added = self.added.lock().unwrap_or_else(PoisonError::into_inner);
            let sum = added.entry([weights, made.from, to]).or_default();
            *sum = sum.and(error);
        }
        Ok(made)
    }

    fn layer_of(&self, weight: Weight, layer: usize) -> Result<usize> {
        let layer = if weight.per_layer() { layer } else { 0 };
        if layer >= self.layers {
            let problem =
                format!("{weight:?} of layer {layer} was requested from {} layers", self.layers);
            return Err(Error::Internal(problem));
        }
        Ok(layer)
    }
}

fn bad_values(weight: Weight, layer: usize, problem: &str) -> Error {
    Error::Weight { weight: format!("{weight:?} of layer {layer}"), problem: problem.to_owned() }
}

/// The index of a weight of a layer, in [`Weight::ALL`] order; weights that exist once use layer 0's.
fn weight_index(weight: Weight, layer: usize, layers: usize) -> usize {
    weight as usize * layers + layer
}
