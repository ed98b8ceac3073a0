//! bfloat16 as bits in the low half of a `u32`.

use ossmith_device_fn::device_fn;

/// The value of a bfloat16.
#[device_fn]
#[must_use]
pub fn bf16_to_f32(bits: u32) -> f32 {
    f32::from_bits(bits << 16)
}

/// The nearest bfloat16, ties to even; too large becomes infinite, NaN stays NaN.
#[device_fn]
#[must_use]
pub fn f32_to_bf16(x: f32) -> u32 {
    let bits = x.to_bits();
    // Half a unit less one, plus the kept part's last bit: carries exactly when rounding to even goes up.
    let rounded = bits.wrapping_add(0x7FFF + ((bits >> 16) & 1)) >> 16;
    let nan = (bits & 0x7FFF_FFFF) > 0x7F80_0000;
    if nan { (bits >> 16) | 0x40 } else { rounded }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_bf16_round_trips() {
        for bits in 0..0x1_0000_u32 {
            let value = bf16_to_f32(bits);
            let expected = if value.is_nan() { bits | 0x40 } else { bits };
            assert_eq!(f32_to_bf16(value), expected);
        }
    }

    #[test]
    fn rounding_is_to_nearest_even() {
        for (bits, expected) in [
            (0x3F80_7FFF, 0x3F80), // below half: down
            (0x3F80_8000, 0x3F80), // half, even below: down
            (0x3F81_8000, 0x3F82), // half, odd below: up
            (0x3F80_8001, 0x3F81), // above half: up
            (0x7F7F_8000, 0x7F80), // past the largest: infinite
            (0xFF7F_FFFF, 0xFF80),
            (0x0000_8000, 0x0000), // subnormals round alike
            (0x0001_8000, 0x0002),
            (0x7F80_0001, 0x7FC0), // NaN whose kept part would read infinite
        ] {
            assert_eq!(f32_to_bf16(f32::from_bits(bits)), expected, "{bits:#x}");
        }
    }
}
