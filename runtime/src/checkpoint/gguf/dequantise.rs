//! Blocks of ggml's types to 32-bit floats, in the order of operations of ggml's own reference (`ggml-quants.c`,
//! `dequantize_row_*`), so that values have its bits.
//!
//! A block of 32 has its scale first, and its codes in halves: byte `j` holds element `j` in the low four bits and
//! element `j + 16` in the high ones. A block of 256 has scales of its own for each 16 or 32 elements.

use half::{bf16, f16};

use super::types::Coding;

/// The values of the sixteen codes of `iq4_nl` and `iq4_xs`.
const IQ4: [i8; 16] = [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];
/// Twice the values of the sixteen E2M1 codes.
const E2M1_DOUBLED: [i8; 16] = [0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12];

/// Decodes one block: `bytes` and `out` have the lengths of the type's block.
pub(super) fn block(coding: Coding, bytes: &[u8], out: &mut [f32]) {
    match coding {
        Coding::F32 => out[0] = f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]),
        Coding::F16 => out[0] = half(bytes, 0),
        Coding::Bf16 => out[0] = bf16::from_le_bytes([bytes[0], bytes[1]]).to_f32(),
        Coding::Mxfp4 => {
            let scale = half_e8m0(bytes[0]);
            nibbles(&bytes[1..], out, |code| f32::from(E2M1_DOUBLED[usize::from(code)]) * scale);
        }
        Coding::Q4_0 => {
            let scale = half(bytes, 0);
            nibbles(&bytes[2..], out, |code| (f32::from(code) - 8.0) * scale);
        }
        Coding::Q4_1 => {
            let (scale, least) = (half(bytes, 0), half(bytes, 2));
            nibbles(&bytes[4..], out, |code| f32::from(code) * scale + least);
        }
        Coding::Q5_0 => {
            let scale = half(bytes, 0);
            fives(&bytes[2..], out, |code| (f32::from(code) - 16.0) * scale);
        }
        Coding::Q5_1 => {
            let (scale, least) = (half(bytes, 0), half(bytes, 2));
            fives(&bytes[4..], out, |code| f32::from(code) * scale + least);
        }
        Coding::Q8_0 => {
            let scale = half(bytes, 0);
            for (out, &code) in out.iter_mut().zip(&bytes[2..]) {
                *out = f32::from(code as i8) * scale;
            }
        }
        Coding::Iq4Nl => {
            let scale = half(bytes, 0);
            nibbles(&bytes[2..], out, |code| scale * f32::from(IQ4[usize::from(code)]));
        }
        Coding::Iq4Xs => iq4_xs(bytes, out),
        Coding::Q2K => q2_k(bytes, out),
        Coding::Q3K => q3_k(bytes, out),
        Coding::Q4K => q4_k(bytes, out),
        Coding::Q5K => q5_k(bytes, out),
        Coding::Q6K => q6_k(bytes, out),
    }
}

fn half(bytes: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([bytes[at], bytes[at + 1]]).to_f32()
}

/// Half of an E8M0 scale, to go with doubled codes.
fn half_e8m0(code: u8) -> f32 {
    match code {
        // Below the smallest normal number.
        0 | 1 => f32::from_bits(0x0020_0000 << code),
        _ => f32::from_bits((u32::from(code) - 1) << 23),
    }
}

/// 16 bytes to 32 values: low halves, then high halves.
fn nibbles(bytes: &[u8], out: &mut [f32], value: impl Fn(u8) -> f32) {
    let (low, high) = out.split_at_mut(16);
    for ((&byte, low), high) in bytes.iter().zip(low).zip(high) {
        *low = value(byte & 15);
        *high = value(byte >> 4);
    }
}

/// As [`nibbles`], with each element's fifth bit in the four bytes before them.
fn fives(bytes: &[u8], out: &mut [f32], value: impl Fn(u8) -> f32) {
    let (high_bits, bytes) = bytes.split_at(4);
    let bit = |element: usize| high_bits[element / 8] >> (element % 8) & 1;
    let (low, high) = out.split_at_mut(16);
    for (j, ((&byte, low), high)) in bytes.iter().zip(low).zip(high).enumerate() {
        *low = value(byte & 15 | bit(j) << 4);
        *high = value(byte >> 4 | bit(j + 16) << 4);
    }
}

/// Scale and minimum of each 32 elements of `q4_K` and `q5_K`: six bits each, in twelve bytes. Those of the last four
/// have their high two bits above those of the first four.
fn scales_and_minima(packed: &[u8]) -> [(f32, f32); 8] {
    std::array::from_fn(|j| {
        let (scale, least) = match j {
            0..4 => (packed[j] & 63, packed[j + 4] & 63),
            _ => (
                packed[j + 4] & 15 | packed[j - 4] >> 6 << 4,
                packed[j + 4] >> 4 | packed[j] >> 6 << 4,
            ),
        };
        (f32::from(scale), f32::from(least))
    })
}

