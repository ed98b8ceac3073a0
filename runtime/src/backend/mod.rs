//! What runs a model. A backend owns weights and cache and executes one [`Step`] at a time; it knows nothing of
//! requests, queues or text. There are two: [`cpu`], the embedded default and the oracle of the other, and [`cuda`].
//! [`device`] chooses one of them, [`memory_budget`] is what a model takes there.

pub mod cpu;
#[cfg(feature = "cuda")]
pub mod cuda;
mod device;
mod held_step;
mod memory_budget;
mod row_sampling;
mod sliding_pages;
mod validate;

pub(crate) use device::{CpuOptions, RankOptions, budget_on, cuda_devices, open};
pub use device::{Device, MAX_RANKS, RankModels, Ranks};
pub(crate) use held_step::{HeldStep, out_of_order};
pub use memory_budget::MemoryBudget;
pub(crate) use memory_budget::snapshot_count;
pub(crate) use row_sampling::SlotState;
pub(crate) use row_sampling::{MASKS_PER_SLOT, MAX_EDITS, MAX_REPORTED};
pub use row_sampling::{PromptReport, RowSampling};

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use ossmith_plan::facts::SLIDING_PAGE_TOKENS;

pub(crate) use crate::progress::Progress;
use crate::sampling::{TokenHistory, TokenLogprobs};
use crate::{Adapter, AdapterSupport, Checkpoint, Result};

/// Tokens in one page of a full layer's key/value cache.
pub const PAGE_TOKENS: usize = 64;

/// Tokens of all sequences' steps of which some may be taken back, for which sliding layers have room beside the windows.
const REVISED_TOKENS: usize = 4096;

/// The most tokens of one sequence's step of which some may be taken back, as those of a draft are, or a token that was left
/// out of sampling: the sequence then continues at the first of them at the earliest. One that appends more continues after
/// the last. Many sequences have shorter drafts, so that their sliding layers take less memory.
pub(crate) fn max_revised_tokens(limits: &Limits) -> usize {
    (REVISED_TOKENS / limits.max_sequences.max(1)).clamp(SLIDING_PAGE_TOKENS, PAGE_TOKENS)
}

/// The form in which a backend keeps dense weights: the attention's projections and the unembedding.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum DenseWeights {
    /// bf16, as published checkpoints store them.
    #[default]
    Bf16,
    /// 8-bit codes with a scale for each 32, quantised when they are loaded, or as a GGUF file stores them. On the CPU only.
    Q8,
}

/// How much a backend must hold. It is built for these limits, or refuses with the numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Limits {
    /// Sequences alive at once. Their sequence slots are numbered `0..max_sequences`.
    pub max_sequences: usize,
    /// Tokens of one step, over all its sequences.
    pub max_step_tokens: usize,
    /// Pages of the full layers' cache, of [`PAGE_TOKENS`] tokens each and shared by all sequences. Page ids are
    /// `0..pages`.
    pub pages: usize,
}

impl Default for Limits {
    /// Eight sequences of 4096 tokens.
    fn default() -> Limits {
        Limits::for_sequences(8, 4096)
    }
}

impl Limits {
    /// Room for this many sequences of this many tokens each, prompt and answer together. A step takes 512 tokens.
    #[must_use]
    pub const fn for_sequences(sequences: usize, tokens: usize) -> Limits {
        Limits {
            max_sequences: sequences,
            max_step_tokens: 512,
            pages: sequences.saturating_mul(tokens.div_ceil(PAGE_TOKENS)),
        }
    }

    /// Sets [`Limits::max_sequences`].
    #[must_use]
    pub const fn with_max_sequences(mut self, max_sequences: usize) -> Limits {
        self.max_sequences = max_sequences;
        self
    }

    /// Sets [`Limits::max_step_tokens`].
    #[must_use]
    pub const fn with_max_step_tokens(mut self, max_step_tokens: usize) -> Limits {
        self.max_step_tokens = max_step_tokens;
        self
    }

