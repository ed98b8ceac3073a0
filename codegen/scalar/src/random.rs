//! Sampling noise: counter-based random numbers, so that a draw depends on seed, position and token id only,
//! never on batch, backend or the order of evaluation. Random weights are in `synthetic.rs`.

use ossmith_device_fn::device_fn;

use crate::synthetic::mix_word;

/// The noise of one draw, from which `noise_bits` makes each token's.
#[device_fn]
#[must_use]
pub const fn noise_stream(seed: u64, position: u32) -> u64 {
    let low: u32 = mix_word(seed as u32 ^ mix_word(position));
    let high: u32 = mix_word((seed >> 32) as u32 ^ mix_word(low ^ 0x9E37_79B9));
    ((high as u64) << 32) | low as u64
}

/// 32 random bits for a token: two rounds, each keyed by half of the stream.
#[device_fn]
#[must_use]
pub const fn noise_bits(stream: u64, token: u32) -> u32 {
    let first: u32 = mix_word(token ^ stream as u32);
    mix_word(first.wrapping_add((stream >> 32) as u32))
}

/// A standard Gumbel variate, `-ln(-ln(1 - v))` with `v = (bits + 0.5) / 2^32`; falls as `bits` grow.
/// Small `v` make large variates and are exact, so the tail that decides a draw is not cut at fp32's precision
/// near 1; the largest fp32 below 1 keeps the inner logarithm finite.
#[device_fn]
#[must_use]
pub fn gumbel_of_bits(bits: u32) -> f32 {
    let v = ((bits as f32 + 0.5) * 2.328_306_4e-10).min(0.999_999_94);
    -(-(-v).ln_1p()).ln()
}

/// The noise of a token at a position: the token with the largest `logit / temperature + gumbel` is a draw from
/// the softmax (the Gumbel-max trick).
#[device_fn]
#[must_use]
pub fn gumbel(seed: u64, position: u32, token: u32) -> f32 {
    gumbel_of_bits(noise_bits(noise_stream(seed, position), token))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn noise_depends_on_each_coordinate_and_flips_half_of_the_bits() {
        let base = noise_bits(noise_stream(1, 2), 3);
        for (what, other) in [
            ("seed", noise_bits(noise_stream(0, 2), 3)),
            ("seed's high half", noise_bits(noise_stream(1 << 32 | 1, 2), 3)),
            ("position", noise_bits(noise_stream(1, 3), 3)),
            ("token", noise_bits(noise_stream(1, 2), 2)),
        ] {
            let flipped = (base ^ other).count_ones();
            assert!((5..28).contains(&flipped), "{what} flips {flipped} bits");
        }
        let stream = noise_stream(7, 8);
        let flips = |token: u32| {
            (noise_bits(stream, token) ^ noise_bits(stream, token ^ (1 << (token % 32))))
                .count_ones()
        };
        let mean = f64::from((0..20_000).map(flips).sum::<u32>()) / 20_000.0;
        assert!((mean - 16.0).abs() < 0.1, "{mean} bits flip");
    }

    #[test]
    fn gumbel_has_its_mean_variance_and_tail() {
        let n = 400_000_u32;
        let draws: Vec<f64> = (0..n).map(|i| f64::from(gumbel(42, i / 1000, i % 1000))).collect();
        let mean = draws.iter().sum::<f64>() / f64::from(n);
        let variance = draws.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / f64::from(n);
        // Euler's constant and pi^2 / 6; the mean's standard error is 0.002.
        assert!((mean - 0.577_215_66).abs() < 0.01, "mean {mean}");
        assert!((variance - 1.644_934_07).abs() < 0.03, "variance {variance}");
        // P(x > 8) = 1 - exp(-exp(-8)) = 3.354e-4: 134 of 400,000, standard deviation 12.
        let tail = draws.iter().filter(|&&x| x > 8.0).count();
        assert!((84..184).contains(&tail), "{tail} draws above 8");
        assert!([0, u32::MAX].map(gumbel_of_bits).iter().all(|x| x.is_finite()));
    }
}
