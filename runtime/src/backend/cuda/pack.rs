//! Packing: checkpoint tensors into the tiled layouts of [`WeightLayout`], on all cores.
//!
//! The index maps are `ossmith_scalar`'s, which the device fill kernels use too.

use std::ops::Range;

use ossmith_plan::{RowOrder, Slice, TILE_K, TILE_ROWS, WeightLayout};
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
/// MXFP4 elements under one scale.
const BLOCK: usize = 32;

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

/// Packs a slice of a bf16 tensor whose rows have `stored_k` elements; padding is zero. The order of rows is that of the
/// slice's rows, as if these were all of the tensor.
#[must_use]
pub fn pack_bf16(tensor: &Tensor<'_>, stored_k: usize, slice: &Slice, order: RowOrder) -> Vec<u8> {
    let k = slice.k.len();
    let k_tiles = k.div_ceil(TILE_K);
    let layout = WeightLayout::Bf16Tiles(order);
    let mut packed = vec![0; layout.tiled_bytes(1, slice.row_count(), k)];
    packed.par_chunks_mut(k_tiles * TILE_BYTES_BF16).enumerate().for_each(|(row_tile, tiles)| {
        let source: Vec<&[u8]> = (0..TILE_ROWS)
            .map(|r| match stored_row(slice, order, row_tile * TILE_ROWS + r) {
                Some(row) => &tensor.row(row, stored_k)[2 * slice.k.start..2 * slice.k.end],
                None => &[],
            })
            .collect();
        for (k_tile, tile) in tiles.chunks_mut(TILE_BYTES_BF16).enumerate() {
            pack_bf16_tile(tile, &source, k_tile * TILE_K);
        }
    });
    packed
}

/// The stored row that a packed row holds, if any: orders are over a slice's own rows.
fn stored_row(slice: &Slice, order: RowOrder, packed_row: usize) -> Option<usize> {
    if packed_row < slice.row_count() { slice.row(checkpoint_row(order, packed_row)) } else { None }
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

/// Packs a slice of each of `matrices` MXFP4 matrices of `stored_rows` rows of `stored_k` elements. The slice's k range
/// begins and ends at a block of 32 or at the row's end.
///
/// # Errors
/// [`Error::Weight`] for a block scale that is not a number.
pub fn pack_mxfp4(
    tensor: &Tensor<'_>,
    matrices: usize,
    [stored_rows, stored_k]: [usize; 2],
    slice: &Slice,
    order: RowOrder,
) -> Result<PackedMxfp4> {
    if !matches!(tensor, Tensor::Mxfp4 { .. }) {
        return Err(Error::Internal("a bf16 tensor was to be packed as MXFP4".into()));
    }
    debug_assert!(slice.row_count() <= stored_rows && slice.k.start.is_multiple_of(BLOCK));
    // Of the slice alone: a rank reads no byte of another's, and multiplies back what it took out itself.
    let largest_of = |matrix: usize| {
        let (blocks, scales) = tensor.matrix(matrix, matrices);
        let rows = slice.rows.iter().cloned().flatten();
        let scales = rows.flat_map(|row| {
            MxRow::of(blocks, scales, stored_k, Some(row), &slice.k).scales.iter().copied()
        });
        scales.max()
    };
    let largest = (0..matrices).into_par_iter().filter_map(largest_of).max().unwrap_or(0);
    if largest == NOT_A_NUMBER {
        return Err(Error::Weight {
            weight: "an MXFP4 tensor".to_owned(),
            problem: "a block scale is 255, which means not a number".to_owned(),
        });
    }
    let excess = i32::from(largest.saturating_sub(LARGEST_SCALE));
    let k_tiles = slice.k.len().div_ceil(TILE_K);
    let row_tile_bytes = k_tiles * (TILE_CODE_BYTES + TILE_SCALE_BYTES);
    let row_tiles = slice.row_count().div_ceil(TILE_ROWS);
    let mut bytes = vec![0; matrices * row_tiles * row_tile_bytes];
    bytes.par_chunks_mut(row_tile_bytes).enumerate().for_each(|(index, tiles)| {
        let (blocks, scales) = tensor.matrix(index / row_tiles, matrices);
        let source: Vec<MxRow<'_>> = (0..TILE_ROWS)
            .map(|r| stored_row(slice, order, index % row_tiles * TILE_ROWS + r))
            .map(|row| MxRow::of(blocks, scales, stored_k, row, &slice.k))
            .collect();
        let (codes, packed_scales) = tiles.split_at_mut(k_tiles * TILE_CODE_BYTES);
        for (k_tile, tile) in codes.chunks_mut(TILE_CODE_BYTES).enumerate() {
            pack_code_tile(tile, &source, k_tile * TILE_K);
        }
        for (k_tile, tile) in packed_scales.chunks_mut(TILE_SCALE_BYTES).enumerate() {
            pack_scale_tile(tile, &source, k_tile * TILE_K / BLOCK, excess);
        }
    });
    Ok(PackedMxfp4 { bytes, weight_scale: (excess as f32).exp2() })
}

/// The slice of one stored row: its codes, two per byte, and its scales. Empty for padding.
struct MxRow<'a> {
    codes: &'a [u8],
    scales: &'a [u8],
}

