//! The token with the largest `score + gumbel`, found without computing the noise of most of the vocabulary.

use ossmith_scalar::{gumbel_of_bits, noise_bits};

use super::scores::{BLOCK, Scores};

/// A running maximum of `score + gumbel`.
pub(super) struct GumbelArgmax {
    stream: u64,
    best: f32,
    /// The token with the largest sum so far; `u32::MAX` before the first.
    pub(super) token: u32,
    /// With noise bits above this, no score reaches the largest sum.
    bound: u32,
}

impl GumbelArgmax {
    pub(super) fn new(stream: u64) -> GumbelArgmax {
        GumbelArgmax { stream, best: f32::NEG_INFINITY, token: u32::MAX, bound: u32::MAX }
    }

    /// Offers a whole vocabulary. Most blocks of it are skipped because of their largest logit or their noise bits.
    pub(super) fn offer_all(&mut self, view: &Scores<'_>, peaks: &[f32], floor: f32) {
        // The block of the largest logit comes first, so that the others are skipped sooner.
        let first = peaks.iter().position(|&peak| peak == view.largest).unwrap_or(0);
        for block in std::iter::once(first).chain(0..peaks.len()) {
            let score = view.of_logit(peaks[block]);
            if score < floor || score + MAX_GUMBEL < self.best {
                continue;
            }
            let ids = block * BLOCK..view.logits.len().min((block + 1) * BLOCK);
            let ids = ids.start as u32..ids.end as u32;
            let bound = self.bound.min(bits_to_beat(self.best - score));
            let least = ids.clone().map(|id| noise_bits(self.stream, id)).min();
            if least.is_some_and(|least| least <= bound) {
                ids.for_each(|id| self.offer(id, view.score(id), floor));
            }
        }
    }

    /// Offers one token; tokens with a score below `floor` are ignored.
    pub(super) fn offer(&mut self, id: u32, score: f32, floor: f32) {
        let bits = noise_bits(self.stream, id);
        // A gumbel is below -ln(v), and v at least 2^-(zeros + 1): no logarithm for tokens far behind.
        let bound = (bits.leading_zeros() + 1) as f32 * 0.694;
        let behind = score < floor || score + bound < self.best || score.is_nan();
        if bits > self.bound || behind {
            return;
        }
        let sum = score + gumbel_of_bits(bits);
        if sum > self.best || (sum == self.best && id < self.token) || self.token == u32::MAX {
            (self.best, self.token) = (sum, id);
            // Scores are at most 0, so a token that beats `best` has a gumbel above it: solve `gumbel(bits) = best` for
            // the bits and leave room for f32's rounding.
            let share = -(-(-f64::from(sum)).exp()).exp_m1();
            self.bound = (share * 1.0001 * 2f64.powi(32)) as u32;
        }
    }
}

/// Above every gumbel, including that of bits that are all zero.
const MAX_GUMBEL: f32 = 22.9;

/// Bits above this have a gumbel below `gumbel`, even after f32's rounding. The bits below it are a fraction of
/// `1 - exp(-exp(-gumbel))` of all bits, which is less than `exp(-gumbel)`.
fn bits_to_beat(gumbel: f32) -> u32 {
    ((-gumbel).exp() * 1.0001 * 2f32.powi(32)).ceil() as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_bits_beyond_the_bound_beat_the_gumbel() {
        for exponent in 0..32 {
            for bits in [(1_u32 << exponent) - 1, 1 << exponent, (1 << exponent) + 1] {
                let gumbel = gumbel_of_bits(bits);
                assert!(gumbel < MAX_GUMBEL && bits <= bits_to_beat(gumbel), "{bits}");
            }
        }
    }

    #[test]
    fn the_noise_is_finite_and_falls_with_the_bits() {
        let extremes = [0, 1, 1 << 9, 1 << 31, u32::MAX - 1, u32::MAX].map(gumbel_of_bits);
        assert!(extremes.iter().all(|g| g.is_finite()) && extremes.is_sorted_by(|a, b| a >= b));
        // -ln(-ln(1 - 2^-33)): the far tail survives.
        assert!((extremes[0] - 22.873_855).abs() < 1e-4, "{}", extremes[0]);
    }
}
