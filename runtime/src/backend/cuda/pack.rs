//! Packing: checkpoint tensors into the tiled layouts of [`WeightLayout`], on all cores.
//!
//! The index maps are `ossmith_scalar`'s, which the device fill kernels use too.

use ossmith_plan::{RowOrder, TILE_K, TILE_ROWS, WeightLayout};
use ossmith_scalar::{checkpoint_row_gate_up, checkpoint_row_rope, mxfp4_word, tile_k, tile_row};
use rayon::prelude::*;

use crate::checkpoint::Tensor;
use crate::{Error, Result};

const LANES: usize = 32;
const STEPS: usize = 4;
const TILE_BYTES_BF16: usize = TILE_ROWS * TILE_K * 2;
const TILE_CODE_BYTES: usize = TILE_ROWS * TILE_K / 2;
const TILE_SCALE_BYTES: usize = TILE_ROWS * 2;
/// What is added to an E8M0 byte so that it is the exponent field of the factor that decoding multiplies by.
const SCALE_OFFSET: i32 = ossmith_plan::facts::MXFP4_SCALE_OFFSET as i32;
/// The largest E8M0 byte whose factor has a bf16 exponent field.
const LARGEST_SCALE: u8 = 128;
const NOT_A_NUMBER: u8 = 255;

/// A packed MXFP4 tensor.
#[derive(Clone, Debug, PartialEq)]
pub struct PackedMxfp4 {
    /// Tiles.
    pub bytes: Vec<u8>,
    /// Power of two taken out of all weights, which kernels multiply back: 1 unless a block scale was above 2.
    pub weight_scale: f32,
}

fn checkpoint_row(order: RowOrder, packed_row: usize) -> usize {
    let row = packed_row as u32;
    let source = match order {
        RowOrder::Natural => row,
        RowOrder::RopePairs { head_dim } => checkpoint_row_rope(row, head_dim as u32),
        RowOrder::GateUpPairs => checkpoint_row_gate_up(row),
    };
    source as usize
}

/// Packs `rows` rows of `k` bf16 elements; padding is zero.
#[must_use]
pub fn pack_bf16(tensor: &Tensor<'_>, rows: usize, k: usize, order: RowOrder) -> Vec<u8> {
    let k_tiles = k.div_ceil(TILE_K);
    let layout = WeightLayout::Bf16Tiles(order);
    let mut packed = vec![0; layout.tiled_bytes(1, rows, k)];
    packed.par_chunks_mut(k_tiles * TILE_BYTES_BF16).enumerate().for_each(|(row_tile, strip)| {
        let source: Vec<&[u8]> = (0..TILE_ROWS)
            .map(|r| row_tile * TILE_ROWS + r)
            .map(|row| if row < rows { tensor.row(checkpoint_row(order, row), k) } else { &[] })
            .collect();
        for (k_tile, tile) in strip.chunks_mut(TILE_BYTES_BF16).enumerate() {
            pack_bf16_tile(tile, &source, k_tile * TILE_K);
        }
    });
    packed
}

/// One tile from its 16 rows (empty slices for padding).
fn pack_bf16_tile(tile: &mut [u8], rows: &[&[u8]], first_k: usize) {
    for (i, pair) in tile.chunks_mut(4).enumerate() {
        let (step, lane, register) = (i / (LANES * 4), i / 4 % LANES, i % 4);
        let row = rows[tile_row(lane as u32, register as u32) as usize];
        let k = first_k + tile_k(lane as u32, step as u32, 2 * register as u32) as usize;
        if let Some(elements) = row.get(2 * k..2 * k + 4) {
            pair.copy_from_slice(elements);
        }
    }
}

/// Packs `matrices` matrices of `rows` rows of `k` MXFP4 elements.
///
/// # Errors
/// [`Error::Weight`] for a block scale that is not a number.
pub fn pack_mxfp4(
    tensor: &Tensor<'_>,
    matrices: usize,
    rows: usize,
    k: usize,
    order: RowOrder,
) -> Result<PackedMxfp4> {
    let Tensor::Mxfp4 { scales, .. } = tensor else {
        return Err(Error::Internal("a bf16 tensor was to be packed as MXFP4".into()));
    };
    let largest = scales.par_iter().copied().max().unwrap_or(0);
    if largest == NOT_A_NUMBER {
        return Err(Error::Weight {
            weight: "an MXFP4 tensor".to_owned(),
            problem: "a block scale is 255, which means not a number".to_owned(),
        });
    }
    let excess = i32::from(largest.saturating_sub(LARGEST_SCALE));
    let k_tiles = k.div_ceil(TILE_K);
    let strip_bytes = k_tiles * (TILE_CODE_BYTES + TILE_SCALE_BYTES);
    let strips = rows.div_ceil(TILE_ROWS);
    let mut bytes = vec![0; matrices * strips * strip_bytes];
    bytes.par_chunks_mut(strip_bytes).enumerate().for_each(|(index, strip)| {
        let (blocks, scales) = tensor.matrix(index / strips, matrices);
        let source: Vec<MxRow<'_>> = (0..TILE_ROWS)
            .map(|r| index % strips * TILE_ROWS + r)
            .map(|row| MxRow::of(blocks, scales, rows, k, row, order))
            .collect();
        let (codes, packed_scales) = strip.split_at_mut(k_tiles * TILE_CODE_BYTES);
        for (k_tile, tile) in codes.chunks_mut(TILE_CODE_BYTES).enumerate() {
            pack_code_tile(tile, &source, k_tile * TILE_K);
        }
        for (k_tile, tile) in packed_scales.chunks_mut(TILE_SCALE_BYTES).enumerate() {
            pack_scale_tile(tile, &source, k_tile * TILE_K / 32, excess);
        }
    });
    Ok(PackedMxfp4 { bytes, weight_scale: (excess as f32).exp2() })
}

