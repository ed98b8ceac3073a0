//! What [`super::layouts`] reads and [`super::supported`] checks: a configuration's values, and the names of its fields.
//! It stands alone so that neither of the two depends on the other's code.

use ossmith_plan::{Layer, Rope};

/// A configuration's values, typed but not yet held against what the kernels support.
pub(super) struct Raw {
    pub(super) names: &'static Names,
    pub(super) hidden: usize,
    pub(super) inter: usize,
    pub(super) head_dim: usize,
    pub(super) q_heads: usize,
    pub(super) kv_heads: usize,
    pub(super) vocab: usize,
    pub(super) context: usize,
    pub(super) layers: Vec<Layer>,
    pub(super) rms_eps: f64,
    pub(super) swiglu_limit: f64,
    pub(super) swiglu_alpha: f64,
    pub(super) attention_bias: bool,
    pub(super) tied_embeddings: bool,
    pub(super) rope: Rope,
}

/// How a layout spells the fields that both layouts have under different names.
pub(super) struct Names {
    pub(super) experts: &'static str,
    pub(super) top_k: &'static str,
    pub(super) context: &'static str,
}

pub(super) const HUGGING_FACE: Names = Names {
    experts: "num_local_experts",
    top_k: "num_experts_per_tok",
    context: "max_position_embeddings",
};
pub(super) const OPENAI: Names =
    Names { experts: "num_experts", top_k: "experts_per_token", context: "initial_context_length" };
