//! How a checkpoint is to be read, and what that did to its values.

use crate::setters::setters;

/// In which form experts are kept that a checkpoint does not store in MXFP4.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ExpertStorage {
    /// Quantised to MXFP4, as the published models are: a quarter of the memory, and a known error.
    #[default]
    Mxfp4,
    /// In bf16; on the CPU only.
    Bf16,
}

/// How a checkpoint is read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct CheckpointOptions {
    /// The form of experts that are not stored in MXFP4.
    pub experts: ExpertStorage,
}

setters!(CheckpointOptions { with_experts(experts: ExpertStorage) });

/// A conversion that changed values, over all weights of its kind that were converted so far.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Conversion {
    /// `experts`, or `dense weights` for all others.
    pub weights: &'static str,
    /// The stored format: `bf16`, `nf4`.
    pub from: &'static str,
    /// `MXFP4` or `bf16`.
    pub to: &'static str,
    /// Root mean square of the differences over that of the values.
    pub relative_error: f64,
}
