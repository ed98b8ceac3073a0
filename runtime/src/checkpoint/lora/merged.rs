//! The weights of a checkpoint with adapters added to them. A weight that an adapter changes is decoded, to bf16 where it is
//! stored neither in that nor in MXFP4, added to, and rounded once; all others are as they were.

use std::ops::Range;
use std::sync::Arc;

use ossmith_plan::{DType, Weight, WeightInfo};

use super::super::convert::{self, MatrixValues};
use super::super::mxfp4::BLOCK;
use super::super::options::ExpertStorage;
use super::super::source::{Made, WeightSource, file_identity};
use super::super::tensor::Tensor;
use super::{Adapter, AdapterPart};

/// A checkpoint's weights, whose experts come in bf16 where they are not stored in MXFP4, and what is added to them.
#[derive(Debug)]
pub(in super::super) struct MergedWeights {
    inner: Arc<dyn WeightSource>,
    adapters: Vec<Arc<Adapter>>,
    experts: ExpertStorage,
    notes: Vec<String>,
}

impl MergedWeights {
    /// `experts` is the form of those that are changed or not stored in MXFP4.
    pub(in super::super) fn new(
        inner: Arc<dyn WeightSource>,
        adapters: Vec<Arc<Adapter>>,
        experts: ExpertStorage,
    ) -> MergedWeights {
        let mut notes = inner.notes().to_vec();
        for adapter in &adapters {
            notes.extend(
                adapter.notes.iter().map(|note| format!("adapter {}: {note}", adapter.name)),
            );
        }
        MergedWeights { inner, adapters, experts, notes }
    }

    fn parts(&self, weight: Weight, layer: usize) -> Vec<&AdapterPart> {
        self.adapters.iter().flat_map(|adapter| adapter.parts(weight, layer)).collect()
    }

    fn is_changed(&self, weight: Weight, layer: usize) -> bool {
        self.adapters.iter().any(|adapter| !adapter.parts(weight, layer).is_empty())
    }

    /// Whether experts in bf16 are to be quantised.
    fn quantises(&self, weight: Weight, tensor: &Tensor<'_>) -> bool {
        matches!(weight, Weight::GateUp | Weight::Down)
            && self.experts == ExpertStorage::Mxfp4
            && matches!(tensor, Tensor::Bf16 { .. })
    }
}

impl WeightSource for MergedWeights {
    fn stored(&self, weight: Weight, layer: usize) -> Option<Tensor<'_>> {
        if self.is_changed(weight, layer) {
            return None;
        }
        self.inner.stored(weight, layer).filter(|tensor| !self.quantises(weight, tensor))
    }

    fn identity(&self) -> Vec<String> {
        let files = self.adapters.iter().flat_map(|adapter| &adapter.files);
        let of_adapters = files.map(|path| file_identity(path));
        self.inner.identity().into_iter().chain(of_adapters).collect()
    }

    fn q8_0(&self, weight: Weight, layer: usize) -> Option<Vec<&[u8]>> {
        if self.is_changed(weight, layer) { None } else { self.inner.q8_0(weight, layer) }
    }

    fn make(&self, info: &WeightInfo, layer: usize) -> Result<Made, String> {
        let parts = self.parts(info.weight, layer);
        let is_expert = matches!(info.weight, Weight::GateUp | Weight::Down);
        if parts.is_empty() && !is_expert {
            return self.inner.make(info, layer);
        }
        let made;
        let (tensor, from) = match self.inner.stored(info.weight, layer) {
            Some(stored) => (stored, "bf16"),
            None => {
                let dtype = match parts.is_empty() {
                    true => info.dtype,
                    false => self.inner.merge_dtype(info, layer),
                };
                let whole = self.inner.make(&WeightInfo { dtype, ..*info }, layer)?;
                if parts.is_empty() && !self.quantises(info.weight, &whole.tensor.as_tensor()) {
                    return Ok(whole);
                }
                made = whole;
                (made.tensor.as_tensor(), made.from)
            }
        };
        let (matrices, rows, k) = info.matrices();
        let from = if parts.is_empty() { from } else { "the merged adapters" };
        let values = MergedRows { tensor, parts, matrices, rows, k };
        let quantised = is_expert && self.experts == ExpertStorage::Mxfp4;
        let (tensor, error) = match quantised {
            true => convert::to_mxfp4(&values, [matrices, rows, k])?,
            false => convert::to_bf16(&values, [matrices, rows, k])?,
        };
        Ok(Made { tensor, from, error: (error.squared_error > 0.0).then_some(error) })
    }

    fn merge_dtype(&self, info: &WeightInfo, layer: usize) -> DType {
        self.inner.merge_dtype(info, layer)
    }

    fn notes(&self) -> &[String] {
        &self.notes
    }

    #[cfg(feature = "cuda")]
    fn has_bf16_experts(&self) -> bool {
        let changed = |adapter: &Arc<Adapter>| {
            adapter.parts.keys().any(|(weight, _)| matches!(weight, Weight::GateUp | Weight::Down))
        };
        self.experts == ExpertStorage::Bf16
            && (self.inner.has_bf16_experts() || self.adapters.iter().any(changed))
    }
}

/// A weight's matrices with what is added to their rows.
struct MergedRows<'a> {
    tensor: Tensor<'a>,
    parts: Vec<&'a AdapterPart>,
    matrices: usize,
    rows: usize,
    k: usize,
}

impl MatrixValues for MergedRows<'_> {
    fn read(&self, matrix: usize, rows: Range<usize>, out: &mut [f32]) {
        for (row, out) in rows.zip(out.chunks_exact_mut(self.k)) {
            match &self.tensor {
                Tensor::Bf16 { .. } => {
                    let stored = self.tensor.row(matrix * self.rows + row, self.k);
                    for (out, &pair) in out.iter_mut().zip(stored.as_chunks().0) {
                        *out = f32::from_bits(u32::from(u16::from_le_bytes(pair)) << 16);
                    }
                }
                Tensor::Mxfp4 { .. } => {
                    let (codes, scales) = self.tensor.matrix(matrix, self.matrices);
                    let codes = &codes[row * self.k / 2..(row + 1) * self.k / 2];
                    let scales = &scales[row * self.k / BLOCK..(row + 1) * self.k / BLOCK];
                    for (place, out) in out.iter_mut().enumerate() {
                        let code = u32::from(codes[place / 2] >> (4 * (place % 2)) & 15);
                        let scale = u32::from(scales[place / BLOCK]);
                        *out = ossmith_scalar::mxfp4_value(code, scale);
                    }
                }
            }
            for part in self.parts.iter().filter(|part| part.matrix == matrix) {
                part.add_to_row(row, out);
            }
        }
    }
}
