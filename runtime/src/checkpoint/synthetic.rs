//! Seeded random weights: every stored element is a pure function of (seed, weight, layer, element index), so
//! that host threads and device kernels generate the same bytes in any order, each in its own memory.
//!
//! The values are `ossmith_scalar`'s `synthetic_*` functions of the keys and distributions in this module. They
//! resemble a trained model's only in scale (unit-variance activations, clear and diverse routing).
//!
//! Streams: a bf16 tensor is one stream, an MXFP4 tensor two (codes and scales). Index counts elements of the
//! whole tensor (`[matrices, rows, k]` flattened; for scales, blocks of 32 of it); q, k and v are one tensor.

use ossmith_plan::{DType, Weight, WeightInfo};
use ossmith_scalar::{mix_word, random_word, synthetic_bf16, synthetic_scale};
use rayon::prelude::*;

use super::source::{Made, WeightSource};
use super::tensor::{OwnedTensor, Tensor};

/// The two key words of a stream of random words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RandomStream {
    /// Key of the first round.
    pub key0: u32,
    /// Key of the second round.
    pub key1: u32,
}

/// The part of a tensor that a stream fills.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TensorPart {
    /// bf16 elements, or MXFP4 codes.
    Elements,
    /// MXFP4 block scales.
    Scales,
}

/// The stream of one tensor.
#[must_use]
pub const fn stream(seed: u64, weight: Weight, layer: usize, part: TensorPart) -> RandomStream {
    let tensor = 2 * weight as u32 + part as u32;
    let seed = mix_word(mix_word(seed as u32) ^ (seed >> 32) as u32);
    let key0 = mix_word(seed ^ (tensor << 16 | layer as u32));
    RandomStream { key0, key1: mix_word(key0 ^ 0x9e37_79b9) }
}

/// Values of a bf16 tensor: `(offset + spread * noise) * scale`, with `noise` uniform in `-2^15..2^15`.
/// `offset + spread * noise` stays below 2^24 in magnitude, so that only the multiplication by `scale` and bf16 round.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Uniform {
    /// Centre, in units of `scale`.
    pub offset: i32,
    /// Step, in units of `scale`.
    pub spread: i32,
    /// Unit.
    pub scale: f32,
}

impl Uniform {
    /// Centred on 0. A uniform distribution of half width `w` has root mean square `w / sqrt(3)`.
    fn with_rms(rms: f64) -> Uniform {
        Uniform { offset: 0, spread: 1, scale: (rms * 3_f64.sqrt() / 32768.0) as f32 }
    }
}

/// The distribution of a bf16 weight.
#[must_use]
pub fn uniform(weight: Weight, k: usize) -> Uniform {
    let rms = |factor: f64| Uniform::with_rms(factor / (k as f64).sqrt());
    match weight {
        Weight::Embedding => Uniform::with_rms(1.0),
        // 1 ± 0.25.
        Weight::AttnNorm | Weight::MoeNorm | Weight::FinalNorm => {
            Uniform { offset: 1 << 17, spread: 1, scale: 1.0 / 131_072.0 }
        }
        // -1 to 2.
        Weight::Sinks => Uniform { offset: 1 << 15, spread: 3, scale: 1.0 / 65_536.0 },
        Weight::Qkv | Weight::AttnOut | Weight::GateUp | Weight::Down => rms(1.0),
        Weight::Router | Weight::Unembedding => rms(2.0),
        Weight::QkvBias
        | Weight::AttnOutBias
        | Weight::RouterBias
        | Weight::GateUpBias
        | Weight::DownBias => Uniform::with_rms(0.05),
    }
}

/// Lowest E8M0 scale of an MXFP4 tensor, for a dequantised root mean square of about `1 / sqrt(k)`.
///
/// The root mean square of uniform E2M1 codes is 2.926, that of equally frequent scales 1, 2 and 4 is sqrt(7).
#[must_use]
pub fn scale_base(k: usize) -> u32 {
    let exponent = -(2.926 * 7_f64.sqrt() * (k as f64).sqrt()).log2();
    (127.0 + exponent.round()).clamp(0.0, 252.0) as u32
}

/// Which random weights a model has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Synthetic {
    /// What they follow from.
    pub seed: u64,
    /// Whether a row of the unembedding is the embedding of the token before it. The likeliest token after `t` is then
    /// `t + 1`: the model counts, and a prompt of ascending tokens that begins anew is copied. Layers compute, and route,
    /// as with other random weights.
    pub counts: bool,
}

impl Synthetic {
    /// The stream of a bf16 tensor or of MXFP4 codes, and the index of its first element there.
    #[must_use]
    pub fn elements(&self, info: &WeightInfo, layer: usize) -> (RandomStream, u32) {
        if self.counts && info.weight == Weight::Unembedding {
            let k = info.shape.last().copied().unwrap_or(1);
            let of_embedding = stream(self.seed, Weight::Embedding, 0, TensorPart::Elements);
            return (of_embedding, (k as u32).wrapping_neg());
        }
        (stream(self.seed, info.weight, layer, TensorPart::Elements), 0)
    }
}

/// A model's random weights on the host.
#[derive(Debug)]
pub(super) struct SyntheticWeights(pub(super) Synthetic);

impl WeightSource for SyntheticWeights {
    fn stored(&self, _: Weight, _: usize) -> Option<Tensor<'_>> {
        None
    }

    fn identity(&self) -> Vec<String> {
        vec![format!("{:?}", self.0)]
    }

    fn make(&self, info: &WeightInfo, layer: usize) -> std::result::Result<Made, String> {
        Ok(Made::exact(generate(info, self.0, layer)))
    }
}

fn generate(info: &WeightInfo, kind: Synthetic, layer: usize) -> OwnedTensor {
    let (elements, k) = (info.elements(), info.shape.last().copied().unwrap_or(1));
    let (codes, first_index) = kind.elements(info, layer);
    if info.dtype == DType::Mxfp4 {
        let base = scale_base(k);
        let scales = stream(kind.seed, info.weight, layer, TensorPart::Scales);
        return OwnedTensor::Mxfp4 {
            blocks: fill(elements / 2, |word| {
                random_word(codes.key0, codes.key1, word).to_le_bytes()
            }),
            scales: fill(elements / 32, |word| {
                let scale =
                    |block| synthetic_scale(scales.key0, scales.key1, 4 * word + block, base);
                [0, 1, 2, 3].map(|block| scale(block) as u8)
            }),
        };
    }
    let Uniform { offset, spread, scale } = uniform(info.weight, k);
    let element = |index: u32| {
        let index = index.wrapping_add(first_index);
        synthetic_bf16(codes.key0, codes.key1, index, offset, spread, scale)
    };
    OwnedTensor::Bf16(fill(elements * 2, |word| {
        (element(2 * word + 1) << 16 | element(2 * word)).to_le_bytes()
    }))
}

/// `length` bytes from a function of the index of each four bytes. Tensors have fewer than 2^32 words, because
/// `ossmith_codegen::spec::parse` bounds their elements.
fn fill(length: usize, word: impl Fn(u32) -> [u8; 4] + Sync) -> Vec<u8> {
    const CHUNK: usize = 1 << 16;
    let mut bytes = vec![0; length];
    bytes.par_chunks_mut(CHUNK).enumerate().for_each(|(chunk, bytes)| {
        let first = (chunk * (CHUNK / 4)) as u32;
        let (words, rest) = bytes.as_chunks_mut();
        let mut index = first;
        for out in words {
            *out = word(index);
            index += 1;
        }
        rest.copy_from_slice(&word(index)[..rest.len()]);
    });
    bytes
}
