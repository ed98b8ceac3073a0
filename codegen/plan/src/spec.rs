//! What a gpt-oss model is: the numbers of its `config.json`, checked and named.

use crate::facts::{PAGE_TOKENS, SLIDING_PAGE_TOKENS};

/// `alpha` of the clamped SwiGLU, `gate * sigmoid(alpha * gate) * (up + 1)`, where a configuration names none
/// (openai/gpt-oss, `torch/model.py`).
pub const SWIGLU_ALPHA: f32 = 1.702;

/// How far back a layer's attention sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LayerKind {
    /// Position `p` sees keys `j` with `p - window < j <= p`.
    Sliding,
    /// Position `p` sees every key `j <= p`.
    Full,
}

impl LayerKind {
    /// Tokens of one page of the layer's key/value cache.
    #[must_use]
    pub const fn page_tokens(self) -> usize {
        match self {
            LayerKind::Sliding => SLIDING_PAGE_TOKENS,
            LayerKind::Full => PAGE_TOKENS,
        }
    }
}

/// What may differ from layer to layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Layer {
    /// Keys that a position sees, its own included; `None` for all of them.
    pub window: Option<usize>,
    /// Experts.
    pub experts: usize,
    /// Experts chosen for each token.
    pub top_k: usize,
}

impl Layer {
    /// A layer whose attention sees the last `window` keys.
    #[must_use]
    pub const fn sliding(window: usize, experts: usize, top_k: usize) -> Layer {
        Layer { window: Some(window), experts, top_k }
    }

    /// A layer whose attention sees every key.
    #[must_use]
    pub const fn full(experts: usize, top_k: usize) -> Layer {
        Layer { window: None, experts, top_k }
    }

    /// How far back its attention sees.
    #[must_use]
    pub const fn kind(&self) -> LayerKind {
        match self.window {
            Some(_) => LayerKind::Sliding,
            None => LayerKind::Full,
        }
    }

    /// The first key that `position` sees.
    #[must_use]
    pub const fn first_key(&self, position: usize) -> usize {
        match self.window {
            Some(window) => (position + 1).saturating_sub(window),
            None => 0,
        }
    }

    /// How many of `keys` keys a position sees that has all of them before it.
    #[must_use]
    pub const fn keys_seen(&self, keys: usize) -> usize {
        match self.window {
            Some(window) if window < keys => window,
            _ => keys,
        }
    }
}

/// YaRN-scaled rotary embedding (Peng et al. 2023, arXiv:2309.00071), half-split pairs.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rope {
    /// Base of the geometric frequency series.
    pub theta: f64,
    /// Context extension factor; 1 means plain rotary embedding.
    pub factor: f64,
    /// Rotations within the original context above which a frequency is kept.
    pub beta_fast: f64,
    /// Rotations within the original context below which a frequency is divided by `factor`.
    pub beta_slow: f64,
    /// Positions the base model was trained on.
    pub original_context: usize,
    /// Whether the correction range is rounded to whole dimensions (gpt-oss: no).
    pub truncate: bool,
}

impl Rope {
    /// Factor on `cos` and `sin` of both queries and keys (YaRN's attention factor), at every length.
    #[must_use]
    pub fn concentration(&self) -> f32 {
        if self.factor > 1.0 { (0.1 * self.factor.ln() + 1.0) as f32 } else { 1.0 }
    }

    /// Radians a position, for each of the `head_dim / 2` pairs.
    #[must_use]
    pub fn inv_freq(&self, head_dim: usize) -> Vec<f32> {
        let (half, dim) = (head_dim / 2, head_dim as f64);
        let plain = |i: usize| self.theta.powf(2.0 * i as f64 / dim);
        if self.factor <= 1.0 {
            return (0..half).map(|i| (1.0 / plain(i)) as f32).collect();
        }
        let correction = |rotations: f64| {
            let wavelength =
                self.original_context as f64 / (rotations * 2.0 * std::f64::consts::PI);
            dim * wavelength.ln() / (2.0 * self.theta.ln())
        };
        let (mut low, mut high) = (correction(self.beta_fast), correction(self.beta_slow));
        if self.truncate {
            (low, high) = (low.floor(), high.ceil());
        }
        (low, high) = (low.max(0.0), high.min(dim - 1.0));
        if low == high {
            high += 0.001;
        }
        let frequency = |i: usize| {
            let ramp = ((i as f64 - low) / (high - low)).clamp(0.0, 1.0);
            ((1.0 - ramp) / plain(i) + ramp / (self.factor * plain(i))) as f32
        };
        (0..half).map(frequency).collect()
    }
}

/// One gpt-oss-shaped model: only shapes that the kernels support exist as a value of this type when it comes
/// from `ossmith_codegen::spec::parse`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ModelSpec {
    /// Name used in file names, kernel provenance and reports, such as `gpt-oss-20b`.
    pub name: &'static str,
    /// Width of the residual stream; a multiple of 32.
    pub hidden: usize,
    /// Inner width of one expert; a multiple of 32.
    pub inter: usize,
    /// Width of one attention head: 32, 64 or 128.
    pub head_dim: usize,
    /// Query heads; a multiple of `kv_heads`.
    pub q_heads: usize,
    /// Key/value heads.
    pub kv_heads: usize,
    /// Rows of the embedding and of the unembedding.
    pub vocab: usize,
    /// Most positions a sequence may have.
    pub context: usize,
    /// The layers, in order.
    pub layers: &'static [Layer],
    /// Added to the mean square inside the root of every RMS norm.
    pub rms_eps: f32,
    /// Bound of the clamped SwiGLU.
    pub swiglu_limit: f32,
    /// Slope of its sigmoid.
    pub swiglu_alpha: f32,
    /// Whether attention's projections have biases; without, the weights are zero.
    pub attention_bias: bool,
    /// Whether the embedding is also the unembedding.
    pub tied_embeddings: bool,
    /// Rotary embedding.
    pub rope: Rope,
    /// Token ids that end a turn (config and generation config together), ascending.
    pub stop_tokens: &'static [u32],
    /// Most tokens of an answer where a request names no limit (generation config).
    pub max_new_tokens: Option<usize>,
}

