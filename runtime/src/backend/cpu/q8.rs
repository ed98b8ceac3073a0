//! Dense matrices in 8 bits (`--dense q8`): a code for each element and a scale for each 32, as ggml's q8_0 has them. They
//! take 8.5 bits per weight where bf16 takes 16, and decoding is as fast as memory is read. Activations stay in f32, so
//! the rounding of weights is all that is added; a matrix that a file stores as q8_0 adds nothing.

use half::f16;
use ossmith_plan::{Model, Weight};
use rayon::prelude::*;

use super::distinct::Distinct;
use super::isa::Isa;
use super::simd;
use super::weights::{BLOCK, Bf16Rows, Q8Rows, bf16};
use crate::checkpoint::Tensor;
use crate::{Checkpoint, Error, Result};

/// Bytes of a block of q8_0: a 16-bit scale and its codes.
const Q8_0_BYTES: usize = 2 + BLOCK;
const LARGEST_CODE: f32 = 127.0;

/// Whether a weight is kept in 8 bits: those that are read whole for every token.
pub(in crate::backend) const fn is_dense(weight: Weight) -> bool {
    matches!(weight, Weight::Qkv | Weight::AttnOut | Weight::Unembedding)
}

/// The most that the copies of a model's dense weights take: a checkpoint whose unembedding repeats rows takes less.
pub(in crate::backend) fn bytes(model: &'static Model) -> u64 {
    let of = |weight, copies: usize| {
        (0..copies).map(move |layer| model.graph.weight(weight, layer).elements()).sum::<usize>()
    };
    let layers = model.spec.layers.len();
    let elements =
        of(Weight::Qkv, layers) + of(Weight::AttnOut, layers) + of(Weight::Unembedding, 1);
    (elements / BLOCK * Q8_0_BYTES) as u64
}

/// All dense matrices of a model.
#[derive(Debug)]
pub(super) struct DenseQ8 {
    /// Query, key and value of each layer, then the output projections, then the unembedding.
    matrices: Vec<Q8Matrix>,
    layers: usize,
    /// The rows of the unembedding, if they repeat.
    pub(super) distinct: Option<Distinct>,
    error: SquaredError,
}

/// Rows of codes and scales.
#[derive(Debug)]
pub(super) struct Q8Matrix {
    codes: Vec<u8>,
    scales: Vec<u8>,
    k: usize,
}

/// The squared differences and the squared values, each added up.
#[derive(Clone, Copy, Debug, Default)]
struct SquaredError {
    difference: f64,
    values: f64,
}

impl DenseQ8 {
    /// Quantises what a checkpoint stores otherwise. Each tensor is read once, and nothing of it is kept.
    pub(super) fn new(model: &'static Model, source: &Checkpoint, isa: Isa) -> Result<DenseQ8> {
        let layers = model.spec.layers.len();
        let mut dense = DenseQ8 {
            matrices: Vec::new(),
            layers,
            distinct: None,
            error: SquaredError::default(),
        };
        for (weight, copies) in
            [(Weight::Qkv, layers), (Weight::AttnOut, layers), (Weight::Unembedding, 1)]
        {
            for layer in 0..copies {
                let matrix = dense.read(model, source, isa, weight, layer)?;
                dense.matrices.push(matrix);
            }
        }
        Ok(dense)
    }

    #[cfg(test)]
    pub(super) fn bytes(&self) -> u64 {
        let all = self.matrices.iter().map(|matrix| matrix.codes.len() + matrix.scales.len());
        all.sum::<usize>() as u64
    }

    /// The matrix of a dense weight.
    pub(super) fn matrix(&self, weight: Weight, layer: usize) -> Option<&Q8Matrix> {
        let at = match weight {
            Weight::Qkv => layer,
            Weight::AttnOut => self.layers + layer,
            Weight::Unembedding => 2 * self.layers,
            _ => return None,
        };
        self.matrices.get(at)
    }

    /// The root mean square of what quantising changed over that of the values.
    pub(super) fn relative_error(&self) -> f64 {
        if self.error.values > 0.0 {
            (self.error.difference / self.error.values).sqrt()
        } else {
            0.0
        }
    }