impl<'a> MxRow<'a> {
    fn of(
        blocks: &'a [u8],
        scales: &'a [u8],
        stored_k: usize,
        row: Option<usize>,
        k: &Range<usize>,
    ) -> Self {
        let Some(row) = row else { return MxRow { codes: &[], scales: &[] } };
        let (first, last) = (row * stored_k + k.start, row * stored_k + k.end);
        MxRow { codes: &blocks[first / 2..last / 2], scales: &scales[first / BLOCK..last / BLOCK] }
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
    use ossmith_plan::{DType, Layer, ModelSpec, Shard, Weight, WeightInfo};
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
                let packed = pack_bf16(&tensor, k, &Slice::whole(rows, k), order);
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
                let packed =
                    pack_mxfp4(&tensor, matrices, [rows, k], &Slice::whole(rows, k), order)
                        .expect("good scales");
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
        let row_tile_bytes = k_tiles * (TILE_CODE_BYTES + TILE_SCALE_BYTES);
        for matrix in 0..matrices {
            for (row_tile, k_tile, step, lane) in words(row_tiles, k_tiles) {
                let tiles = &packed.bytes[(matrix * row_tiles + row_tile) * row_tile_bytes..]
                    [..row_tile_bytes];
                let at = k_tile * TILE_CODE_BYTES + lane as usize * 16 + step as usize * 4;
                let word = u32::from_le_bytes(tiles[at..at + 4].try_into().expect("four bytes"));
                let factors = &tiles[k_tiles * TILE_CODE_BYTES + k_tile * TILE_SCALE_BYTES..]
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
        let packed = pack_mxfp4(&tensor, 1, [16, 64], &Slice::whole(16, 64), RowOrder::Natural)
            .expect("good scales");
        assert_eq!(packed.weight_scale, 128.0);
        check_values(&packed, &blocks, &scales, [1, 16, 64], RowOrder::Natural);
    }

    #[test]
    fn a_scale_that_is_no_number_is_refused() {
        let (blocks, mut scales) = mxfp4(16 * 64, |_| 120);
        scales[7] = 255;
        let tensor = Tensor::Mxfp4 { blocks: &blocks, scales: &scales };
        let error = pack_mxfp4(&tensor, 1, [16, 64], &Slice::whole(16, 64), RowOrder::Natural)
            .expect_err("a bad scale");
        assert!(error.to_string().contains("255"), "{error}");
    }

    /// The stored element (matrix, row, k) that each place of a packed bf16 slice holds, `None` for padding: what a rank
    /// has of a tensor whose elements are their own indices.
    fn elements_of(packed: &[u8]) -> Vec<u16> {
        packed.chunks(2).map(|pair| u16::from_le_bytes([pair[0], pair[1]])).collect()
    }

    const LAYERS: &[Layer] = &[Layer::full(2, 1)];

    #[test]
    fn slices_of_all_ranks_hold_every_row_and_element_once() {
        let spec = ModelSpec {
            hidden: 32,
            inter: 9 * TILE_K,
            head_dim: 32,
            q_heads: 16,
            kv_heads: 8,
            vocab: 20 * TILE_ROWS + 3,
            layers: LAYERS,
            ..ossmith_models::NANO.spec
        };
        let qkv: &'static [usize] = vec![spec.qkv_width(), spec.hidden].leak();
        let attn_out: &'static [usize] = vec![spec.hidden, spec.q_width()].leak();
        let unembedding: &'static [usize] = vec![spec.vocab, spec.hidden].leak();
        for (weight, shape) in
            [(Weight::Qkv, qkv), (Weight::AttnOut, attn_out), (Weight::Unembedding, unembedding)]
        {
            let info = WeightInfo { weight, dtype: DType::Bf16, shape };
            let (rows, k) = (shape[0], shape[1]);
            // From 1 on, so that padding is told from element 0.
            let bytes: Vec<u8> = (1..=rows * k).flat_map(|i| (i as u16).to_le_bytes()).collect();
            assert!(rows * k < usize::from(u16::MAX), "{weight:?} has elements of one number");
            let tensor = Tensor::Bf16 { parts: vec![&bytes] };
            for of in [1, 2, 4, 8] {
                let mut seen = vec![0; rows * k];
                for rank in 0..of {
                    let local = Shard { rank, of }.local(&spec).expect("a divisible model");
                    let slice = local.slice(&spec, &info).expect("a part");
                    let packed = pack_bf16(&tensor, k, &slice, RowOrder::Natural);
                    let whole = elements_of(&packed).into_iter().filter(|&element| element > 0);
                    whole.for_each(|element| seen[usize::from(element) - 1] += 1);
                }
                assert!(seen.iter().all(|&count| count == 1), "{weight:?} of {of} ranks");
            }
        }
    }

    #[test]
    fn experts_slices_decode_to_the_whole_ones_values() {
        let spec = ModelSpec {
            hidden: 64,
            inter: 9 * TILE_K,
            head_dim: 32,
            q_heads: 16,
            kv_heads: 8,
            layers: LAYERS,
            ..ossmith_models::NANO.spec
        };
        let down: &'static [usize] = vec![2, spec.hidden, spec.inter].leak();
        let gate_up: &'static [usize] = vec![2, 2 * spec.inter, spec.hidden].leak();
        for (weight, shape, order) in [
            (Weight::Down, down, RowOrder::Natural),
            (Weight::GateUp, gate_up, RowOrder::GateUpPairs),
        ] {
            let info = WeightInfo { weight, dtype: DType::Mxfp4, shape };
            let (matrices, rows, k) = info.matrices();
            let (blocks, scales) = mxfp4(matrices * rows * k, |i| 110 + (mix_word(i) % 3) as u8);
            let tensor = Tensor::Mxfp4 { blocks: &blocks, scales: &scales };
            for of in [1, 2, 4, 8] {
                let mut row_tiles_k = 0;
                for rank in 0..of {
                    let local = Shard { rank, of }.local(&spec).expect("a divisible model");
                    let slice = local.slice(&spec, &info).expect("a part");
                    let packed = pack_mxfp4(&tensor, matrices, [rows, k], &slice, order);
                    let packed = packed.expect("good scales");
                    // The same rows cut out of the checkpoint first, and packed whole.
                    let cut = cut(&blocks, &scales, [matrices, rows, k], &slice);
                    let (local_rows, local_k) = (slice.row_count(), slice.k.len());
                    check_values(&packed, &cut.0, &cut.1, [matrices, local_rows, local_k], order);
                    row_tiles_k += local_rows * local_k;
                }
                assert_eq!(row_tiles_k, rows * k, "{weight:?} of {of} ranks");
            }
        }
    }

    /// Cuts a packed tensor into matrices and row tiles, and each of these into its tiles, codes apart from scales.
    fn tiles(
        packed: &[u8],
        row_tiles: usize,
        k_tiles: usize,
        bytes: [usize; 2],
    ) -> Vec<Vec<Vec<u8>>> {
        let row_tile_bytes = k_tiles * (bytes[0] + bytes[1]);
        assert_eq!(packed.len() % (row_tiles * row_tile_bytes), 0);
        let cut = |row_tile: &[u8]| -> Vec<Vec<u8>> {
            let (codes, scales) = row_tile.split_at(k_tiles * bytes[0]);
            let scales = (0..k_tiles).map(|k| &scales[k * bytes[1]..(k + 1) * bytes[1]]);
            codes.chunks(bytes[0]).zip(scales).map(|(code, scale)| [code, scale].concat()).collect()
        };
        packed.chunks(row_tile_bytes).map(cut).collect()
    }

    /// What lies outside a slice is other bytes, which a rank must not read: its packed bytes stay the same. Joined tile by
    /// tile, those of all ranks are the whole tensor's.
    #[test]
    fn packed_slices_are_the_tiles_of_the_whole_and_read_nothing_else() {
        let spec = ModelSpec {
            hidden: 128,
            inter: 9 * TILE_K,
            head_dim: 64,
            q_heads: 16,
            kv_heads: 8,
            vocab: 20 * TILE_ROWS,
            layers: LAYERS,
            ..ossmith_models::NANO.spec
        };
        let rope = RowOrder::RopePairs { head_dim: 64 };
        let weights: [(Weight, DType, Vec<usize>, RowOrder); 5] = [
            (Weight::Qkv, DType::Bf16, vec![spec.qkv_width(), spec.hidden], rope),
            (Weight::AttnOut, DType::Bf16, vec![spec.hidden, spec.q_width()], RowOrder::Natural),
            (Weight::Unembedding, DType::Bf16, vec![spec.vocab, spec.hidden], RowOrder::Natural),
            (
                Weight::GateUp,
                DType::Mxfp4,
                vec![2, 2 * spec.inter, spec.hidden],
                RowOrder::GateUpPairs,
            ),
            (Weight::Down, DType::Mxfp4, vec![2, spec.hidden, spec.inter], RowOrder::Natural),
        ];
        for (weight, dtype, shape, order) in weights {
            let info = WeightInfo { weight, dtype, shape: shape.leak() };
            let (matrices, rows, k) = info.matrices();
            let tile_bytes = match dtype {
                DType::Mxfp4 => [TILE_CODE_BYTES, TILE_SCALE_BYTES],
                _ => [TILE_BYTES_BF16, 0],
            };
            let pack = |data: &[Vec<u8>; 2], slice: &Slice| match dtype {
                DType::Mxfp4 => {
                    let tensor = Tensor::Mxfp4 { blocks: &data[0], scales: &data[1] };
                    let packed = pack_mxfp4(&tensor, matrices, [rows, k], slice, order);
                    packed.expect("good scales").bytes
                }
                _ => pack_bf16(&Tensor::Bf16 { parts: vec![&data[0]] }, k, slice, order),
            };
            let elements = info.elements();
            let data = match dtype {
                DType::Mxfp4 => {
                    let (blocks, scales) = mxfp4(elements, |i| 110 + (mix_word(i) % 3) as u8);
                    [blocks, scales]
                }
                _ => [random_bytes(2 * elements, 3), Vec::new()],
            };
            let packed = pack(&data, &Slice::whole(rows, k));
            let whole = tiles(&packed, rows / TILE_ROWS, k.div_ceil(TILE_K), tile_bytes);
            for of in [2, 4, 8] {
                let mut joined: Vec<Vec<Vec<u8>>> = vec![Vec::new(); whole.len()];
                for shard in Shard::all(of) {
                    let local = shard.local(&spec).expect("a divisible model");
                    let slice = local.slice(&spec, &info).expect("a part");
                    let own = pack(&data, &slice);
                    assert_eq!(own, pack(&elsewhere(&data, &info, &slice), &slice), "{weight:?}");
                    let row_tiles = slice.row_count() / TILE_ROWS;
                    let own = tiles(&own, row_tiles, slice.k.len().div_ceil(TILE_K), tile_bytes);
                    let row_tiles_of_slice =
                        slice.rows.iter().cloned().flatten().step_by(TILE_ROWS);
                    let places: Vec<usize> =
                        row_tiles_of_slice.map(|row| row / TILE_ROWS).collect();
                    for (index, tiles) in own.into_iter().enumerate() {
                        let matrix = index / row_tiles * (rows / TILE_ROWS);
                        joined[matrix + places[index % row_tiles]].extend(tiles);
                    }
                }
                assert!(joined == whole, "{weight:?} of {of} ranks");
            }
        }
    }

    /// A tensor's codes and scales, or its elements, with other bytes wherever a slice has none.
    fn elsewhere(data: &[Vec<u8>; 2], info: &WeightInfo, slice: &Slice) -> [Vec<u8>; 2] {
        let (matrices, rows, k) = info.matrices();
        let mut changed = data.clone();
        for (row, matrix) in (0..rows).flat_map(|row| (0..matrices).map(move |m| (row, m))) {
            let inside = slice.rows.iter().any(|range| range.contains(&row));
            for column in (0..k).filter(|column| !(inside && slice.k.contains(column))) {
                let element = (matrix * rows + row) * k + column;
                match info.dtype {
                    // A scale that is no number would be refused.
                    DType::Mxfp4 => {
                        changed[0][element / 2] ^= 0x55;
                        changed[1][element / 32] = NOT_A_NUMBER;
                    }
                    _ => changed[0][2 * element] ^= 0x55,
                }
            }
        }
        changed
    }

    /// A slice of every matrix as a tensor of its own.
    fn cut(
        blocks: &[u8],
        scales: &[u8],
        [matrices, rows, k]: [usize; 3],
        slice: &Slice,
    ) -> (Vec<u8>, Vec<u8>) {
        let (mut cut_blocks, mut cut_scales) = (Vec::new(), Vec::new());
        for matrix in 0..matrices {
            for row in (0..slice.row_count()).filter_map(|row| slice.row(row)) {
                let first = (matrix * rows + row) * k + slice.k.start;
                let last = first + slice.k.len();
                cut_blocks.extend(&blocks[first / 2..last / 2]);
                cut_scales.extend(&scales[first / 32..last / 32]);
            }
        }
        (cut_blocks, cut_scales)
    }
}
