//! How weights lie in device memory.
//!
//! Matrix multiplications are computed transposed, `out^T = W x^T`, so weights are the A operand of `mma.m16n8k16` and tokens
//! are its columns. A *tile* is 16 rows by 64 summed elements, stored in the order in which the 32 lanes of a
//! warp hold it, so that a warp reads a whole tile with coalesced 16-byte loads and no shared memory.
//!
//! The sum over k may run in any order that both operands share. Lane `4g + c` takes the 16 consecutive elements
//! `16c .. 16c + 16` of every 64, as four k16 steps of two register pairs; activations are then read as two
//! 16-byte loads a token, and one MXFP4 block scale serves all that a lane holds of a row.
//! `ossmith_scalar::tile_*` are the index maps, shared by the host packer, the device fill and the tests.

/// Rows of one weight tile: the M of `mma.m16n8k16`.
pub const TILE_ROWS: usize = 16;
/// Summed elements of one weight tile: four k16 steps.
pub const TILE_K: usize = 64;

/// Which row of the checkpoint stands in which row of the packed tiles.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RowOrder {
    /// As in the checkpoint.
    Natural,
    /// Rotary pairs `i` and `i + head_dim / 2` of a head stand at tile rows `g` and `g + 8`: one thread's accumulators.
    RopePairs {
        /// Rows of one head.
        head_dim: usize,
    },
    /// Gate `j` (checkpoint row `2j`) and up `j` (row `2j + 1`) stand at tile rows `g` and `g + 8`.
    GateUpPairs,
}

/// A weight's device layout.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum WeightLayout {
    /// As in the checkpoint.
    RowMajor,
    /// `[row tile][k tile][k16 step][lane][8 bf16]`; rows and k padded with zeros to whole tiles.
    Bf16Tiles(RowOrder),
    /// For each expert and row tile: `[k tile][lane][4 words]` of codes, then `[k tile][g][4 bytes]` of scales
    /// (rows `g` and `g + 8` for the first block of 32, then for the second). Words hold a lane's eight codes of
    /// one k16 step in the bit order of `mxfp4/decode.cuh`; scale bytes are stored as the factor's bf16 exponent.
    Mxfp4Tiles(RowOrder),
}

impl WeightLayout {
    /// Bytes of `matrices` matrices of `rows` by `k` elements in a tiled layout, padding included.
    #[must_use]
    pub const fn tiled_bytes(self, matrices: usize, rows: usize, k: usize) -> usize {
        let tiles = rows.div_ceil(TILE_ROWS) * k.div_ceil(TILE_K);
        match self {
            WeightLayout::RowMajor => 0,
            WeightLayout::Bf16Tiles(_) => matrices * tiles * TILE_ROWS * TILE_K * 2,
            WeightLayout::Mxfp4Tiles(_) => {
                matrices * tiles * (TILE_ROWS * TILE_K / 2 + TILE_ROWS * 2)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tiles_have_these_bytes() {
        let (bf16, mxfp4) = (
            WeightLayout::Bf16Tiles(RowOrder::Natural),
            WeightLayout::Mxfp4Tiles(RowOrder::GateUpPairs),
        );
        // Three matrices of 2 by 2 tiles, whose last row and column are padding; a tile is 16 by 64 elements.
        assert_eq!(bf16.tiled_bytes(3, 17, 65), 3 * 4 * 2_048);
        // Four bits per element, and a byte for each 32 of them.
        assert_eq!(mxfp4.tiled_bytes(3, 17, 65), 3 * 4 * (512 + 32));
        assert_eq!(mxfp4.tiled_bytes(1, 16, 64), 16 * 64 / 2 + 16 * 64 / 32);
        assert_eq!(WeightLayout::RowMajor.tiled_bytes(3, 17, 65), 0);
    }
}
