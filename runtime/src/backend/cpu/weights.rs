//! Stored weights as the executor reads them: matrix rows that stay packed in memory, and vectors decoded to f32
//! when they are used. Tensors come from a [`Checkpoint`]; `gemm` multiplies their rows.

use ossmith_plan::{DType, Model, Weight, WeightInfo};

use crate::checkpoint::Tensor;
use crate::{Checkpoint, Error, Result};

/// Codes of one MXFP4 block, all under one scale.
pub(super) const BLOCK: usize = 32;

/// Whole bf16 rows, `[rows, k]`, little-endian, at any alignment.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bf16Rows<'a> {
    bytes: &'a [u8],
    k: usize,
}

impl<'a> Bf16Rows<'a> {
    /// Rows of `k` elements; `None` if `bytes` are not whole rows or `k` is not a multiple of [`BLOCK`].
    pub(super) fn new(bytes: &'a [u8], k: usize) -> Option<Self> {
        let whole = k > 0 && k.is_multiple_of(BLOCK) && bytes.len().is_multiple_of(2 * k);
        whole.then_some(Bf16Rows { bytes, k })
    }

    /// Elements of a row, over which a GEMM sums.
    pub(super) fn k(&self) -> usize {
        self.k
    }

    /// Number of rows.
    pub(super) fn rows(&self) -> usize {
        self.bytes.len() / (2 * self.k)
    }

    /// The bytes of one row.
    pub(super) fn row(&self, row: usize) -> &'a [u8] {
        &self.bytes[2 * self.k * row..2 * self.k * (row + 1)]
    }
}

/// Whole MXFP4 rows, `[rows, k]`: 16 bytes of codes (low nibble first) and one E8M0 scale for each 32 elements.
#[derive(Clone, Copy, Debug)]
pub(super) struct Mxfp4Rows<'a> {
    blocks: &'a [u8],
    scales: &'a [u8],
    k: usize,
}

impl<'a> Mxfp4Rows<'a> {
    /// Rows of `k` elements; `None` if codes and scales are not the same whole rows.
    pub(super) fn new(blocks: &'a [u8], scales: &'a [u8], k: usize) -> Option<Self> {
        let whole = k > 0
            && k.is_multiple_of(BLOCK)
            && scales.len().is_multiple_of(k / BLOCK)
            && blocks.len() == scales.len() * BLOCK / 2;
        whole.then_some(Mxfp4Rows { blocks, scales, k })
    }

    /// Elements of a row, over which a GEMM sums.
    pub(super) fn k(&self) -> usize {
        self.k
    }

    /// Number of rows.
    pub(super) fn rows(&self) -> usize {
        self.scales.len() / (self.k / BLOCK)
    }

    /// Codes of one row, 16 bytes per block.
    pub(super) fn codes(&self, row: usize) -> &'a [u8] {
        &self.blocks[self.k / 2 * row..self.k / 2 * (row + 1)]
    }

    /// Scales of one row, one byte per block.
    pub(super) fn scales(&self, row: usize) -> &'a [u8] {
        &self.scales[self.k / BLOCK * row..self.k / BLOCK * (row + 1)]
    }
}

/// Rows of a matrix in the form in which they are stored.
#[derive(Clone, Copy, Debug)]
pub(super) enum Rows<'a> {
    /// bf16.
    Bf16(Bf16Rows<'a>),
    /// MXFP4.
    Mxfp4(Mxfp4Rows<'a>),
}

impl Rows<'_> {
    /// Elements of a row, over which a GEMM sums.
    pub(super) fn k(&self) -> usize {
        match self {
            Rows::Bf16(rows) => rows.k(),
            Rows::Mxfp4(rows) => rows.k(),
        }
    }

    /// Number of rows.
    pub(super) fn rows(&self) -> usize {
        match self {
            Rows::Bf16(rows) => rows.rows(),
            Rows::Mxfp4(rows) => rows.rows(),
        }
    }
}

/// Reads a model's weights with the shapes that its graph states.
pub(super) struct Weights<'a> {
    /// The model.
    pub(super) model: &'static Model,
    /// Its tensors.
    pub(super) source: &'a Checkpoint,
    /// The layer whose weights are read.
    pub(super) layer: usize,
}

