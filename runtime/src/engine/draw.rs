//! Draws that the engine makes itself, from rows of logits that a backend returned: whatever needs a request's history
//! (penalties, bias, masks, least lengths), reports (logprobs), and several rows at once (drafts). All other draws
//! happen where the logits are. Both do what [`crate::sampling`] says, so they agree as far as the logits do.

use std::borrow::Cow;
use std::collections::HashMap;

use super::accept::Accepted;
use super::params::SamplingParams;
use super::request::TokenLogprobs;
use crate::{Result, sampling};

/// How often tokens came, for penalties.
#[derive(Clone, Debug, Default)]
pub(super) struct Counts {
    /// Tokens of the prompt, ascending.
    prompt: Vec<u32>,
    generated: HashMap<u32, u32>,
}

impl Counts {
    /// What a request's penalties need of its prompt.
    pub(super) fn new(params: &SamplingParams, prompt: &[u32]) -> Counts {
        let mut of_prompt = Vec::new();
        if params.repetition_penalty != 1.0 {
            of_prompt.extend_from_slice(prompt);
            of_prompt.sort_unstable();
            of_prompt.dedup();
        }
        Counts { prompt: of_prompt, generated: HashMap::new() }
    }

    /// Takes note of a generated token.
    pub(super) fn add(&mut self, token: u32) {
        *self.generated.entry(token).or_default() += 1;
    }
}

/// Whether a request has penalties, which [`Counts`] are kept for.
pub(super) fn has_penalties(params: &SamplingParams) -> bool {
    params.repetition_penalty != 1.0
        || params.presence_penalty != 0.0
        || params.frequency_penalty != 0.0
}

/// Whether the draw after `generated` tokens needs more than a backend does.
pub(super) fn needs_host(request: &Accepted, generated: usize) -> bool {
    let params = &request.params;
    request.mask.is_some()
        || params.logprobs.is_some()
        || !params.logit_bias.is_empty()
        || generated < params.min_tokens
        || has_penalties(params)
}

/// What is known of a sample when a token of it is drawn.
pub(super) struct Draw<'a> {
    pub(super) request: &'a Accepted,
    pub(super) sample: usize,
    pub(super) counts: Cow<'a, Counts>,
    /// Tokens generated so far.
    pub(super) generated: usize,
    /// A bit a token that may come; `None` allows all.
    pub(super) mask: Option<&'a [u32]>,
}

impl Draw<'_> {
    /// Draws the token that comes at `position`, and reports on it if that was asked for.
    pub(super) fn token(
        &self,
        row: &mut [f32],
        position: usize,
    ) -> Result<(u32, Option<TokenLogprobs>)> {
        let params = &self.request.params;
        let report = params.logprobs.map(|top| Report::new(row, top));
        self.adjust(row);
        let token = sampling::draw(row, &params.sampling(self.sample), position)?;
        Ok((token, report.map(|report| report.of(token))))
    }

    /// Goes on to the draw after `token`.
    pub(super) fn follow(&mut self, token: u32) {
        self.generated += 1;
        if has_penalties(&self.request.params) {
            self.counts.to_mut().add(token);
        }
    }

    /// Bias, then penalties, then what may not come at all.
    fn adjust(&self, row: &mut [f32]) {
        let params = &self.request.params;
        for &(token, bias) in &params.logit_bias {
            row[token as usize] += bias;
        }
        if has_penalties(params) {
            self.punish(row);
        }
        if self.generated < params.min_tokens {
            for &stop in &self.request.stops {
                row[stop as usize] = f32::NEG_INFINITY;
            }
        }
        if let Some(mask) = self.mask {
            for (logits, &word) in row.chunks_mut(u32::BITS as usize).zip(mask) {
                if word != u32::MAX {
                    for (bit, logit) in logits.iter_mut().enumerate() {
                        if word >> bit & 1 == 0 {
                            *logit = f32::NEG_INFINITY;
                        }
                    }
                }
            }
        }
    }

    fn punish(&self, row: &mut [f32]) {
        let params = &self.request.params;
        let repeat = |logit: &mut f32| {
            *logit = if *logit > 0.0 {
                *logit / params.repetition_penalty
            } else {
                *logit * params.repetition_penalty
            };
        };
        for (&token, &count) in &self.counts.generated {
            let logit = &mut row[token as usize];
            repeat(logit);
            *logit -= params.frequency_penalty * count as f32 + params.presence_penalty;
        }
        for &token in &self.counts.prompt {
            if !self.counts.generated.contains_key(&token) {
                repeat(&mut row[token as usize]);
            }
        }
    }
}

/// A row's probabilities as the model gave them.
pub(super) struct Report {
    row: Vec<f32>,
    /// Logarithm of the sum of exponentials.
    total: f32,
    top: Vec<(u32, f32)>,
}

impl Report {
    /// Of a row of logits, with this many of the likeliest.
    pub(super) fn new(row: &[f32], top: u32) -> Report {
        let largest = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let sum: f64 = row.iter().map(|&logit| f64::from((logit - largest).exp())).sum();
        let total = largest + sum.ln() as f32;
        let mut best: Vec<u32> = Vec::new();
        let count = row.len().min(top as usize);
        if count > 0 {
            best.extend(0..row.len() as u32);
            let order =
                |a: &u32, b: &u32| row[*b as usize].total_cmp(&row[*a as usize]).then(a.cmp(b));
            best.select_nth_unstable_by(count - 1, order);
            best.truncate(count);
            best.sort_unstable_by(order);
        }
        let top = best.into_iter().map(|id| (id, row[id as usize] - total)).collect();
        Report { row: row.to_vec(), total, top }
    }

    /// What it says of a token.
    pub(super) fn of(self, token: u32) -> TokenLogprobs {
        let logit = self.row[token as usize];
        let likelier = self.row.iter().filter(|&&other| other > logit).count();
        TokenLogprobs { logprob: logit - self.total, rank: likelier as u32 + 1, top: self.top }
    }
}
