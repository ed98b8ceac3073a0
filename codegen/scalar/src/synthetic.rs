//! Synthetic weights: every stored element is a pure function of its tensor's keys and its index, in 32-bit integer
//! arithmetic and one float product, which no compiler may contract: host threads and device kernels make the same
//! bits. Keys and distributions are the runtime's (`ossmith::checkpoint::synthetic`).

use ossmith_device_fn::device_fn;

/// Mixes 32 bits so that each output bit depends on all input bits (the finaliser of MurmurHash3, Appleby, public
/// domain).
#[device_fn]
#[must_use]
pub const fn mix_word(word: u32) -> u32 {
    let a = (word ^ (word >> 16)).wrapping_mul(0x85eb_ca6b);
    let b = (a ^ (a >> 13)).wrapping_mul(0xc2b2_ae35);
    b ^ (b >> 16)
}

/// Random word `index` of the stream with these keys: two keyed rounds.
#[device_fn]
#[must_use]
pub const fn random_word(key0: u32, key1: u32, index: u32) -> u32 {
    mix_word(mix_word(index ^ key0).wrapping_add(key1))
}

/// Synthetic bf16 element `index` as its bits: `(offset + spread * draw) * scale`, with `draw` uniform in
/// `-2^15..2^15`. A random word serves two elements, the even one from its low half.
/// `offset + spread * draw` must stay below 2^24 in magnitude, so that only the product and bf16 round.
#[device_fn]
#[must_use]
pub fn synthetic_bf16(
    key0: u32,
    key1: u32,
    index: u32,
    offset: i32,
    spread: i32,
    scale: f32,
) -> u32 {
    let word = random_word(key0, key1, index / 2);
    let half = if (index & 1) == 1 { word >> 16 } else { word & 0xffff_u32 };
    let draw = half as i32 - (((half >> 15) << 16) as i32);
    let value = (offset + spread * draw) as f32 * scale;
    let bits = value.to_bits();
    (bits + 0x7fff + ((bits >> 16) & 1)) >> 16
}

/// Synthetic E8M0 scale of block `index`: one of `base`, `base + 1`, `base + 2`. A random word serves four blocks,
/// lowest byte first.
#[device_fn]
#[must_use]
pub fn synthetic_scale(key0: u32, key1: u32, index: u32, base: u32) -> u32 {
    let word = random_word(key0, key1, index / 4);
    let byte = (word >> (8 * (index & 3))) & 0xff_u32;
    base + ((3 * byte) >> 8)
}
