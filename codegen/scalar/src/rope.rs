//! Rotary position embedding: the angle, its cosine and sine, and the rotation of a pair.
//! The frequencies themselves (YaRN) are `ossmith_plan::Rope::inv_freq`.

// The standard library's constants have no name in CUDA.
#![allow(clippy::approx_constant)]

use ossmith_device_fn::device_fn;

/// Radians of a rotary pair at a position: one fp32 product, as both published references compute it.
#[device_fn]
#[must_use]
pub fn rope_angle(position: u32, inv_freq: f32) -> f32 {
    position as f32 * inv_freq
}

/// A quarter turn. Its error, 6e-17, grows to 8e-12 over the 83,000 quarter turns of position 131071.
#[device_fn]
pub const HALF_PI: f64 = 1.570_796_326_794_896_6;

/// `[cos, sin]` of an angle, within 1e-7 for `|angle|` up to 2e5.
/// Whole quarter turns are removed in fp64, where one fused step is exact enough; the rest, at most pi/4, goes
/// through the Taylor series to the 10th power in fp32. There is no slow path, so nothing spills on a GPU, and
/// every step is a fused one, so CPU and GPU agree bit for bit.
#[device_fn]
#[must_use]
pub fn cos_sin(angle: f32) -> [f32; 2] {
    let wide: f64 = angle as f64;
    let turns: f64 = (wide * 0.636_619_772_367_581_4).round_ties_even();
    let r: f32 = turns.mul_add(-HALF_PI, wide) as f32;
    let r2 = r * r;
    let s1 = r2.mul_add(2.755_731_9e-6, -1.984_127e-4);
    let s2 = r2.mul_add(s1, 8.333_333e-3);
    let s3 = r2.mul_add(s2, -0.166_666_67);
    let sin = (r2 * r).mul_add(s3, r);
    let c1 = r2.mul_add(-2.755_732e-7, 2.480_158_7e-5);
    let c2 = r2.mul_add(c1, -1.388_888_9e-3);
    let c3 = r2.mul_add(c2, 0.041_666_668);
    let c4 = r2.mul_add(c3, -0.5);
    let cos = r2.mul_add(c4, 1.0);
    let quarter = (turns as i32 & 3) as u32;
    let swap = (quarter & 1) == 1;
    let x = if swap { sin } else { cos };
    let y = if swap { cos } else { sin };
    let x_sign = ((quarter + 1) & 2) << 30;
    let y_sign = (quarter & 2) << 30;
    [f32::from_bits(x.to_bits() ^ x_sign), f32::from_bits(y.to_bits() ^ y_sign)]
}

/// Turns a half-split pair (elements `i` and `i + head_dim / 2` of a head):
/// `[lo * cos - hi * sin, hi * cos + lo * sin]`.
#[device_fn]
#[must_use]
pub fn rotate(lo: f32, hi: f32, cos: f32, sin: f32) -> [f32; 2] {
    [lo * cos - hi * sin, hi * cos + lo * sin]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn worst(angles: impl Iterator<Item = f32>) -> (f64, f32) {
        let mut worst = (0.0, 0.0);
        for angle in angles {
            let [cos, sin] = cos_sin(angle);
            let (exact_sin, exact_cos) = f64::from(angle).sin_cos();
            let error = (f64::from(cos) - exact_cos).abs().max((f64::from(sin) - exact_sin).abs());
            if error > worst.0 {
                worst = (error, angle);
            }
        }
        worst
    }

    #[test]
    fn cos_sin_is_accurate_at_every_position() {
        // The first, a middle and the last frequency of gpt-oss; every 7th position of the whole context.
        for inv_freq in [1.0_f32, 0.689_044_3, 0.031_705_696, 1.293_187e-4, 3.023_511_4e-7] {
            let (error, angle) =
                worst((0..131_072_u32).step_by(7).map(|position| rope_angle(position, inv_freq)));
            assert!(error <= 1e-7, "off by {error:e} at angle {angle}");
        }
        let (error, angle) = worst((0..200_000).flat_map(|i| {
            let x = i as f32 + 0.37;
            [x, -x]
        }));
        assert!(error <= 1e-7, "off by {error:e} at angle {angle}");
    }

    #[test]
    fn cos_sin_keeps_the_quadrants() {
        assert_eq!(cos_sin(0.0), [1.0, 0.0]);
        for (angle, cos, sin) in
            [(2.0, -1, 1), (4.0, -1, -1), (5.0, 1, -1), (-1.0, 1, -1), (-2.0, -1, -1)]
        {
            let [x, y] = cos_sin(angle);
            assert_eq!((x.signum() as i32, y.signum() as i32), (cos, sin), "at {angle}");
        }
    }

    #[test]
    fn rotate_is_half_split_and_keeps_length() {
        assert_eq!(rotate(1.0, 0.0, 0.0, 1.0), [0.0, 1.0]);
        assert_eq!(rotate(0.0, 1.0, 0.0, 1.0), [-1.0, 0.0]);
        let [cos, sin] = cos_sin(0.7);
        let [lo, hi] = rotate(3.0, -4.0, cos, sin);
        assert!(((lo * lo + hi * hi) - 25.0).abs() < 1e-4);
    }
}
