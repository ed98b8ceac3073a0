//! Weights as they are stored: validated views into memory-mapped safetensors files, or seeded random tensors.
//! What comes out is in checkpoint order and type; packing for a device is `backend::cuda::pack`'s.

use std::path::Path;

use ossmith_plan::{Model, Weight};

use crate::Result;

/// One stored tensor, borrowed from a memory map or from generated memory.
#[derive(Clone, Debug)]
pub enum Tensor<'a> {
    /// bf16 rows; a fused tensor that the checkpoint stores in pieces (q, k, v) has several parts, in row order.
    Bf16 {
        /// Little-endian bf16, whole rows.
        parts: Vec<&'a [u8]>,
    },
    /// MXFP4: for each matrix row and block of 32 along k, 16 bytes of codes (low nibble first) and one E8M0 scale.
    Mxfp4 {
        /// `[matrices, rows, k / 32, 16]`.
        blocks: &'a [u8],
        /// `[matrices, rows, k / 32]`.
        scales: &'a [u8],
    },
}

/// A model's weights.
#[derive(Debug)]
pub struct Checkpoint {}

impl Checkpoint {
    /// Opens a folder in Hugging Face or OpenAI layout and checks every tensor's presence, type and shape against `model`.
    ///
    /// # Errors
    /// [`crate::Error::Checkpoint`] naming the file, the tensor and what was expected.
    pub fn open(_folder: &Path, _model: &'static Model) -> Result<Checkpoint> {
        todo!()
    }

    /// Seeded random weights of the model's shapes, made when first asked for (see `ossmith_scalar::synthetic`).
    #[must_use]
    pub fn synthetic(_model: &'static Model, _seed: u64) -> Checkpoint {
        todo!()
    }

    /// The seed, if the weights are synthetic: a device then makes them in its own memory.
    #[must_use]
    pub fn synthetic_seed(&self) -> Option<u64> {
        todo!()
    }

    /// A tensor; `layer` is ignored for weights that exist once a model.
    ///
    /// # Errors
    /// [`crate::Error::Internal`] for a layer that the model does not have.
    pub fn tensor(&self, _weight: Weight, _layer: usize) -> Result<Tensor<'_>> {
        todo!()
    }
}
