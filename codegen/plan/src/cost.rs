//! The cost model: bytes that a step must move, from the graph's shapes. Nothing is measured here.

use crate::{DType, Layer, Model, Op, Phase, Weight};

/// What a decode step looks like: what decides how many bytes it must read.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StepShape {
    /// Tokens of the step, one a sequence.
    pub tokens: usize,
    /// Keys that each token sees in a full layer.
    pub keys: usize,
    /// Distinct experts that the tokens choose in a layer, on average.
    pub distinct_experts: f64,
}

const CACHE_BYTES: usize = DType::Bf16.bytes(1);

impl Model {
    /// Weight bytes of one phase in one layer (or of the head), of the experts only those that the step chooses.
    #[must_use]
    pub fn weight_bytes(&self, phase: &Phase, shape: &StepShape) -> f64 {
        let weights = phase.nodes.iter().flat_map(|node| node.weights);
        weights.map(|&weight| self.weight_bytes_read(weight, shape)).sum()
    }

    fn weight_bytes_read(&self, weight: Weight, shape: &StepShape) -> f64 {
        let bytes = self.graph.weight(weight, 0).bytes() as f64;
        match weight {
            Weight::GateUp | Weight::GateUpBias | Weight::Down | Weight::DownBias => {
                bytes * shape.distinct_experts / self.spec.max_experts() as f64
            }
            _ => bytes,
        }
    }

    /// Key and value bytes that a phase reads in a layer.
    #[must_use]
    pub fn cache_bytes(&self, phase: &Phase, layer: &Layer, shape: &StepShape) -> f64 {
        let attends = phase.nodes.iter().any(|node| node.op == Op::Attention);
        let keys = layer.keys_seen(shape.keys);
        if attends {
            (2 * self.spec.kv_width() * CACHE_BYTES * keys * shape.tokens) as f64
        } else {
            0.0
        }
    }

    /// Bytes that one phase must read in a whole step: in every layer, or once for the head.
    #[must_use]
    pub fn phase_bytes(&self, phase: &Phase, shape: &StepShape) -> f64 {
        if self.is_head(phase) {
            return self.weight_bytes(phase, shape);
        }
        let layer =
            |layer: &Layer| self.weight_bytes(phase, shape) + self.cache_bytes(phase, layer, shape);
        self.spec.layers.iter().map(layer).sum()
    }

    /// Bytes that a whole step must read.
    #[must_use]
    pub fn step_bytes(&self, shape: &StepShape) -> f64 {
        self.phases.iter().map(|phase| self.phase_bytes(phase, shape)).sum()
    }

    /// Floating-point operations (two a multiply-add) of one token's products in a phase of one layer.
    #[must_use]
    pub fn token_flops(&self, phase: &Phase) -> f64 {
        let weights = phase.nodes.iter().flat_map(|node| node.weights);
        let flops = |&weight: &Weight| {
            let info = self.graph.weight(weight, 0);
            match (weight, info.shape) {
                (Weight::GateUp | Weight::Down, [_, rows, k]) => {
                    2 * self.spec.max_top_k() * rows * k
                }
                (_, [rows, k]) if !is_bias(weight) => 2 * rows * k,
                _ => 0,
            }
        };
        weights.map(flops).sum::<usize>() as f64
    }

    /// Whether a phase belongs to the head and runs once a step.
    #[must_use]
    pub fn is_head(&self, phase: &Phase) -> bool {
        phase.nodes.iter().all(|node| self.graph.head.contains(node))
    }
}

const fn is_bias(weight: Weight) -> bool {
    matches!(weight, Weight::GateUpBias | Weight::DownBias)
}