impl ModelSpec {
    /// Width of all query heads together.
    #[must_use]
    pub const fn q_width(&self) -> usize {
        self.q_heads * self.head_dim
    }

    /// Width of all key heads together (values are as wide).
    #[must_use]
    pub const fn kv_width(&self) -> usize {
        self.kv_heads * self.head_dim
    }

    /// Rows of the fused query/key/value projection.
    #[must_use]
    pub const fn qkv_width(&self) -> usize {
        self.q_width() + 2 * self.kv_width()
    }

    /// Query heads that share one key/value head.
    #[must_use]
    pub const fn gqa_ratio(&self) -> usize {
        self.q_heads / self.kv_heads
    }

    /// Whether some layer's attention sees only a window.
    #[must_use]
    pub fn has_sliding_layers(&self) -> bool {
        self.layers.iter().any(|layer| layer.window.is_some())
    }

    /// The longest window of a sliding layer; 1, a position's own key, where there is none.
    #[must_use]
    pub fn max_window(&self) -> usize {
        self.layers.iter().filter_map(|layer| layer.window).max().unwrap_or(1)
    }

    /// The most experts of a layer.
    #[must_use]
    pub fn max_experts(&self) -> usize {
        self.layers.iter().map(|layer| layer.experts).max().unwrap_or(0)
    }

    /// The most experts that a layer chooses for a token.
    #[must_use]
    pub fn max_top_k(&self) -> usize {
        self.layers.iter().map(|layer| layer.top_k).max().unwrap_or(0)
    }

    /// The vocabulary as this many slices of whole vectors of four, which share a row of logits.
    #[must_use]
    pub const fn sliced_vocab(&self, slices: usize) -> usize {
        self.vocab.div_ceil(slices).next_multiple_of(4) * slices
    }

    /// The layers that differ, in the order in which they first come.
    #[must_use]
    pub fn layer_classes(&self) -> Vec<Layer> {
        let mut classes = Vec::new();
        for layer in self.layers {
            if !classes.contains(layer) {
                classes.push(*layer);
            }
        }
        classes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GPT_OSS: Rope = Rope {
        theta: 150_000.0,
        factor: 32.0,
        beta_fast: 32.0,
        beta_slow: 1.0,
        original_context: 4096,
        truncate: false,
    };

    #[test]
    fn yarn_matches_the_published_bits() {
        // Bits that openai/gpt-oss and transformers agree on.
        let inv = GPT_OSS.inv_freq(64);
        for (i, bits) in [
            (0, 0x3f80_0000_u32),
            (1, 0x3f30_6535),
            (9, 0x3d01_ddd5),
            (17, 0x3907_99b9),
            (31, 0x34a2_52d3),
        ] {
            let ulp = inv[i].to_bits().abs_diff(bits);
            assert!(ulp <= 1, "inv_freq[{i}] is {ulp} units in the last place away");
        }
        assert!((f64::from(GPT_OSS.concentration()) - 1.346_573_590_279_972_7).abs() < 1e-7);
    }

    #[test]
    fn a_factor_of_one_is_plain_rotary() {
        let plain = Rope { factor: 1.0, ..GPT_OSS };
        assert_eq!(plain.concentration(), 1.0);
        assert_eq!(plain.inv_freq(64)[1], (1.0 / 150_000_f64.powf(2.0 / 64.0)) as f32);
    }

    #[test]
    fn what_layers_have_at_most_is_that_of_the_largest() {
        let spec = |layers: &'static [Layer]| ModelSpec {
            name: "test",
            hidden: 2_880,
            inter: 2_880,
            head_dim: 64,
            q_heads: 64,
            kv_heads: 8,
            vocab: 201_088,
            context: 131_072,
            layers,
            rms_eps: 1e-5,
            swiglu_limit: 7.0,
            swiglu_alpha: SWIGLU_ALPHA,
            attention_bias: true,
            tied_embeddings: false,
            rope: GPT_OSS,
            stop_tokens: &[],
            max_new_tokens: None,
        };
        const MIXED: &[Layer] = &[
            Layer::sliding(128, 32, 4),
            Layer::full(64, 2),
            Layer::sliding(16, 8, 6),
            Layer::full(64, 2),
        ];
        let mixed = spec(MIXED);
        let most = (mixed.max_window(), mixed.max_experts(), mixed.max_top_k());
        assert_eq!((most, mixed.has_sliding_layers()), ((128, 64, 6), true));
        assert_eq!(mixed.layer_classes(), mixed.layers[..3]);
        let full = spec(const { &[Layer::full(32, 4)] });
        assert_eq!((full.max_window(), full.has_sliding_layers()), (1, false));
        assert_eq!((full.q_width(), full.kv_width(), full.qkv_width()), (4_096, 512, 5_120));
        assert_eq!(full.gqa_ratio(), 8);
        // 201,088 / 3 is 67,029.3, and 67,032 is the next multiple of four.
        assert_eq!((full.sliced_vocab(2), full.sliced_vocab(3)), (201_088, 3 * 67_032));
    }
}
