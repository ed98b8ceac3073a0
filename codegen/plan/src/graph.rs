//! What a model computes: one op graph, read by the CPU executor, the fusion pass, the cost model, the weight
//! packer and the reports. It holds no numbers of its own: shapes come from the [`ModelSpec`](crate::ModelSpec).

/// Element types of weights and values.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DType {
    /// IEEE single precision.
    F32,
    /// bfloat16.
    Bf16,
    /// OCP microscaling FP4: E2M1 codes in blocks of 32 along the last axis, one E8M0 scale a block.
    Mxfp4,
    /// Unsigned 32-bit integers (token and expert ids).
    U32,
}

impl DType {
    /// Bytes that `elements` values take, block scales included.
    #[must_use]
    pub const fn bytes(self, elements: usize) -> usize {
        match self {
            DType::F32 | DType::U32 => 4 * elements,
            DType::Bf16 => 2 * elements,
            DType::Mxfp4 => elements / 2 + elements / 32,
        }
    }
}

/// A weight tensor by its role. Layer weights exist once a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Weight {
    /// Token embedding, `[vocab, hidden]`.
    Embedding,
    /// RMS-norm scale before attention, `[hidden]`.
    AttnNorm,
    /// Fused projection, rows q then k then v, `[qkv_width, hidden]`.
    Qkv,
    /// Bias of [`Weight::Qkv`], `[qkv_width]`.
    QkvBias,
    /// One attention-sink logit a query head, `[q_heads]`.
    Sinks,
    /// Attention output projection, `[hidden, q_width]`.
    AttnOut,
    /// Bias of [`Weight::AttnOut`], `[hidden]`.
    AttnOutBias,
    /// RMS-norm scale before the experts, `[hidden]`.
    MoeNorm,
    /// Router, `[experts, hidden]`.
    Router,
    /// Bias of [`Weight::Router`], `[experts]`.
    RouterBias,
    /// Experts' first matrices, rows alternating gate, up: `[experts, 2 * inter, hidden]`.
    GateUp,
    /// Bias of [`Weight::GateUp`], alternating as its rows do, `[experts, 2 * inter]`.
    GateUpBias,
    /// Experts' second matrices, `[experts, hidden, inter]`.
    Down,
    /// Bias of [`Weight::Down`], `[experts, hidden]`.
    DownBias,
    /// RMS-norm scale before the unembedding, `[hidden]`.
    FinalNorm,
    /// Unembedding, `[vocab, hidden]`.
    Unembedding,
}

impl Weight {
    /// Every weight, in checkpoint order.
    pub const ALL: [Weight; 16] = [
        Weight::Embedding,
        Weight::AttnNorm,
        Weight::Qkv,
        Weight::QkvBias,
        Weight::Sinks,
        Weight::AttnOut,
        Weight::AttnOutBias,
        Weight::MoeNorm,
        Weight::Router,
        Weight::RouterBias,
        Weight::GateUp,
        Weight::GateUpBias,
        Weight::Down,
        Weight::DownBias,
        Weight::FinalNorm,
        Weight::Unembedding,
    ];

    /// Whether the weight exists once per layer, not once per model.
    #[must_use]
    pub const fn per_layer(self) -> bool {
        !matches!(self, Weight::Embedding | Weight::FinalNorm | Weight::Unembedding)
    }
}

/// A weight's shape and stored type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WeightInfo {
    /// Which weight.
    pub weight: Weight,
    /// Stored element type.
    pub dtype: DType,
    /// Shape, outermost first; the last axis is the one that a GEMM sums over.
    pub shape: &'static [usize],
}

impl WeightInfo {
    /// Number of elements.
    #[must_use]
    pub fn elements(&self) -> usize {
        self.shape.iter().product()
    }

    /// Bytes in the checkpoint, block scales included.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.dtype.bytes(self.elements())
    }

    /// (matrices, rows, k) of the weight, k being what a GEMM sums over. A vector is a matrix of rows of one element.
    #[must_use]
    pub const fn matrices(&self) -> (usize, usize, usize) {
        match (self.weight, self.shape) {
            (Weight::GateUpBias | Weight::DownBias, &[matrices, rows]) => (matrices, rows, 1),
            (_, &[matrices, rows, k]) => (matrices, rows, k),
            (_, &[rows, k]) => (1, rows, k),
            (_, &[rows]) => (1, rows, 1),
            _ => (1, 1, 1),
        }
    }

    /// Whether the weight has one matrix (or bias) per expert, of which a token reads only those of its experts.
    #[must_use]
    pub const fn per_expert(&self) -> bool {
        matches!(self.weight, Weight::GateUp | Weight::GateUpBias | Weight::Down | Weight::DownBias)
    }
}

