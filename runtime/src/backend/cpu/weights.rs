//! Stored weights as the executor reads them: matrix rows that stay packed in memory, and vectors decoded to f32
//! when they are used. Tensors come from a [`Checkpoint`]; `gemm` multiplies their rows.

use std::ops::Range;

use ossmith_plan::{DType, Local, Model, Shard, Slice, Weight, WeightInfo};

use crate::checkpoint::Tensor;
use crate::{Checkpoint, Error, Result};

/// Codes of one MXFP4 block, all under one scale.
pub(super) const BLOCK: usize = 32;

/// Rows of bf16, `[rows, k]`, little-endian, at any alignment: whole stored rows, or the same columns of each.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bf16Rows<'a> {
    bytes: &'a [u8],
    k: usize,
    /// Elements from one row to the next.
    stride: usize,
    /// The first column.
    first: usize,
}

impl<'a> Bf16Rows<'a> {
    /// Rows of `k` elements; `None` if `bytes` are not whole rows or `k` is not a multiple of [`BLOCK`].
    pub(super) fn new(bytes: &'a [u8], k: usize) -> Option<Self> {
        let whole = k > 0 && k.is_multiple_of(BLOCK) && bytes.len().is_multiple_of(2 * k);
        whole.then_some(Bf16Rows { bytes, k, stride: k, first: 0 })
    }

    /// Elements of a row, over which a GEMM sums.
    pub(super) fn k(&self) -> usize {
        self.k
    }

    /// Elements from one row to the next.
    pub(super) fn stride(&self) -> usize {
        self.stride
    }

    /// Number of rows.
    pub(super) fn rows(&self) -> usize {
        self.bytes.len() / (2 * self.stride)
    }

    /// The bytes of one row.
    pub(super) fn row(&self, row: usize) -> &'a [u8] {
        let start = self.stride * row + self.first;
        &self.bytes[2 * start..2 * (start + self.k)]
    }

    /// Some rows, and of each the columns `k`, which must be of whole rows.
    fn part(self, rows: Range<usize>, k: &Range<usize>) -> Option<Self> {
        let bytes = self.bytes.get(2 * self.stride * rows.start..2 * self.stride * rows.end)?;
        let columns = columns(self.k, k)?;
        Some(Bf16Rows { bytes, k: columns, first: k.start, ..self })
    }
}

/// Rows of MXFP4, `[rows, k]`: 16 bytes of codes (low nibble first) and one E8M0 scale for each 32 elements. They are
/// whole stored rows, or the same columns of each.
#[derive(Clone, Copy, Debug)]
pub(super) struct Mxfp4Rows<'a> {
    blocks: &'a [u8],
    scales: &'a [u8],
    k: usize,
    /// Elements from one row to the next.
    stride: usize,
    /// The first column.
    first: usize,
}

impl<'a> Mxfp4Rows<'a> {
    /// Rows of `k` elements; `None` if codes and scales are not the same whole rows.
    pub(super) fn new(blocks: &'a [u8], scales: &'a [u8], k: usize) -> Option<Self> {
        let whole = k > 0
            && k.is_multiple_of(BLOCK)
            && scales.len().is_multiple_of(k / BLOCK)
            && blocks.len() == scales.len() * BLOCK / 2;
        whole.then_some(Mxfp4Rows { blocks, scales, k, stride: k, first: 0 })
    }

    /// Elements of a row, over which a GEMM sums.
    pub(super) fn k(&self) -> usize {
        self.k
    }

    /// Elements from one row to the next.
    pub(super) fn stride(&self) -> usize {
        self.stride
    }

    /// Number of rows.
    pub(super) fn rows(&self) -> usize {
        self.scales.len() / (self.stride / BLOCK)
    }

    /// Codes of one row, 16 bytes per block.
    pub(super) fn codes(&self, row: usize) -> &'a [u8] {
        let start = self.stride * row + self.first;
        &self.blocks[start / 2..(start + self.k) / 2]
    }

    /// Scales of one row, one per block.
    pub(super) fn scales(&self, row: usize) -> &'a [u8] {
        let start = self.stride * row + self.first;
        &self.scales[start / BLOCK..(start + self.k) / BLOCK]
    }

    /// Some rows, and of each the columns `k`, which must be of whole rows.
    fn part(self, rows: Range<usize>, k: &Range<usize>) -> Option<Self> {
        let bytes =
            |all: &'a [u8], row_bytes: usize| all.get(row_bytes * rows.start..row_bytes * rows.end);
        let (blocks, scales) =
            (bytes(self.blocks, self.stride / 2)?, bytes(self.scales, self.stride / BLOCK)?);
        let columns = columns(self.k, k)?;
        Some(Mxfp4Rows { blocks, scales, k: columns, first: k.start, ..self })
    }
}