    fn read(
        &mut self,
        model: &'static Model,
        source: &Checkpoint,
        isa: Isa,
        weight: Weight,
        layer: usize,
    ) -> Result<Q8Matrix> {
        let info = model.graph.weight(weight, layer);
        let k = info.shape.last().copied().unwrap_or(0);
        let bad = |problem: &str| Error::Weight {
            weight: format!("{weight:?} of layer {layer}"),
            problem: problem.to_owned(),
        };
        let group = simd::pair_elements(isa);
        if let Some(parts) = source.q8_0(weight, layer) {
            let matrix = Q8Matrix::of_blocks(&parts, k, group)
                .ok_or_else(|| bad("its q8_0 blocks have a scale that is not finite"))?;
            if matrix.codes.len() == info.elements() {
                return Ok(matrix);
            }
        }
        let loaded = source.load(weight, layer)?;
        let Tensor::Bf16 { parts } = loaded.as_tensor() else {
            return Err(bad("it is not stored in bf16"));
        };
        let rows: Option<Vec<Bf16Rows<'_>>> =
            parts.iter().map(|part| Bf16Rows::new(part, k)).collect();
        let rows = rows.filter(|parts| {
            parts.iter().map(|part| part.rows() * k).sum::<usize>() == info.elements()
        });
        let rows = rows.ok_or_else(|| bad("its tensor does not have its shape"))?;
        if let (Weight::Unembedding, [only]) = (weight, &rows[..]) {
            self.distinct = Distinct::new(only);
        }
        let distinct = self.distinct.as_ref().filter(|_| weight == Weight::Unembedding);
        let (matrix, error) = match distinct.and_then(Distinct::rows) {
            Some(rows) => Q8Matrix::quantise(&[rows], k, group),
            None => Q8Matrix::quantise(&rows, k, group),
        }
        .ok_or_else(|| bad("it has a value that is not finite"))?;
        self.error.difference += error.difference;
        self.error.values += error.values;
        Ok(matrix)
    }
}

impl Q8Matrix {
    /// The rows.
    pub(super) fn rows(&self) -> Option<Q8Rows<'_>> {
        Q8Rows::new(&self.codes, &self.scales, self.k)
    }

    /// The scale is the largest magnitude over 127, rounded to 16 bits before codes are chosen for it. `None` if a value is
    /// not finite.
    fn quantise(
        parts: &[Bf16Rows<'_>],
        k: usize,
        group: usize,
    ) -> Option<(Q8Matrix, SquaredError)> {
        let rows: Vec<&[u8]> =
            parts.iter().flat_map(|part| (0..part.rows()).map(|row| part.row(row))).collect();
        let mut codes = vec![0; rows.len() * k];
        let mut scales = vec![0; rows.len() * k / BLOCK * 2];
        let out = codes.par_chunks_exact_mut(k).zip(scales.par_chunks_exact_mut(k / BLOCK * 2));
        let error = rows
            .par_iter()
            .zip(out)
            .map(|(row, (codes, scales))| quantise_row(row, codes, scales, group))
            .try_reduce(SquaredError::default, |a, b| {
                Some(SquaredError {
                    difference: a.difference + b.difference,
                    values: a.values + b.values,
                })
            })?;
        Some((Q8Matrix { codes, scales, k }, error))
    }

    /// [`Q8Matrix::quantise`] of finite rows.
    #[cfg(test)]
    pub(super) fn quantised(rows: &Bf16Rows<'_>, isa: Isa) -> Q8Matrix {
        let group = simd::pair_elements(isa);
        Q8Matrix::quantise(&[*rows], rows.k(), group).expect("finite values").0
    }

    /// The codes and scales of stored blocks; `None` if a scale is not finite, or if these are not whole rows.
    fn of_blocks(parts: &[&[u8]], k: usize, group: usize) -> Option<Q8Matrix> {
        let blocks: usize = parts.iter().map(|part| part.len() / Q8_0_BYTES).sum();
        let mut codes = Vec::with_capacity(blocks * BLOCK);
        let mut scales = Vec::with_capacity(blocks * 2);
        for block in parts.iter().flat_map(|part| part.as_chunks::<Q8_0_BYTES>().0) {
            if !f16::from_le_bytes([block[0], block[1]]).is_finite() {
                return None;
            }
            scales.extend_from_slice(&block[..2]);
            codes.extend_from_slice(&block[2..]);
        }
        for codes in codes.chunks_exact_mut(BLOCK) {
            even_first(codes, group);
        }
        let matrix = Q8Matrix { codes, scales, k };
        matrix.rows().is_some().then_some(matrix)
    }
}

