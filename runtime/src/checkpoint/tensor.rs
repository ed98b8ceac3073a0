//! One weight, borrowed or owned, and access to its rows and matrices.

use ossmith_plan::Slice;

/// One stored tensor, borrowed from a memory map or from generated memory. Its bytes have an alignment of 1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Tensor<'a> {
    /// bf16 rows; a fused tensor that the checkpoint stores in pieces (q, k, v) has several parts, in row order.
    Bf16 {
        /// Little-endian bf16, whole rows.
        parts: Vec<&'a [u8]>,
    },
    /// MXFP4: for each matrix row and block of 32 along k, 16 bytes of codes (low nibble first) and one E8M0 scale.
    Mxfp4 {
        /// `[matrices, rows, k / 32, 16]`.
        blocks: &'a [u8],
        /// `[matrices, rows, k / 32]`.
        scales: &'a [u8],
    },
}

impl<'a> Tensor<'a> {
    /// Little-endian bf16 of row `row` of `[rows, k]`, whichever part holds it.
    ///
    /// # Panics
    /// When there is no such row, as a slice does, and for an MXFP4 tensor.
    #[must_use]
    pub fn row(&self, row: usize, k: usize) -> &'a [u8] {
        let Tensor::Bf16 { parts } = self else {
            panic!("row {row} was requested from an MXFP4 tensor, which has matrices");
        };
        let row_bytes = 2 * k;
        let mut start = row * row_bytes;
        for part in parts {
            if start < part.len() {
                return &part[start..start + row_bytes];
            }
            start -= part.len();
        }
        panic!("row {row} was requested from a tensor of {} rows", self.bytes() / row_bytes)
    }

    /// The stored bytes of whole rows of each of `matrices` matrices of `rows` rows of `k` bf16 elements, run by run in
    /// their order. A run ends where a range or a part does.
    ///
    /// # Panics
    /// For an MXFP4 tensor, and for columns of rows.
    #[must_use]
    pub fn runs(&self, [matrices, rows, k]: [usize; 3], slice: &Slice) -> Vec<&'a [u8]> {
        let Tensor::Bf16 { parts } = self else {
            panic!("rows were requested from an MXFP4 tensor, which has matrices");
        };
        assert_eq!(slice.k, 0..k, "columns of rows are no runs");
        let mut runs = Vec::new();
        for (matrix, range) in (0..matrices).flat_map(|m| slice.rows.iter().map(move |r| (m, r))) {
            let first = matrix * rows;
            let (start, end) = (2 * k * (first + range.start), 2 * k * (first + range.end));
            let mut at = 0;
            for part in parts {
                let (from, to) = (start.max(at), end.min(at + part.len()));
                if from < to {
                    runs.push(&part[from - at..to - at]);
                }
                at += part.len();
            }
        }
        runs
    }

    /// Every element of all parts, widened to `f32`: meant for biases, norm scales and sinks.
    ///
    /// # Panics
    /// For an MXFP4 tensor.
    #[must_use]
    pub fn to_f32(&self) -> Vec<f32> {
        let Tensor::Bf16 { parts } = self else {
            panic!("32-bit floats were requested from an MXFP4 tensor");
        };
        let widen = |pair: &[u8; 2]| f32::from_bits(u32::from(u16::from_le_bytes(*pair)) << 16);
        parts.iter().flat_map(|part| part.as_chunks().0).map(widen).collect()
    }

    /// Blocks `[rows, k / 32, 16]` and scales `[rows, k / 32]` of one of `matrices` matrices (an expert's).
    ///
    /// # Panics
    /// When there is no such matrix, as a slice does, and for a bf16 tensor.
    #[must_use]
    pub fn matrix(&self, matrix: usize, matrices: usize) -> (&'a [u8], &'a [u8]) {
        let Tensor::Mxfp4 { blocks, scales } = *self else {
            panic!("matrix {matrix} was requested from a bf16 tensor, which has rows");
        };
        let slice = |bytes: &'a [u8]| {
            let each = bytes.len() / matrices;
            &bytes[matrix * each..(matrix + 1) * each]
        };
        (slice(blocks), slice(scales))
    }

    /// Bytes stored, scales included.
    #[must_use]
    pub fn bytes(&self) -> usize {
        match self {
            Tensor::Bf16 { parts } => parts.iter().map(|part| part.len()).sum(),
            Tensor::Mxfp4 { blocks, scales } => blocks.len() + scales.len(),
        }
    }
}

/// A weight that was made in memory: converted from what a file stores, or random.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum OwnedTensor {
    /// As [`Tensor::Bf16`], in one part.
    Bf16(Vec<u8>),
    /// As [`Tensor::Mxfp4`].
    Mxfp4 {
        /// `[matrices, rows, k / 32, 16]`.
        blocks: Vec<u8>,
        /// `[matrices, rows, k / 32]`.
        scales: Vec<u8>,
    },
}

impl OwnedTensor {
    /// The same tensor, borrowed.
    pub(crate) fn as_tensor(&self) -> Tensor<'_> {
        match self {
            OwnedTensor::Bf16(bytes) => Tensor::Bf16 { parts: vec![bytes] },
            OwnedTensor::Mxfp4 { blocks, scales } => Tensor::Mxfp4 { blocks, scales },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_and_floats_cross_parts() {
        let bytes: Vec<u8> = (0..24).collect();
        let tensor = Tensor::Bf16 { parts: vec![&bytes[..8], &bytes[8..12], &bytes[12..]] };
        for row in 0..6 {
            assert_eq!(tensor.row(row, 2), &bytes[4 * row..4 * row + 4]);
        }
        assert_eq!(tensor.bytes(), 24);
        let one = 0x3f80_u16.to_le_bytes();
        let halves = [0xbf00_u16.to_le_bytes(), 0x4000_u16.to_le_bytes()].concat();
        let vector = Tensor::Bf16 { parts: vec![&one, &halves] };
        assert_eq!(vector.to_f32(), [1.0, -0.5, 2.0]);
    }

    #[test]
    fn runs_are_the_rows_of_a_slice() {
        let bytes: Vec<u8> = (0..48).collect();
        let tensor = Tensor::Bf16 { parts: vec![&bytes[..20], &bytes[20..]] };
        // Two matrices of three rows of four elements.
        let slice = |rows: &[std::ops::Range<usize>]| Slice { rows: rows.to_vec(), k: 0..4 };
        let whole = tensor.runs([2, 3, 4], &Slice::whole(3, 4)).concat();
        assert_eq!(whole, bytes);
        let some = tensor.runs([2, 3, 4], &slice(&[0..1, 2..3]));
        let expected: [&[u8]; 5] =
            [&bytes[..8], &bytes[16..20], &bytes[20..24], &bytes[24..32], &bytes[40..48]];
        assert_eq!(some, expected);
    }

    #[test]
    #[should_panic(expected = "row 3 was requested from a tensor of 3 rows")]
    fn a_row_past_the_end_is_the_callers_bug() {
        let _ = Tensor::Bf16 { parts: vec![&[0; 4], &[0; 2]] }.row(3, 1);
    }

    #[test]
    fn matrices_are_equal_slices() {
        let (blocks, scales) = ((0..64).collect::<Vec<u8>>(), [1, 2, 3, 4]);
        let tensor = Tensor::Mxfp4 { blocks: &blocks, scales: &scales };
        assert_eq!(tensor.matrix(0, 2), (&blocks[..32], &scales[..2]));
        assert_eq!(tensor.matrix(1, 2), (&blocks[32..], &scales[2..]));
    }
}
