//! The engine against the scripted backend, whose answers a reference of a few lines computes again.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod async_events;
mod basics;
mod changes;
mod fairness;
mod handle;
mod policies;
mod random;
mod settings;
mod simulation;
mod soak;
mod traffic;
mod weights;

use super::Engine;
use super::options::Policy;
use super::params::SamplingParams;
use super::testing::{SPEC, Scripted};
use crate::Limits;

const LIMITS: Limits = Limits { max_sequences: 3, max_step_tokens: 10, pages: 12 };

fn engine(limits: Limits, max_append: usize, pipeline_depth: usize) -> Engine {
    over(Scripted::new(limits, max_append), pipeline_depth)
}

fn over(backend: Scripted, pipeline_depth: usize) -> Engine {
    with_policy(backend, pipeline_depth, Policy::default())
}

fn with_policy(backend: Scripted, pipeline_depth: usize, policy: Policy) -> Engine {
    Engine::with_backend(&SPEC, Box::new(backend), pipeline_depth, policy).unwrap()
}

fn params(seed: u64, max_tokens: usize) -> SamplingParams {
    SamplingParams { seed, max_tokens: Some(max_tokens), ..SamplingParams::default() }
}

/// Token ids that depend on position and salt alone, so that prompts of one salt have a common prefix.
fn prompt(length: usize, salt: usize) -> Vec<u32> {
    (0..length).map(|at| ((at * 31 + salt * 17 + 5) % SPEC.vocab) as u32).collect()
}
