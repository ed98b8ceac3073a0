//! The engine against the scripted backend, whose answers a few lines of reference work out again.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod basics;
mod handle;
mod settings;
mod soak;
mod traffic;

use super::testing::{SPEC, Scripted};
use super::{Engine, Policy, SamplingParams};
use crate::Limits;

const LIMITS: Limits = Limits { max_sequences: 3, max_step_tokens: 10, pages: 12 };

fn engine(limits: Limits, max_append: usize, ahead: usize) -> Engine {
    over(Scripted::new(limits, max_append), ahead)
}

fn over(backend: Scripted, ahead: usize) -> Engine {
    with_policy(backend, ahead, Policy::default())
}

fn with_policy(backend: Scripted, ahead: usize, policy: Policy) -> Engine {
    Engine::new(&SPEC, Box::new(backend), ahead, policy).unwrap()
}

fn params(seed: u64, max_tokens: usize) -> SamplingParams {
    SamplingParams { seed, max_tokens: Some(max_tokens), ..SamplingParams::default() }
}

/// Token ids that depend on place and salt alone: prompts of one salt begin alike.
fn prompt(length: usize, salt: usize) -> Vec<u32> {
    (0..length).map(|at| ((at * 31 + salt * 17 + 5) % SPEC.vocab) as u32).collect()
}
