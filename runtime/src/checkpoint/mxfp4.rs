//! Quantising to MXFP4 (OCP Microscaling Formats 1.0): 32 E2M1 codes under one power of two.
//!
//! The scale is the one of least squared error, found exactly. With `s` from the usual rule, the largest magnitude `m` is
//! in `4s..8s`. The codes of `2s` that are below `7s` round no value better than those of `s`, so `2s` is compared only
//! where `m` is above `7s`, and nothing larger can win. A scale below `s` clips `m`, which alone costs `(m - 6 scale)^2`;
//! smaller scales are tried as long as that is less than the best error so far.

use super::added_error::AddedError;

/// Values under one scale.
pub(super) const BLOCK: usize = 32;

/// Values that are computed side by side.
const LANES: usize = 8;
/// 1.5 x 2^23: a sum with it is a whole number.
const TO_WHOLE: f32 = 12_582_912.0;
/// The largest E2M1 magnitude.
const LARGEST_CODE: f32 = 6.0;
/// The exponent of an E8M0 byte of 0.
const SCALE_BIAS: i32 = 127;
const LARGEST_SCALE: i32 = 254;

/// A quantised block.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Mxfp4Block {
    /// Two codes per byte, low nibble first.
    codes: [u8; BLOCK / 2],
    /// E8M0.
    scale: u8,
    /// Of all 32 values.
    squared_error: f32,
    /// Of the values before.
    squared_values: f32,
}

/// Quantises blocks one after another: two codes per byte, low nibble first, and an E8M0 scale for each block.
///
/// # Errors
/// The first value that is not finite.
pub(super) fn quantise(
    values: &[[f32; BLOCK]],
    codes: &mut [[u8; BLOCK / 2]],
    scales: &mut [u8],
) -> Result<AddedError, f32> {
    let mut error = AddedError::default();
    for (values, (codes, scale)) in values.iter().zip(codes.iter_mut().zip(scales)) {
        let not_finite = || values.iter().copied().find(|value| !value.is_finite());
        let block = quantise_block(values).ok_or_else(|| not_finite().unwrap_or(f32::NAN))?;
        (*codes, *scale) = (block.codes, block.scale);
        error.squared_error += f64::from(block.squared_error);
        error.squared_values += f64::from(block.squared_values);
    }
    Ok(error)
}

/// The codes and the scale of least squared error; `None` if a value is not finite.
#[inline(always)]
fn quantise_block(values: &[f32; BLOCK]) -> Option<Mxfp4Block> {
    let (mut largest, mut squares) = ([0_u32; LANES], [0.0_f32; LANES]);
    for lanes in values.as_chunks::<LANES>().0 {
        for lane in 0..LANES {
            // Magnitudes are ordered as their bits are.
            largest[lane] = largest[lane].max(lanes[lane].abs().to_bits());
            squares[lane] += lanes[lane] * lanes[lane];
        }
    }
    let largest = f32::from_bits(largest.into_iter().fold(0, u32::max));
    if !largest.is_finite() {
        return None;
    }
    let squared_values = squares.iter().sum();
    let usual = (exponent(largest) - 2 + SCALE_BIAS).clamp(0, LARGEST_SCALE);
    let (mut scale, mut error) = (usual, squared_error(values, usual));
    if largest > 7.0 * power(usual) && usual < LARGEST_SCALE {
        let wider = squared_error(values, usual + 1);
        if wider < error {
            (scale, error) = (usual + 1, wider);
        }
    }
    for smaller in (0..usual).rev() {
        let clipped = largest - LARGEST_CODE * power(smaller);
        if clipped * clipped >= error {
            break;
        }
        let narrower = squared_error(values, smaller);
        if narrower < error {
            (scale, error) = (smaller, narrower);
        }
    }
    let inverse = inverse_power(scale);
    let nibbles = values.map(|value| code(value * inverse));
    let mut codes = [0; BLOCK / 2];
    for (byte, [low, high]) in codes.iter_mut().zip(nibbles.as_chunks().0) {
        *byte = (low | high << 4) as u8;
    }
    Some(Mxfp4Block { codes, scale: scale as u8, squared_error: error, squared_values })
}

/// The exponent of the highest bit; that of the smallest normal number for what is smaller.
fn exponent(value: f32) -> i32 {
    ((value.to_bits() >> 23) as i32).max(1) - 127
}

fn power(scale: i32) -> f32 {
    // 2^-127 is subnormal.
    if scale == 0 { f32::from_bits(1 << 22) } else { f32::from_bits((scale as u32) << 23) }
}

/// `1 / power`, exactly: 2^127 to 2^-127.
fn inverse_power(scale: i32) -> f32 {
    power(2 * SCALE_BIAS - scale)
}

/// What is left of the values at a scale, squared and summed.
#[inline(always)]
fn squared_error(values: &[f32; BLOCK], scale: i32) -> f32 {
    let (factor, inverse) = (power(scale), inverse_power(scale));
    let mut sums = [0.0_f32; LANES];
    for eight in values.as_chunks::<LANES>().0 {
        for lane in 0..LANES {
            let magnitude = eight[lane].abs();
            let difference = magnitude - round(magnitude * inverse) * factor;
            sums[lane] += difference * difference;
        }
    }
    sums.iter().sum()
}

