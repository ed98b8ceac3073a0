//! What a caller may set for the answers to one prompt. [`mod@super::validate`] checks it before anything runs; how logits
//! become a token is described in [`crate::sampling`].

use crate::sampling::{Penalties, SamplerConfig};
use crate::setters::setters;

/// Sampling settings and end conditions of one prompt. Start from [`SamplingParams::default`] or
/// [`SamplingParams::greedy`] and change what differs:
///
/// ```
/// let params = ossmith::SamplingParams::default().with_temperature(0.7).with_max_tokens(100);
/// assert_eq!(params.max_tokens, Some(100));
/// ```
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct SamplingParams {
    /// Divides the logits, at least 0; 0 means greedy.
    pub temperature: f32,
    /// Keep only this many of the most likely tokens; 0 keeps all.
    pub top_k: u32,
    /// Keep the smallest set of most likely tokens with at least this much probability, in (0, 1].
    pub top_p: f32,
    /// Drop tokens whose probability is below this fraction of the most likely token's, in [0, 1].
    pub min_p: f32,
    /// Divides the positive logits, and multiplies the others, of every token that the prompt or the answer contains;
    /// above 0.
    pub repetition_penalty: f32,
    /// Subtracted from the logit of every token that the answer contains, in [-2, 2].
    pub presence_penalty: f32,
    /// Subtracted from a token's logit once for each time the answer contains it, in [-2, 2].
    pub frequency_penalty: f32,
    /// Added to the logits of single tokens; minus infinity forbids a token.
    pub logit_bias: Vec<(u32, f32)>,
    /// Report the log probability of each token, and this many of the most likely tokens besides.
    pub logprobs: Option<u32>,
    /// The same for the prompt's tokens.
    pub prompt_logprobs: Option<u32>,
    /// Seed of the sampling: the same prompt, settings and seed give the same tokens. Sample `i` uses `seed + i`.
    pub seed: u64,
    /// The number of samples of the prompt.
    pub n: usize,
    /// The maximum number of tokens to generate, the stop token included; lowered to what the context has room for.
    /// `None` takes the model's `max_new_tokens`, and all that fits if it names none.
    pub max_tokens: Option<usize>,
    /// No stop token is sampled, and no stop string counts, before this many tokens.
    pub min_tokens: usize,
    /// Token ids that end the answer, besides the model's own.
    pub stop_token_ids: Vec<u32>,
    /// Texts that end the answer where they begin; they need the request's detokenizer.
    pub stop: Vec<String>,
    /// Leave the stop string that was found in the text.
    pub include_stop: bool,
    /// Ignore the model's own stop tokens (`stop_token_ids` still count).
    pub ignore_eos: bool,
}

impl Default for SamplingParams {
    /// The settings that gpt-oss models are published with: temperature 1 and no filter.
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

setters!(SamplingParams {
    with_temperature(temperature: f32),
    with_top_k(top_k: u32),
    with_top_p(top_p: f32),
    with_min_p(min_p: f32),
    with_repetition_penalty(repetition_penalty: f32),
    with_presence_penalty(presence_penalty: f32),
    with_frequency_penalty(frequency_penalty: f32),
    with_logit_bias(logit_bias: impl Into<Vec<(u32, f32)>>),
    with_logprobs(logprobs: impl Into<Option<u32>>),
    with_prompt_logprobs(prompt_logprobs: impl Into<Option<u32>>),
    with_seed(seed: u64),
    with_n(n: usize),
    with_max_tokens(max_tokens: impl Into<Option<usize>>),
    with_min_tokens(min_tokens: usize),
    with_stop_token_ids(stop_token_ids: impl Into<Vec<u32>>),
    with_stop(stop: impl Into<Vec<String>>),
    with_include_stop(include_stop: bool),
    with_ignore_eos(ignore_eos: bool),
});

impl SamplingParams {
    /// The most likely token each time.
    #[must_use]
    pub fn greedy() -> SamplingParams {
        SamplingParams { temperature: 0.0, ..SamplingParams::default() }
    }

    /// The settings that a backend applies by itself.
    pub(super) fn sampler(&self, sample: usize) -> SamplerConfig {
        let SamplingParams { temperature, top_k, top_p, min_p, seed, .. } = *self;
        SamplerConfig { temperature, top_k, top_p, min_p, seed: seed.wrapping_add(sample as u64) }
    }

    /// What earlier tokens cost; `None` if nothing.
    pub(super) fn penalties(&self) -> Option<Penalties> {
        let penalties = Penalties {
            repetition: self.repetition_penalty,
            presence: self.presence_penalty,
            frequency: self.frequency_penalty,
        };
        (penalties != Penalties::NONE).then_some(penalties)
    }
}