/// How many columns a range of `k` columns has, if it is one of whole blocks.
fn columns(k: usize, range: &Range<usize>) -> Option<usize> {
    let whole = range.end <= k && range.start.is_multiple_of(BLOCK) && !range.is_empty();
    (whole && range.len().is_multiple_of(BLOCK)).then_some(range.len())
}

/// Whole rows of 8-bit codes, `[rows, k]`, with a 16-bit float as the scale of each 32. The codes of a row are in the order in
/// which the kernels of one instruction set read them.
#[derive(Clone, Copy, Debug)]
pub(super) struct Q8Rows<'a> {
    codes: &'a [u8],
    scales: &'a [u8],
    k: usize,
}

impl<'a> Q8Rows<'a> {
    /// Rows of `k` elements; `None` if codes and scales are not the same whole rows.
    pub(super) fn new(codes: &'a [u8], scales: &'a [u8], k: usize) -> Option<Self> {
        let whole = k > 0
            && k.is_multiple_of(BLOCK)
            && codes.len().is_multiple_of(k)
            && scales.len() == codes.len() / BLOCK * 2;
        whole.then_some(Q8Rows { codes, scales, k })
    }

    /// Elements of a row, over which a GEMM sums.
    pub(super) fn k(&self) -> usize {
        self.k
    }

    /// Number of rows.
    pub(super) fn rows(&self) -> usize {
        self.codes.len() / self.k
    }

    /// Codes of one row, a signed byte per element.
    pub(super) fn codes(&self, row: usize) -> &'a [u8] {
        &self.codes[self.k * row..self.k * (row + 1)]
    }

    /// Scales of one row, two bytes per block.
    pub(super) fn scales(&self, row: usize) -> &'a [u8] {
        &self.scales[self.k / BLOCK * 2 * row..self.k / BLOCK * 2 * (row + 1)]
    }
}

/// Rows of a matrix in the form in which they are stored.
#[derive(Clone, Copy, Debug)]
pub(super) enum Rows<'a> {
    /// bf16.
    Bf16(Bf16Rows<'a>),
    /// MXFP4.
    Mxfp4(Mxfp4Rows<'a>),
    /// 8 bits.
    Q8(Q8Rows<'a>),
}

impl Rows<'_> {
    /// Elements of a row, over which a GEMM sums.
    pub(super) fn k(&self) -> usize {
        match self {
            Rows::Bf16(rows) => rows.k(),
            Rows::Mxfp4(rows) => rows.k(),
            Rows::Q8(rows) => rows.k(),
        }
    }

    /// Number of rows.
    pub(super) fn rows(&self) -> usize {
        match self {
            Rows::Bf16(rows) => rows.rows(),
            Rows::Mxfp4(rows) => rows.rows(),
            Rows::Q8(rows) => rows.rows(),
        }
    }
}

impl<'a> Rows<'a> {
    /// Some rows, and of each some columns.
    fn part(self, rows: Range<usize>, k: &Range<usize>) -> Option<Rows<'a>> {
        match self {
            Rows::Bf16(all) => all.part(rows, k).map(Rows::Bf16),
            Rows::Mxfp4(all) => all.part(rows, k).map(Rows::Mxfp4),
            // Ranks do not divide them.
            Rows::Q8(_) => None,
        }
    }
}

/// Reads the part of a model's weights that one rank has.
pub(super) struct Weights<'a> {
    /// The whole model, whose shapes the tensors have.
    pub(super) model: &'static Model,
    /// What the rank has of it.
    pub(super) local: &'a Local,
    /// The model's tensors.
    pub(super) source: &'a Checkpoint,
    /// The layer whose weights are read.
    pub(super) layer: usize,
}

