//! Sampling on the host, from rows of logits that a backend returned. Samples need it whose next token depends on their
//! history (penalties, bias, masks, `min_tokens`), that report logprobs, or that verify drafts. All other tokens are
//! sampled where the logits are. Both ways follow [`crate::sampling`], so they agree as far as the logits do.

use std::borrow::Cow;
use std::collections::HashMap;

use super::params::SamplingParams;
use super::request::TokenLogprobs;
use super::validate::ValidatedRequest;
use crate::{Result, sampling};

/// How often each token occurred, for penalties.
#[derive(Clone, Debug, Default)]
pub(super) struct TokenCounts {
    /// Tokens of the prompt, ascending.
    prompt: Vec<u32>,
    generated: HashMap<u32, u32>,
}

impl TokenCounts {
    /// The counts of a prompt, as far as a request's penalties need them.
    pub(super) fn new(params: &SamplingParams, prompt: &[u32]) -> TokenCounts {
        let mut of_prompt = Vec::new();
        if params.repetition_penalty != 1.0 {
            of_prompt.extend_from_slice(prompt);
            of_prompt.sort_unstable();
            of_prompt.dedup();
        }
        TokenCounts { prompt: of_prompt, generated: HashMap::new() }
    }

    /// Counts a generated token.
    pub(super) fn add(&mut self, token: u32) {
        *self.generated.entry(token).or_default() += 1;
    }
}

/// Whether a request has penalties, for which [`TokenCounts`] are kept.
pub(super) fn has_penalties(params: &SamplingParams) -> bool {
    params.repetition_penalty != 1.0
        || params.presence_penalty != 0.0
        || params.frequency_penalty != 0.0
}

/// Whether the token after `generated` tokens must be sampled on the host.
pub(super) fn needs_host(request: &ValidatedRequest, generated: usize) -> bool {
    let params = &request.params;
    request.mask.is_some()
        || params.logprobs.is_some()
        || !params.logit_bias.is_empty()
        || generated < params.min_tokens
        || has_penalties(params)
}

/// What is known of a sample when a token of it is sampled.
pub(super) struct HostSampler<'a> {
    pub(super) request: &'a ValidatedRequest,
    pub(super) sample: usize,
    pub(super) counts: Cow<'a, TokenCounts>,
    /// Tokens generated so far.
    pub(super) generated: usize,
    /// One bit per token, set if the token is allowed; `None` allows all.
    pub(super) mask: Option<&'a [u32]>,
}

impl HostSampler<'_> {
    /// Samples the token at `position`, with its logprobs if the request asks for them.
    pub(super) fn sample(
        &self,
        row: &mut [f32],
        position: usize,
    ) -> Result<(u32, Option<TokenLogprobs>)> {
        let params = &self.request.params;
        let report = params.logprobs.map(|top| LogprobReport::new(row, top));
        self.adjust_logits(row);
        let token = sampling::sample(row, &params.sampler(self.sample), position)?;
        Ok((token, report.map(|report| report.of(token))))
    }

    /// Moves on to the position after `token`.
    pub(super) fn advance(&mut self, token: u32) {
        self.generated += 1;
        if has_penalties(&self.request.params) {
            self.counts.to_mut().add(token);
        }
    }

    /// Applies the bias, then the penalties, then everything that forbids tokens.
    fn adjust_logits(&self, row: &mut [f32]) {
        let params = &self.request.params;
        for &(token, bias) in &params.logit_bias {
            row[token as usize] += bias;
        }
        if has_penalties(params) {
            self.apply_penalties(row);
        }
        if self.generated < params.min_tokens {
            for &stop in &self.request.stop_ids {
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

    fn apply_penalties(&self, row: &mut [f32]) {
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

/// A row's probabilities as the model computed them.
pub(super) struct LogprobReport {
    row: Vec<f32>,
    /// Logarithm of the sum of exponentials.
    total: f32,
    top: Vec<(u32, f32)>,
}

impl LogprobReport {
    /// The report of a row of logits, with this many of the most likely tokens.
    pub(super) fn new(row: &[f32], top: u32) -> LogprobReport {
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
        LogprobReport { row: row.to_vec(), total, top }
    }

    /// The entry of one token.
    pub(super) fn of(self, token: u32) -> TokenLogprobs {
        let logit = self.row[token as usize];
        let likelier = self.row.iter().filter(|&&other| other > logit).count();
        TokenLogprobs { logprob: logit - self.total, rank: likelier as u32 + 1, top: self.top }
    }
}
