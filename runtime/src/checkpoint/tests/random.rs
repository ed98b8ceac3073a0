//! Synthetic weights: the same function on every path, and values in the documented ranges.

use ossmith_plan::{DType, Weight};
use ossmith_scalar::{random_word, synthetic_bf16, synthetic_scale};

use super::super::synthetic::{
    RandomStream, Synthetic, TensorPart, Uniform, scale_base, stream, uniform,
};
use super::shapes::{GRAPH, LAYERS};
use super::*;

fn synthetic(seed: u64) -> Checkpoint {
    Checkpoint::synthetic_shapes(&GRAPH, LAYERS, Synthetic { seed, counts: false })
}

/// Random word `index` of a stream.
fn word(stream: RandomStream, index: u32) -> u32 {
    random_word(stream.key0, stream.key1, index)
}

/// bf16 bits of element `index` of a stream.
fn bits(stream: RandomStream, uniform: Uniform, index: u32) -> u32 {
    let Uniform { offset, spread, scale } = uniform;
    synthetic_bf16(stream.key0, stream.key1, index, offset, spread, scale)
}

/// Device kernels and later versions must produce these words.
#[test]
fn the_random_words_do_not_change() {
    let first = stream(0, Weight::Embedding, 0, TensorPart::Elements);
    let other = stream(0x0123_4567_89ab_cdef, Weight::Down, 23, TensorPart::Scales);
    let words = [word(first, 0), word(first, 1), word(other, 0), word(other, 12345)];
    assert_eq!(words, [0xaa3e_5b61, 0x9130_c157, 0xbfe9_36c5, 0x6b1c_d103]);
}

#[test]
fn every_element_is_a_function_of_its_index() {
    let seed = 42;
    let checkpoint = synthetic(seed);
    assert_eq!(checkpoint.synthetic_seed(), Some(seed));
    for info in GRAPH.shapes[0].weights {
        let (weight, k) = (info.weight, *info.shape.last().expect("a shape"));
        let layer = if weight.per_layer() { LAYERS - 1 } else { 0 };
        let [elements, scales] = joined(&checkpoint.tensor(weight, layer).expect("a tensor"));
        let codes = stream(seed, weight, layer, TensorPart::Elements);
        for index in 0..info.elements() as u32 {
            let at = index as usize;
            if info.dtype == DType::Mxfp4 {
                let nibble = elements[at / 2] >> (4 * (at % 2)) & 15;
                assert_eq!(u32::from(nibble), word(codes, index / 8) >> (4 * (index % 8)) & 15);
            } else {
                let found = u16::from_le_bytes([elements[2 * at], elements[2 * at + 1]]);
                let expected = bits(codes, uniform(weight, k), index);
                assert_eq!(u32::from(found), expected, "{weight:?} {index}");
            }
        }
        let stream = stream(seed, weight, layer, TensorPart::Scales);
        for (block, &scale) in (0_u32..).zip(&scales) {
            let expected = synthetic_scale(stream.key0, stream.key1, block, scale_base(k));
            assert_eq!(u32::from(scale), expected, "{weight:?} {block}");
        }
    }
}

#[test]
fn seeds_weights_and_layers_differ() {
    let mut seen: Vec<RandomStream> = Vec::new();
    for seed in [0, 1, 1 << 32, u64::MAX] {
        for weight in Weight::ALL {
            for layer in 0..40 {
                seen.extend(
                    [TensorPart::Elements, TensorPart::Scales]
                        .map(|p| stream(seed, weight, layer, p)),
                );
            }
        }
    }
    seen.sort_by_key(|stream| (stream.key0, stream.key1));
    let streams = seen.len();
    seen.dedup();
    assert_eq!(seen.len(), streams);
    let tensor =
        |seed, layer| joined(&synthetic(seed).tensor(Weight::Qkv, layer).expect("a tensor"));
    assert_eq!(tensor(1, 0), tensor(1, 0));
    assert_ne!(tensor(1, 0), tensor(1, 1));
    assert_ne!(tensor(1, 0), tensor(2, 0));
}

