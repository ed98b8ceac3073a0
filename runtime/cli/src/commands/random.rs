//! Random numbers from a seed, so that a load can be repeated.

use std::f64::consts::TAU;

/// SplitMix64.
#[derive(Debug)]
pub(crate) struct Random(pub(crate) u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `bound`, which is not 0.
    pub(crate) fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }

    /// Above 0 and at most 1.
    fn unit(&mut self) -> f64 {
        ((self.next() >> 11) + 1) as f64 / (1u64 << 53) as f64
    }

    /// From the normal distribution of mean 0 and deviation 1 (Box and Muller).
    fn normal(&mut self) -> f64 {
        (-2.0 * self.unit().ln()).sqrt() * (TAU * self.unit()).cos()
    }

    /// From the gamma distribution of this shape and mean, both above 0 (Marsaglia and Tsang, 2000): shape 1 is
    /// exponential, larger ones are narrower.
    pub(crate) fn gamma(&mut self, shape: f64, mean: f64) -> f64 {
        // The method holds for shapes from 1; below 1, a value of shape + 1 is scaled down by a power of a uniform value.
        let (whole, scale) =
            if shape < 1.0 { (shape + 1.0, self.unit().powf(1.0 / shape)) } else { (shape, 1.0) };
        let d = whole - 1.0 / 3.0;
        let c = 1.0 / (9.0 * d).sqrt();
        loop {
            let x = self.normal();
            let v = (1.0 + c * x).powi(3);
            if v > 0.0 && self.unit().ln() < x * x / 2.0 + d * (1.0 - v + v.ln()) {
                return scale * d * v * mean / shape;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gamma_has_its_mean_and_deviation() {
        const COUNT: usize = 200_000;
        for shape in [0.25_f64, 0.5, 1.0, 1.5, 4.0, 1e6] {
            let mut random = Random(7);
            let values: Vec<f64> = (0..COUNT).map(|_| random.gamma(shape, 2.0)).collect();
            let mean = values.iter().sum::<f64>() / COUNT as f64;
            let variance = values.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / COUNT as f64;
            // Five deviations of the mean; the variance's own spread is wider by the kurtosis, 3 + 6 / shape.
            let want = 4.0 / shape;
            let mean_bound = 5.0 * (want / COUNT as f64).sqrt();
            let variance_bound = 5.0 * want * ((2.0 + 6.0 / shape) / COUNT as f64).sqrt();
            assert!((mean - 2.0).abs() < mean_bound, "shape {shape}: mean {mean}");
            assert!((variance - want).abs() < variance_bound, "shape {shape}: variance {variance}");
            assert!(values.iter().all(|x| x.is_finite() && *x >= 0.0), "shape {shape}");
        }
    }
}
