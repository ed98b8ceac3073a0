//! Scalar functions that the CPU executor, the weight packer and the generated kernels share: one source each,
//! marked `#[device_fn]`, so that the Rust text is the oracle of the CUDA text beside it.
//!
//! [`DEVICE`] is the CUDA side, in an order in which every definition stands before its users; the generator joins
//! it into one header, `scalar.cuh`. Nothing here knows tensors, files or devices; the layouts that the `tile_*`
//! maps describe are documented at `ossmith_plan::WeightLayout`.

#![forbid(unsafe_code)]

mod activation;
mod bf16;
mod exchange;
mod mxfp4;
mod random;
mod rope;
mod shadow;
mod synthetic;
mod tiles;

pub use activation::{SIGMOID_CUDA, SWIGLU_CUDA, sigmoid, swiglu};
pub use bf16::{BF16_TO_F32_CUDA, F32_TO_BF16_CUDA, bf16_to_f32, f32_to_bf16};
pub use exchange::{
    EXCHANGE_EPOCH_CUDA, EXCHANGE_PLACE_CUDA, EXCHANGE_VALUE_CUDA, EXCHANGE_WORD_CUDA,
    NEXT_EPOCH_CUDA, exchange_epoch, exchange_place, exchange_value, exchange_word, next_epoch,
};
pub use mxfp4::{
    MXFP4_CODE_CUDA, MXFP4_CODES_CUDA, MXFP4_LANES_CUDA, MXFP4_PAIRS_CUDA, MXFP4_VALUE_CUDA,
    MXFP4_WORD_CUDA, mxfp4_code, mxfp4_codes, mxfp4_lanes, mxfp4_pairs, mxfp4_value, mxfp4_word,
};
pub use random::{
    GUMBEL_CUDA, GUMBEL_OF_BITS_CUDA, HIGH_PRODUCT_CUDA, NATURAL_LOG_CUDA, NOISE_BITS_CUDA,
    NOISE_STREAM_CUDA, WEIGHT_OF_SCORE_CUDA, gumbel, gumbel_of_bits, high_product, natural_log,
    noise_bits, noise_stream, weight_of_score,
};
pub use rope::{
    COS_SIN_CUDA, HALF_PI, HALF_PI_CUDA, ROPE_ANGLE_CUDA, ROTATE_CUDA, cos_sin, rope_angle, rotate,
};
pub use shadow::{
    SHADOW_CODE_CUDA, SHADOW_HIGH_DIGIT_CUDA, SHADOW_LOW_DIGIT_CUDA, SHADOW_SCALE_CUDA,
    SHADOW_STEPS, SHADOW_STEPS_CUDA, STEPS_OF_ACTIVATION_CUDA, shadow_code, shadow_high_digit,
    shadow_low_digit, shadow_scale, steps_of_activation,
};
pub use synthetic::{
    MIX_WORD_CUDA, RANDOM_WORD_CUDA, SYNTHETIC_BF16_CUDA, SYNTHETIC_SCALE_CUDA, mix_word,
    random_word, synthetic_bf16, synthetic_scale,
};
pub use tiles::{
    CHECKPOINT_ROW_GATE_UP_CUDA, CHECKPOINT_ROW_ROPE_CUDA, TILE_K_CUDA, TILE_POSITION_CUDA,
    TILE_ROW_CUDA, checkpoint_row_gate_up, checkpoint_row_rope, tile_k, tile_position, tile_row,
};

/// What the other texts need: fixed-width names and arrays as values.
const PRELUDE: &str = "\
using u32 = unsigned int;
using u64 = unsigned long long;

// A small array that functions can return; it lives in registers.
template <class T, int N>
struct Array {
  T v[N];
};
";

/// The CUDA text of everything in this crate, in dependency order.
pub const DEVICE: &[&str] = &[
    PRELUDE,
    SIGMOID_CUDA,
    SWIGLU_CUDA,
    ROPE_ANGLE_CUDA,
    HALF_PI_CUDA,
    COS_SIN_CUDA,
    ROTATE_CUDA,
    BF16_TO_F32_CUDA,
    F32_TO_BF16_CUDA,
    MXFP4_VALUE_CUDA,
    MXFP4_LANES_CUDA,
    MXFP4_WORD_CUDA,
    MXFP4_PAIRS_CUDA,
    MXFP4_CODE_CUDA,
    MXFP4_CODES_CUDA,
    TILE_K_CUDA,
    TILE_POSITION_CUDA,
    TILE_ROW_CUDA,
    CHECKPOINT_ROW_ROPE_CUDA,
    CHECKPOINT_ROW_GATE_UP_CUDA,
    MIX_WORD_CUDA,
    RANDOM_WORD_CUDA,
    SYNTHETIC_BF16_CUDA,
    SYNTHETIC_SCALE_CUDA,
    NOISE_STREAM_CUDA,
    NOISE_BITS_CUDA,
    HIGH_PRODUCT_CUDA,
    NATURAL_LOG_CUDA,
    GUMBEL_OF_BITS_CUDA,
    GUMBEL_CUDA,
    WEIGHT_OF_SCORE_CUDA,
    SHADOW_SCALE_CUDA,
    SHADOW_CODE_CUDA,
    SHADOW_STEPS_CUDA,
    STEPS_OF_ACTIVATION_CUDA,
    SHADOW_HIGH_DIGIT_CUDA,
    SHADOW_LOW_DIGIT_CUDA,
    EXCHANGE_WORD_CUDA,
    EXCHANGE_EPOCH_CUDA,
    EXCHANGE_VALUE_CUDA,
    NEXT_EPOCH_CUDA,
    EXCHANGE_PLACE_CUDA,
];

#[cfg(test)]
mod tests {
    #[test]
    fn the_device_text_is_as_committed() {
        insta::assert_snapshot!("scalar.cuh", super::DEVICE.join("\n"));
    }
}
