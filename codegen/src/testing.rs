//! Specs for the passes' own tests.

use ossmith_plan::{LayerKind, ModelSpec, Rope};

/// Small, with odd sizes: partial k tiles, five experts.
pub(crate) const TINY: ModelSpec = ModelSpec {
    name: "tiny",
    hidden: 96,
    inter: 32,
    head_dim: 64,
    q_heads: 6,
    kv_heads: 2,
    experts: 5,
    top_k: 2,
    vocab: 331,
    window: 20,
    context: 4096,
    layers: &[LayerKind::Sliding, LayerKind::Full],
    rms_eps: 1e-5,
    swiglu_limit: 7.0,
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
