//! What a caller may ask of one prompt's answers. [`super::accept`] checks it before anything runs; how logits become
//! a token is [`crate::sampling`]'s matter.

use ossmith_plan::ModelSpec;

use super::accept;
use crate::{Limits, Result, Sampling};

/// Sampling settings and end conditions of one prompt.
#[derive(Clone, Debug, PartialEq)]
pub struct SamplingParams {
    /// Divides the logits, at least 0; 0 means greedy.
    pub temperature: f32,
    /// Keep only this many best tokens; 0 keeps all.
    pub top_k: u32,
    /// Keep the smallest set of best tokens with at least this much probability, in (0, 1].
    pub top_p: f32,
    /// Drop tokens less likely than this share of the best one, in [0, 1].
    pub min_p: f32,
    /// Divides positive logits, and multiplies others, of every token that the prompt or the answer holds; above 0.
    pub repetition_penalty: f32,
    /// Taken from the logits of every token that the answer holds, in [-2, 2].
    pub presence_penalty: f32,
    /// Taken from a token's logit once for each time the answer holds it, in [-2, 2].
    pub frequency_penalty: f32,
    /// Added to single tokens' logits; minus infinity forbids a token.
    pub logit_bias: Vec<(u32, f32)>,
    /// Report how likely each token was, and this many of the likeliest besides.
    pub logprobs: Option<u32>,
    /// The same of the prompt's tokens.
    pub prompt_logprobs: Option<u32>,
    /// Seed of the draws: the same prompt, settings and seed give the same tokens. Sample `i` draws with `seed + i`.
    pub seed: u64,
    /// Samples of the prompt.
    pub n: usize,
    /// Most tokens to generate, the stop token included; cut at the end of the context.
    /// `None` takes the model's `max_new_tokens`, and all that fits if it names none.
    pub max_tokens: Option<usize>,
    /// No stop token is drawn, and no stop string counts, before this many tokens.
    pub min_tokens: usize,
    /// Token ids that end the answer, besides the model's own.
    pub stop_token_ids: Vec<u32>,
    /// Texts that end the answer where they begin; they need the request's vocabulary.
    pub stop: Vec<String>,
    /// Leave the stop string that was found in the text.
    pub include_stop: bool,
    /// Ignore the model's own stop tokens (`stop_token_ids` still count).
    pub ignore_eos: bool,
}

impl Default for SamplingParams {
    /// What gpt-oss models are published with: temperature 1 and no filter.
    fn default() -> SamplingParams {
        SamplingParams {
            temperature: 1.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            repetition_penalty: 1.0,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            logit_bias: Vec::new(),
            logprobs: None,
            prompt_logprobs: None,
            seed: 0,
            n: 1,
            max_tokens: None,
            min_tokens: 0,
            stop_token_ids: Vec::new(),
            stop: Vec::new(),
            include_stop: false,
            ignore_eos: false,
        }
    }
}

impl SamplingParams {
    /// The most likely token each time.
    #[must_use]
    pub fn greedy() -> SamplingParams {
        SamplingParams { temperature: 0.0, ..SamplingParams::default() }
    }

    /// Whether an engine with these limits would take the prompt: the check of [`crate::Engine::submit`], with no
    /// engine.
    ///
    /// # Errors
    /// [`crate::Error::Request`] with what is wrong and what to do.
    pub fn check(&self, prompt: &[u32], spec: &ModelSpec, limits: &Limits) -> Result<()> {
        accept::prompt(prompt, spec)?;
        accept::settings(self, spec)?;
        accept::stops(self, spec)?;
        accept::room(self, prompt.len(), spec, limits).map(drop)
    }

    /// The part that a backend applies by itself.
    pub(super) fn sampling(&self, sample: usize) -> Sampling {
        let SamplingParams { temperature, top_k, top_p, min_p, seed, .. } = *self;
        Sampling { temperature, top_k, top_p, min_p, seed: seed.wrapping_add(sample as u64) }
    }
}
