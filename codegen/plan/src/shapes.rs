//! Shapes of weights and values: what one rank has of each, in each class of layers. The compiler and the runtime both
//! get them here, and [`Local`] is the only place that divides a dimension.

use crate::{DType, Graph, Layer, Local, ModelSpec, Shapes, Value, ValueInfo, Weight, WeightInfo};

impl Graph {
    /// The same nodes with the shapes of the part of a model that one rank computes. They live as long as the program.
    #[must_use]
    pub fn of_rank(&self, global: &ModelSpec, local: &Local) -> Graph {
        let spec = &local.spec(global);
        let classes = spec.layer_classes();
        let weights = |layer: &Layer| -> Vec<WeightInfo> {
            Weight::ALL.iter().map(|&weight| weight_info(global, spec, layer, weight)).collect()
        };
        let shapes = |layer: &Layer| Shapes {
            weights: weights(layer).leak(),
            values: value_infos(spec, layer).leak(),
        };
        let class_of = |layer| classes.iter().position(|class| class == layer).unwrap_or(0);
        Graph {
            shapes: classes.iter().map(shapes).collect::<Vec<_>>().leak(),
            classes: spec.layers.iter().map(class_of).collect::<Vec<_>>().leak(),
            ..*self
        }
    }
}

fn weight_info(global: &ModelSpec, spec: &ModelSpec, layer: &Layer, weight: Weight) -> WeightInfo {
    let (hidden, inter, experts) = (spec.hidden, spec.inter, layer.experts);
    let shape = match weight {
        // Any rank may need any token's row.
        Weight::Embedding => vec![global.vocab, hidden],
        Weight::Unembedding => vec![spec.vocab, hidden],
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
    WeightInfo { weight, dtype, shape: shape.leak() }
}

fn value_infos(spec: &ModelSpec, layer: &Layer) -> Vec<ValueInfo> {
    let (hidden, top_k) = (spec.hidden, layer.top_k);
    let info = |value, shape: &[usize]| {
        let dtype = match value {
            Value::Tokens | Value::ExpertIds => DType::U32,
            _ => DType::F32,
        };
        ValueInfo { value, dtype, shape: shape.to_vec().leak() }
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
