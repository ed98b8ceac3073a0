//! What a step's output means: draws that the engine makes itself, drafts that held, the prompt's logprobs, and the
//! events and ends that follow.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Instant;

use rayon::prelude::*;

use super::draw::{Draw, Report};
use super::plan::{Drawer, Entry, Plan, TailCopy};
use super::request::{FinishReason, TokenEvent, TokenLogprobs};
use super::sample::Sample;
use super::scheduler::Scheduler;
use crate::backend::{Output, PAGE_TOKENS};
use crate::{Error, Result};

/// What an entry's rows gave.
#[derive(Debug, Default)]
struct Drawn {
    /// Tokens in order, each with its report.
    tokens: Vec<(u32, Option<TokenLogprobs>)>,
    /// Logprobs of prompt tokens, from the one after the entry's first.
    prompt: Vec<TokenLogprobs>,
}

impl Scheduler {
    /// Hands a plan's output to its samples, in plan order; those that end free their slot and pages. Also gives the
    /// tails to save.
    ///
    /// # Errors
    /// [`Error::Internal`] if a token is missing from the output.
    pub(super) fn postprocess(
        &mut self,
        plan: &Plan,
        output: Output,
        now: Instant,
    ) -> Result<(Vec<TokenEvent>, Vec<TailCopy>)> {
        let mut of_rows = self.draw(plan, output.logits).into_iter();
        let (mut events, mut saves) = (Vec::with_capacity(plan.entries.len()), Vec::new());
        for (index, entry) in plan.entries.iter().enumerate() {
            let token = output.sampled.get(index).copied().flatten();
            let rows = if entry.returns_rows() { of_rows.next() } else { None };
            if output.damaged.contains(&index) {
                let why = format!(
                    "the largest logit at position {} is no finite number: weights or kernels are damaged",
                    entry.start + entry.tokens
                );
                events.extend(self.end(entry.key, FinishReason::Failed(why.into())));
                continue;
            }
            if self.apply(entry, token, rows, now, &mut events)? {
                self.publish(entry.key, &mut saves);
            }
        }
        Ok((events, saves))
    }

    /// What the rows that came back mean, for each entry that has any, on all cores.
    fn draw(&self, plan: &Plan, logits: Vec<Vec<f32>>) -> Vec<Result<Drawn>> {
        let rows = logits.into_iter().chain(std::iter::repeat_with(Vec::new));
        let jobs: Vec<(&Entry, Vec<f32>)> =
            plan.entries.iter().zip(rows).filter(|(entry, _)| entry.returns_rows()).collect();
        let job = |(entry, rows): (&Entry, Vec<f32>)| match self.samples.get(&entry.key) {
            Some(sample) => drawn(sample, entry, rows, self.vocab),
            None => Ok(Drawn::default()),
        };
        if jobs.len() > 1 {
            jobs.into_par_iter().map(job).collect()
        } else {
            jobs.into_iter().map(job).collect()
        }
    }

    /// Takes one entry's token, or what its rows gave; says whether the tokens of a further page are known now.
    fn apply(
        &mut self,
        entry: &Entry,
        token: Option<u32>,
        rows: Option<Result<Drawn>>,
        now: Instant,
        events: &mut Vec<TokenEvent>,
    ) -> Result<bool> {
        let Some(sample) = self.samples.get_mut(&entry.key) else { return Ok(false) };
        sample.pending -= usize::from(entry.drawer != Drawer::Nobody);
        let drawn = match rows.transpose() {
            Ok(drawn) => drawn.unwrap_or_default(),
            Err(Error::Internal(why)) => return Err(Error::Internal(why)),
            // Its own mask or logits: nobody else's matter.
            Err(error) => {
                let why: Arc<str> = error.to_string().into();
                events.extend(self.end(entry.key, FinishReason::Failed(why)));
                return Ok(false);
            }
        };
        sample.take_prompt_logprobs(entry.start, drawn.prompt);
        let (count, known) = (drawn.tokens.len(), sample.tokens.len());
        if !entry.drafted.is_empty() {
            sample.guessed = false;
            if sample.epoch == entry.epoch {
                sample.planned = entry.start + count;
            }
            let (guesses, right) = (entry.drafted.len() - 1, count - 1);
            sample.drafting.settle(guesses, right, sample.generated() + count);
            self.metrics.count_draft(guesses, right);
        }
        let of_backend = match entry.drawer {
            Drawer::Backend => Some((token.ok_or_else(|| missing("token", entry))?, None)),
            Drawer::Engine | Drawer::Nobody => None,
        };
        self.metrics.host_drawn_tokens += count as u64;
        for (token, logprobs) in of_backend.into_iter().chain(drawn.tokens) {
            let event = sample.record(token, logprobs, now, &mut self.metrics);
            let finish = event.finish.clone();
            events.push(event);
            if let Some(why) = finish {
                self.remove(entry.key, &why);
                return Ok(false);
            }
        }
        Ok(sample.tokens.len() / PAGE_TOKENS > known / PAGE_TOKENS)
    }
}

