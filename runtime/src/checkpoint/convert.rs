//! Stored values of any format into the two that backends read: bf16, and MXFP4 through [`super::mxfp4`]. A format is
//! one implementation of [`MatrixValues`]; conversion goes by bands of rows, on all cores, so that it needs the result
//! and one band for each thread.

use std::ops::Range;

use rayon::prelude::*;

use super::added_error::AddedError;
use super::mxfp4::{BLOCK, quantise};
use super::tensor::OwnedTensor;

/// Rows that are decoded together: whole cache lines of matrices that are stored with their rows along memory.
const BAND_ROWS: usize = 64;

/// The values of a weight `[matrices, rows, k]`, whatever their stored format.
pub(super) trait MatrixValues: Sync {
    /// Writes `rows` of matrix `matrix` to `out`, `[rows.len(), k]`.
    fn read(&self, matrix: usize, rows: Range<usize>, out: &mut [f32]);
}

type Converted = Result<(OwnedTensor, AddedError), String>;

/// Rounds to bf16, to the nearest and ties to even.
///
/// # Errors
/// A value that is not finite, or too large for bf16.
pub(super) fn to_bf16(values: &dyn MatrixValues, [matrices, rows, k]: [usize; 3]) -> Converted {
    let mut bytes = vec![0; 2 * matrices * rows * k];
    let bands =
        bytes.par_chunks_mut(2 * k * rows.max(1)).enumerate().flat_map(|(matrix, bytes)| {
            let bands = bytes.par_chunks_mut(2 * k * BAND_ROWS).enumerate();
            bands.map(move |(band, bytes)| (matrix, band * BAND_ROWS, bytes))
        });
    let error = bands
        .map_init(Vec::new, |scratch, (matrix, first, bytes)| {
            let values = band(values, matrix, first..first + bytes.len() / (2 * k), k, scratch);
            let mut error = AddedError::default();
            for (&value, out) in values.iter().zip(bytes.as_chunks_mut().0) {
                let rounded = half::bf16::from_f32(value);
                if !rounded.is_finite() {
                    return Err(format!(
                        "row {first} or one near it has {value}, which bf16 cannot hold"
                    ));
                }
                error = error.and(of_value(value, rounded.to_f32()));
                *out = rounded.to_bits().to_le_bytes();
            }
            Ok(error)
        })
        .try_reduce(AddedError::default, |a, b| Ok(a.and(b)))?;
    Ok((OwnedTensor::Bf16(bytes), error))
}

/// Quantises to MXFP4, with the block scales of least squared error.
///
/// # Errors
/// A value that is not finite.
pub(super) fn to_mxfp4(values: &dyn MatrixValues, [matrices, rows, k]: [usize; 3]) -> Converted {
    let row_blocks = k / BLOCK;
    let mut blocks = vec![0; matrices * rows * row_blocks * (BLOCK / 2)];
    let mut scales = vec![0; matrices * rows * row_blocks];
    let of_matrix = |per_row: usize| per_row * rows.max(1);
    let bands = blocks
        .par_chunks_mut(of_matrix(row_blocks * (BLOCK / 2)))
        .zip(scales.par_chunks_mut(of_matrix(row_blocks)))
        .enumerate()
        .flat_map(|(matrix, (blocks, scales))| {
            let blocks = blocks.par_chunks_mut(BAND_ROWS * row_blocks * (BLOCK / 2));
            let bands = blocks.zip(scales.par_chunks_mut(BAND_ROWS * row_blocks)).enumerate();
            bands.map(move |(band, (blocks, scales))| (matrix, band * BAND_ROWS, blocks, scales))
        });
    let error = bands
        .map_init(Vec::new, |scratch, (matrix, first, blocks, scales)| {
            let last = first + scales.len() / row_blocks;
            let values = band(values, matrix, first..last, k, scratch);
            let codes = blocks.as_chunks_mut::<{ BLOCK / 2 }>().0;
            quantise(values.as_chunks::<BLOCK>().0, codes, scales).map_err(|bad| {
                format!(
                    "matrix {matrix}, row {first} or one near it, has {bad}, which is not a number to quantise"
                )
            })
        })
        .try_reduce(AddedError::default, |a, b| Ok(a.and(b)))?;
    Ok((OwnedTensor::Mxfp4 { blocks, scales }, error))
}

fn of_value(value: f32, rounded: f32) -> AddedError {
    let difference = f64::from(value - rounded);
    AddedError {
        squared_error: difference * difference,
        squared_values: f64::from(value) * f64::from(value),
    }
}

/// Decodes some rows into `scratch`, which is reused from band to band.
fn band<'a>(
    values: &dyn MatrixValues,
    matrix: usize,
    rows: Range<usize>,
    k: usize,
    scratch: &'a mut Vec<f32>,
) -> &'a [f32] {
    scratch.resize(rows.len() * k, 0.0);
    values.read(matrix, rows, scratch);
    scratch
}