/// Mean, root mean square about it, least and greatest of 2^16 elements at the width of the published models.
fn moments(weight: Weight, k: usize) -> [f64; 4] {
    let (stream, uniform) = (stream(7, weight, 3, TensorPart::Elements), uniform(weight, k));
    let element = |index| f64::from(f32::from_bits(bits(stream, uniform, index) << 16));
    let values: Vec<f64> = (0..1 << 16).map(element).collect();
    let count = values.len() as f64;
    let mean = values.iter().sum::<f64>() / count;
    let square = values.iter().map(|v| (v - mean) * (v - mean)).sum::<f64>() / count;
    let least = values.iter().copied().fold(f64::INFINITY, f64::min);
    let greatest = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    [mean, square.sqrt(), least, greatest]
}

#[test]
fn bf16_weights_have_the_documented_spread() {
    let root = (2880_f64).sqrt();
    // Weight, mean, root mean square about it; half width of a uniform distribution is sqrt(3) of the latter.
    let cases = [
        (Weight::Embedding, 0.0, 1.0),
        (Weight::Qkv, 0.0, 1.0 / root),
        (Weight::AttnOut, 0.0, 1.0 / root),
        (Weight::Router, 0.0, 2.0 / root),
        (Weight::Unembedding, 0.0, 2.0 / root),
        (Weight::AttnNorm, 1.0, 0.25 / 3_f64.sqrt()),
        (Weight::MoeNorm, 1.0, 0.25 / 3_f64.sqrt()),
        (Weight::FinalNorm, 1.0, 0.25 / 3_f64.sqrt()),
        (Weight::Sinks, 0.5, 1.5 / 3_f64.sqrt()),
        (Weight::QkvBias, 0.0, 0.05),
        (Weight::DownBias, 0.0, 0.05),
    ];
    for (weight, mean, rms) in cases {
        let found = moments(weight, 2880);
        let half = rms * 3_f64.sqrt();
        // Five standard errors of 2^16 samples; bf16 rounds by at most 2^-8 of a value.
        let error = 5.0 * rms / 256.0;
        assert!((found[0] - mean).abs() < error, "{weight:?}: {found:?}");
        assert!((found[1] / rms - 1.0).abs() < 0.02, "{weight:?}: {found:?}");
        let rounding = (mean + half) / 256.0;
        assert!((found[2] - (mean - half)).abs() < rounding, "{weight:?}: {found:?}");
        assert!((found[3] - (mean + half)).abs() < rounding, "{weight:?}: {found:?}");
    }
}

#[test]
fn mxfp4_weights_use_every_code_and_three_scales() {
    const VALUES: [f64; 8] = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0];
    let checkpoint = synthetic(3);
    for (weight, k) in [(Weight::GateUp, 64), (Weight::Down, 96)] {
        let Tensor::Mxfp4 { blocks, scales } = checkpoint.tensor(weight, 0).expect("a tensor")
        else {
            panic!("{weight:?} is MXFP4");
        };
        let (mut codes, mut square) = ([0_usize; 16], 0.0);
        for (block, scale) in blocks.chunks(16).zip(scales) {
            for code in block.iter().flat_map(|byte| [byte & 15, byte >> 4]) {
                codes[usize::from(code)] += 1;
                let value = VALUES[usize::from(code & 7)] * 2_f64.powi(i32::from(*scale) - 127);
                square += value * value;
            }
        }
        let elements = 2 * blocks.len();
        let even = elements / 16;
        assert!(codes.iter().all(|count| count.abs_diff(even) < even / 8), "{codes:?}");
        let ratio = (square / elements as f64).sqrt() * (k as f64).sqrt();
        // A power of two is within a factor of sqrt(2) of any target.
        assert!((0.69..1.45).contains(&ratio), "{weight:?}: {ratio} of 1 / sqrt(k)");
        let base = scale_base(k);
        for exponent in base..base + 3 {
            let count = scales.iter().filter(|&&scale| u32::from(scale) == exponent).count();
            assert!(count.abs_diff(scales.len() / 3) < scales.len() / 10, "{exponent}: {count}");
        }
    }
    // In range for any width.
    assert_eq!((scale_base(32), scale_base(2880), scale_base(1 << 31)), (122, 118, 109));
}
