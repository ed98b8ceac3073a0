//! A bf16 matrix whose rows repeat: each distinct row once, and which of them every row equals.
//!
//! A vocabulary may hold many tokens that a model never learnt; their rows are then all the same (of nano's 201,088 rows,
//! some ten thousand differ). A GEMM over the distinct rows, copied to every row, has the same bits as one over all rows,
//! because a row's sum does not depend on its neighbours. Where rows do not repeat, nothing is stored.

use super::weights::Bf16Rows;

/// Neighbours compared before the whole matrix is read, which takes long for a large model without repeats.
const SAMPLES: usize = 64;
/// The number of equal neighbours among them from which the whole matrix is worth reading.
const ENOUGH: usize = SAMPLES / 8;

/// The distinct rows of a matrix.
#[derive(Debug)]
pub(super) struct Distinct {
    bytes: Vec<u8>,
    k: usize,
    /// For each row of the matrix, the index of the distinct row that it equals.
    index: Vec<u32>,
}

impl Distinct {
    /// The distinct rows, or `None` if few repeat. A row is only compared with the one before and with the first that
    /// repeated, so a row may be stored twice; two rows that differ are never taken for one.
    pub(super) fn new(rows: &Bf16Rows<'_>) -> Option<Distinct> {
        let count = rows.rows();
        let step = (count / SAMPLES).max(1);
        let pairs = (step..count).step_by(step);
        if pairs.filter(|&row| rows.row(row) == rows.row(row - 1)).count() < ENOUGH {
            return None;
        }
        let (mut bytes, mut index) = (Vec::new(), Vec::with_capacity(count));
        let (mut kept, mut common) = (0, None);
        for row in 0..count {
            let same = |&other: &usize| rows.row(row) == rows.row(other);
            let distinct = if let Some(other) = row.checked_sub(1).filter(same) {
                common.get_or_insert(other);
                index[other]
            } else if let Some(other) = common.filter(same) {
                index[other]
            } else {
                bytes.extend_from_slice(rows.row(row));
                kept += 1;
                kept - 1
            };
            index.push(distinct);
        }
        Some(Distinct { bytes, k: rows.k(), index })
    }

    /// The distinct rows as a matrix.
    pub(super) fn rows(&self) -> Option<Bf16Rows<'_>> {
        Bf16Rows::new(&self.bytes, self.k)
    }

    /// Copies each distinct row's result to all the rows that equal it.
    pub(super) fn scatter(&self, results: &[f32], out: &mut [f32]) {
        for (out, &distinct) in out.iter_mut().zip(&self.index) {
            *out = results[distinct as usize];
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rows of 32 elements, each filled with its number.
    fn matrix(numbers: &[u8]) -> Vec<u8> {
        numbers.iter().flat_map(|&n| [n; 64]).collect()
    }

    #[test]
    fn results_are_copied_to_every_equal_row() {
        let numbers: Vec<u8> = (0..200u8).map(|i| if i % 9 == 4 { i } else { 7 }).collect();
        let bytes = matrix(&numbers);
        let rows = Bf16Rows::new(&bytes, 32).expect("whole rows");
        let distinct = Distinct::new(&rows).expect("rows repeat");
        let kept = distinct.rows().expect("whole rows");
        assert_eq!(kept.rows(), 23);
        let results: Vec<f32> = (0..kept.rows()).map(|row| f32::from(kept.row(row)[0])).collect();
        let mut out = vec![-1.0; numbers.len()];
        distinct.scatter(&results, &mut out);
        assert_eq!(out, numbers.iter().map(|&n| f32::from(n)).collect::<Vec<_>>());
    }

    #[test]
    fn nothing_is_stored_where_rows_differ() {
        let bytes = matrix(&(0..250).collect::<Vec<u8>>());
        assert!(Bf16Rows::new(&bytes, 32).is_some_and(|rows| Distinct::new(&rows).is_none()));
        assert!(Bf16Rows::new(&[], 32).is_some_and(|rows| Distinct::new(&rows).is_none()));
    }
}