impl<'a> Weights<'a> {
    /// A matrix `[rows, k]` in its stored pieces, in row order.
    pub(super) fn matrix(&self, weight: Weight) -> Result<Vec<Rows<'a>>> {
        let info = self.model.graph.weight(weight, self.layer);
        let k = *info.shape.last().unwrap_or(&0);
        match self.source.tensor(weight, self.layer)? {
            Tensor::Bf16 { parts } => parts
                .into_iter()
                .map(|part| Bf16Rows::new(part, k).map(Rows::Bf16).ok_or_else(|| misshapen(info)))
                .collect(),
            Tensor::Mxfp4 { blocks, scales } => {
                let rows = Mxfp4Rows::new(blocks, scales, k).ok_or_else(|| misshapen(info))?;
                Ok(vec![Rows::Mxfp4(rows)])
            }
        }
    }

    /// All experts' matrices of a weight `[experts, rows, k]`, each as its rows.
    pub(super) fn experts(&self, weight: Weight) -> Result<Experts<'a>> {
        let info = self.model.graph.weight(weight, self.layer);
        let &[experts, rows, k] = info.shape else { return Err(misshapen(info)) };
        Ok(Experts { info, tensor: self.source.tensor(weight, self.layer)?, experts, rows, k })
    }

    /// Elements `range` of a vector (a norm's scale, a bias), decoded; of a matrix, those of its flattened rows.
    pub(super) fn vector(&self, weight: Weight, start: usize, len: usize) -> Result<Vec<f32>> {
        let info = self.model.graph.weight(weight, self.layer);
        let Tensor::Bf16 { parts } = self.source.tensor(weight, self.layer)? else {
            return Err(misshapen(info));
        };
        let (mut skip, mut out) = (2 * start, Vec::with_capacity(len));
        for part in parts {
            let from = skip.min(part.len());
            skip -= from;
            let wanted = part[from..].chunks_exact(2).take(len - out.len());
            out.extend(wanted.map(|pair| bf16(pair[0], pair[1])));
        }
        if out.len() == len { Ok(out) } else { Err(misshapen(info)) }
    }
}

/// One tensor of expert matrices.
pub(super) struct Experts<'a> {
    info: &'static WeightInfo,
    tensor: Tensor<'a>,
    experts: usize,
    rows: usize,
    k: usize,
}

impl<'a> Experts<'a> {
    /// One expert's rows.
    pub(super) fn matrix(&self, expert: usize) -> Result<Rows<'a>> {
        let elements = self.rows * self.k;
        let rows = match &self.tensor {
            _ if expert >= self.experts => None,
            Tensor::Bf16 { parts } => parts
                .first()
                .and_then(|part| part.get(2 * elements * expert..2 * elements * (expert + 1)))
                .and_then(|bytes| Bf16Rows::new(bytes, self.k))
                .map(Rows::Bf16),
            Tensor::Mxfp4 { blocks, scales } => {
                let (codes, groups) = (elements / 2, elements / BLOCK);
                let blocks = blocks.get(codes * expert..codes * (expert + 1));
                let scales = scales.get(groups * expert..groups * (expert + 1));
                blocks.zip(scales).and_then(|(b, s)| Mxfp4Rows::new(b, s, self.k)).map(Rows::Mxfp4)
            }
        };
        rows.ok_or_else(|| misshapen(self.info))
    }
}

/// Reads every tensor once and checks its size, so that no step fails for it (and synthetic weights are generated before
/// the first step).
pub(super) fn check(model: &'static Model, source: &Checkpoint) -> Result<()> {
    for (info, layer) in model.graph.all_weights() {
        let fits = match source.tensor(info.weight, layer)? {
            Tensor::Bf16 { parts } => {
                parts.iter().map(|part| part.len()).sum::<usize>()
                    == DType::Bf16.bytes(info.elements())
            }
            Tensor::Mxfp4 { blocks, scales } => {
                blocks.len() == info.elements() / 2 && scales.len() == info.elements() / BLOCK
            }
        };
        if !fits {
            return Err(misshapen(info));
        }
    }
    Ok(())
}

/// One bf16 value from its little-endian bytes.
pub(super) fn bf16(low: u8, high: u8) -> f32 {
    f32::from_bits(u32::from(u16::from_le_bytes([low, high])) << 16)
}

fn misshapen(info: &WeightInfo) -> Error {
    Error::Internal(format!(
        "the tensor of weight {:?} does not hold {:?} elements of {:?}; its loader should have refused it",
        info.weight, info.shape, info.dtype
    ))
}
