//! One step's work as data, from the scheduler to the backend and back.

use super::sample::{Key, Sample};
use crate::backend::{MAX_REPORTED, PromptReport, RowSampling, StepForm};

/// Where the token after an entry's tokens is sampled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SampleOn {
    /// Nowhere: the prompt goes on.
    None,
    /// On the device, where the logits are.
    Device,
    /// On the host, from rows of logits that the backend returns.
    Host,
}

/// What one sequence does in a step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PlanEntry {
    pub(super) key: Key,
    pub(super) epoch: u32,
    pub(super) seq_slot: usize,
    /// Position of the first token.
    pub(super) start: usize,
    pub(super) tokens: usize,
    pub(super) sample_on: SampleOn,
    /// With a draft: the last known token, then the draft tokens. Empty without one.
    pub(super) draft: Vec<u32>,
    /// Whether stop tokens must not be sampled yet.
    pub(super) forbids_stops: bool,
    /// Where the prompt's logprobs are computed: on the host from rows of every token.
    pub(super) report_prompt_on: SampleOn,
    /// The mask of the sequence slot by which the device samples, and whether the backend must be given it.
    pub(super) mask: Option<(usize, bool)>,
    /// Whether the mask is still to be computed, so that the step's layers run before its sampling is submitted.
    pub(super) awaits_mask: bool,
}

impl SampleOn {
    /// Where the logprobs of a prompt's tokens after position `start` are computed, if there are any to compute.
    pub(super) fn of_prompt_report(sample: &Sample, start: usize) -> SampleOn {
        let top = sample.request.params.prompt_logprobs.unwrap_or(0);
        match sample.reports_prompt() && start + 1 < sample.request.prompt.len() {
            false => SampleOn::None,
            true if top as usize > MAX_REPORTED => SampleOn::Host,
            true => SampleOn::Device,
        }
    }
}

impl PlanEntry {
    /// How a backend samples after it.
    pub(super) fn row_sampling<'a>(&self, sample: &'a Sample) -> RowSampling<'a> {
        let params = &sample.request.params;
        RowSampling {
            config: params.sampler(self.key.index),
            biases: &sample.request.biases,
            penalties: params.penalties(),
            forbidden: if self.forbids_stops { &sample.request.stop_ids } else { &[] },
            mask: self.mask.map(|(mask, _)| mask),
            report: params.logprobs,
        }
    }

    /// The tokens of the prompt that a backend reports in it.
    pub(super) fn prompt_report<'a>(&self, sample: &'a Sample) -> PromptReport<'a> {
        let prompt = &sample.request.prompt;
        let next = self.start + 1..(self.start + self.tokens + 1).min(prompt.len());
        let top = sample.request.params.prompt_logprobs.unwrap_or(0);
        PromptReport { next: prompt.get(next).unwrap_or_default(), top }
    }

    /// The number of its last rows from which tokens are sampled.
    pub(super) fn sampled_rows(&self) -> usize {
        if self.sample_on == SampleOn::None { 0 } else { self.draft.len().max(1) }
    }

    /// Whether logits are returned to the host.
    pub(super) fn returns_rows(&self) -> bool {
        self.report_prompt_on == SampleOn::Host || self.sample_on == SampleOn::Host
    }
}

/// A copy of a sliding-window snapshot, from or to a sequence slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SnapshotCopy {
    pub(super) snapshot: usize,
    pub(super) seq_slot: usize,
    /// The position after the window.
    pub(super) end: usize,
}

/// One step's work.
#[derive(Debug, Default)]
pub(super) struct StepPlan {
    pub(super) entries: Vec<PlanEntry>,
    /// Snapshots to load before it.
    pub(super) loads: Vec<SnapshotCopy>,
    /// Samples whose history the device lacks.
    pub(super) histories: Vec<Key>,
    /// Samples that were preempted when it was made.
    pub(super) preemptions: u64,
    /// Whether its layers were submitted and its sampling was not.
    pub(super) unsampled: bool,
    /// Its number, from 1, and how the backend runs it, once it was submitted.
    pub(super) number: u64,
    pub(super) form: StepForm,
    pub(super) span: Option<tracing::Span>,
}

impl StepPlan {
    /// Tokens of the step.
    pub(super) fn tokens(&self) -> usize {
        self.entries.iter().map(|entry| entry.tokens).sum()
    }

    /// Whether its sampling needs masks that are still to be computed.
    pub(super) fn awaits_masks(&self) -> bool {
        self.entries.iter().any(|entry| entry.awaits_mask)
    }
}
