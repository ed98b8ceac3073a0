//! The cost model: bytes that a step must read and floating-point operations that it must do, phase by phase, from the
//! graph's shapes. Nothing is measured here.

use crate::{Auxiliary, DType, Model, Op, Phase, Schedule, TILE_K, TILE_ROWS, Weight};

/// What a step looks like: what decides how much it must read and compute.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StepShape {
    /// Tokens of the step.
    pub tokens: usize,
    /// Rows whose logits are wanted.
    pub rows: usize,
    /// Sequences that the tokens belong to. Consecutive tokens of one share the keys and values that they read.
    pub sequences: usize,
    /// Keys that a token sees in a full layer, on average.
    pub keys: usize,
    /// Distinct experts that the tokens choose in a layer, on average.
    pub distinct_experts: f64,
}

impl StepShape {
    /// A step of one token per sequence, routed evenly over the experts of a model.
    #[must_use]
    pub fn decode(model: &Model, tokens: usize, keys: usize) -> StepShape {
        let distinct_experts = evenly_routed(model, tokens);
        StepShape { tokens, rows: tokens, sequences: tokens, keys, distinct_experts }
    }

    /// A step of the tokens of one prompt, which follow `before` others and are routed evenly: one row of logits.
    #[must_use]
    pub fn prompt(model: &Model, tokens: usize, before: usize) -> StepShape {
        let distinct_experts = evenly_routed(model, tokens);
        let keys = before + tokens.div_ceil(2);
        StepShape { tokens, rows: 1, sequences: 1, keys, distinct_experts }
    }
}

/// Distinct experts that tokens choose in a layer if they are routed evenly.
fn evenly_routed(model: &Model, tokens: usize) -> f64 {
    let (experts, top_k) = (model.spec.max_experts() as f64, model.spec.max_top_k() as f64);
    experts * (1.0 - (1.0 - top_k / experts).powf(tokens as f64))
}

/// What a phase, or several, must read and compute.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Cost {
    /// Bytes of weights, of the experts only those that the step chooses.
    pub weight_bytes: f64,
    /// Bytes of keys and values.
    pub cache_bytes: f64,
    /// Bytes of logits that sampling reads. An ideal step would never write them, so no sum over a step has them.
    pub logit_bytes: f64,
    /// Floating-point operations, two per multiply-add, of GEMMs and of attention.
    pub flops: f64,
}

impl Cost {
    /// All bytes.
    #[must_use]
    pub fn bytes(&self) -> f64 {
        self.weight_bytes + self.cache_bytes + self.logit_bytes
    }

    fn plus(self, other: Cost) -> Cost {
        Cost {
            weight_bytes: self.weight_bytes + other.weight_bytes,
            cache_bytes: self.cache_bytes + other.cache_bytes,
            logit_bytes: self.logit_bytes + other.logit_bytes,
            flops: self.flops + other.flops,
        }
    }
}

/// A matrix multiplication of activations and a weight: `[m, k]` by `[n, k]` transposed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gemm {
    /// Rows of activations: tokens, rows of the head, or routes (then over the experts that the step chooses).
    pub m: usize,
    /// Rows of the weight.
    pub n: usize,
    /// What is summed over.
    pub k: usize,
}

impl Gemm {
    /// Floating-point operations, two per multiply-add.
    #[must_use]
    pub fn flops(&self) -> f64 {
        (2 * self.m * self.n * self.k) as f64
    }
}

/// Which part of a step a phase belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Section {
    /// Before the layers.
    Start,
    /// In every layer.
    Layer,
    /// After the layers.
    Head,
}

/// One phase over a whole step.
#[derive(Clone, Copy, Debug)]
pub struct PhaseTotal {
    /// Part of the step.
    pub section: Section,
    /// Its place among the phases of that part.
    pub index: usize,
    /// The phase; of one in every layer, that of the first class.
    pub phase: &'static Phase,
    /// How often it runs.
    pub times: usize,
    /// What it must read and compute, all times together.
    pub cost: Cost,
}

const CACHE_BYTES: usize = DType::Bf16.bytes(1);
const LOGIT_BYTES: usize = DType::F32.bytes(1);

/// Bytes of the 8-bit shadow of a weight: codes, and a bf16 scale for each 64.
#[must_use]
pub const fn shadow_bytes(rows: usize, k: usize) -> usize {
    rows.div_ceil(TILE_ROWS) * TILE_ROWS * k.div_ceil(TILE_K) * (TILE_K + 2)
}

