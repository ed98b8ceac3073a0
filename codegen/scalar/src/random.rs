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

/// The high half of a product.
#[must_use]
pub const fn high_product(a: u32, b: u32) -> u32 {
    ((a as u64 * b as u64) >> 32) as u32
}

/// [`high_product`] on the device, written by hand: an instruction computes it, and the 64-bit product would cost two.
pub const HIGH_PRODUCT_CUDA: &str = "\
// The high half of a product.
__device__ __forceinline__ u32 high_product(u32 a, u32 b) {
  return __umulhi(a, b);
}
";

/// ln(x) for a positive normal number, within 2 units in the last place. Every product that is added is fused, so CPU and
/// GPU agree bit for bit. The polynomial is that of Cephes' logf (Moshier).
#[device_fn]
#[must_use]
pub fn natural_log(x: f32) -> f32 {
    let bits = x.to_bits() as i32;
    let exponent = (bits - 0x3f35_04f3) >> 23;
    let f = f32::from_bits((bits - (exponent << 23)) as u32) - 1.0;
    let e = exponent as f32;
    let square = f * f;
    let p1 = f.mul_add(7.037_683_6e-2, -1.151_461e-1);
    let p2 = f.mul_add(p1, 1.167_699_9e-1);
    let p3 = f.mul_add(p2, -1.242_014_1e-1);
    let p4 = f.mul_add(p3, 1.424_932_3e-1);
    let p5 = f.mul_add(p4, -1.666_805_8e-1);
    let p6 = f.mul_add(p5, 2.000_071_5e-1);
    let p7 = f.mul_add(p6, -2.499_999_4e-1);
    let p8 = f.mul_add(p7, 3.333_333e-1);
    let small = (f * square).mul_add(p8, e * -2.121_944_4e-4);
    let rest = f + square.mul_add(-0.5, small);
    e.mul_add(0.693_359_4, rest)
}

/// A standard Gumbel variate, `-ln(-ln(1 - v))` with `v = (bits + 0.5) / 2^32`; falls as `bits` grow.
/// Small `v` make large variates and are exact, so the tail that decides a draw is not cut at fp32's precision
/// near 1; the largest fp32 below 1 keeps the inner logarithm finite. `ln(1 - v)` of a small `v` is that of the rounded
/// difference, times how much the rounding changed `v` (Kahan).
#[device_fn]
#[must_use]
pub fn gumbel_of_bits(bits: u32) -> f32 {
    let v = ((bits as f32 + 0.5) * 2.328_306_4e-10).min(0.999_999_94);
    let rest = 1.0 - v;
    let taken = 1.0 - rest;
    let inner: f32 = if taken == 0.0 { v } else { -natural_log(rest) * (v / taken) };
    -natural_log(inner)
}

/// `e^score` in units of 2^-40, for a score of at most 0: an integer, so that a sum of them depends on no order. The score
/// becomes a power of two with 24 bits after the point; a polynomial in integers computes the power of its fraction, within
/// 2.5e-7. The weight of NaN and of minus infinity is 0.
#[device_fn]
#[must_use]
pub fn weight_of_score(score: f32) -> u64 {
    let power = (score.max(-29.0) * 24_204_406.0) as i32;
    let f = (power as u32) << 8;
    let p1: u32 = high_product(0x003a_99ed_u32, f).wrapping_add(0x012d_720e);
    let p2: u32 = high_product(p1, f).wrapping_add(0x071f_c536);
    let p3: u32 = high_product(p2, f).wrapping_add(0x1ebf_1bfe);
    let p4: u32 = high_product(p3, f).wrapping_add(0x58b9_0f3b);
    let mantissa: u32 = high_product(p4, f).wrapping_add(0x8000_0000);
    ((mantissa as u64) << 9) >> ((-(power >> 24)) as u32)
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

    /// Units in the last place of `exact` between it and `found`.
    fn ulps(found: f32, exact: f64) -> f64 {
        let rounded = exact as f32;
        let unit = f64::from(rounded.abs().next_up()) - f64::from(rounded.abs());
        (f64::from(found) - exact).abs() / unit
    }

    #[test]
    fn logarithms_are_within_two_units_in_the_last_place() {
        for i in 0..1_000_000_u32 {
            let x = f32::from_bits(0x0080_0000 + i * 2130);
            let exact = f64::from(x).ln();
            // Near 1 the logarithm itself vanishes.
            let error = ulps(natural_log(x), exact);
            assert!(error < 2.0 || x == 1.0, "ln({x:e}) is {error} units off");
        }
        assert_eq!(natural_log(1.0), 0.0);
    }

    #[test]
    fn gumbel_follows_the_exact_function() {
        for i in 0..(1_u32 << 20) {
            let bits = i.wrapping_mul(0x9E37_79B1) >> (i % 29);
            let v = (f64::from(bits) + 0.5) / 2f64.powi(32);
            let exact = -(-(-v).ln_1p()).ln();
            // Beyond, where v is near 1, its rounding to fp32 counts for more.
            if bits < 7 << 29 {
                let error = (f64::from(gumbel_of_bits(bits)) - exact).abs() / exact.abs().max(1.0);
                assert!(error < 1e-6, "gumbel_of_bits({bits}) is {error:e} off");
            }
        }
    }

    #[test]
    fn weights_follow_the_exponential_and_never_rise_as_scores_fall() {
        assert_eq!(weight_of_score(0.0), 1 << 40);
        assert_eq!([f32::NAN, f32::NEG_INFINITY, -1e30].map(weight_of_score), [0; 3]);
        let mut last = 1 << 40;
        for i in 0..2_000_000_u32 {
            let score = -(i as f32) * 1.5e-5;
            let weight = weight_of_score(score);
            assert!(weight <= last, "the weight rises at {score}");
            last = weight;
            let exact = f64::from(score).exp() * 2f64.powi(40);
            // One for rounding down, and the score's power is rounded to fp32.
            let error = (weight as f64 - exact).abs() - 1.0;
            assert!(
                error <= exact * (2.5e-7 - 1e-7 * f64::from(score)),
                "e^{score} is {weight} instead of {exact}"
            );
        }
    }
}