/// One checkpoint row: its codes, two a byte, and its scales. Empty for padding.
struct MxRow<'a> {
    codes: &'a [u8],
    scales: &'a [u8],
}

impl<'a> MxRow<'a> {
    fn of(
        blocks: &'a [u8],
        scales: &'a [u8],
        rows: usize,
        k: usize,
        row: usize,
        order: RowOrder,
    ) -> Self {
        if row >= rows {
            return MxRow { codes: &[], scales: &[] };
        }
        let row = checkpoint_row(order, row);
        MxRow { codes: &blocks[row * k / 2..][..k / 2], scales: &scales[row * k / 32..][..k / 32] }
    }

    fn code(&self, k: usize) -> u32 {
        let byte = self.codes.get(k / 2).copied().unwrap_or(0);
        u32::from(byte >> (4 * (k % 2)) & 15)
    }

    /// The stored byte of a block: the factor's exponent field; a factor too small for bf16 decodes to zero.
    fn scale(&self, block: usize, excess: i32) -> u8 {
        self.scales.get(block).map_or(SCALE_OFFSET as u8, |&scale| {
            (i32::from(scale) - excess + SCALE_OFFSET).clamp(0, 254) as u8
        })
    }
}

fn pack_code_tile(tile: &mut [u8], rows: &[MxRow<'_>], first_k: usize) {
    for (i, word) in tile.chunks_mut(4).enumerate() {
        let (lane, step) = ((i / STEPS) as u32, (i % STEPS) as u32);
        let codes = std::array::from_fn(|element| {
            let row = &rows[tile_row(lane, element as u32 / 2) as usize];
            row.code(first_k + tile_k(lane, step, element as u32) as usize)
        });
        word.copy_from_slice(&mxfp4_word(codes).to_le_bytes());
    }
}

fn pack_scale_tile(tile: &mut [u8], rows: &[MxRow<'_>], first_block: usize, excess: i32) {
    for (i, byte) in tile.iter_mut().enumerate() {
        let (g, block, upper) = (i / 4, i / 2 % 2, i % 2);
        *byte = rows[g + 8 * upper].scale(first_block + block, excess);
    }
}

#[cfg(test)]
mod tests {
    use ossmith_scalar::{mix_word, mxfp4_codes, mxfp4_pairs, mxfp4_value};

    use super::*;

    const ORDERS: [RowOrder; 4] = [
        RowOrder::Natural,
        RowOrder::RopePairs { head_dim: 32 },
        RowOrder::RopePairs { head_dim: 64 },
        RowOrder::GateUpPairs,
    ];

    fn random_bytes(count: usize, key: u32) -> Vec<u8> {
        (0..count as u32).map(|i| (mix_word(i ^ key) >> 9) as u8).collect()
    }

    /// (row tile, k tile, step, lane) of every word of a lane, in packed order.
    fn words(row_tiles: usize, k_tiles: usize) -> impl Iterator<Item = (usize, usize, u32, u32)> {
        (0..row_tiles).flat_map(move |r| {
            (0..k_tiles).flat_map(move |k| (0..128).map(move |i| (r, k, i % 4, i / 4)))
        })
    }

    #[test]
    fn bf16_tiles_hold_every_element_where_the_layout_says() {
        // Whole tiles, a half k tile, and rows that do not fill a tile.
        for (rows, k) in [(64, 128), (128, 96), (64, 32), (200, 64)] {
            for order in ORDERS {
                if order != RowOrder::Natural && rows % 64 != 0 {
                    continue;
                }
                let bytes = random_bytes(rows * k * 2, 1);
                let tensor = Tensor::Bf16 { parts: vec![&bytes[..rows * k], &bytes[rows * k..]] };
                let packed = pack_bf16(&tensor, rows, k, order);
                let (row_tiles, k_tiles) = (rows.div_ceil(TILE_ROWS), k.div_ceil(TILE_K));
                assert_eq!(packed.len(), row_tiles * k_tiles * TILE_BYTES_BF16);
                let mut seen = 0;
                for (row_tile, k_tile, step, lane) in words(row_tiles, k_tiles) {
                    let tile = (row_tile * k_tiles + k_tile) * 4 + step as usize;
                    for element in 0..8 {
                        let at = ((tile * 32 + lane as usize) * 8 + element as usize) * 2;
                        let row = row_tile * TILE_ROWS + tile_row(lane, element / 2) as usize;
                        let column = k_tile * TILE_K + tile_k(lane, step, element) as usize;
                        let stored = &packed[at..at + 2];
                        if row < rows && column < k {
                            let source = (checkpoint_row(order, row) * k + column) * 2;
                            assert_eq!(
                                stored,
                                &bytes[source..source + 2],
                                "{order:?} {row} {column}"
                            );
                            seen += 1;
                        } else {
                            assert_eq!(stored, [0, 0], "padding at {row} {column}");
                        }
                    }
                }
                assert_eq!(seen, rows * k);
            }
        }
    }

    /// A tensor with all codes and the given scales.
    fn mxfp4(elements: usize, scale: impl Fn(u32) -> u8) -> (Vec<u8>, Vec<u8>) {
        (random_bytes(elements / 2, 2), (0..elements as u32 / 32).map(scale).collect())
    }

    #[test]
    fn mxfp4_tiles_decode_to_the_checkpoints_values() {
        let (matrices, rows) = (3, 64);
        for (k, base) in [(128, 110), (96, 1), (32, 126)] {
            for order in [RowOrder::Natural, RowOrder::GateUpPairs] {
                let (blocks, scales) =
                    mxfp4(matrices * rows * k, |i| base + (mix_word(i) % 3) as u8);
                let tensor = Tensor::Mxfp4 { blocks: &blocks, scales: &scales };
                let packed = pack_mxfp4(&tensor, matrices, rows, k, order).expect("good scales");
                assert_eq!(packed.weight_scale, 1.0);
                check_values(&packed, &blocks, &scales, [matrices, rows, k], order);
            }
        }
    }

    /// Decodes packed words as the kernels do and compares every value with the checkpoint's.
    fn check_values(
        packed: &PackedMxfp4,
        blocks: &[u8],
        scales: &[u8],
        [matrices, rows, k]: [usize; 3],
        order: RowOrder,
    ) {
        let (row_tiles, k_tiles) = (rows / TILE_ROWS, k.div_ceil(TILE_K));
        let strip_bytes = k_tiles * (TILE_CODE_BYTES + TILE_SCALE_BYTES);
        for matrix in 0..matrices {
            for (row_tile, k_tile, step, lane) in words(row_tiles, k_tiles) {
                let strip =
                    &packed.bytes[(matrix * row_tiles + row_tile) * strip_bytes..][..strip_bytes];
                let at = k_tile * TILE_CODE_BYTES + lane as usize * 16 + step as usize * 4;
                let word = u32::from_le_bytes(strip[at..at + 4].try_into().expect("four bytes"));
                let factors = &strip[k_tiles * TILE_CODE_BYTES + k_tile * TILE_SCALE_BYTES..]
                    [lane as usize / 2 * 2..];
                let (codes, pairs) = (mxfp4_codes(word), mxfp4_pairs(word));
                for element in 0..8_usize {
                    let row = row_tile * TILE_ROWS + tile_row(lane, element as u32 / 2) as usize;
                    let column = k_tile * TILE_K + tile_k(lane, step, element as u32) as usize;
                    if column >= k {
                        assert_eq!(codes[element], 0, "padding");
                        continue;
                    }
                    let source = (matrix * rows + checkpoint_row(order, row)) * k + column;
                    let code = u32::from(blocks[source / 2] >> (4 * (source % 2)) & 15);
                    let exact = mxfp4_value(code, u32::from(scales[source / 32]));
                    let lane_bits = pairs[element / 2] >> (16 * (element % 2)) & 0xffff;
                    let factor = f32::from_bits(u32::from(factors[element / 2 % 2]) << 23);
                    let decoded = f32::from_bits(lane_bits << 16) * factor * packed.weight_scale;
                    assert_eq!(
                        decoded.to_bits(),
                        exact.to_bits(),
                        "{order:?} row {row} k {column}"
                    );
                }
            }
        }
    }

    #[test]
    fn scales_above_two_are_shifted_and_undone() {
        let (blocks, scales) = mxfp4(16 * 64, |i| 120 + (i % 16) as u8);
        let tensor = Tensor::Mxfp4 { blocks: &blocks, scales: &scales };
        let packed = pack_mxfp4(&tensor, 1, 16, 64, RowOrder::Natural).expect("good scales");
        assert_eq!(packed.weight_scale, 128.0);
        check_values(&packed, &blocks, &scales, [1, 16, 64], RowOrder::Natural);
    }

    #[test]
    fn a_scale_that_is_no_number_is_refused() {
        let (blocks, mut scales) = mxfp4(16 * 64, |_| 120);
        scales[7] = 255;
        let tensor = Tensor::Mxfp4 { blocks: &blocks, scales: &scales };
        let error = pack_mxfp4(&tensor, 1, 16, 64, RowOrder::Natural).expect_err("a bad scale");
        assert!(error.to_string().contains("255"), "{error}");
    }
}