    /// Sets [`Limits::pages`].
    #[must_use]
    pub const fn with_pages(mut self, pages: usize) -> Limits {
        self.pages = pages;
        self
    }
}

/// Where a sequence's next tokens come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Input<'a> {
    /// The host provides them: a prompt, or part of one.
    Tokens(&'a [u32]),
    /// The one token that the previous step sampled for this sequence slot, without a round trip through the host.
    Sampled,
    /// The last known token, then a draft of those after it. A token is sampled after each of them, so that the draft can
    /// be verified; the next step of the sequence cannot continue from [`Input::Sampled`]. The rows have neither
    /// penalties nor a mask, which would differ from one to the next.
    Draft(&'a [u32]),
}

impl Input<'_> {
    /// The number of tokens.
    #[must_use]
    pub fn len(&self) -> usize {
        match self {
            Input::Tokens(tokens) | Input::Draft(tokens) => tokens.len(),
            Input::Sampled => 1,
        }
    }

    /// Whether there are none (which no backend accepts).
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// What one sequence does in a step.
#[derive(Clone, Copy, Debug)]
pub struct Sequence<'a> {
    /// The slot of the sequence, which owns a window of each sliding layer, the last sampled token, a history and masks.
    pub seq_slot: usize,
    /// Position of the first token of `input`; everything before it is in the cache.
    pub start: usize,
    /// The tokens to append.
    pub input: Input<'a>,
    /// Page ids that hold positions `0..start + input.len()` of the full layers, [`PAGE_TOKENS`] each.
    pub pages: &'a [u32],
    /// Sample the next token from the last row's logits, or a token after each row of a draft. `None` while a prompt is
    /// still being read.
    pub sample: Option<RowSampling<'a>>,
    /// Report tokens of a prompt, from the logits of the rows before them. These rows are neither sampled from nor
    /// returned.
    pub prompt_report: Option<PromptReport<'a>>,
    /// Which rows' logits are returned to the host.
    pub logits: LogitRows,
}

impl Sequence<'_> {
    /// The number of its last rows from which a token is sampled.
    #[must_use]
    pub fn sampled_rows(&self) -> usize {
        match (self.sample, self.input) {
            (None, _) => 0,
            (Some(_), Input::Draft(tokens)) => tokens.len(),
            (Some(_), Input::Tokens(_) | Input::Sampled) => 1,
        }
    }
}

/// Which logits are returned to the host.
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
    pub capture_activations: bool,
}

/// One layer's captured activations of every token of a step, in the order of the step's tokens.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LayerActivations {
    /// Residual after the layer, `[tokens, hidden]`.
    pub residual: Vec<f32>,
    /// Chosen experts, best first, `[tokens, top_k]`.
    pub router_indices: Vec<u32>,
    /// Router logits, `[tokens, experts]`.
    pub router_logits: Vec<f32>,
}

/// A step on the device's own clock, in seconds. Whatever keeps a device waiting inside a step that returns rows counts
/// as busy; sliding-window snapshots are copied between steps.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct StepTime {
    /// From the first kernel to the last.
    pub busy: f64,
    /// Before the first kernel, since the last kernel of the previous step, and between the layers and a sampling that was
    /// submitted later: transfers, and waiting for the host.
    pub idle: f64,
}

/// How a backend runs a step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StepForm {
    /// The name of its regime, if the backend has any.
    pub regime: Option<&'static str>,
    /// Whether it is replayed as a graph; otherwise its kernels are launched one by one.
    pub graph: bool,
}

/// The results of a step.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct StepOutput {
    /// The token of each sampled row, sequence after sequence; `None` where the largest of its logits is not a finite
    /// number.
    pub sampled: Vec<Option<u32>>,
    /// The report of each sampled row's token, where one was requested.
    pub reports: Vec<Option<TokenLogprobs>>,
    /// For each sequence, the reports of its [`PromptReport`], one for each token.
    pub prompt_reports: Vec<Vec<TokenLogprobs>>,
    /// For each sequence, the requested rows, `[rows, vocab]`.
    pub logits: Vec<Vec<f32>>,
    /// One entry per layer, if [`Step::capture_activations`] is set.
    pub activations: Vec<LayerActivations>,
}

