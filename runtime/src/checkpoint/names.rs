//! The names of each weight in each checkpoint layout, and the pieces in which it is stored.

use ossmith_plan::{Graph, ModelSpec, Weight};
use safetensors::Dtype;

/// The layout of a checkpoint's names and tensors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Layout {
    /// transformers: `model.layers.0.self_attn.q_proj.weight`.
    HuggingFace,
    /// The original release: `block.0.attn.qkv.weight`.
    OpenAi,
}

impl Layout {
    /// A tensor that every checkpoint of this layout has and no checkpoint of the other layout.
    pub(super) fn marker(self) -> &'static str {
        match self {
            Layout::HuggingFace => "model.embed_tokens.weight",
            Layout::OpenAi => "embedding.weight",
        }
    }

    fn layer_prefix(self) -> &'static str {
        match self {
            Layout::HuggingFace => "model.layers.",
            Layout::OpenAi => "block.",
        }
    }

    /// The layer in a tensor's name, if the tensor belongs to a layer.
    pub(super) fn layer_of(self, name: &str) -> Option<usize> {
        name.strip_prefix(self.layer_prefix())?.split('.').next()?.parse().ok()
    }
}

/// A tensor that a checkpoint must have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ExpectedTensor {
    pub(super) name: String,
    pub(super) dtype: Dtype,
    pub(super) shape: Vec<usize>,
}

/// The stored pieces of a weight: row parts in order for bf16, blocks and scales for MXFP4.
pub(super) fn expected(
    layout: Layout,
    spec: &ModelSpec,
    graph: &Graph,
    weight: Weight,
    layer: usize,
) -> Vec<ExpectedTensor> {
    let shape = graph.weight(weight, layer).shape;
    let prefix = match weight.per_layer() {
        true => format!("{}{layer}.", layout.layer_prefix()),
        false => String::new(),
    };
    let names = match layout {
        Layout::HuggingFace => hugging_face(weight),
        Layout::OpenAi => openai(weight),
    };
    let piece =
        |name: &str, dtype, shape| ExpectedTensor { name: format!("{prefix}{name}"), dtype, shape };
    match names {
        Names::One(name) => vec![piece(name, Dtype::BF16, shape.to_vec())],
        Names::QueryKeyValue(names) => {
            let rows = [spec.q_width(), spec.kv_width(), spec.kv_width()];
            let part = |(name, rows): (&str, usize)| {
                let shape = std::iter::once(rows).chain(shape[1..].iter().copied());
                piece(name, Dtype::BF16, shape.collect())
            };
            names.into_iter().zip(rows).map(part).collect()
        }
        Names::BlocksAndScales([blocks, scales]) => {
            let mut scale_shape = shape.to_vec();
            if let Some(k) = scale_shape.last_mut() {
                *k /= 32;
            }
            let block_shape = scale_shape.iter().copied().chain([16]).collect();
            vec![piece(blocks, Dtype::U8, block_shape), piece(scales, Dtype::U8, scale_shape)]
        }
    }
}

enum Names {
    One(&'static str),
    QueryKeyValue([&'static str; 3]),
    BlocksAndScales([&'static str; 2]),
}

fn hugging_face(weight: Weight) -> Names {
    use Names::{BlocksAndScales, One, QueryKeyValue};
    match weight {
        Weight::Embedding => One("model.embed_tokens.weight"),
        Weight::AttnNorm => One("input_layernorm.weight"),
        Weight::Qkv => QueryKeyValue([
            "self_attn.q_proj.weight",
            "self_attn.k_proj.weight",
            "self_attn.v_proj.weight",
        ]),
        Weight::QkvBias => QueryKeyValue([
            "self_attn.q_proj.bias",
            "self_attn.k_proj.bias",
            "self_attn.v_proj.bias",
        ]),
        Weight::Sinks => One("self_attn.sinks"),
        Weight::AttnOut => One("self_attn.o_proj.weight"),
        Weight::AttnOutBias => One("self_attn.o_proj.bias"),
        Weight::MoeNorm => One("post_attention_layernorm.weight"),
        Weight::Router => One("mlp.router.weight"),
        Weight::RouterBias => One("mlp.router.bias"),
        Weight::GateUp => {
            BlocksAndScales(["mlp.experts.gate_up_proj_blocks", "mlp.experts.gate_up_proj_scales"])
        }
        Weight::GateUpBias => One("mlp.experts.gate_up_proj_bias"),
        Weight::Down => {
            BlocksAndScales(["mlp.experts.down_proj_blocks", "mlp.experts.down_proj_scales"])
        }
        Weight::DownBias => One("mlp.experts.down_proj_bias"),
        Weight::FinalNorm => One("model.norm.weight"),
        Weight::Unembedding => One("lm_head.weight"),
    }
}

fn openai(weight: Weight) -> Names {
    use Names::{BlocksAndScales, One};
    match weight {
        Weight::Embedding => One("embedding.weight"),
        Weight::AttnNorm => One("attn.norm.scale"),
        Weight::Qkv => One("attn.qkv.weight"),
        Weight::QkvBias => One("attn.qkv.bias"),
        Weight::Sinks => One("attn.sinks"),
        Weight::AttnOut => One("attn.out.weight"),
        Weight::AttnOutBias => One("attn.out.bias"),
        Weight::MoeNorm => One("mlp.norm.scale"),
        Weight::Router => One("mlp.gate.weight"),
        Weight::RouterBias => One("mlp.gate.bias"),
        Weight::GateUp => BlocksAndScales(["mlp.mlp1_weight.blocks", "mlp.mlp1_weight.scales"]),
        Weight::GateUpBias => One("mlp.mlp1_bias"),
        Weight::Down => BlocksAndScales(["mlp.mlp2_weight.blocks", "mlp.mlp2_weight.scales"]),
        Weight::DownBias => One("mlp.mlp2_bias"),
        Weight::FinalNorm => One("norm.scale"),
        Weight::Unembedding => One("unembedding.weight"),
    }
}
