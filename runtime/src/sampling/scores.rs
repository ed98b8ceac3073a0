//! A row of logits as the sampler uses it: divided by the temperature, and in blocks.

use ossmith_scalar::weight_of_score;

/// Logits that are skipped together where none of them can be sampled.
pub(super) const BLOCK: usize = 64;

/// Logits divided by the temperature, minus the largest.
pub(super) struct Scores<'a> {
    pub(super) logits: &'a [f32],
    pub(super) largest: f32,
    pub(super) inverse: f32,
}

impl Scores<'_> {
    pub(super) fn score(&self, id: u32) -> f32 {
        self.of_logit(self.logits[id as usize])
    }

    pub(super) fn of_logit(&self, logit: f32) -> f32 {
        (logit - self.largest) * self.inverse
    }

    /// A number that orders tokens by descending logit and, among equals (both zeros are), by ascending id; NaN comes last.
    /// Its low half is the id.
    pub(super) fn rank(&self, id: u32) -> u64 {
        let logit = self.logits[id as usize];
        let bits =
            if logit.is_nan() { f32::NEG_INFINITY.to_bits() } else { (logit + 0.0).to_bits() };
        // An integer that grows with the logit; its complement is the rank.
        let grows = if bits >> 31 == 1 { !bits } else { bits | 1 << 31 };
        u64::from(!grows) << 32 | u64::from(id)
    }

    /// The sum of the tokens' weights, which is exact: it depends on no order.
    pub(super) fn mass(&self, ranks: &[u64]) -> u64 {
        ranks.iter().map(|&rank| weight_of_score(self.score(rank as u32))).sum()
    }
}

/// The largest of some numbers; NaN is ignored.
pub(super) fn peak(numbers: &[f32]) -> f32 {
    const LANES: usize = 16;
    let larger = |a: f32, b: f32| if b > a { b } else { a };
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let chunks = numbers.chunks_exact(LANES);
    let rest = chunks.remainder().iter().fold(f32::NEG_INFINITY, |a, &b| larger(a, b));
    for chunk in chunks {
        for (lane, &number) in lanes.iter_mut().zip(chunk) {
            *lane = larger(*lane, number);
        }
    }
    lanes.iter().fold(rest, |a, &b| larger(a, b))
}
