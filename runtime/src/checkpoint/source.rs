//! What each kind of checkpoint offers: the model's weights, either as they lie in a file or made from it. A file format
//! is one implementation of [`WeightSource`]; [`super::convert`] turns the values of any stored format into what a
//! backend reads.

use std::fmt;
use std::path::Path;
use std::time::UNIX_EPOCH;

use ossmith_plan::{DType, Weight, WeightInfo};

use super::added_error::AddedError;
use super::tensor::{OwnedTensor, Tensor};

/// The weights of an opened checkpoint, whose names, types and shapes have been checked against the model.
///
/// `layer` is below the number of layers, and 0 for a weight that exists once.
pub(super) trait WeightSource: fmt::Debug + Send + Sync {
    /// The weight's bytes in the file, if a backend can read them there; `None` if they must be made.
    fn stored(&self, weight: Weight, layer: usize) -> Option<Tensor<'_>>;

    /// The blocks of a weight that is stored as ggml's q8_0 (a 16-bit scale and 32 signed bytes), in the order of its rows.
    fn q8_0(&self, _weight: Weight, _layer: usize) -> Option<Vec<&[u8]>> {
        None
    }

    /// Makes a weight that is not [`stored`](WeightSource::stored), in `info`'s shape. All cores may be used.
    ///
    /// # Errors
    /// What is wrong with the stored values, to follow the weight's name.
    fn make(&self, info: &WeightInfo, layer: usize) -> Result<Made, String>;

    /// The type in which [`make`](WeightSource::make) is to give a weight to which adapters are added: bf16 if the weight would
    /// otherwise be quantised first.
    fn merge_dtype(&self, info: &WeightInfo, _layer: usize) -> DType {
        info.dtype
    }

    /// What the weights are made of, for telling one conversion from another: files ([`file_identity`]) or a seed.
    fn identity(&self) -> Vec<String>;

    /// What the files hold and the model does without, where other programs would use it: a sentence each.
    fn notes(&self) -> &[String] {
        &[]
    }

    /// Whether experts are given in bf16.
    #[cfg(feature = "cuda")]
    fn has_bf16_experts(&self) -> bool {
        false
    }
}

/// A file's name, size and time of change.
pub(super) fn file_identity(path: &Path) -> String {
    let name = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy();
    let Ok(found) = path.metadata() else { return name.into_owned() };
    let changed = found.modified().ok().and_then(|at| at.duration_since(UNIX_EPOCH).ok());
    let nanoseconds = changed.map_or(0, |at| at.as_nanos());
    format!("{name}, {} bytes, changed at {nanoseconds} ns", found.len())
}

/// A weight that was made, and what that cost in precision.
#[derive(Clone, Debug)]
pub(super) struct Made {
    pub(super) tensor: OwnedTensor,
    /// The stored format, for people: `bf16`, `nf4`.
    pub(super) from: &'static str,
    /// `None` if each value is exactly the stored one.
    pub(super) error: Option<AddedError>,
}

impl Made {
    /// A weight with exactly the stored values.
    pub(super) fn exact(tensor: OwnedTensor) -> Made {
        Made { tensor, from: "", error: None }
    }
}