fn quantise_row(
    row: &[u8],
    codes: &mut [u8],
    scales: &mut [u8],
    group: usize,
) -> Option<SquaredError> {
    let mut error = SquaredError::default();
    let blocks = row.as_chunks::<{ 2 * BLOCK }>().0.iter();
    let out = codes.chunks_exact_mut(BLOCK).zip(scales.as_chunks_mut::<2>().0);
    for (block, (codes, scale)) in blocks.zip(out) {
        let values: [f32; BLOCK] = std::array::from_fn(|i| bf16(block[2 * i], block[2 * i + 1]));
        let largest = values.iter().fold(0.0_f32, |most, value| most.max(value.abs()));
        if values.iter().any(|value| !value.is_finite()) {
            return None;
        }
        let rounded = f16::from_f32(largest / LARGEST_CODE).min(f16::MAX);
        *scale = rounded.to_le_bytes();
        let step = rounded.to_f32();
        let inverse = if step > 0.0 { 1.0 / step } else { 0.0 };
        for (&value, code) in values.iter().zip(&mut *codes) {
            let chosen = (value * inverse).round().clamp(-LARGEST_CODE, LARGEST_CODE);
            *code = chosen as i8 as u8;
            error.difference += f64::from(value - chosen * step).powi(2);
            error.values += f64::from(value).powi(2);
        }
        even_first(codes, group);
    }
    Some(error)
}

/// Reorders the codes of a block as [`simd::pack`] reorders activations: of each `group`, the even ones first.
fn even_first(codes: &mut [u8], group: usize) {
    for codes in codes.chunks_exact_mut(group) {
        let mut natural = [0; BLOCK];
        natural[..group].copy_from_slice(codes);
        for (i, &code) in natural[..group].iter().enumerate() {
            codes[i / 2 + i % 2 * (group / 2)] = code;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// bf16 rows of 64 elements of many magnitudes.
    fn rows() -> Vec<u8> {
        let value = |i: u32| {
            let noise = ossmith_scalar::mix_word(i) as i32 as f32 / 2f32.powi(31);
            noise * 2f32.powi((i / 32) as i32 % 9 - 6)
        };
        (0..640).flat_map(|i| half::bf16::from_f32(value(i)).to_le_bytes()).collect()
    }

    #[test]
    fn rounding_adds_less_than_half_a_step() {
        let bytes = rows();
        let rows = Bf16Rows::new(&bytes, 64).expect("whole rows");
        let (matrix, error) = Q8Matrix::quantise(&[rows], 64, 1).expect("finite");
        let mut worst = 0.0_f32;
        for (i, (pair, &code)) in bytes.chunks_exact(2).zip(&matrix.codes).enumerate() {
            let scale = &matrix.scales[2 * (i / BLOCK)..][..2];
            let step = f16::from_le_bytes([scale[0], scale[1]]).to_f32();
            worst = worst.max((bf16(pair[0], pair[1]) - f32::from(code as i8) * step).abs() / step);
        }
        // A scale that 16 bits round down clips the largest value by up to 127 / 2048 of a step more.
        assert!(worst < 0.57, "{worst}");
        let relative = (error.difference / error.values).sqrt();
        assert!((0.001..0.01).contains(&relative), "{relative}");
    }

    #[test]
    fn stored_blocks_keep_their_codes() {
        let blocks: Vec<u8> = (0..4)
            .flat_map(|b| {
                let scale = f16::from_f32(0.5 + b as f32).to_le_bytes();
                scale.into_iter().chain((0..32).map(move |i| (b * 50 + i) as u8))
            })
            .collect();
        let natural = Q8Matrix::of_blocks(&[&blocks[..34], &blocks[34..]], 64, 1).expect("finite");
        assert_eq!(natural.codes[..32], (0..32).collect::<Vec<u8>>());
        assert_eq!(natural.codes[96..], (150..182).collect::<Vec<u8>>());
        let halves = Q8Matrix::of_blocks(&[&blocks], 64, 32).expect("finite");
        assert_eq!(halves.codes[..3], [0, 2, 4]);
        assert_eq!(halves.codes[16..19], [1, 3, 5]);
        let mut bad = blocks;
        bad[..2].copy_from_slice(&f16::INFINITY.to_le_bytes());
        assert!(Q8Matrix::of_blocks(&[&bad], 64, 1).is_none());
    }

    #[test]
    fn values_that_are_not_finite_are_refused() {
        let mut bytes = rows();
        bytes[..2].copy_from_slice(&half::bf16::NAN.to_le_bytes());
        let rows = Bf16Rows::new(&bytes, 64).expect("whole rows");
        assert!(Q8Matrix::quantise(&[rows], 64, 1).is_none());
    }
}
