//! The op graph of a gpt-oss model: the architecture, stated once.
//!
//! Source: openai/gpt-oss `torch/model.py`; transformers `models/gpt_oss`.

use ossmith_plan::{
    DType, Graph, Layer, Local, ModelSpec, Node, Op, Shapes, Value, ValueInfo, Weight, WeightInfo,
};

use crate::leak;

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

/// The graph of the part of a gpt-oss-shaped model that one rank computes.
#[must_use]
pub fn build(global: &ModelSpec, local: &Local) -> Graph {
    let spec = &local.spec(global);
    let classes = spec.layer_classes();
    let shapes = |layer: &Layer| Shapes {
        weights: leak(Weight::ALL.iter().map(|&weight| weight_info(spec, layer, weight)).collect()),
        values: leak(value_infos(spec, layer)),
    };
    let class_of = |layer| classes.iter().position(|class| class == layer).unwrap_or(0);
    Graph {
        start: START,
        layer: LAYER,
        head: HEAD,
        shapes: leak(classes.iter().map(shapes).collect()),
        classes: leak(spec.layers.iter().map(class_of).collect()),
    }
}

fn weight_info(spec: &ModelSpec, layer: &Layer, weight: Weight) -> WeightInfo {
    let (hidden, inter, experts) = (spec.hidden, spec.inter, layer.experts);
    let shape = match weight {
        Weight::Embedding | Weight::Unembedding => vec![spec.vocab, hidden],
        Weight::AttnNorm | Weight::MoeNorm | Weight::FinalNorm | Weight::AttnOutBias => {
            vec![hidden]
        }
        Weight::Qkv => vec![spec.qkv_width(), hidden],
        Weight::QkvBias => vec![spec.qkv_width()],
        Weight::Sinks => vec![spec.q_heads],
        Weight::AttnOut => vec![hidden, spec.q_width()],
        Weight::Router => vec![experts, hidden],
        Weight::RouterBias => vec![experts],
        Weight::GateUp => vec![experts, 2 * inter, hidden],
        Weight::GateUpBias => vec![experts, 2 * inter],
        Weight::Down => vec![experts, hidden, inter],
        Weight::DownBias => vec![experts, hidden],
    };
    let dtype = match weight {
        Weight::GateUp | Weight::Down => DType::Mxfp4,
        _ => DType::Bf16,
    };
    WeightInfo { weight, dtype, shape: leak(shape) }
}

fn value_infos(spec: &ModelSpec, layer: &Layer) -> Vec<ValueInfo> {
    let (hidden, top_k) = (spec.hidden, layer.top_k);
    let info = |value, shape: &[usize]| {
        let dtype = match value {
            Value::Tokens | Value::ExpertIds => DType::U32,
            _ => DType::F32,
        };
        ValueInfo { value, dtype, shape: leak(shape.to_vec()) }
    };
    vec![
        info(Value::Tokens, &[]),
        info(Value::Residual, &[hidden]),
        info(Value::AttnInput, &[hidden]),
        info(Value::Qkv, &[spec.qkv_width()]),
        info(Value::AttnHeads, &[spec.q_width()]),
        info(Value::AttnDelta, &[hidden]),
        info(Value::MoeInput, &[hidden]),
        info(Value::RouterLogits, &[layer.experts]),
        info(Value::ExpertIds, &[top_k]),
        info(Value::ExpertWeights, &[top_k]),
        info(Value::GateUpOut, &[top_k, 2 * spec.inter]),
        info(Value::ExpertAct, &[top_k, spec.inter]),
        info(Value::ExpertOut, &[top_k, hidden]),
        info(Value::MoeDelta, &[hidden]),
        info(Value::HeadInput, &[hidden]),
        info(Value::Logits, &[spec.vocab]),
    ]
}
