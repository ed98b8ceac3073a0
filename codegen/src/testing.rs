//! Specs for the passes' own tests.

use ossmith_plan::{Graph, Layer, ModelSpec, Rope, Shard};

/// Small, with odd sizes: partial k tiles, five experts.
pub(crate) const TINY: ModelSpec = ModelSpec {
    name: "tiny",
    hidden: 96,
    inter: 32,
    head_dim: 64,
    q_heads: 6,
    kv_heads: 2,
    vocab: 331,
    context: 4096,
    layers: &[Layer::sliding(20, 5, 2), Layer::full(5, 2)],
    rms_eps: 1e-5,
    swiglu_limit: 7.0,
    swiglu_alpha: 1.702,
    attention_bias: true,
    tied_embeddings: false,
    rope: Rope {
        theta: 150_000.0,
        factor: 32.0,
        beta_fast: 32.0,
        beta_slow: 1.0,
        original_context: 4096,
        truncate: false,
    },
    stop_tokens: &[1],
    max_new_tokens: None,
};

/// The graph of [`TINY`].
pub(crate) fn graph() -> Graph {
    let local = Shard::WHOLE.local(&TINY).expect("one rank has the whole model");
    crate::graph::build(&TINY, &local)
}