impl<'a> Weights<'a> {
    /// A matrix `[rows, k]` in its stored pieces, in row order.
    pub(super) fn matrix(&self, weight: Weight) -> Result<Vec<Rows<'a>>> {
        let info = self.model.graph.weight(weight, self.layer);
        let k = *info.shape.last().unwrap_or(&0);
        let stored = match self.source.tensor(weight, self.layer)? {
            Tensor::Bf16 { parts } => parts
                .into_iter()
                .map(|part| Bf16Rows::new(part, k).map(Rows::Bf16).ok_or_else(|| misshapen(info)))
                .collect::<Result<Vec<_>>>()?,
            Tensor::Mxfp4 { blocks, scales } => {
                let rows = Mxfp4Rows::new(blocks, scales, k).ok_or_else(|| misshapen(info))?;
                vec![Rows::Mxfp4(rows)]
            }
        };
        match self.part(info) {
            Part::All => Ok(stored),
            Part::Slice(slice) => cut(&stored, &slice).ok_or_else(|| misshapen(info)),
            Part::Nothing => Err(misshapen(info)),
        }
    }

    /// All experts' matrices of a weight `[experts, rows, k]`, each as its rows.
    pub(super) fn experts(&self, weight: Weight) -> Result<Experts<'a>> {
        let info = self.model.graph.weight(weight, self.layer);
        let &[experts, rows, k] = info.shape else { return Err(misshapen(info)) };
        let part = match self.part(info) {
            Part::All => None,
            Part::Slice(slice) if slice.rows.len() == 1 => Some(slice),
            Part::Slice(_) | Part::Nothing => return Err(misshapen(info)),
        };
        Ok(Experts {
            info,
            tensor: self.source.tensor(weight, self.layer)?,
            experts,
            rows,
            k,
            part,
        })
    }

    /// Elements `start .. start + len` of a vector (a norm's scale, a bias) as the rank has it, decoded; of a matrix, those
    /// of its flattened rows. A bias that another rank adds is zero.
    pub(super) fn vector(&self, weight: Weight, start: usize, len: usize) -> Result<Vec<f32>> {
        let info = self.model.graph.weight(weight, self.layer);
        let (matrices, rows, k) = info.matrices();
        let tensor = self.source.tensor(weight, self.layer)?;
        let parts = match (self.part(info), &tensor) {
            (Part::Nothing, _) => return Ok(vec![0.0; len]),
            (Part::All, Tensor::Bf16 { parts }) => parts.clone(),
            (Part::Slice(slice), Tensor::Bf16 { .. }) if k == 1 => {
                tensor.runs([matrices, rows, k], &slice)
            }
            (Part::All | Part::Slice(_), _) => return Err(misshapen(info)),
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

    /// What the rank has of a weight.
    fn part(&self, info: &WeightInfo) -> Part {
        if self.local.shard == Shard::WHOLE {
            return Part::All;
        }
        let (_, rows, k) = info.matrices();
        match self.local.slice(&self.model.spec, info) {
            None => Part::Nothing,
            Some(slice) if slice.is_whole(rows, k) => Part::All,
            Some(slice) => Part::Slice(slice),
        }
    }
}

/// What a rank has of a weight.
enum Part {
    All,
    Slice(Slice),
    /// Another rank adds it.
    Nothing,
}

/// The slice of a matrix that is stored in pieces, range by range. Ranges that cross pieces are cut there.
fn cut<'a>(stored: &[Rows<'a>], slice: &Slice) -> Option<Vec<Rows<'a>>> {
    let mut parts = Vec::new();
    for range in &slice.rows {
        let mut first = 0;
        for piece in stored {
            let end = first + piece.rows();
            let rows = range.start.max(first)..range.end.min(end);
            if rows.start < rows.end {
                parts.push(piece.part(rows.start - first..rows.end - first, &slice.k)?);
            }
            first = end;
        }
        if range.end > first {
            return None;
        }
    }
    Some(parts)
}

/// One tensor of expert matrices.
pub(super) struct Experts<'a> {
    info: &'static WeightInfo,
    tensor: Tensor<'a>,
    experts: usize,
    rows: usize,
    k: usize,
    /// What the rank has of each matrix, if not all of it.
    part: Option<Slice>,
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
        let rows = match &self.part {
            None => rows,
            Some(slice) => rows.and_then(|rows| rows.part(slice.rows[0].clone(), &slice.k)),
        };
        rows.ok_or_else(|| misshapen(self.info))
    }
}

/// Reads every tensor that is not `passed` once and checks its size, so that no step fails for it (and synthetic weights are generated before
/// the first step).
pub(super) fn check(
    model: &'static Model,
    source: &Checkpoint,
    passed: impl Fn(Weight) -> bool,
) -> Result<()> {
    for (info, layer) in model.graph.all_weights().filter(|(info, _)| !passed(info.weight)) {
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

/// A finite 16-bit float from its little-endian bytes: its bits, moved to where f32 has them, are too small by the difference
/// of the exponents' biases.
#[inline(always)]
pub(super) fn finite_f16(low: u8, high: u8) -> f32 {
    let bits = u32::from(u16::from_le_bytes([low, high]));
    let magnitude = f32::from_bits((bits & 0x7fff) << 13) * f32::from_bits((127 + 127 - 15) << 23);
    f32::from_bits(magnitude.to_bits() | (bits & 0x8000) << 16)
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