/// What a sleeping engine keeps, by vLLM's numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SleepLevel {
    /// Its weights, in host memory.
    One = 1,
    /// Nothing: all weights must be replaced when it has woken. The CPU backend reads them from the checkpoint's files and
    /// keeps them.
    Two = 2,
}

/// The refusal of a backend whose weights cannot change.
fn keeps_weights(backend: &str) -> crate::Error {
    let problem =
        format!("those of {backend} cannot change; load the model again, or use one rank");
    crate::Error::invalid_option("weights", problem)
}

/// Runs steps. `submit` may return before the work is done; `collect` waits for the oldest submitted step.
pub trait Backend: Send {
    /// One line for logs and reports: `cpu (avx512, 2 threads)`, `cuda:0 (NVIDIA H100 80GB HBM3)`.
    fn describe(&self) -> String;

    /// The limits that the backend was built for.
    fn limits(&self) -> Limits;

    /// The maximum number of tokens that one step may append to one sequence.
    fn max_append(&self) -> usize {
        self.limits().max_step_tokens
    }

    /// The maximum number of rows from which one step may sample; at least one for each sequence.
    fn max_sampled_rows(&self) -> usize {
        self.limits().max_step_tokens.max(self.limits().max_sequences)
    }

    /// Makes room for this many sliding-window *snapshots*, numbered from 0. A snapshot is a copy of what the sliding
    /// layers hold of one window of a sequence; another sequence with the same prefix can continue from it.
    ///
    /// # Errors
    /// [`crate::Error::OutOfMemory`] if there is no room.
    fn reserve_snapshots(&mut self, count: usize) -> Result<()>;

    /// Copies the window before position `end` (a multiple of [`PAGE_TOKENS`]) from a sequence slot's sliding layers to
    /// a snapshot, as it is after all steps submitted so far. The last of them that appended to the sequence slot may
    /// reach beyond `end`, but must have begun before it.
    ///
    /// # Errors
    /// [`crate::Error::Internal`] for a snapshot or sequence slot that does not exist; device errors.
    fn save_snapshot(&mut self, snapshot: usize, seq_slot: usize, end: usize) -> Result<()>;

    /// Copies a snapshot that was saved for position `end` to a sequence slot, for the steps submitted from now on.
    ///
    /// # Errors
    /// As for [`Backend::save_snapshot`].
    fn load_snapshot(&mut self, snapshot: usize, seq_slot: usize, end: usize) -> Result<()>;

    /// Replaces the history of a sequence slot, for the steps submitted from now on. Rows that are sampled with
    /// penalties read it and count their token in it.
    ///
    /// # Errors
    /// [`crate::Error::Internal`] for a sequence slot or a token that does not exist; device errors.
    fn set_history(&mut self, seq_slot: usize, history: &TokenHistory) -> Result<()>;

    /// Replaces one of the [`MASKS_PER_SLOT`] masks of a sequence slot, for the steps submitted from now on: one bit
    /// per token, bit `id % 32` of word `id / 32`, set if the token may be sampled. A mask that does not change need
    /// not be given again. No row that was submitted to be sampled and not yet collected may name the mask.
    ///
    /// # Errors
    /// [`crate::Error::Internal`] for a mask that does not exist, that a step in flight names, or that has another
    /// number of words than the vocabulary; device errors.
    fn set_mask(&mut self, seq_slot: usize, mask: usize, words: &[u32]) -> Result<()>;

    /// Which adapters sequences may have.
    fn adapter_support(&self) -> AdapterSupport {
        AdapterSupport::None
    }

    /// Sets the adapter of a sequence slot, or none, for the steps submitted from now on.
    ///
    /// # Errors
    /// [`crate::Error::Internal`] for a sequence slot that does not exist, or an adapter where the backend takes none or
    /// has another model.
    fn set_adapter(&mut self, seq_slot: usize, adapter: Option<Arc<Adapter>>) -> Result<()> {
        match adapter {
            None => Ok(()),
            Some(adapter) => Err(crate::Error::Internal(format!(
                "adapter {} was given to slot {seq_slot} of a backend that takes none",
                adapter.name()
            ))),
        }
    }

