//! The op graph of a gpt-oss model: the architecture, stated once.
//!
//! Source: openai/gpt-oss `torch/model.py`; transformers `models/gpt_oss`.

use ossmith_plan::{Graph, Local, ModelSpec, Node, Op, Value, Weight};

const fn node(
    op: Op,
    inputs: &'static [Value],
    weights: &'static [Weight],
    outputs: &'static [Value],
) -> Node {
    Node { op, inputs, weights, outputs }
}

const START: &[Node] =
    &[node(Op::Embed, &[Value::Tokens], &[Weight::Embedding], &[Value::Residual])];

const LAYER: &[Node] = {
    use {Value as V, Weight as W};
    &[
        node(Op::RmsNorm, &[V::Residual], &[W::AttnNorm], &[V::AttnInput]),
        node(Op::Linear, &[V::AttnInput], &[W::Qkv, W::QkvBias], &[V::Qkv]),
        node(Op::Rope, &[V::Qkv], &[], &[V::Qkv]),
        node(Op::CacheWrite, &[V::Qkv], &[], &[]),
        node(Op::Attention, &[V::Qkv], &[W::Sinks], &[V::AttnHeads]),
        node(Op::Linear, &[V::AttnHeads], &[W::AttnOut, W::AttnOutBias], &[V::AttnDelta]),
        node(Op::AllReduce, &[V::AttnDelta], &[], &[V::AttnDelta]),
        node(Op::AddTo, &[V::AttnDelta], &[], &[V::Residual]),
        node(Op::RmsNorm, &[V::Residual], &[W::MoeNorm], &[V::MoeInput]),
        node(Op::Linear, &[V::MoeInput], &[W::Router, W::RouterBias], &[V::RouterLogits]),
        node(Op::TopK, &[V::RouterLogits], &[], &[V::ExpertIds, V::ExpertWeights]),
        node(
            Op::ExpertLinear,
            &[V::MoeInput, V::ExpertIds],
            &[W::GateUp, W::GateUpBias],
            &[V::GateUpOut],
        ),
        node(Op::SwiGlu, &[V::GateUpOut], &[], &[V::ExpertAct]),
        node(
            Op::ExpertLinear,
            &[V::ExpertAct, V::ExpertIds],
            &[W::Down, W::DownBias],
            &[V::ExpertOut],
        ),
        node(Op::Combine, &[V::ExpertOut, V::ExpertWeights], &[], &[V::MoeDelta]),
        node(Op::AllReduce, &[V::MoeDelta], &[], &[V::MoeDelta]),
        node(Op::AddTo, &[V::MoeDelta], &[], &[V::Residual]),
    ]
};

const HEAD: &[Node] = &[
    node(Op::RmsNorm, &[Value::Residual], &[Weight::FinalNorm], &[Value::HeadInput]),
    node(Op::Linear, &[Value::HeadInput], &[Weight::Unembedding], &[Value::Logits]),
];

/// The graph of the part of a gpt-oss-shaped model that one rank computes. All ranks have the same nodes.
#[must_use]
pub fn build(global: &ModelSpec, local: &Local) -> Graph {
    let nodes = Graph { start: START, layer: LAYER, head: HEAD, shapes: &[], classes: &[] };
    nodes.of_rank(global, local)
}
