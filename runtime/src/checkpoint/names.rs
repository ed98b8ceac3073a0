//! The names of each weight in each checkpoint layout, and the pieces in which it is stored. A weight may come in several
//! forms; a checkpoint has the first one whose first tensor is there.

use ossmith_plan::{Graph, ModelSpec, Weight};

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
            Layout::HuggingFace => EMBEDDING,
            Layout::OpenAi => "embedding.weight",
        }
    }

    /// The layout that has a tensor of this name, if either does.
    pub(super) fn of_tensor(name: &str) -> Layout {
        match name.starts_with("model.") || name.starts_with("lm_head.") {
            true => Layout::HuggingFace,
            false => Layout::OpenAi,
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

const EMBEDDING: &str = "model.embed_tokens.weight";
const EXPERTS: &str = "mlp.experts.";

/// How the pieces of a weight make its rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Arrangement {
    /// The rows of all pieces in order, in the graph's shape or that of a part of its rows.
    Rows,
    /// One piece `[matrices, k, rows]`: inputs along memory last, as transformers stores experts that are not quantised.
    Columns,
    /// Two pieces for each matrix, whose rows alternate: gate, up.
    GateUp,
    /// One piece of MXFP4 codes, `[…, k / 32, 16]`, and one of scales.
    BlocksAndScales,
}

/// A tensor by its name, and its shape where each element is a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Piece {
    pub(super) name: String,
    pub(super) shape: Vec<usize>,
}

/// One way in which a weight may be stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Form {
    pub(super) arrangement: Arrangement,
    pub(super) pieces: Vec<Piece>,
}

/// The forms of a weight, the published one first. Empty for a bias that the model does not have.
pub(super) fn forms(
    layout: Layout,
    spec: &ModelSpec,
    graph: &Graph,
    weight: Weight,
    layer: usize,
) -> Vec<Form> {
    if !spec.attention_bias && matches!(weight, Weight::QkvBias | Weight::AttnOutBias) {
        return Vec::new();
    }
    let shape = graph.weight(weight, layer).shape;
    let prefix = match weight.per_layer() {
        true => format!("{}{layer}.", layout.layer_prefix()),
        false => String::new(),
    };
    let of = Naming { prefix, spec, shape };
    match layout {
        Layout::HuggingFace => of.hugging_face(weight),
        Layout::OpenAi => of.openai(weight),
    }
}

struct Naming<'a> {
    prefix: String,
    spec: &'a ModelSpec,
    shape: &'a [usize],
}

