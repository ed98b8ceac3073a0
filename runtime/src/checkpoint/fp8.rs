//! 8-bit floats with scales, as compressed-tensors (`weight_scale`) and transformers' fine-grained fp8
//! (`weight_scale_inv`) write them. Both multiply. A scale is for the whole tensor, a row, or a block.

use safetensors::Dtype;
use safetensors::tensor::TensorInfo;

use super::lookup::{Bytes, Place, Problem, Stored};

/// Rows and columns of a block of fine-grained scales.
const BLOCK: usize = 128;

/// A tensor of 8-bit floats, `[rows, k]`.
#[derive(Clone, Debug)]
pub(super) struct Fp8 {
    pub(super) values: Place,
    mantissa_bits: u32,
    /// Values in a row.
    k: usize,
    scales: Vec<f32>,
    /// Scales in a row of them.
    columns: usize,
    /// Rows and columns of values under one scale.
    block: [usize; 2],
}

impl Fp8 {
    /// The coding of a tensor, and the name of its scales.
    pub(super) fn find(
        stored: &Stored<'_>,
        name: &str,
        values: Place,
        info: &TensorInfo,
    ) -> Result<(Fp8, String), Problem> {
        let file = values.file;
        let names = [format!("{name}_scale"), format!("{name}_scale_inv")];
        let there = names.iter().find_map(|name| Some((name, (stored.find)(name)?)));
        let Some((scale_name, (scale_file, scale_info))) = there else {
            let text = format!(
                "tensor {name}: is {:?}, but neither {} nor {} is there",
                info.dtype, names[0], names[1]
            );
            return Err(Problem { file: Some(file), text });
        };
        let k = info.shape.last().copied().unwrap_or(1).max(1);
        let rows = info.shape.iter().product::<usize>() / k;
        let scales = stored.floats(scale_name, scale_file, scale_info)?;
        let grid = [rows.div_ceil(BLOCK), k.div_ceil(BLOCK)];
        let (columns, block) = match scale_info.shape[..] {
            _ if scales.len() == 1 => (1, [rows, k]),
            _ if scales.len() == rows => (1, [1, k]),
            [r, c] if [r, c] == grid => (c, [BLOCK, BLOCK]),
            [r, c] if r == rows && c > 0 && k.is_multiple_of(c) => (c, [1, k / c]),
            _ => {
                let text = format!(
                    "tensor {scale_name}: has {:?} scales for {rows} x {k} values; expected one, one for each row, or one for each \
                     {BLOCK} x {BLOCK} block, {grid:?}",
                    scale_info.shape
                );
                return Err(Problem { file: Some(scale_file), text });
            }
        };
        let mantissa_bits = if info.dtype == Dtype::F8_E4M3 { 3 } else { 2 };
        Ok((Fp8 { values, mantissa_bits, k, scales, columns, block }, scale_name.clone()))
    }

    /// Values from `start` on, counted through the whole tensor.
    pub(super) fn decode_run(&self, bytes: &Bytes<'_>, start: usize, out: &mut [f32]) {
        let stored = &bytes(&self.values)[start..][..out.len()];
        let mut at = 0;
        while at < out.len() {
            let (row, column) = ((start + at) / self.k, (start + at) % self.k);
            let end = out.len().min(at + self.k - column);
            let scales = &self.scales[row / self.block[0] * self.columns..];
            let line = out[at..end].iter_mut().zip(&stored[at..end]);
            for (column, (out, &byte)) in (column..).zip(line) {
                *out = value(byte, self.mantissa_bits) * scales[column / self.block[1]];
            }
            at = end;
        }
    }
}

/// An E4M3 (OCP, no infinities) or E5M2 number.
fn value(byte: u8, mantissa_bits: u32) -> f32 {
    let bias = if mantissa_bits == 3 { 7 } else { 15 };
    let magnitude = u32::from(byte & 0x7f);
    let (exponent, mantissa) = (magnitude >> mantissa_bits, magnitude & ((1 << mantissa_bits) - 1));
    let fraction = mantissa as f32 / (1 << mantissa_bits) as f32;
    let value = match (exponent, mantissa_bits) {
        (15, 3) if mantissa == 7 => f32::NAN,
        (31, 2) if mantissa == 0 => f32::INFINITY,
        (31, 2) => f32::NAN,
        (0, _) => fraction * 2_f32.powi(1 - bias),
        _ => (1.0 + fraction) * 2_f32.powi(exponent as i32 - bias),
    };
    if byte & 0x80 == 0 { value } else { -value }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_the_standard() {
        for (byte, e4m3, e5m2) in [
            (0x00, 0.0, 0.0),
            (0x01, 2_f32.powi(-9), 2_f32.powi(-16)),
            (0x38, 1.0, 0.5),
            (0x3c, 1.5, 1.0),
            (0x7e, 448.0, f32::NAN),
            (0xbe, -1.75, -1.5),
            (0x7b, 352.0, 57_344.0),
        ] {
            assert_eq!(value(byte, 3), e4m3, "{byte:x}");
            if !e5m2.is_nan() {
                assert_eq!(value(byte, 2), e5m2, "{byte:x}");
            }
        }
        assert!(value(0x7f, 3).is_nan() && value(0x7e, 2).is_nan());
        assert_eq!(value(0x7c, 2), f32::INFINITY);
    }

    #[test]
    fn a_run_takes_the_scales_of_each_row() {
        // Blocks of 128 and of 2 rows and columns; every value is 1.
        let (rows, k) = (130, 130);
        let stored = vec![0x38_u8; rows * k];
        let values = Place { file: 0, range: 0..stored.len() };
        let scales = vec![1.0, 2.0, 3.0, 4.0];
        let blocks = Fp8 { values, mantissa_bits: 3, k, scales, columns: 2, block: [BLOCK, BLOCK] };
        let mut out = vec![0.0; 4];
        for (start, expected) in [
            (127, [1.0, 2.0, 2.0, 1.0]),
            (127 * k + 128, [2.0, 2.0, 3.0, 3.0]),
            (rows * k - 4, [3.0, 3.0, 4.0, 4.0]),
        ] {
            blocks.decode_run(&|_| &stored[..], start, &mut out);
            assert_eq!(out, expected, "from {start} on");
        }
    }
}
