//! The 8-bit shadow of the unembedding: how weights become codes and activations digits.
//!
//! 64 weights of a row share a scale, and a row of activations has one step, so sums of products of codes and steps are
//! exact integers. What the roundings leave out is measured, not assumed, so nothing here has to round well.

// CUDA has no `clamp`.
#![allow(clippy::manual_clamp)]

use ossmith_device_fn::device_fn;

/// The scale of 64 weights, a bf16 number: at least 1/127 of the largest of them.
#[device_fn]
#[must_use]
pub fn shadow_scale(largest: f32) -> f32 {
    f32::from_bits(((largest * 0.007_874_016).to_bits() + 0xFFFF) & 0xFFFF_0000)
}

/// A weight in units of its scale, rounded, -127 to 127; 0 if the scale is 0.
#[device_fn]
#[must_use]
pub fn shadow_code(weight: f32, scale: f32) -> i32 {
    let units: f32 = if scale == 0.0 { 0.0 } else { weight / scale };
    let half: f32 = if units < 0.0 { -0.5 } else { 0.5 };
    ((units + half).max(-127.0)).min(127.0) as i32
}

/// Steps of the largest activation of a row.
#[device_fn]
pub const SHADOW_STEPS: f32 = 32_512.0;

/// An activation in steps, rounded: -32,512 to 32,512 for a row whose largest has [`SHADOW_STEPS`].
#[device_fn]
#[must_use]
pub fn steps_of_activation(value: f32, inverse_step: f32) -> i32 {
    let steps = value * inverse_step;
    let half: f32 = if steps < 0.0 { -0.5 } else { 0.5 };
    (steps + half) as i32
}

/// The high digit of a number of steps, to the base of 256.
#[device_fn]
#[must_use]
pub fn shadow_high_digit(steps: i32) -> i32 {
    (steps + 128) >> 8
}

/// The low digit, -128 to 127.
#[device_fn]
#[must_use]
pub fn shadow_low_digit(steps: i32) -> i32 {
    steps - (shadow_high_digit(steps) << 8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digits_are_bytes_and_make_up_the_steps() {
        for steps in -32_512..=32_512 {
            let (high, low) = (shadow_high_digit(steps), shadow_low_digit(steps));
            assert_eq!(256 * high + low, steps);
            assert!((-127..=127).contains(&high) && (-128..=127).contains(&low), "{steps}");
        }
    }

    #[test]
    fn codes_are_within_half_a_unit_of_their_weights() {
        let mut bits = 1_u32;
        for _ in 0..1_000_000 {
            bits = bits.wrapping_mul(747_796_405).wrapping_add(2_891_336_453);
            let largest = f32::from_bits(0x2000_0000 + (bits >> 3) % 0x3000_0000);
            let scale = shadow_scale(largest);
            assert!(scale * 127.0 >= largest && scale <= largest * 0.008, "{largest} {scale}");
            assert_eq!(scale.to_bits() & 0xFFFF, 0);
            let weight = largest * ((bits & 0xFFFF) as f32 / 32_767.5 - 1.0);
            let error = (weight - shadow_code(weight, scale) as f32 * scale).abs();
            assert!(error <= scale * 0.500_1, "{weight} of {largest} is {error} off");
        }
        assert_eq!((shadow_scale(0.0), shadow_code(1.0, 0.0)), (0.0, 0));
    }

    #[test]
    fn steps_are_within_half_a_step() {
        for i in -1000..=1000 {
            let (largest, value) = (3.7_f32, 3.7 * i as f32 / 1000.0);
            let steps = steps_of_activation(value, SHADOW_STEPS / largest);
            let error = (value - steps as f32 * (largest / SHADOW_STEPS)).abs();
            assert!(error <= 0.501 * largest / SHADOW_STEPS && steps.abs() <= 32_512, "{value}");
        }
        assert_eq!(steps_of_activation(f32::NAN, 1.0), 0);
    }
}
