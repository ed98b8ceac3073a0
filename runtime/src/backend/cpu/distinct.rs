//! A bf16 matrix whose rows repeat: each different row once, and which of them every row is.
//!
//! A vocabulary may hold many tokens that a model never learnt; their rows are then one and the same (of nano's
//! 201,088 rows, some ten thousand differ). A product over the different rows, copied to every place, has the same bits
//! as one over all rows, since a row's sum knows nothing of its neighbours. Where rows do not repeat, nothing is kept.

use super::weights::Bf16Rows;

/// Neighbours compared before the whole matrix is read, which for a large model without repeats is a long way.
const SAMPLES: usize = 64;
/// Equal neighbours among them that make the rest worth its time.
const ENOUGH: usize = SAMPLES / 8;

/// The different rows of a matrix.
#[derive(Debug)]
pub(super) struct Distinct {
    bytes: Vec<u8>,
    k: usize,
    /// For each row of the matrix, which of the different rows it is.
    places: Vec<u32>,
}

impl Distinct {
    /// The different rows, or `None` if few repeat. Rows are only compared with the one before and with the first that
    /// repeated, so one may be kept twice; never are two that differ taken for one.
    pub(super) fn new(rows: &Bf16Rows<'_>) -> Option<Distinct> {
        let count = rows.rows();
        let step = (count / SAMPLES).max(1);
        let pairs = (step..count).step_by(step);
        if pairs.filter(|&row| rows.row(row) == rows.row(row - 1)).count() < ENOUGH {
            return None;
        }
        let (mut bytes, mut places) = (Vec::new(), Vec::with_capacity(count));
        let (mut kept, mut common) = (0, None);
        for row in 0..count {
            let same = |&other: &usize| rows.row(row) == rows.row(other);
            let place = if let Some(other) = row.checked_sub(1).filter(same) {
                common.get_or_insert(other);
                places[other]
            } else if let Some(other) = common.filter(same) {
                places[other]
            } else {
                bytes.extend_from_slice(rows.row(row));
                kept += 1;
                kept - 1
            };
            places.push(place);
        }
        Some(Distinct { bytes, k: rows.k(), places })
    }

    /// The different rows as a matrix.
    pub(super) fn rows(&self) -> Option<Bf16Rows<'_>> {
        Bf16Rows::new(&self.bytes, self.k)
    }

    /// Copies each different row's result to all the rows that it stands for.
    pub(super) fn spread(&self, results: &[f32], out: &mut [f32]) {
        for (out, &place) in out.iter_mut().zip(&self.places) {
            *out = results[place as usize];
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
    fn rows_come_back_at_every_place() {
        let numbers: Vec<u8> = (0..200u8).map(|i| if i % 9 == 4 { i } else { 7 }).collect();
        let bytes = matrix(&numbers);
        let rows = Bf16Rows::new(&bytes, 32).expect("whole rows");
        let distinct = Distinct::new(&rows).expect("rows repeat");
        let kept = distinct.rows().expect("whole rows");
        assert_eq!(kept.rows(), 23);
        let results: Vec<f32> = (0..kept.rows()).map(|row| f32::from(kept.row(row)[0])).collect();
        let mut out = vec![-1.0; numbers.len()];
        distinct.spread(&results, &mut out);
        assert_eq!(out, numbers.iter().map(|&n| f32::from(n)).collect::<Vec<_>>());
    }

    #[test]
    fn nothing_is_kept_where_rows_differ() {
        let bytes = matrix(&(0..250).collect::<Vec<u8>>());
        assert!(Bf16Rows::new(&bytes, 32).is_some_and(|rows| Distinct::new(&rows).is_none()));
        assert!(Bf16Rows::new(&[], 32).is_some_and(|rows| Distinct::new(&rows).is_none()));
    }
}
