//! The backend against plain formulas, against itself in other batches, and against bad requests.
//! Whole models against published numbers are tested in the workspace's `tests/`.

mod kernels;
mod ranks;
mod refusals;
mod sampling;
mod steps;

use std::sync::Arc;

use ossmith_plan::{Layer, Model, ModelSpec, Rope, Shard};

use super::{CpuBackend, Executor, Isa};
use crate::Checkpoint;
use crate::backend::{Backend, DenseWeights, Input, Limits, LogitRows, Sequence, Step, StepOutput};
use crate::sampling::SamplerConfig;

/// Odd on purpose: widths that are not a multiple of whole vectors, three query heads per key head, five experts, and a
/// window that ends within a tile.
const ODD: ModelSpec = ModelSpec {
    name: "odd",
    hidden: 96,
    inter: 160,
    head_dim: 32,
    q_heads: 6,
    kv_heads: 2,
    vocab: 331,
    context: 4096,
    layers: &[Layer::sliding(20, 5, 2), Layer::full(5, 2), Layer::sliding(20, 5, 2)],
    rms_eps: 1e-5,
    swiglu_limit: 7.0,
    swiglu_alpha: 1.702,
    attention_bias: true,
    tied_embeddings: false,
    rope: Rope {
        theta: 150_000.0,
        factor: 32.0,
        beta_fast: 32.0,
        beta_slow: 1.0,
        original_context: 4096,
        truncate: false,
    },
    stop_tokens: &[1],
    max_new_tokens: None,
};

/// The GQA ratio of gpt-oss: eight query heads per key head of 64.
const WIDE: ModelSpec = ModelSpec {
    name: "wide",
    hidden: 64,
    inter: 32,
    head_dim: 64,
    q_heads: 8,
    kv_heads: 1,
    layers: &[Layer::sliding(128, 5, 2), Layer::full(5, 2), Layer::sliding(128, 5, 2)],
    ..ODD
};

const LIMITS: Limits = Limits { max_sequences: 3, max_step_tokens: 200, pages: 16 };

fn model(spec: ModelSpec) -> &'static Model {
    ossmith_codegen::compile(spec).expect("kernels")
}

fn backend(model: &'static Model, isa: Isa, limits: Limits, threads: usize) -> CpuBackend {
    let weights = Arc::new(Checkpoint::synthetic(model, 5));
    let executor = Executor::new(model, weights, isa, Some(threads)).expect("a good model");
    CpuBackend::with_executor(executor, limits).expect("a small cache")
}

/// Tokens of a test sequence; `salt` makes another one.
fn tokens(count: usize, salt: u32) -> Vec<u32> {
    (0..count as u32).map(|i| (i * 97 + i * i * 13 + salt * 41) % ODD.vocab as u32).collect()
}

/// A sequence that appends tokens and returns all logits.
fn appending<'a>(
    seq_slot: usize,
    start: usize,
    tokens: &'a [u32],
    pages: &'a [u32],
) -> Sequence<'a> {
    let input = Input::Tokens(tokens);
    Sequence {
        seq_slot,
        start,
        input,
        pages,
        sample: None,
        prompt_report: None,
        logits: LogitRows::All,
    }
}

fn step(backend: &mut CpuBackend, sequences: &[Sequence<'_>]) -> StepOutput {
    backend.run(&Step { sequences, capture_activations: false }).expect("a good step")
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

/// `|a - b| / |b|` over all elements.
fn distance(a: &[f32], b: &[f32]) -> f64 {
    assert_eq!(a.len(), b.len());
    let square = |x: f32, y: f32| (f64::from(x) - f64::from(y)).powi(2);
    let difference: f64 = a.iter().zip(b).map(|(&a, &b)| square(a, b)).sum();
    (difference / b.iter().map(|&b| square(b, 0.0)).sum::<f64>()).sqrt()
}
