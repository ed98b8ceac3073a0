//! What a step's output means: tokens sampled on the host, drafts that were accepted, the prompt's logprobs, and the
//! events and ends that follow.

use std::borrow::Cow;
use std::time::Instant;

use rayon::prelude::*;

use super::host_sampling::HostSampler;
use super::mask_threads::MaskState;
use super::request::{FinishReason, TokenEvent};
use super::sample::Sample;
use super::scheduler::Scheduler;
use super::step_plan::{PlanEntry, SampleOn, SnapshotCopy, StepPlan};
use crate::Error;
use crate::backend::{PAGE_TOKENS, StepOutput};
use crate::sampling::{TokenLogprobs, report};

type Result<T, E = Error> = std::result::Result<T, E>;

/// A token and, if the request asks for them, its logprobs.
type Sampled = (u32, Option<TokenLogprobs>);

/// What an entry's rows yield.
#[derive(Debug, Default)]
struct RowResults {
    /// Tokens in order.
    tokens: Vec<Sampled>,
    /// Logprobs of prompt tokens, from the one after the entry's first.
    prompt: Vec<TokenLogprobs>,
}

/// Why an entry's rows yield nothing.
enum RowFailure {
    /// The backend returned less than was requested, so that the engine must stop.
    MissingOutput(Error),
    /// The sample's own mask or logits failed, which concerns no other sample.
    Sample(String),
}

impl Scheduler {
    /// Hands a plan's output to its samples, in plan order; those that end release their sequence slot and pages. Also
    /// returns the snapshots to save.
    ///
    /// # Errors
    /// [`Error::Internal`] if the output lacks a token or a row.
    pub(super) fn postprocess(
        &mut self,
        plan: &StepPlan,
        mut output: StepOutput,
        now: Instant,
    ) -> Result<(Vec<TokenEvent>, Vec<SnapshotCopy>)> {
        let rows = std::mem::take(&mut output.logits);
        let mut row_results = self.process_rows(plan, rows).into_iter();
        let (mut events, mut saves) = (Vec::with_capacity(plan.entries.len()), Vec::new());
        let mut sampled = &output.sampled[..];
        let mut reports = &mut output.reports[..];
        for (index, entry) in plan.entries.iter().enumerate() {
            let results = if entry.returns_rows() { row_results.next() } else { None };
            let rows = if entry.sample_on == SampleOn::Device { entry.sampled_rows() } else { 0 };
            let missing = || missing_output("token", entry);
            let reports = reports.split_off_mut(..rows.min(reports.len())).unwrap_or_default();
            let rows = sampled.split_off(..rows).ok_or_else(missing)?;
            let of_prompt = output.prompt_reports.get_mut(index).map(std::mem::take);
            self.add_prompt_reports(entry, of_prompt.unwrap_or_default())?;
            if self.apply(entry, rows, reports, results, now, &mut events)? {
                self.cache_blocks(entry.key, &mut saves);
            }
        }
        Ok((events, saves))
    }

    /// Processes the returned rows of each entry that has any, on all cores.
    fn process_rows(
        &self,
        plan: &StepPlan,
        logits: Vec<Vec<f32>>,
    ) -> Vec<Result<RowResults, RowFailure>> {
        let rows = logits.into_iter().chain(std::iter::repeat_with(Vec::new));
        let jobs: Vec<(&PlanEntry, Vec<f32>)> =
            plan.entries.iter().zip(rows).filter(|(entry, _)| entry.returns_rows()).collect();
        let job = |(entry, rows): (&PlanEntry, Vec<f32>)| match self.samples.get(&entry.key) {
            Some(sample) => process_entry(sample, entry, rows, self.vocab),
            None => Ok(RowResults::default()),
        };
        if jobs.len() > 1 {
            jobs.into_par_iter().map(job).collect()
        } else {
            jobs.into_iter().map(job).collect()
        }
    }

