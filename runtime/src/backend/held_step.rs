//! What a backend keeps of a step whose layers were submitted and whose rows are still to be sampled.

use super::{Input, LogitRows, PromptReport, RowSampling, Sequence, Step};
use crate::{Error, Result};

/// What sampling needs to know of a step.
#[derive(Clone, Debug, Default)]
pub(crate) struct HeldStep {
    sequences: Vec<HeldSequence>,
}

#[derive(Clone, Debug)]
struct HeldSequence {
    seq_slot: usize,
    start: usize,
    input: Vec<u32>,
    is_draft: bool,
    samples: bool,
    /// The tokens of a prompt that are reported, and how many of the most likely ones beside each.
    prompt_report: Option<(Vec<u32>, u32)>,
    logits: LogitRows,
}

impl HeldStep {
    pub(crate) fn new(step: &Step<'_>) -> HeldStep {
        let held = |sequence: &Sequence<'_>| HeldSequence {
            seq_slot: sequence.seq_slot,
            start: sequence.start,
            input: match sequence.input {
                Input::Tokens(tokens) | Input::Draft(tokens) => tokens.to_vec(),
                // What it was is no longer of interest.
                Input::Sampled => vec![0],
            },
            is_draft: matches!(sequence.input, Input::Draft(_)),
            samples: sequence.sample.is_some(),
            prompt_report: sequence.prompt_report.map(|report| (report.next.to_vec(), report.top)),
            logits: sequence.logits,
        };
        HeldStep { sequences: step.sequences.iter().map(held).collect() }
    }

    /// The sequences again, without their pages, to be sampled by `rows`.
    ///
    /// # Errors
    /// [`Error::Internal`] if there is not one entry for each sequence, or one for a sequence that was not to be sampled.
    pub(crate) fn sequences<'a>(
        &'a self,
        rows: &[Option<RowSampling<'a>>],
    ) -> Result<Vec<Sequence<'a>>> {
        let fits = |(held, row): (&HeldSequence, &Option<_>)| held.samples || row.is_none();
        if rows.len() != self.sequences.len() || !self.sequences.iter().zip(rows).all(fits) {
            let problem = "a step is sampled by other rows than it was submitted for";
            return Err(Error::Internal(problem.to_owned()));
        }
        let sequence = |(held, row): (&'a HeldSequence, &Option<RowSampling<'a>>)| Sequence {
            seq_slot: held.seq_slot,
            start: held.start,
            input: match held.is_draft {
                true => Input::Draft(&held.input),
                false => Input::Tokens(&held.input),
            },
            pages: &[],
            sample: *row,
            prompt_report: held
                .prompt_report
                .as_ref()
                .map(|(next, top)| PromptReport { next, top: *top }),
            logits: held.logits,
        };
        Ok(self.sequences.iter().zip(rows).map(sequence).collect())
    }
}

/// The failure of a call that needs a step whose rows are still to be sampled, or that there is none.
pub(crate) fn out_of_order(call: &str) -> Error {
    Error::Internal(format!(
        "{call} was called out of the order of submit_layers, sample and collect"
    ))
}