impl Model {
    /// What one phase must read and compute in one layer (any, outside layers).
    #[must_use]
    pub fn phase_cost(&self, phase: &Phase, layer: usize, shape: &StepShape) -> Cost {
        let mut cost = Cost::default();
        for &weight in phase.nodes.iter().flat_map(|node| node.weights) {
            cost = cost.plus(self.weight_cost(weight, layer, shape));
        }
        for &weight in phase.next.iter().flat_map(|node| node.weights) {
            cost = cost.plus(self.weight_cost(weight, layer, shape));
        }
        if phase.computes(Op::Attention) {
            let spec = self.rank_spec();
            let seen = spec.layers[layer].keys_seen(shape.keys);
            // The tokens of a sequence are around the one that sees the average: together they see half of them more.
            let followers = shape.tokens.saturating_sub(shape.sequences) / 2;
            let read = seen * shape.sequences + followers;
            cost.cache_bytes += (2 * spec.kv_width() * CACHE_BYTES * read) as f64;
            // Scores, then their sum over values.
            cost.flops += (2 * 2 * spec.q_width() * seen * shape.tokens) as f64;
        }
        if phase.auxiliary == Some(Auxiliary::Sample) {
            cost.logit_bytes += (LOGIT_BYTES * self.spec.vocab * shape.rows) as f64;
        }
        if phase.auxiliary == Some(Auxiliary::ShadowHead) {
            let (_, rows, k) = self.graph.weight(Weight::Unembedding, 0).matrices();
            cost.weight_bytes += shadow_bytes(rows, k) as f64;
        }
        cost
    }

    /// The GEMMs of one phase in one layer (any, outside layers), in the order of its nodes.
    #[must_use]
    pub fn gemms(&self, phase: &Phase, layer: usize, shape: &StepShape) -> Vec<Gemm> {
        let weights = phase.nodes.iter().flat_map(|node| node.weights);
        weights.filter_map(|&weight| self.gemm(weight, layer, shape)).collect()
    }

    /// The GEMM that reads a weight. None for a vector, which is added or multiplied, and for the embedding, whose rows are
    /// copied.
    fn gemm(&self, weight: Weight, layer: usize, shape: &StepShape) -> Option<Gemm> {
        let info = self.graph.weight(weight, layer);
        let (_, n, k) = info.matrices();
        let layer = &self.spec.layers[layer.min(self.spec.layers.len() - 1)];
        let m = match weight {
            Weight::Embedding => return None,
            Weight::Unembedding => shape.rows,
            _ if info.per_expert() => shape.tokens * layer.top_k,
            _ => shape.tokens,
        };
        (k > 1).then_some(Gemm { m, n, k })
    }

    fn weight_cost(&self, weight: Weight, layer: usize, shape: &StepShape) -> Cost {
        let info = self.graph.weight(weight, layer);
        let (matrices, _, k) = info.matrices();
        let bytes = info.bytes() as f64;
        let weight_bytes = match weight {
            _ if info.per_expert() => bytes * shape.distinct_experts / matrices as f64,
            Weight::Embedding => (info.dtype.bytes(k) * shape.tokens) as f64,
            _ => bytes,
        };
        let flops = self.gemm(weight, layer, shape).map_or(0.0, |gemm| gemm.flops());
        Cost { weight_bytes, flops, ..Cost::default() }
    }

    /// The phases of a step that runs by `schedule`, in the order of their launches, with what each must read and compute.
    #[must_use]
    pub fn phase_totals(&self, schedule: &Schedule, shape: &StepShape) -> Vec<PhaseTotal> {
        let once = |section, phases: &'static [Phase]| {
            phases.iter().enumerate().map(move |(index, phase)| {
                let cost = self.phase_cost(phase, 0, shape);
                PhaseTotal { section, index, phase, times: 1, cost }
            })
        };
        let layers = || self.spec.layers.iter().enumerate();
        let in_layers = schedule.layers[0].iter().enumerate().map(|(index, phase)| {
            let of_layer = |(layer, _)| {
                let phase = &schedule.layers[self.graph.class(layer)][index];
                self.phase_cost(phase, layer, shape)
            };
            let cost = layers().map(of_layer).fold(Cost::default(), Cost::plus);
            PhaseTotal { section: Section::Layer, index, phase, times: layers().count(), cost }
        });
        let start = once(Section::Start, schedule.start);
        start.chain(in_layers).chain(once(Section::Head, schedule.head)).collect()
    }

    /// What a whole step must read and compute: weights, keys and values, once each.
    #[must_use]
    pub fn step_cost(&self, schedule: &Schedule, shape: &StepShape) -> Cost {
        let totals = self.phase_totals(schedule, shape);
        let sum = totals.iter().fold(Cost::default(), |sum, total| sum.plus(total.cost));
        Cost { logit_bytes: 0.0, ..sum }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shadow_has_a_code_for_each_value_and_a_scale_for_each_row_of_a_tile() {
        let tile = TILE_ROWS * (TILE_K + 2);
        for (rows, k, tiles) in [(1, 1, 1), (TILE_ROWS, TILE_K, 1), (TILE_ROWS + 1, TILE_K + 1, 4)]
        {
            assert_eq!(shadow_bytes(rows, k), tiles * tile, "{rows} x {k}");
        }
        // Of the unembedding of gpt-oss-20b.
        assert_eq!(shadow_bytes(201_088, 2_880), 201_088 * (2_880 + 45 * 2));
    }
}
