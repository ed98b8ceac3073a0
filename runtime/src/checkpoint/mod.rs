//! Weights as they are stored: validated views into safetensors files, memory-mapped or in memory, or seeded random
//! tensors. Their order and type are those of the checkpoint; a backend packs them for its device.
//!
//! [`folder`] decides which files a checkpoint consists of, [`safetensors_file`] reads one file's header,
//! [`names`] lists the names of each weight in each layout, [`stored`] checks names, types and shapes against the model.

mod folder;
mod lost_pages;
mod names;
mod safetensors_file;
mod stored;
pub mod synthetic;
mod tensor;
#[cfg(test)]
mod tests;

use std::path::Path;

use ossmith_plan::{Graph, Model, ModelSpec, Weight};

use crate::{Error, Result};
pub use lost_pages::end_on_lost_pages;
use stored::StoredWeights;
use synthetic::{Synthetic, SyntheticWeights};
pub use tensor::Tensor;

/// A model's weights.
#[derive(Debug)]
pub struct Checkpoint {
    layers: usize,
    source: Source,
}

#[derive(Debug)]
enum Source {
    Files(StoredWeights),
    Random(SyntheticWeights),
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
        Checkpoint::open_shapes(folder, &model.spec, &model.graph)
    }

    /// [`Checkpoint::open`], with the parts of a model that it needs.
    fn open_shapes(folder: &Path, spec: &ModelSpec, graph: &Graph) -> Result<Checkpoint> {
        let source = Source::Files(StoredWeights::open(folder, spec, graph)?);
        Ok(Checkpoint { layers: spec.layers.len(), source })
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
        graph: &Graph,
    ) -> Result<Checkpoint> {
        let stored = StoredWeights::from_bytes(Path::new(name), bytes, spec, graph)?;
        Ok(Checkpoint { layers: spec.layers.len(), source: Source::Files(stored) })
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
        Checkpoint { layers, source: Source::Random(SyntheticWeights::new(graph, layers, kind)) }
    }

    /// The seed, if the weights are synthetic: a device then generates them in its own memory.
    #[must_use]
    pub fn synthetic_seed(&self) -> Option<u64> {
        self.synthetic_kind().map(|kind| kind.seed)
    }

    /// What the weights are, if they are synthetic.
    pub(crate) fn synthetic_kind(&self) -> Option<Synthetic> {
        match &self.source {
            Source::Files(_) => None,
            Source::Random(synthetic) => Some(synthetic.kind()),
        }
    }

    /// A tensor; `layer` is ignored for weights that exist once per model.
    ///
    /// # Errors
    /// [`Error::Internal`] for a layer that the model does not have.
    #[doc(hidden)]
    pub fn tensor(&self, weight: Weight, layer: usize) -> Result<Tensor<'_>> {
        let layer = if weight.per_layer() { layer } else { 0 };
        if layer >= self.layers {
            let problem =
                format!("{weight:?} of layer {layer} was requested from {} layers", self.layers);
            return Err(Error::Internal(problem));
        }
        Ok(match &self.source {
            Source::Files(stored) => stored.tensor(weight, layer),
            Source::Random(synthetic) => synthetic.tensor(weight, layer),
        })
    }
}

/// The index of a weight of a layer, in [`Weight::ALL`] order; weights that exist once use layer 0's.
fn weight_index(weight: Weight, layer: usize, layers: usize) -> usize {
    weight as usize * layers + layer
}