    /// Hands what a backend reported of the prompt to an entry's sample.
    fn add_prompt_reports(&mut self, entry: &PlanEntry, reports: Vec<TokenLogprobs>) -> Result<()> {
        let reported = entry.report_prompt_on == SampleOn::Device;
        let Some(sample) = self.samples.get_mut(&entry.key).filter(|_| reported) else {
            return Ok(());
        };
        if reports.len() != entry.prompt_report(sample).next.len() {
            return Err(missing_output("report of the prompt", entry));
        }
        sample.add_prompt_logprobs(entry.start, reports);
        Ok(())
    }

    /// Applies the tokens that one entry's rows sampled, on the device (with their reports) or from returned rows. Returns
    /// whether the tokens of a further page are now known.
    fn apply(
        &mut self,
        entry: &PlanEntry,
        rows: &[Option<u32>],
        reports: &mut [Option<TokenLogprobs>],
        results: Option<Result<RowResults, RowFailure>>,
        now: Instant,
        events: &mut Vec<TokenEvent>,
    ) -> Result<bool> {
        self.note_change(entry.key);
        let Some(sample) = self.samples.get_mut(&entry.key) else { return Ok(false) };
        sample.pending -= usize::from(entry.sample_on != SampleOn::None);
        let results = match results.transpose() {
            Ok(results) => results.unwrap_or_default(),
            Err(RowFailure::MissingOutput(error)) => return Err(error),
            Err(RowFailure::Sample(reason)) => {
                events.extend(self.end(entry.key, FinishReason::Failed(reason.into())));
                return Ok(false);
            }
        };
        sample.add_prompt_logprobs(entry.start, results.prompt);
        let (from_device, non_finite) = verified(rows, &entry.draft);
        let (count, known) = (from_device.len() + results.tokens.len(), sample.tokens.len());
        if !entry.draft.is_empty() {
            sample.draft_in_flight = false;
            if sample.epoch == entry.epoch {
                sample.scheduled = entry.start + count;
            }
            let (drafted, accepted) = (entry.draft.len() - 1, count.saturating_sub(1));
            sample.drafts.record(drafted, accepted, sample.generated() + count);
            self.metrics.count_draft(drafted, accepted);
        }
        self.metrics.host_sampled_tokens += results.tokens.len() as u64;
        // The device counts only what it samples.
        sample.history_on_device &= results.tokens.is_empty();
        if sample.request.params.logprobs.is_some()
            && (0..from_device.len()).any(|row| reports.get(row).is_none_or(Option::is_none))
        {
            return Err(missing_output("report", entry));
        }
        let of_device = reports.iter_mut().map(Option::take).chain(std::iter::repeat(None));
        for (token, logprobs) in from_device.into_iter().zip(of_device).chain(results.tokens) {
            let event = sample.record(token, logprobs, now, &mut self.metrics);
            let finish = event.finish.clone();
            events.push(event);
            if let Some(reason) = finish {
                self.remove(entry.key, &reason);
                return Ok(false);
            }
        }
        if non_finite {
            let position = entry.start + entry.tokens - rows.len() + count + 1;
            let error = Error::NonFiniteLogits { position };
            events.extend(self.end(entry.key, FinishReason::Failed(error.to_string().into())));
            return Ok(false);
        }
        let fills_page = sample.tokens.len() / PAGE_TOKENS > known / PAGE_TOKENS;
        if entry.sample_on != SampleOn::None {
            self.renew_mask(entry.key);
        }
        Ok(fills_page)
    }
}

/// The tokens of an entry's sampled rows that count: up to the first that differs from the draft, that one included. Also
/// whether they end before a row that could not be sampled.
fn verified(rows: &[Option<u32>], draft: &[u32]) -> (Vec<u32>, bool) {
    let mut tokens = Vec::with_capacity(rows.len());
    for (index, &row) in rows.iter().enumerate() {
        let Some(token) = row else { return (tokens, true) };
        tokens.push(token);
        if draft.get(index + 1) != Some(&token) {
            break;
        }
    }
    (tokens, false)
}

/// The backend returned less than was requested.
fn missing_output(what: &str, entry: &PlanEntry) -> Error {
    Error::Internal(format!("the backend returned no {what} for sequence slot {}", entry.seq_slot))
}

