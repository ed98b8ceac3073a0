//! A tiny model, and every tensor of its checkpoints written out once more, so that the loader's own tables
//! are compared with an independent list.

use ossmith_plan::{DType, Graph, Layer, ModelSpec, Rope, Shapes, Weight, WeightInfo};

pub(super) const LAYERS: usize = 2;

pub(super) static SPEC: ModelSpec = ModelSpec {
    name: "tiny",
    hidden: 64,
    inter: 96,
    head_dim: 32,
    q_heads: 4,
    kv_heads: 2,
    vocab: 10,
    context: 64,
    layers: &[Layer::sliding(16, 3, 2), Layer::full(3, 2)],
    rms_eps: 1e-5,
    swiglu_limit: 7.0,
    swiglu_alpha: 1.702,
    attention_bias: true,
    tied_embeddings: false,
    rope: Rope {
        theta: 150_000.0,
        factor: 1.0,
        beta_fast: 32.0,
        beta_slow: 1.0,
        original_context: 64,
        truncate: false,
    },
    stop_tokens: &[],
    max_new_tokens: None,
};

const fn bf16(weight: Weight, shape: &'static [usize]) -> WeightInfo {
    WeightInfo { weight, dtype: DType::Bf16, shape }
}

const fn mxfp4(weight: Weight, shape: &'static [usize]) -> WeightInfo {
    WeightInfo { weight, dtype: DType::Mxfp4, shape }
}

const WEIGHTS: &[WeightInfo] = &[
    bf16(Weight::Embedding, &[10, 64]),
    bf16(Weight::AttnNorm, &[64]),
    bf16(Weight::Qkv, &[256, 64]),
    bf16(Weight::QkvBias, &[256]),
    bf16(Weight::Sinks, &[4]),
    bf16(Weight::AttnOut, &[64, 128]),
    bf16(Weight::AttnOutBias, &[64]),
    bf16(Weight::MoeNorm, &[64]),
    bf16(Weight::Router, &[3, 64]),
    bf16(Weight::RouterBias, &[3]),
    mxfp4(Weight::GateUp, &[3, 192, 64]),
    bf16(Weight::GateUpBias, &[3, 192]),
    mxfp4(Weight::Down, &[3, 64, 96]),
    bf16(Weight::DownBias, &[3, 64]),
    bf16(Weight::FinalNorm, &[64]),
    bf16(Weight::Unembedding, &[10, 64]),
];

pub(super) static GRAPH: Graph = Graph {
    start: &[],
    layer: &[],
    head: &[],
    shapes: &[Shapes { weights: WEIGHTS, values: &[] }],
    classes: &[0; LAYERS],
};

/// One stored tensor of the OpenAI layout, with its pieces in the Hugging Face layout; `N` is the layer.
pub(super) struct Row {
    pub(super) openai: &'static str,
    pub(super) hugging_face: &'static [&'static str],
    pub(super) dtype: &'static str,
    pub(super) pieces: &'static [&'static [usize]],
}

impl Row {
    pub(super) fn layers(&self) -> std::ops::Range<usize> {
        0..if self.openai.contains('N') { LAYERS } else { 1 }
    }
}

const fn row(
    openai: &'static str,
    hugging_face: &'static [&'static str],
    dtype: &'static str,
    pieces: &'static [&'static [usize]],
) -> Row {
    Row { openai, hugging_face, dtype, pieces }
}

#[rustfmt::skip] // One line per tensor.
pub(super) const NAMES: &[Row] = &[
    row("embedding.weight", &["model.embed_tokens.weight"], "BF16", &[&[10, 64]]),
    row("block.N.attn.norm.scale", &["model.layers.N.input_layernorm.weight"], "BF16", &[&[64]]),
    row("block.N.attn.qkv.weight", &["model.layers.N.self_attn.q_proj.weight", "model.layers.N.self_attn.k_proj.weight", "model.layers.N.self_attn.v_proj.weight"], "BF16", &[&[128, 64], &[64, 64], &[64, 64]]),
    row("block.N.attn.qkv.bias", &["model.layers.N.self_attn.q_proj.bias", "model.layers.N.self_attn.k_proj.bias", "model.layers.N.self_attn.v_proj.bias"], "BF16", &[&[128], &[64], &[64]]),
    row("block.N.attn.sinks", &["model.layers.N.self_attn.sinks"], "BF16", &[&[4]]),
    row("block.N.attn.out.weight", &["model.layers.N.self_attn.o_proj.weight"], "BF16", &[&[64, 128]]),
    row("block.N.attn.out.bias", &["model.layers.N.self_attn.o_proj.bias"], "BF16", &[&[64]]),
    row("block.N.mlp.norm.scale", &["model.layers.N.post_attention_layernorm.weight"], "BF16", &[&[64]]),
    row("block.N.mlp.gate.weight", &["model.layers.N.mlp.router.weight"], "BF16", &[&[3, 64]]),
    row("block.N.mlp.gate.bias", &["model.layers.N.mlp.router.bias"], "BF16", &[&[3]]),
    row("block.N.mlp.mlp1_weight.blocks", &["model.layers.N.mlp.experts.gate_up_proj_blocks"], "U8", &[&[3, 192, 2, 16]]),
    row("block.N.mlp.mlp1_weight.scales", &["model.layers.N.mlp.experts.gate_up_proj_scales"], "U8", &[&[3, 192, 2]]),
    row("block.N.mlp.mlp1_bias", &["model.layers.N.mlp.experts.gate_up_proj_bias"], "BF16", &[&[3, 192]]),
    row("block.N.mlp.mlp2_weight.blocks", &["model.layers.N.mlp.experts.down_proj_blocks"], "U8", &[&[3, 64, 3, 16]]),
    row("block.N.mlp.mlp2_weight.scales", &["model.layers.N.mlp.experts.down_proj_scales"], "U8", &[&[3, 64, 3]]),
    row("block.N.mlp.mlp2_bias", &["model.layers.N.mlp.experts.down_proj_bias"], "BF16", &[&[3, 64]]),
    row("norm.scale", &["model.norm.weight"], "BF16", &[&[64]]),
    row("unembedding.weight", &["lm_head.weight"], "BF16", &[&[10, 64]]),
];