    /// Replaces all weights of the model, for the steps submitted from now on; what the cache holds is the caller's business. No
    /// step may be in flight. If it fails, the weights are as they were.
    ///
    /// # Errors
    /// [`crate::Error::InvalidOption`] where the backend cannot; what is wrong with the weights.
    fn replace_weights(&mut self, _weights: Arc<Checkpoint>) -> Result<()> {
        Err(keeps_weights(&self.describe()))
    }

    /// As [`Backend::replace_weights`], but only those weights whose tensors are in a file or folder of safetensors; returns how
    /// many they are, of how many.
    ///
    /// # Errors
    /// As [`Backend::replace_weights`] and [`Checkpoint::updated`].
    fn update_weights(&mut self, _path: &Path) -> Result<(usize, usize)> {
        Err(keeps_weights(&self.describe()))
    }

    /// Gives the memory of the cache back, and that of the weights: to host memory, or for good. Nothing but
    /// [`Backend::wake`] may follow, no step may be in flight, and the sequence slots are empty afterwards. Returns whether the
    /// weights are gone.
    ///
    /// # Errors
    /// [`crate::Error::InvalidOption`] where the backend cannot; [`crate::Error::OutOfMemory`], when it stays awake.
    fn sleep(&mut self, _level: SleepLevel) -> Result<bool> {
        let problem = format!("{} cannot sleep; end it instead", self.describe());
        Err(crate::Error::invalid_option("level", problem))
    }

    /// Takes the memory again. Snapshots must be reserved anew.
    ///
    /// # Errors
    /// [`crate::Error::OutOfMemory`], when it sleeps on.
    fn wake(&mut self) -> Result<()> {
        Ok(())
    }

    /// Starts a step.
    ///
    /// # Errors
    /// [`crate::Error::InvalidStep`] if the step breaks the limits (nothing was started then), device errors otherwise.
    fn submit(&mut self, step: &Step<'_>) -> Result<()>;

    /// Starts a step's layers. Its rows are sampled by [`Backend::sample`], which must come before the next step and
    /// before this one is collected: what a row's `sample` says here is only whether it will be sampled.
    ///
    /// # Errors
    /// As for [`Backend::submit`].
    fn submit_layers(&mut self, step: &Step<'_>) -> Result<()>;

    /// Samples the rows of the step whose layers were submitted last. `rows` has one entry for each of its sequences;
    /// `None` where nothing is sampled, or where a row is left out: then it yields no token, counts none in the history,
    /// and the next step of its sequence cannot continue from [`Input::Sampled`]. It may begin at the last position of
    /// this one.
    ///
    /// # Errors
    /// [`crate::Error::InvalidStep`] for settings that a row cannot have; [`crate::Error::Internal`] if no step waits to be
    /// sampled; device errors.
    fn sample(&mut self, rows: &[Option<RowSampling<'_>>]) -> Result<()>;

    /// Waits for the oldest step that was submitted and not yet collected.
    ///
    /// # Errors
    /// Device errors; [`crate::Error::Internal`] if nothing was submitted.
    fn collect(&mut self) -> Result<StepOutput>;

    /// Times of the step that was collected last, if the device has a clock.
    fn step_time(&self) -> Option<StepTime> {
        None
    }

    /// What a step of one prompt of so many tokens should take, by the cost model of its device, if there is one.
    fn expected_prompt_time(&self, _tokens: usize) -> Option<Duration> {
        None
    }

    /// How it runs the step that was submitted last.
    fn step_form(&self) -> StepForm {
        StepForm::default()
    }

    /// `submit` and `collect`.
    ///
    /// # Errors
    /// The errors of both.
    fn run(&mut self, step: &Step<'_>) -> Result<StepOutput> {
        self.submit(step)?;
        self.collect()
    }
}
