//! What Python passes as attributes of its own objects: `SamplingParams`, and the options of an engine.

use std::sync::Arc;

use ossmith::{Detokenizer, Device, EngineOptions, Limits, PAGE_TOKENS, Policy, SamplingParams};
use ossmith_harmony::{special, token_bytes};
use ossmith_plan::ModelSpec;
use pyo3::prelude::*;

use crate::errors;

/// Attributes of a `SamplingParams`, checked for their types by Python and for their ranges by the engine.
#[derive(FromPyObject)]
pub(crate) struct Params {
    n: usize,
    temperature: f32,
    top_k: i64,
    top_p: f32,
    min_p: f32,
    repetition_penalty: f32,
    presence_penalty: f32,
    frequency_penalty: f32,
    #[pyo3(attribute("_logit_bias"))]
    logit_bias: Option<Vec<(u32, f32)>>,
    logprobs: Option<u32>,
    prompt_logprobs: Option<u32>,
    seed: Option<u64>,
    max_tokens: Option<usize>,
    min_tokens: usize,
    stop: Vec<String>,
    stop_token_ids: Vec<u32>,
    include_stop_str_in_output: bool,
    ignore_eos: bool,
    pub(crate) detokenize: bool,
    skip_special_tokens: bool,
}

impl Params {
    /// The engine's settings; `seed` is for requests without one.
    pub(crate) fn settings(self, seed: u64) -> SamplingParams {
        SamplingParams::default()
            .with_n(self.n)
            .with_temperature(self.temperature)
            .with_top_k(u32::try_from(self.top_k.max(0)).unwrap_or(u32::MAX))
            .with_top_p(self.top_p)
            .with_min_p(self.min_p)
            .with_repetition_penalty(self.repetition_penalty)
            .with_presence_penalty(self.presence_penalty)
            .with_frequency_penalty(self.frequency_penalty)
            .with_logit_bias(self.logit_bias.unwrap_or_default())
            .with_logprobs(self.logprobs)
            .with_prompt_logprobs(self.prompt_logprobs)
            .with_seed(self.seed.unwrap_or(seed))
            .with_max_tokens(self.max_tokens)
            .with_min_tokens(self.min_tokens)
            .with_stop(self.stop)
            .with_stop_token_ids(self.stop_token_ids)
            .with_include_stop(self.include_stop_str_in_output)
            .with_ignore_eos(self.ignore_eos)
    }

    /// What turns its tokens into text.
    pub(crate) fn detokenizer(&self) -> Option<Arc<dyn Detokenizer>> {
        match (self.detokenize, self.skip_special_tokens) {
            (false, _) => None,
            (true, true) => Some(Arc::new(token_bytes)),
            (true, false) => Some(Arc::new(WithSpecialTokens::new())),
        }
    }
}

/// The bytes of every token, a special token's being its name.
struct WithSpecialTokens {
    /// Names of the ids from the first special token on.
    names: Vec<Vec<u8>>,
}

impl WithSpecialTokens {
    fn new() -> WithSpecialTokens {
        let name = |token| special::name(token).unwrap_or_default().into_owned().into_bytes();
        WithSpecialTokens {
            names: (special::START_OF_TEXT..special::VOCABULARY_SIZE).map(name).collect(),
        }
    }
}

impl Detokenizer for WithSpecialTokens {
    fn token_bytes(&self, token: u32) -> Option<&[u8]> {
        token_bytes(token).or_else(|| {
            let index = token.checked_sub(special::START_OF_TEXT)?;
            self.names.get(index as usize).map(Vec::as_slice)
        })
    }
}

/// Attributes of the options with which Python loads an engine.
#[derive(FromPyObject)]
pub(crate) struct Options {
    pub(crate) model: String,
    pub(crate) weights_seed: u64,
    backend: String,
    threads: Option<usize>,
    max_model_len: Option<usize>,
    max_num_seqs: usize,
    max_num_batched_tokens: usize,
    kv_cache_tokens: Option<usize>,
    enable_prefix_caching: bool,
    draft_tokens: usize,
    max_waiting: usize,
}

impl Options {
    /// The engine's options, and the most tokens of a prompt and its answer.
    pub(crate) fn resolve(
        &self,
        py: Python<'_>,
        spec: &ModelSpec,
    ) -> PyResult<(EngineOptions, usize)> {
        let wanted = self.device(py)?;
        // A look for a device may load its driver.
        let device = py.detach(|| wanted.resolve().0);
        let most = match self.max_model_len {
            Some(tokens) if tokens > spec.context => {
                let text = format!(
                    "max_model_len is {tokens}, but the context of {} is {} tokens",
                    spec.name, spec.context
                );
                return Err(errors::invalid(py, text));
            }
            Some(tokens) => tokens,
            None => ossmith_cli::default_context(spec, device),
        };
        let tokens = self.kv_cache_tokens.unwrap_or_else(|| most.saturating_mul(2));
        let limits = Limits::default()
            .with_max_sequences(self.max_num_seqs)
            .with_max_step_tokens(self.max_num_batched_tokens)
            .with_pages(tokens.div_ceil(PAGE_TOKENS));
        let policy = Policy::default()
            .with_prefix_cache(self.enable_prefix_caching)
            .with_draft_tokens(self.draft_tokens)
            .with_max_waiting(self.max_waiting);
        let options = EngineOptions::default()
            .with_device(wanted)
            .with_limits(limits)
            .with_threads(self.threads)
            .with_policy(policy);
        Ok((options, most.min(tokens)))
    }

    fn device(&self, py: Python<'_>) -> PyResult<Device> {
        ossmith_cli::device_named(&self.backend).map_err(|expected| {
            errors::invalid(py, format!("the backend is {:?}; {expected}", self.backend))
        })
    }
}