/// An intermediate result, by name. Every value has one row per token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Value {
    /// Token ids.
    Tokens,
    /// The residual stream, updated in place by [`Op::AddTo`].
    Residual,
    /// Normed input of attention.
    AttnInput,
    /// Queries, keys and values side by side; rotated in place by [`Op::Rope`].
    Qkv,
    /// Attention output, all query heads side by side.
    AttnHeads,
    /// Attention's share of the residual.
    AttnDelta,
    /// Normed input of router and experts.
    MoeInput,
    /// One logit an expert.
    RouterLogits,
    /// Chosen experts, best first.
    ExpertIds,
    /// Softmax over the chosen experts' logits.
    ExpertWeights,
    /// What the chosen experts' first matrices give, alternating gate, up.
    GateUpOut,
    /// The chosen experts' hidden activations.
    ExpertAct,
    /// The chosen experts' outputs.
    ExpertOut,
    /// The experts' share of the residual.
    MoeDelta,
    /// Normed input of the unembedding.
    HeadInput,
    /// One logit a vocabulary row.
    Logits,
}

/// A value's shape for one token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ValueInfo {
    /// Which value.
    pub value: Value,
    /// Element type in the reference executor.
    pub dtype: DType,
    /// Shape of one token's row.
    pub shape: &'static [usize],
}

/// One operation. Operands are named by the [`Node`] that holds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Op {
    /// `out = weight[tokens]`.
    Embed,
    /// `out = x * rsqrt(mean(x^2) + eps) * weight`, in fp32.
    RmsNorm,
    /// `out = weight x + bias` (bias where the node has a second weight).
    Linear,
    /// Rotates the query and key part of a fused q/k/v row by its position, in place.
    Rope,
    /// Appends the key and value part of a fused q/k/v row to the cache.
    CacheWrite,
    /// Softmax attention of the query part over the cache, with one sink logit a query head (the weight).
    Attention,
    /// The sum of `x` over all ranks, in place; nothing to do where one rank has the whole model.
    AllReduce,
    /// `out += x` (the residual connection).
    AddTo,
    /// The `top_k` largest logits (lowest index first among equals) and the softmax over just these.
    TopK,
    /// `out[route] = weight[expert[route]] x + bias[expert[route]]`, with one input row per token or one per route (a token
    /// and one of its chosen experts).
    ExpertLinear,
    /// `g = min(gate, limit)`, `u = clamp(up, -limit, limit)`, `out = g * sigmoid(alpha * g) * (u + 1)`.
    SwiGlu,
    /// `out = sum over a token's routes of weight[route] * x[route]`, in the order of the choice.
    Combine,
}

/// An operation with its operands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Node {
    /// What is computed.
    pub op: Op,
    /// Values read.
    pub inputs: &'static [Value],
    /// Weights read: matrix first, then bias.
    pub weights: &'static [Weight],
    /// Values written (or updated in place).
    pub outputs: &'static [Value],
}

/// A whole model: `start` once, `layer` once a layer, `head` once for the rows whose logits are wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Graph {
    /// From token ids to the residual stream.
    pub start: &'static [Node],
    /// One layer.
    pub layer: &'static [Node],
    /// From the residual stream to logits.
    pub head: &'static [Node],
    /// Shapes in the layers of each class: layers of equal [`Layer`](crate::Layer) data are one class.
    pub shapes: &'static [Shapes],
    /// The class of each layer, an index into `shapes`.
    pub classes: &'static [usize],
}

/// The shapes of weights and values in one class of layers. What exists once in a model is in every class, and the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shapes {
    /// Every weight's shape.
    pub weights: &'static [WeightInfo],
    /// Every value's shape.
    pub values: &'static [ValueInfo],
}

impl Graph {
    /// The class of a layer; what belongs to no layer is in every class, so any will do for it.
    #[must_use]
    pub fn class(&self, layer: usize) -> usize {
        self.classes.get(layer).copied().unwrap_or(0)
    }

    fn shapes_in(&self, layer: usize) -> &'static Shapes {
        &self.shapes[self.class(layer)]
    }

    /// Shape and type of a weight in a layer, which is ignored for weights that exist once.
    ///
    /// # Panics
    /// When the graph does not list the weight: a generator bug, found by its tests.
    #[must_use]
    pub fn weight(&self, weight: Weight, layer: usize) -> &'static WeightInfo {
        let found = self.shapes_in(layer).weights.iter().find(|info| info.weight == weight);
        found.unwrap_or_else(|| panic!("the graph lists no weight {weight:?}"))
    }

    /// Shape and type of a value in a layer, which is ignored for values outside layers.
    ///
    /// # Panics
    /// When the graph does not list the value: a generator bug, found by its tests.
    #[must_use]
    pub fn value(&self, value: Value, layer: usize) -> &'static ValueInfo {
        let found = self.shapes_in(layer).values.iter().find(|info| info.value == value);
        found.unwrap_or_else(|| panic!("the graph lists no value {value:?}"))
    }

    /// Elements of one token's row of a value.
    ///
    /// # Panics
    /// As [`Graph::value`].
    #[must_use]
    pub fn row_elements(&self, value: Value, layer: usize) -> usize {
        self.value(value, layer).shape.iter().product()
    }

    /// Every weight with the layer that it belongs to, 0 for weights that exist once.
    pub fn all_weights(&self) -> impl Iterator<Item = (&'static WeightInfo, usize)> + '_ {
        Weight::ALL.into_iter().flat_map(move |weight| {
            let layers = if weight.per_layer() { self.classes.len() } else { 1 };
            (0..layers).map(move |layer| (self.weight(weight, layer), layer))
        })
    }
}