/// The backend returned less than it was asked for.
fn missing(what: &str, entry: &Entry) -> Error {
    Error::Internal(format!("the backend returned no {what} for slot {}", entry.slot))
}

impl Sample {
    fn take_prompt_logprobs(&mut self, start: usize, rows: Vec<TokenLogprobs>) {
        if rows.is_empty() {
            return;
        }
        if self.prompt_logprobs.is_empty() {
            self.prompt_logprobs.push(None);
        }
        // What was known before the sample gave its pages up is not taken twice.
        let known = self.prompt_logprobs.len();
        let new = rows.into_iter().enumerate().filter(|(index, _)| start + index + 1 >= known);
        self.prompt_logprobs.extend(new.map(|(_, row)| Some(row)));
    }
}

/// Turns an entry's rows into reports and, where the engine draws, tokens, until a guess turns out wrong.
fn drawn(sample: &Sample, entry: &Entry, mut rows: Vec<f32>, vocab: usize) -> Result<Drawn> {
    let mut drawn = Drawn::default();
    if entry.reports_prompt {
        if rows.len() != entry.tokens * vocab {
            return Err(missing("logits", entry));
        }
        drawn.prompt = prompt_logprobs(sample, entry, &rows, vocab);
    }
    if entry.drawer == Drawer::Engine {
        let wanted = entry.drafted.len().max(1) * vocab;
        let from = rows.len().checked_sub(wanted).ok_or_else(|| missing("logits", entry))?;
        drawn.tokens = draw_rows(sample, entry, &mut rows[from..], vocab)?;
    }
    Ok(drawn)
}

fn draw_rows(
    sample: &Sample,
    entry: &Entry,
    rows: &mut [f32],
    vocab: usize,
) -> Result<Vec<(u32, Option<TokenLogprobs>)>> {
    let mut tokens = Vec::new();
    let mut draw = Draw {
        request: &sample.request,
        sample: entry.key.index,
        counts: Cow::Borrowed(&sample.counts),
        generated: sample.generated(),
        mask: sample.listed().map_err(Error::Request)?,
    };
    let first = entry.start + entry.tokens - entry.drafted.len().max(1);
    for (index, row) in rows.chunks_exact_mut(vocab).enumerate() {
        let (token, report) = draw.token(row, first + index + 1)?;
        tokens.push((token, report));
        if entry.drafted.get(index + 1) != Some(&token) {
            break;
        }
        draw.follow(token);
    }
    Ok(tokens)
}

fn prompt_logprobs(
    sample: &Sample,
    entry: &Entry,
    rows: &[f32],
    vocab: usize,
) -> Vec<TokenLogprobs> {
    let top = sample.request.params.prompt_logprobs.unwrap_or(0);
    let next = sample.request.prompt.iter().skip(entry.start + 1);
    let rows: Vec<(&[f32], &u32)> = rows.chunks_exact(vocab).zip(next).collect();
    rows.into_par_iter().map(|(row, &token)| Report::new(row, top).of(token)).collect()
}
