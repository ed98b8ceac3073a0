//! How an engine is loaded, and how requests share it.

use std::time::Duration;

use crate::setters::setters;
use crate::{DenseWeights, Device, Limits, RankModels, Ranks};

/// How an engine is loaded. Start from the defaults and change what differs:
///
/// ```
/// use ossmith::prelude::*;
///
/// let limits = Limits::for_sequences(4, 2048);
/// let options = EngineOptions::default().with_device(Device::Cpu).with_limits(limits);
/// assert_eq!(options.limits.pages, 4 * 2048 / 64);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct EngineOptions {
    /// Where to run.
    pub device: Device,
    /// How many ranks share the model there.
    pub ranks: Ranks,
    /// What each of several ranks computes, which those on CUDA devices need.
    pub rank_models: Option<RankModels>,
    /// What to make room for.
    pub limits: Limits,
    /// Threads of the CPU backend; `None` uses all threads of the machine.
    pub threads: Option<usize>,
    /// The form in which dense weights are kept.
    pub dense: DenseWeights,
    /// Whether a CUDA device keeps an 8-bit shadow of the unembedding if there is memory for it: decode steps of up to eight
    /// plain rows read it instead, and sample the same tokens.
    pub shadow_head: bool,
    /// How requests share the engine.
    pub policy: Policy,
}

impl Default for EngineOptions {
    /// Eight sequences of 4096 tokens on the best device.
    fn default() -> EngineOptions {
        EngineOptions {
            device: Device::Auto,
            ranks: Ranks::ONE,
            rank_models: None,
            limits: Limits::default(),
            threads: None,
            dense: DenseWeights::default(),
            shadow_head: true,
            policy: Policy::default(),
        }
    }
}

setters!(EngineOptions {
    with_device(device: Device),
    with_ranks(ranks: Ranks),
    with_rank_models(rank_models: impl Into<Option<RankModels>>),
    with_limits(limits: Limits),
    with_threads(threads: impl Into<Option<usize>>),
    with_dense(dense: DenseWeights),
    with_shadow_head(shadow_head: bool),
    with_policy(policy: Policy),
});

/// How requests share an engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Policy {
    /// Samples that may wait at once, besides those that start at once; more are refused with [`crate::Error::QueueFull`].
    pub max_waiting: usize,
    /// Events of one request that may wait for its reader before the request is held.
    pub event_capacity: usize,
    /// Keep full pages of prompts and answers for requests with the same prefix.
    pub prefix_cache: bool,
    /// The maximum number of draft tokens that are proposed from the request's own text and verified in one step; 0 turns
    /// drafts off.
    pub draft_tokens: usize,
    /// Time that prompts may take of a step in which other samples generate, or as long as such a step takes by itself if
    /// that is longer. With `None` a step reads as much of the prompts as [`Limits::max_step_tokens`] allows, and the
    /// others wait for it.
    pub prompt_time: Option<Duration>,
    /// Time that a whole step may take in which samples generate: prompts get what the others leave of it, but always some
    /// tokens. Both limits may be set; the lower one counts.
    pub step_time: Option<Duration>,
}

impl Default for Policy {
    fn default() -> Policy {
        Policy {
            max_waiting: 4096,
            event_capacity: 256,
            prefix_cache: true,
            draft_tokens: 0,
            prompt_time: None,
            step_time: None,
        }
    }
}

setters!(Policy {
    with_max_waiting(max_waiting: usize),
    with_event_capacity(event_capacity: usize),
    with_prefix_cache(prefix_cache: bool),
    with_draft_tokens(draft_tokens: usize),
    with_prompt_time(prompt_time: impl Into<Option<Duration>>),
    with_step_time(step_time: impl Into<Option<Duration>>),
});
