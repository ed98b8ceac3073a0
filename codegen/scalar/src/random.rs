//! Counter-based random numbers: a value depends on its coordinates only, never on the order of evaluation, so
//! CPU, GPU and any batch agree.

use ossmith_device_fn::device_fn;

/// A bijection of 64 bits in which every input bit moves about half of the output bits
/// (SplitMix64's finaliser; Steele, Lea, Flood 2014, with Stafford's constants).
#[device_fn]
#[must_use]
pub fn mix(x: u64) -> u64 {
    let a = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let b = (a ^ (a >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    b ^ (b >> 31)
}

/// Random bits at `index` of stream `stream` under `seed`.
#[device_fn]
#[must_use]
pub fn hash(seed: u64, stream: u64, index: u64) -> u64 {
    // Odd multipliers (from the golden ratio and the square root of 2) spread small counters over all bits.
    let key: u64 = mix(seed ^ stream.wrapping_mul(0x9E37_79B9_7F4A_7C15));
    mix(key ^ index.wrapping_mul(0x6A09_E667_F3BC_C909))
}

/// A draw from the standard Gumbel distribution for a token at a position: the token with the largest
/// `logit / temperature + gumbel` is a draw from the softmax (Gumbel-max trick).
#[device_fn]
#[must_use]
pub fn gumbel(seed: u64, position: u32, token: u32) -> f32 {
    let bits: u64 = hash(seed, position as u64, token as u64);
    // In (0, 1), finest near 0, which is the tail that wins: the exponential -ln(1 - v) is about v there.
    let v = (((bits >> 32) as f32 + 0.5) * 2.328_306_4e-10).min(0.999_999_94);
    let exponential: f32 = if v < 0.001 { v + 0.5 * v * v } else { -(1.0 - v).ln() };
    -exponential.ln()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hash_depends_on_each_coordinate_and_flips_half_of_the_bits() {
        let base = hash(1, 2, 3);
        for (what, other) in
            [("seed", hash(0, 2, 3)), ("stream", hash(1, 3, 3)), ("index", hash(1, 2, 4))]
        {
            let flipped = (base ^ other).count_ones();
            assert!((12..52).contains(&flipped), "{what} flips {flipped} bits");
        }
        let mut flips = 0;
        for i in 0..10_000_u64 {
            flips += (hash(7, i % 13, i) ^ hash(7, i % 13, i ^ (1 << (i % 20)))).count_ones();
        }
        assert!((f64::from(flips) / 10_000.0 - 32.0).abs() < 0.2, "{flips}");
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
        assert!(draws.iter().all(|x| x.is_finite()));
    }
}
