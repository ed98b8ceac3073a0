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
use crate::backend::Output;
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
        let drawn = self.draw(plan, output);
        let (mut events, mut saves) = (Vec::new(), Vec::new());
        for (entry, drawn) in plan.entries.iter().zip(drawn) {
            self.apply(entry, drawn, now, &mut events)?;
            self.publish(entry.key, &mut saves);
        }
        Ok((events, saves))
    }

    /// Draws what the engine draws, on all cores.
    fn draw(&self, plan: &Plan, output: Output) -> Vec<Result<Drawn>> {
        let Output { mut sampled, mut logits, .. } = output;
        sampled.resize(plan.entries.len(), None);
        logits.resize(plan.entries.len(), Vec::new());
        let jobs: Vec<(&Entry, Option<u32>, Vec<f32>)> = plan
            .entries
            .iter()
            .zip(sampled)
            .zip(logits)
            .map(|((entry, token), rows)| (entry, token, rows))
            .collect();
        let job = |(entry, token, rows): (&Entry, Option<u32>, Vec<f32>)| {
            let Some(sample) = self.samples.get(&entry.key) else { return Ok(Drawn::default()) };
            drawn(sample, entry, token, rows, self.vocab)
        };
        if jobs.iter().filter(|(.., rows)| !rows.is_empty()).count() > 1 {
            jobs.into_par_iter().map(job).collect()
        } else {
            jobs.into_iter().map(job).collect()
        }
    }

    fn apply(
        &mut self,
        entry: &Entry,
        drawn: Result<Drawn>,
        now: Instant,
        events: &mut Vec<TokenEvent>,
    ) -> Result<()> {
        let Some(sample) = self.samples.get_mut(&entry.key) else { return Ok(()) };
        sample.pending -= usize::from(entry.drawer != Drawer::Nobody);
        let drawn = match drawn {
            Ok(drawn) => drawn,
            Err(Error::Internal(why)) => return Err(Error::Internal(why)),
            // Its own mask or logits: nobody else's matter.
            Err(error) => {
                let why: Arc<str> = error.to_string().into();
                events.extend(self.end(entry.key, FinishReason::Failed(why)));
                return Ok(());
            }
        };
        sample.take_prompt_logprobs(entry.start, drawn.prompt);
        let count = drawn.tokens.len();
        if !entry.drafted.is_empty() {
            if sample.epoch == entry.epoch {
                sample.planned = entry.start + count;
            }
            self.metrics.count_draft(entry.drafted.len() - 1, count - 1);
        }
        for (token, logprobs) in drawn.tokens {
            let event = sample.record(token, logprobs, now, &mut self.metrics);
            let finish = event.finish.clone();
            events.push(event);
            if let Some(why) = finish {
                self.remove(entry.key, &why);
                break;
            }
        }
        Ok(())
    }
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

/// Turns an entry's rows into tokens, until a guess turns out wrong.
fn drawn(
    sample: &Sample,
    entry: &Entry,
    token: Option<u32>,
    mut rows: Vec<f32>,
    vocab: usize,
) -> Result<Drawn> {
    let missing =
        |what| Error::Internal(format!("the backend returned no {what} for slot {}", entry.slot));
    let mut drawn = Drawn::default();
    if entry.reports_prompt {
        if rows.len() != entry.tokens * vocab {
            return Err(missing("logits"));
        }
        drawn.prompt = prompt_logprobs(sample, entry, &rows, vocab);
    }
    match entry.drawer {
        Drawer::Nobody => {}
        Drawer::Backend => drawn.tokens.push((token.ok_or_else(|| missing("token"))?, None)),
        Drawer::Engine => {
            let count = entry.drafted.len().max(1);
            let from = rows.len().checked_sub(count * vocab).ok_or_else(|| missing("logits"))?;
            drawn.tokens = draw_rows(sample, entry, &mut rows[from..], vocab)?;
        }
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
