//! MXFP4 (OCP Microscaling Formats v1.0): a code's value, and the word in which kernels read eight codes.
//!
//! # The word
//! A word holds one lane's codes of one k16 step: the pairs of registers `a0 .. a3`, each a low and a high element.
//! [`mxfp4_pairs`] takes them apart with masks and shifts alone, into bf16 lanes with E2M1's sign at bit 15 and its
//! three magnitude bits at bits 8..6: the lane's value is the code's times 2^-126. Pair 0 lies there, pair 1 four bits
//! below, pair 2 six bits above (its sign goes round into the other half); pair 3 takes the bits left free:
//!
//! | bit of each half | 15 | 14..12 | 11 | 10 | 9 | 8..6 | 5 | 4..2 | 1..0 |
//! | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |
//! | holds | sign 0 | magnitude 2 | sign 1 | high bit 3 | sign 3 | magnitude 0 | sign 2 of the other half | magnitude 1 | low bits 3 |

// CUDA has no `rotate_left`.
#![allow(clippy::manual_rotate)]

use ossmith_device_fn::device_fn;

/// The value of an E2M1 code (0..16) under an E8M0 scale byte, exactly: `code * 2^(scale - 127)`.
/// Past the largest fp32 it is infinite; scale 255 is NaN.
#[device_fn]
#[must_use]
pub fn mxfp4_value(code: u32, scale: u32) -> f32 {
    let exponent = (code >> 1) & 3;
    let mantissa = code & 1;
    // Halves: 0, 1, 2, 3, 4, 6, 8, 12.
    let halves: u32 = if exponent == 0 { mantissa } else { (2 + mantissa) << (exponent - 1) };
    // 2^(scale - 128), whose range needs fp64.
    let factor = f64::from_bits((scale as u64 + 895) << 52);
    let magnitude = (halves as f64 * factor) as f32;
    let value = f32::from_bits(magnitude.to_bits() | ((code & 8) << 28));
    if scale == 255 { f32::from_bits(0x7FC0_0000) } else { value }
}

/// Two codes as bf16 lanes of their values times 2^-126; the first is the low half.
#[device_fn]
#[must_use]
pub fn mxfp4_lanes(low: u32, high: u32) -> u32 {
    let signs = ((low & 8) << 12) | ((high & 8) << 28);
    signs | ((low & 7) << 6) | ((high & 7) << 22)
}

/// The word of eight codes: low and high element of register a0, then of a1, a2, a3.
#[device_fn]
#[must_use]
pub fn mxfp4_word(codes: [u32; 8]) -> u32 {
    let a0: u32 = mxfp4_lanes(codes[0], codes[1]);
    let a1: u32 = mxfp4_lanes(codes[2], codes[3]);
    let a2: u32 = mxfp4_lanes(codes[4], codes[5]);
    let a3: u32 = mxfp4_lanes(codes[6], codes[7]);
    let scattered = ((a3 & 0x80C0_80C0) >> 6) | ((a3 & 0x0100_0100) << 2);
    a0 | (a1 >> 4) | ((a2 << 6) | (a2 >> 26)) | scattered
}

/// The bf16 lane pairs of registers a0..a3 in a word: values times 2^-126.
#[device_fn]
#[must_use]
pub fn mxfp4_pairs(word: u32) -> [u32; 4] {
    let a0 = word & 0x81C0_81C0;
    let a1 = (word << 4) & 0x81C0_81C0;
    let a2 = ((word >> 6) | (word << 26)) & 0x81C0_81C0;
    let a3 = ((word << 6) & 0x80C0_80C0) | ((word >> 2) & 0x0100_0100);
    [a0, a1, a2, a3]
}

/// The code in the low half of a lane pair.
#[device_fn]
#[must_use]
pub fn mxfp4_code(lanes: u32) -> u32 {
    ((lanes >> 12) & 8) | ((lanes >> 6) & 7)
}

/// The eight codes of a word: the inverse of `mxfp4_word`.
#[device_fn]
#[must_use]
pub fn mxfp4_codes(word: u32) -> [u32; 8] {
    let pairs: [u32; 4] = mxfp4_pairs(word);
    [
        mxfp4_code(pairs[0]),
        mxfp4_code(pairs[0] >> 16),
        mxfp4_code(pairs[1]),
        mxfp4_code(pairs[1] >> 16),
        mxfp4_code(pairs[2]),
        mxfp4_code(pairs[2] >> 16),
        mxfp4_code(pairs[3]),
        mxfp4_code(pairs[3] >> 16),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bf16_to_f32;

    const E2M1: [f64; 8] = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0];

    #[test]
    fn every_code_under_every_scale_is_exact() {
        for scale in 0..255_u32 {
            for code in 0..16_u32 {
                let sign = if code & 8 == 0 { 1.0 } else { -1.0 };
                let exact = sign * E2M1[(code & 7) as usize] * 2_f64.powi(scale as i32 - 127);
                // The conversion rounds nothing: at most two significant bits, down to 2^-128.
                assert_eq!(
                    mxfp4_value(code, scale).to_bits(),
                    (exact as f32).to_bits(),
                    "code {code}, scale {scale}"
                );
            }
        }
        assert!(mxfp4_value(3, 255).is_nan());
    }

    #[test]
    fn lanes_hold_the_value_times_2_to_minus_126() {
        for code in 0..16 {
            let lanes = mxfp4_lanes(code, 15 - code);
            let scaled = |bits| f64::from(bf16_to_f32(bits)) * 2_f64.powi(126);
            assert_eq!(scaled(lanes & 0xFFFF), f64::from(mxfp4_value(code, 127)));
            assert_eq!(scaled(lanes >> 16), f64::from(mxfp4_value(15 - code, 127)));
        }
    }

    #[test]
    fn every_code_in_every_place_round_trips_beside_any_others() {
        for place in 0..8 {
            for code in 0..16 {
                for others in 0..16 {
                    let mut codes = [others; 8];
                    codes[place] = code;
                    let word = mxfp4_word(codes);
                    assert_eq!(mxfp4_codes(word), codes);
                    let register = mxfp4_pairs(word)[place / 2];
                    let lane = (register >> (16 * (place % 2))) & 0xFFFF;
                    assert_eq!(lane, mxfp4_lanes(code, 0), "place {place}");
                }
            }
        }
    }

    #[test]
    fn the_word_uses_every_bit_once() {
        let mut seen = 0_u32;
        for place in 0..8 {
            for bit in 0..4 {
                let mut codes = [0; 8];
                codes[place] = 1 << bit;
                let word = mxfp4_word(codes);
                assert_eq!(word.count_ones(), 1);
                assert_eq!(seen & word, 0, "bit {bit} of code {place} shares its place");
                seen |= word;
            }
        }
        assert_eq!(seen, u32::MAX);
    }
}
