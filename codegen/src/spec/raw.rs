//! What [`super::layouts`] reads and [`super::supported`] checks: a configuration's values, and the names of its fields.
//! It stands alone so that neither of the two depends on the other's code.

use ossmith_plan::{Layer, LayerKind, Rope};

/// A configuration's values, typed but not yet held against what the kernels support.
pub(super) struct Raw {
    pub(super) names: &'static Names,
    pub(super) hidden: usize,
    pub(super) inter: usize,
    pub(super) head_dim: usize,
    pub(super) q_heads: usize,
    pub(super) kv_heads: usize,
    pub(super) experts: usize,
    pub(super) top_k: usize,
    pub(super) vocab: usize,
    pub(super) window: usize,
    pub(super) context: usize,
    pub(super) layer_kinds: Vec<LayerKind>,
    pub(super) rms_eps: f64,
    pub(super) swiglu_limit: f64,
    pub(super) rope: Rope,
}

impl Raw {
    /// The layers. Both layouts give one window, one number of experts and one of chosen experts for all of them.
    pub(super) fn layers(&self) -> Vec<Layer> {
        let layer = |kind: &LayerKind| match kind {
            LayerKind::Sliding => Layer::sliding(self.window, self.experts, self.top_k),
            LayerKind::Full => Layer::full(self.experts, self.top_k),
        };
        self.layer_kinds.iter().map(layer).collect()
    }
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
