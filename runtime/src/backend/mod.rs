//! What runs a model. A backend owns weights and cache and executes one [`Step`] at a time; it knows nothing of
//! requests, queues or text. Two exist: [`cpu`], the embedded default and the oracle, and [`cuda`].

pub mod cpu;
#[cfg(feature = "cuda")]
pub mod cuda;
pub mod memory;
mod validate;

pub use memory::MemoryPlan;

use crate::{Result, Sampling};

/// Tokens in one page of a full layer's key/value cache.
pub const PAGE_TOKENS: usize = 64;

/// Which backend to use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Device {
    /// CUDA where a device can run the model, else the CPU; which one is logged once.
    Auto,
    /// The CPU.
    Cpu,
    /// The CUDA device of this ordinal.
    Cuda(usize),
}

/// What the caller wants to fit; a backend is built for it or refuses with the numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Sequences alive at once; sequence slots are `0..max_sequences`.
    pub max_sequences: usize,
    /// Tokens of one step, over all its sequences.
    pub max_step_tokens: usize,
    /// Pages of full-layer cache, shared by all sequences; page ids are `0..pages`.
    pub pages: usize,
}

/// Reported while weights load and kernels compile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// `load weights`, `compile kernels`, …
    pub stage: &'static str,
    /// Units done (bytes or kernels).
    pub done: u64,
    /// Units in all.
    pub total: u64,
}

/// Where a sequence's next tokens come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Input<'a> {
    /// Given: a prompt, or part of one.
    Tokens(&'a [u32]),
    /// The one token that the slot's previous step sampled, without a round trip through the host.
    Sampled,
}

impl Input<'_> {
    /// How many tokens.
    #[must_use]
    pub fn len(&self) -> usize {
        match self {
            Input::Tokens(tokens) => tokens.len(),
            Input::Sampled => 1,
        }
    }

    /// Whether there are none (which no backend accepts).
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// One sequence's share of a step.
#[derive(Clone, Copy, Debug)]
pub struct Sequence<'a> {
    /// The sequence's slot: its sliding-layer ring and its last sampled token.
    pub slot: usize,
    /// Position of the first token of `input`; everything before it is in the cache.
    pub start: usize,
    /// The tokens to append.
    pub input: Input<'a>,
    /// Page ids that hold positions `0..start + input.len()` of the full layers, [`PAGE_TOKENS`] each.
    pub pages: &'a [u32],
    /// Draw the next token from the last row's logits. `None` while a prompt is still being read.
    pub sample: Option<Sampling>,
    /// Which rows' logits are returned to the host.
    pub logits: LogitRows,
}

/// Which logits come back to the host.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogitRows {
    /// None: sampling happens on the device.
    #[default]
    None,
    /// The last token's.
    Last,
    /// Every token's.
    All,
}

/// One forward pass over a ragged batch.
#[derive(Clone, Copy, Debug)]
pub struct Step<'a> {
    /// The sequences, each at most once.
    pub sequences: &'a [Sequence<'a>],
    /// Also return residual rows and router choices of every layer (slow; for checks).
    pub taps: bool,
}

/// One layer's inner values of every token of a step, in the order of the step's tokens.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LayerTaps {
    /// Residual after the layer, `[tokens, hidden]`.
    pub residual: Vec<f32>,
    /// Chosen experts, best first, `[tokens, top_k]`.
    pub router_indices: Vec<u32>,
    /// Router logits, `[tokens, experts]`.
    pub router_logits: Vec<f32>,
}

/// A step on the device's own clock, in seconds. What keeps a device waiting inside a step that returns rows counts as
/// busy; tails are copied between steps.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct StepTime {
    /// From the first kernel to the last.
    pub busy: f64,
    /// Before the first kernel, since the last kernel of the step before: transfers, and waiting for the host.
    pub idle: f64,
}

/// What a step gave.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Output {
    /// For each sequence of the step, the token drawn, where one was asked for.
    pub sampled: Vec<Option<u32>>,
    /// Sequences of the step for which nothing was drawn, since the largest of their logits is no finite number.
    pub damaged: Vec<usize>,
    /// For each sequence, the rows asked for, `[rows, vocab]`.
    pub logits: Vec<Vec<f32>>,
    /// A layer each, if [`Step::taps`].
    pub taps: Vec<LayerTaps>,
}

/// Runs steps. `submit` may return before the work is done; `collect` waits for the oldest submitted step.
pub trait Backend: Send {
    /// One line for logs and reports: `cpu (avx512, 2 threads)`, `cuda:0 (NVIDIA H100 80GB HBM3)`.
    fn describe(&self) -> String;

    /// What was made to fit.
    fn limits(&self) -> Limits;

    /// Most tokens that one step may append to one sequence (sliding rings bound it).
    fn max_append(&self) -> usize {
        self.limits().max_step_tokens
    }

    /// Makes room for this many *tails*, numbered from 0: copies of what the sliding layers hold of one window of a
    /// sequence, from which another sequence with the same beginning can go on.
    ///
    /// # Errors
    /// [`crate::Error::Device`] if there is no room.
    fn reserve_tails(&mut self, count: usize) -> Result<()>;

    /// Copies the window before position `end` (a multiple of [`PAGE_TOKENS`]) of a slot's sliding layers to a tail, as
    /// of all steps submitted so far. The last of them that appended to the slot may reach beyond `end`, but must have
    /// begun before it.
    ///
    /// # Errors
    /// [`crate::Error::Internal`] for a tail or slot that does not exist; device errors.
    fn save_tail(&mut self, tail: usize, slot: usize, end: usize) -> Result<()>;

    /// Copies a tail that was saved for position `end` to a slot, for the steps submitted from now on.
    ///
    /// # Errors
    /// As for [`Backend::save_tail`].
    fn load_tail(&mut self, tail: usize, slot: usize, end: usize) -> Result<()>;

    /// Starts a step.
    ///
    /// # Errors
    /// [`crate::Error::Request`] if the step breaks the limits (nothing was started then), device errors otherwise.
    fn submit(&mut self, step: &Step<'_>) -> Result<()>;

    /// Waits for the oldest step that was submitted and not yet collected.
    ///
    /// # Errors
    /// Device errors; [`crate::Error::Internal`] if nothing was submitted.
    fn collect(&mut self) -> Result<Output>;

    /// Times of the step that was collected last, if the device has a clock.
    fn step_time(&self) -> Option<StepTime> {
        None
    }

    /// `submit` and `collect`.
    ///
    /// # Errors
    /// As those.
    fn run(&mut self, step: &Step<'_>) -> Result<Output> {
        self.submit(step)?;
        self.collect()
    }
}