impl Sample {
    fn add_prompt_logprobs(&mut self, start: usize, rows: Vec<TokenLogprobs>) {
        if rows.is_empty() {
            return;
        }
        if self.prompt_logprobs.is_empty() {
            self.prompt_logprobs.push(None);
        }
        // What was known before the sample was preempted is not added twice.
        let known = self.prompt_logprobs.len();
        let new = rows.into_iter().enumerate().filter(|(index, _)| start + index + 1 >= known);
        self.prompt_logprobs.extend(new.map(|(_, row)| Some(row)));
    }
}

/// Turns an entry's rows into logprobs of the prompt and, where the host samples, into tokens.
fn process_entry(
    sample: &Sample,
    entry: &PlanEntry,
    rows: Vec<f32>,
    vocab: usize,
) -> Result<RowResults, RowFailure> {
    let missing = || RowFailure::MissingOutput(missing_output("logits", entry));
    let mut results = RowResults::default();
    if entry.report_prompt_on == SampleOn::Host {
        if rows.len() != entry.tokens * vocab {
            return Err(missing());
        }
        results.prompt = prompt_logprobs(sample, entry, &rows, vocab);
    }
    if entry.sample_on == SampleOn::Host {
        let sampled = entry.draft.len().max(1) * vocab;
        let from = rows.len().checked_sub(sampled).ok_or_else(missing)?;
        results.tokens =
            sample_rows(sample, entry, &rows[from..], vocab).map_err(RowFailure::Sample)?;
    }
    Ok(results)
}

/// Samples one token from each row, until one differs from the draft.
fn sample_rows(
    sample: &Sample,
    entry: &PlanEntry,
    rows: &[f32],
    vocab: usize,
) -> Result<Vec<Sampled>, String> {
    let mut tokens = Vec::new();
    let mask = sample.mask.as_ref().map(|constraint| constraint.mask.listed());
    let listed = mask.transpose()?.flatten();
    let mut sampler = HostSampler {
        request: &sample.request,
        sample: entry.key.index,
        history: Cow::Borrowed(&sample.history),
        generated: sample.generated(),
        mask: listed.as_deref().map(MaskState::words),
    };
    let first = entry.start + entry.tokens - entry.draft.len().max(1);
    for (index, row) in rows.chunks_exact(vocab).enumerate() {
        let sampled = sampler.sample(row, first + index + 1);
        let (token, logprobs) = sampled.map_err(|error| error.to_string())?;
        tokens.push((token, logprobs));
        if entry.draft.get(index + 1) != Some(&token) {
            break;
        }
        sampler.advance(token);
    }
    Ok(tokens)
}

fn prompt_logprobs(
    sample: &Sample,
    entry: &PlanEntry,
    rows: &[f32],
    vocab: usize,
) -> Vec<TokenLogprobs> {
    let top = sample.request.params.prompt_logprobs.unwrap_or(0);
    let next = sample.request.prompt.iter().skip(entry.start + 1);
    let rows: Vec<(&[f32], &u32)> = rows.chunks_exact(vocab).zip(next).collect();
    rows.into_par_iter().map(|(row, &token)| report(row, token, top)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sampled rows, the draft, the tokens that count, and whether a row without a sample follows them.
    type Case = (&'static [Option<u32>], &'static [u32], &'static [u32], bool);

    const CASES: &[Case] = &[
        (&[], &[], &[], false),
        (&[Some(7)], &[], &[7], false),
        (&[Some(7), Some(8), Some(9)], &[1, 7, 8], &[7, 8, 9], false),
        (&[Some(7), Some(5), Some(9)], &[1, 7, 8], &[7, 5], false),
        (&[None, Some(8)], &[1, 7], &[], true),
        (&[Some(7), None], &[1, 7], &[7], true),
        // The row after a wrong token means nothing.
        (&[Some(6), None], &[1, 7], &[6], false),
    ];

    #[test]
    fn rows_of_a_draft_count_up_to_the_first_that_differs() {
        for &(rows, draft, tokens, non_finite) in CASES {
            assert_eq!(verified(rows, draft), (tokens.to_vec(), non_finite), "{rows:?} {draft:?}");
        }
    }
}