/// The nearest E2M1 magnitude of a magnitude, to the even code where two are as near.
///
/// Adding and taking away 1.5 x 2^23 x step rounds to a multiple of the step: half a power of two that the magnitude reaches,
/// from 1 on.
#[inline(always)]
fn round(magnitude: f32) -> f32 {
    let bounded = magnitude.min(8.0);
    let power = (bounded.to_bits() >> 23).max(127);
    let shift = f32::from_bits(TO_WHOLE.to_bits() + (power << 23) - (128 << 23));
    ((bounded + shift) - shift).min(LARGEST_CODE)
}

/// The E2M1 code of a scaled value, sign in bit 3.
#[inline(always)]
fn code(value: f32) -> u32 {
    let magnitude = round(value.abs());
    // Codes 0 to 4 are their number of halves; 5, 6 and 7 are 3, 4 and 6.
    let above_two = |least: f32| u32::from(magnitude >= least);
    // The sum's last bits are the whole number.
    let halves = (2.0 * magnitude.min(2.0) + TO_WHOLE).to_bits() & 7;
    let code = halves + above_two(3.0) + above_two(4.0) + above_two(6.0);
    code | (value.to_bits() >> 31 << 3)
}

#[cfg(test)]
mod tests {
    use ossmith_scalar::{mix_word, mxfp4_value};

    use super::*;

    /// Standard normal values, some multiplied as outliers are.
    fn block(seed: u32, outliers: bool) -> [f32; BLOCK] {
        std::array::from_fn(|i| {
            let word = |j: u32| f64::from(mix_word(mix_word(seed) ^ (4 * i as u32 + j)));
            let (u, v) = ((word(0) + 1.0) / 4_294_967_297.0, word(1) / 4_294_967_296.0);
            let normal = (-2.0 * u.ln()).sqrt() * (std::f64::consts::TAU * v).cos();
            let scale = 2_f64.powi((seed % 40) as i32 - 20);
            let factor = if outliers && word(2) < 2e8 { 20.0 } else { 1.0 };
            (normal * scale * factor) as f32
        })
    }

    fn decoded(block: &Mxfp4Block) -> [f32; BLOCK] {
        std::array::from_fn(|i| {
            let code = u32::from(block.codes[i / 2] >> (4 * (i % 2)) & 15);
            mxfp4_value(code, u32::from(block.scale))
        })
    }

    /// The least error over all scales, by trying all codes.
    fn least_error(values: &[f32; BLOCK]) -> f64 {
        let of_scale = |scale: u32| -> f64 {
            let nearest = |value: f32| {
                let of_code = |code| f64::from(value - mxfp4_value(code, scale)).powi(2);
                (0..16).map(of_code).fold(f64::INFINITY, f64::min)
            };
            values.iter().map(|&value| nearest(value)).sum()
        };
        (0..=254).map(of_scale).fold(f64::INFINITY, f64::min)
    }

    #[test]
    fn no_scale_and_no_codes_have_less_error() {
        for seed in 0..200 {
            let values = match seed % 5 {
                0 => [block(seed, false)[0]; BLOCK],
                1 | 2 => block(seed, true),
                _ => block(seed, false),
            };
            let quantised = quantise_block(&values).expect("finite");
            let difference = |(a, b): (f32, &f32)| f64::from(a - b).powi(2);
            let error: f64 = decoded(&quantised).into_iter().zip(&values).map(difference).sum();
            let least = least_error(&values);
            assert!(error <= least * (1.0 + 1e-5), "seed {seed}: {error} above {least}");
            let stated = f64::from(quantised.squared_error);
            assert!((stated - error).abs() <= 1e-4 * error + 1e-38, "{stated} is not {error}");
        }
    }

    #[test]
    fn what_mxfp4_holds_is_kept() {
        for scale in [0_u32, 1, 7, 126, 127, 200, 252] {
            let values: [f32; BLOCK] =
                std::array::from_fn(|i| mxfp4_value(mix_word(i as u32 ^ scale) % 16, scale));
            let quantised = quantise_block(&values).expect("finite");
            assert_eq!(decoded(&quantised), values, "scale {scale}");
            assert_eq!(quantised.squared_error, 0.0);
        }
        assert_eq!(quantise_block(&[0.0; BLOCK]).expect("finite").codes, [0; BLOCK / 2]);
    }

    #[test]
    fn ties_go_to_the_even_code_and_infinities_nowhere() {
        for (value, rounded) in
            [(0.25, 0.0), (0.75, 1.0), (1.25, 1.0), (1.75, 2.0), (2.5, 2.0), (3.5, 4.0), (5.0, 4.0)]
        {
            assert_eq!(round(value), rounded, "{value}");
        }
        assert_eq!(round(1e30), LARGEST_CODE);
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut values = [1.0; BLOCK];
            values[31] = bad;
            assert_eq!(quantise_block(&values), None);
        }
    }
}