impl Naming<'_> {
    fn piece(&self, name: &str, shape: &[usize]) -> Piece {
        Piece { name: format!("{}{name}", self.prefix), shape: shape.to_vec() }
    }

    fn form(&self, arrangement: Arrangement, name: &str, shape: &[usize]) -> Form {
        Form { arrangement, pieces: vec![self.piece(name, shape)] }
    }

    /// One tensor of the graph's shape.
    fn one(&self, name: &str) -> Form {
        self.form(Arrangement::Rows, name, self.shape)
    }

    fn blocks_and_scales(&self, [blocks, scales]: [&str; 2]) -> Form {
        let pieces = vec![self.piece(blocks, self.shape), self.piece(scales, self.shape)];
        Form { arrangement: Arrangement::BlocksAndScales, pieces }
    }

    fn query_key_value(&self, names: [&str; 3]) -> Form {
        let rows = [self.spec.q_width(), self.spec.kv_width(), self.spec.kv_width()];
        let part = |(name, rows)| {
            let shape: Vec<usize> =
                std::iter::once(rows).chain(self.shape[1..].iter().copied()).collect();
            self.piece(name, &shape)
        };
        let pieces = names.into_iter().zip(rows).map(part).collect();
        Form { arrangement: Arrangement::Rows, pieces }
    }

    /// A tensor for each expert.
    fn per_expert(&self, name: impl Fn(usize) -> String) -> Form {
        let piece = |expert| self.piece(&name(expert), &self.shape[1..]);
        Form { arrangement: Arrangement::Rows, pieces: (0..self.shape[0]).map(piece).collect() }
    }

    /// Two tensors for each expert.
    fn gate_and_up(&self, name: impl Fn(usize, &str) -> String) -> Form {
        let mut shape = self.shape[1..].to_vec();
        shape[0] /= 2;
        let piece = |(expert, which): (usize, &str)| self.piece(&name(expert, which), &shape);
        let each =
            (0..self.shape[0]).flat_map(|expert| [(expert, "gate_proj"), (expert, "up_proj")]);
        Form { arrangement: Arrangement::GateUp, pieces: each.map(piece).collect() }
    }

    /// Experts' matrices or biases (`tail` is `weight` or `bias`), fused as transformers has them, per expert as Unsloth,
    /// Quark and LLM Compressor write them, and fused with the suffix of a module.
    fn experts(&self, projection: &str, tail: &str) -> Vec<Form> {
        let fused = match tail {
            "weight" => {
                let [matrices, rows, k] = *self.shape else { return Vec::new() };
                let name = format!("{EXPERTS}{projection}");
                self.form(Arrangement::Columns, &name, &[matrices, k, rows])
            }
            _ => self.one(&format!("{EXPERTS}{projection}_{tail}")),
        };
        let mut forms = vec![
            fused,
            self.per_expert(|expert| format!("{EXPERTS}{projection}s.{expert}.{tail}")),
        ];
        for inner in ["", "experts."] {
            forms.push(self.per_expert(|e| format!("{EXPERTS}{inner}{e}.{projection}.{tail}")));
            if projection == "gate_up_proj" {
                let name = |e, which: &str| format!("{EXPERTS}{inner}{e}.{which}.{tail}");
                forms.push(self.gate_and_up(name));
            }
        }
        forms.push(self.one(&format!("{EXPERTS}{projection}.{tail}")));
        forms
    }

    fn hugging_face(&self, weight: Weight) -> Vec<Form> {
        let quantised = |projection: &str| {
            let name = |what| format!("{EXPERTS}{projection}_{what}");
            let published = self.blocks_and_scales([&name("blocks"), &name("scales")]);
            std::iter::once(published).chain(self.experts(projection, "weight")).collect()
        };
        let qkv = |tail: &str| {
            let names = ["q", "k", "v"].map(|which| format!("self_attn.{which}_proj.{tail}"));
            vec![self.query_key_value(names.each_ref().map(String::as_str))]
        };
        // Unsloth's router is a module inside the router.
        let router = |tail: &str| {
            ["mlp.router.", "mlp.router.linear."]
                .map(|name| self.one(&format!("{name}{tail}")))
                .to_vec()
        };
        match weight {
            Weight::Embedding => vec![self.one(EMBEDDING)],
            Weight::AttnNorm => vec![self.one("input_layernorm.weight")],
            Weight::Qkv => qkv("weight"),
            Weight::QkvBias => qkv("bias"),
            Weight::Sinks => vec![self.one("self_attn.sinks")],
            Weight::AttnOut => vec![self.one("self_attn.o_proj.weight")],
            Weight::AttnOutBias => vec![self.one("self_attn.o_proj.bias")],
            Weight::MoeNorm => vec![self.one("post_attention_layernorm.weight")],
            Weight::Router => router("weight"),
            Weight::RouterBias => router("bias"),
            Weight::GateUp => quantised("gate_up_proj"),
            Weight::GateUpBias => self.experts("gate_up_proj", "bias"),
            Weight::Down => quantised("down_proj"),
            Weight::DownBias => self.experts("down_proj", "bias"),
            Weight::FinalNorm => vec![self.one("model.norm.weight")],
            // transformers unties them where the file has both.
            Weight::Unembedding if self.spec.tied_embeddings => {
                vec![self.one("lm_head.weight"), self.one(EMBEDDING)]
            }
            Weight::Unembedding => vec![self.one("lm_head.weight")],
        }
    }

    fn openai(&self, weight: Weight) -> Vec<Form> {
        let quantised = |name: &str| {
            let [blocks, scales] = ["blocks", "scales"].map(|what| format!("{name}.{what}"));
            vec![self.blocks_and_scales([&blocks, &scales]), self.one(name)]
        };
        let name = match weight {
            Weight::GateUp => return quantised("mlp.mlp1_weight"),
            Weight::Down => return quantised("mlp.mlp2_weight"),
            Weight::Unembedding if self.spec.tied_embeddings => {
                return ["unembedding.weight", "embedding.weight"]
                    .map(|name| self.one(name))
                    .to_vec();
            }
            Weight::Embedding => "embedding.weight",
            Weight::AttnNorm => "attn.norm.scale",
            Weight::Qkv => "attn.qkv.weight",
            Weight::QkvBias => "attn.qkv.bias",
            Weight::Sinks => "attn.sinks",
            Weight::AttnOut => "attn.out.weight",
            Weight::AttnOutBias => "attn.out.bias",
            Weight::MoeNorm => "mlp.norm.scale",
            Weight::Router => "mlp.gate.weight",
            Weight::RouterBias => "mlp.gate.bias",
            Weight::GateUpBias => "mlp.mlp1_bias",
            Weight::DownBias => "mlp.mlp2_bias",
            Weight::FinalNorm => "norm.scale",
            Weight::Unembedding => "unembedding.weight",
        };
        vec![self.one(name)]
    }
}