fn q2_k(bytes: &[u8], out: &mut [f32]) {
    let (scales, codes) = (&bytes[..16], &bytes[16..80]);
    let (scale, least) = (half(bytes, 80), half(bytes, 82));
    for (group, out) in out.chunks_exact_mut(16).enumerate() {
        let (scale, least) =
            (scale * f32::from(scales[group] & 15), least * f32::from(scales[group] >> 4));
        // 128 elements share 32 bytes, two bits for each 32.
        let (wide, quarter, part) = (group / 8, group / 2 % 4, group % 2);
        let codes = &codes[32 * wide + 16 * part..][..16];
        for (out, code) in out.iter_mut().zip(codes) {
            *out = scale * f32::from(code >> (2 * quarter) & 3) - least;
        }
    }
}

fn q3_k(bytes: &[u8], out: &mut [f32]) {
    let (high, codes, packed) = (&bytes[..32], &bytes[32..96], &bytes[96..108]);
    let scale = half(bytes, 108);
    for (group, out) in out.chunks_exact_mut(16).enumerate() {
        let low = match group {
            0..8 => packed[group] & 15,
            _ => packed[group - 8] >> 4,
        };
        let top = packed[8 + group % 4] >> (2 * (group / 4)) & 3;
        let scale = scale * (f32::from(low | top << 4) - 32.0);
        let (wide, quarter, part) = (group / 8, group / 2 % 4, group % 2);
        let codes = &codes[32 * wide + 16 * part..][..16];
        let high = &high[16 * part..][..16];
        for ((out, code), high) in out.iter_mut().zip(codes).zip(high) {
            let code = f32::from(code >> (2 * quarter) & 3);
            let missing = if high >> (4 * wide + quarter) & 1 == 0 { 4.0 } else { 0.0 };
            *out = scale * (code - missing);
        }
    }
}

fn q4_k(bytes: &[u8], out: &mut [f32]) {
    let (scale, least) = (half(bytes, 0), half(bytes, 2));
    let groups = scales_and_minima(&bytes[4..16]);
    for (group, out) in out.chunks_exact_mut(32).enumerate() {
        let (scale, least) = (scale * groups[group].0, least * groups[group].1);
        let codes = &bytes[16 + 32 * (group / 2)..][..32];
        for (out, code) in out.iter_mut().zip(codes) {
            *out = scale * f32::from(code >> (4 * (group % 2)) & 15) - least;
        }
    }
}

fn q5_k(bytes: &[u8], out: &mut [f32]) {
    let (scale, least) = (half(bytes, 0), half(bytes, 2));
    let groups = scales_and_minima(&bytes[4..16]);
    let high = &bytes[16..48];
    for (group, out) in out.chunks_exact_mut(32).enumerate() {
        let (scale, least) = (scale * groups[group].0, least * groups[group].1);
        let codes = &bytes[48 + 32 * (group / 2)..][..32];
        for ((out, code), high) in out.iter_mut().zip(codes).zip(high) {
            let code = code >> (4 * (group % 2)) & 15 | (high >> group & 1) << 4;
            *out = scale * f32::from(code) - least;
        }
    }
}

fn q6_k(bytes: &[u8], out: &mut [f32]) {
    let (low, high, scales) = (&bytes[..128], &bytes[128..192], &bytes[192..208]);
    let scale = half(bytes, 208);
    for (group, out) in out.chunks_exact_mut(16).enumerate() {
        let scale = scale * f32::from(scales[group] as i8);
        // 128 elements share 64 bytes of low bits, four for each 64, and 32 of high ones, two for each 32.
        let (wide, quarter, part) = (group / 8, group / 2 % 4, group % 2);
        let low = &low[64 * wide + 32 * (quarter % 2) + 16 * part..][..16];
        let high = &high[32 * wide + 16 * part..][..16];
        for ((out, low), high) in out.iter_mut().zip(low).zip(high) {
            let code = low >> (4 * (quarter / 2)) & 15 | (high >> (2 * quarter) & 3) << 4;
            *out = scale * (f32::from(code) - 32.0);
        }
    }
}

fn iq4_xs(bytes: &[u8], out: &mut [f32]) {
    let scale = half(bytes, 0);
    let (high, low) = (u16::from_le_bytes([bytes[2], bytes[3]]), &bytes[4..8]);
    for (group, out) in out.chunks_exact_mut(32).enumerate() {
        let low = low[group / 2] >> (4 * (group % 2)) & 15;
        let high = (high >> (2 * group) & 3) as u8;
        let scale = scale * (f32::from(low | high << 4) - 32.0);
        let codes = &bytes[8 + 16 * group..][..16];
        nibbles(codes, out, |code| scale * f32::from(IQ4[usize::from(code)]));
    }
}
