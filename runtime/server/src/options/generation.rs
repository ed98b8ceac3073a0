//! How tokens are sampled, when an answer ends, and how its tokens are reported: the fields that Chat Completions, Completions,
//! Responses and raw tokens have in common, vLLM's extensions among them.

use std::collections::BTreeMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;

use ossmith::{Adapter, Request, SamplingParams};
use ossmith_guide::Guide;
use serde_json::Value;

use crate::backend::{GenerationRequest, MaskFailure};
use crate::config::Config;
use crate::error::{ApiError, Result};
use crate::fields::{Fields, describe};
use crate::mask::TokenRules;
use crate::tenant::salt_of;

/// Everything that a request says about sampling and about how its tokens are reported.
#[derive(Clone, Debug)]
pub(crate) struct GenerationOptions {
    pub(crate) params: SamplingParams,
    /// Requests of a lower priority run first.
    pub(crate) priority: i32,
    /// Requests share cached prefixes only with requests of the same salt; 0 without `cache_salt`.
    cache_salt: u64,
    /// The adapter that the request names as its model.
    pub(crate) adapter: Option<Arc<Adapter>>,
    /// The only tokens that may be generated, if the request names any.
    pub(crate) allowed_token_ids: Option<Vec<u32>>,
    /// Token sequences that must not appear.
    pub(crate) bad_words: Vec<Vec<u32>>,
    /// Texts that end the answer.
    pub(crate) stop_strings: Vec<String>,
    /// The stop string that was found stays in the text.
    pub(crate) include_stop: bool,
    /// Choices for each prompt.
    pub(crate) n: usize,
    pub(crate) return_token_ids: bool,
    pub(crate) tokens_as_ids: bool,
    /// Tokens per chunk of a stream.
    pub(crate) stream_interval: usize,
    /// How many of its last tokens a prompt keeps.
    truncate_prompt: Option<usize>,
    /// Most tokens of reasoning.
    pub(crate) thinking_budget: Option<usize>,
}

/// Log-probabilities of prompts in one answer: 70 bytes each, as text.
const MAX_PROMPT_REPORT: usize = 2 << 20;
const MAX_STOP_STRINGS: usize = 16;
const MAX_STOP_BYTES: usize = 1024;
/// Logits are divided by the penalty, so a smaller one could make them overflow.
const MIN_REPETITION_PENALTY: f64 = 1e-6;

impl GenerationOptions {
    pub(crate) fn read(fields: &Fields<'_>, config: &Config) -> Result<GenerationOptions> {
        fields.refuse(&[
            ("use_beam_search", "; this server has no beam search"),
            ("logits_processors", ""),
            ("skip_reading_prefix_cache", ""),
        ])?;
        let f32_in = |name: &str, low: f64, high: f64| -> Result<Option<f32>> {
            Ok(fields.number(name, low..=high)?.map(|value| value as f32))
        };
        let (vocab, base) = (config.vocab, SamplingParams::default());
        let (temperature, top_p, min_p) = (base.temperature, base.top_p, base.min_p);
        let prompt_logprobs = fields.integer("prompt_logprobs", 0..=20)?.map(|n| n as u32);
        let params = base
            .with_temperature(f32_in("temperature", 0.0, 2.0)?.unwrap_or(temperature))
            // 0 keeps the most likely token alone, as the smallest probability above 0 does.
            .with_top_p(f32_in("top_p", 0.0, 1.0)?.map_or(top_p, |p| p.max(f32::MIN_POSITIVE)))
            .with_top_k(top_k(fields)?)
            .with_min_p(f32_in("min_p", 0.0, 1.0)?.unwrap_or(min_p))
            .with_presence_penalty(f32_in("presence_penalty", -2.0, 2.0)?.unwrap_or_default())
            .with_frequency_penalty(f32_in("frequency_penalty", -2.0, 2.0)?.unwrap_or_default())
            .with_repetition_penalty(
                repetition_penalty(fields, "repetition_penalty")?.unwrap_or(1.0),
            )
            // Only the bits matter, because clients send negative seeds too.
            .with_seed(fields.bits("seed")?.unwrap_or_else(random_seed))
            .with_logit_bias(logit_bias(fields, vocab)?)
            .with_stop_token_ids(fields.token_ids("stop_token_ids", vocab)?.unwrap_or_default())
            .with_ignore_eos(fields.bool("ignore_eos", false)?)
            .with_min_tokens(fields.count("min_tokens", 0)?.unwrap_or(0))
            .with_prompt_logprobs(prompt_logprobs);
        Ok(GenerationOptions {
            params,
            priority: fields
                .integer("priority", i64::from(i32::MIN)..=i64::from(i32::MAX))?
                .map_or(0, |n| (n as i32).max(config.min_priority)),
            cache_salt: cache_salt(fields)?,
            adapter: config.adapter(fields.string("model")?)?,
            allowed_token_ids: allowed_token_ids(fields, vocab)?,
            bad_words: bad_words(fields)?,
            stop_strings: stop_strings(fields, "stop")?,
            include_stop: fields.bool("include_stop_str_in_output", false)?,
            n: fields.integer("n", 1..=128)?.map_or(1, |n| n as usize),
            return_token_ids: fields.bool("return_token_ids", false)?,
            tokens_as_ids: fields.bool("return_tokens_as_token_ids", false)?,
            stream_interval: fields
                .integer("stream_interval", 1..=4096)?
                .map_or(config.stream_interval, |n| n as usize),
            truncate_prompt: truncate_prompt(fields)?,
            thinking_budget: fields.count("thinking_token_budget", 0)?,
        })
    }

    /// Keeps the prompt's last tokens, as many as the request wants.
    pub(crate) fn truncate(&self, prompt: &mut Vec<u32>) {
        if let Some(kept) = self.truncate_prompt {
            prompt.drain(..prompt.len().saturating_sub(kept));
        }
    }

    /// Sets a seed that no other request has.
    pub(crate) fn set_random_seed(&mut self) {
        self.params.seed = random_seed();
    }

    /// Sets the limit of tokens, and checks what depends on it.
    pub(crate) fn set_max_tokens(
        &mut self,
        fields: &Fields<'_>,
        max_tokens: Option<usize>,
    ) -> Result<()> {
        let min_tokens = self.params.min_tokens;
        if let Some(max_tokens) = max_tokens.filter(|&max_tokens| min_tokens > max_tokens) {
            let why = format!("is {min_tokens}, but at most {max_tokens} tokens are generated");
            return Err(fields.wrong("min_tokens", why));
        }
        self.params.max_tokens = max_tokens;
        Ok(())
    }

    /// Checks that the prompt and an answer fit into the context, and cuts the limit of tokens to what fits. Where the request has
    /// no limit, the model's own holds.
    pub(crate) fn clamp_max_tokens(
        &mut self,
        prompt_tokens: usize,
        config: &Config,
        param: &str,
    ) -> Result<()> {
        let context = config.context;
        if prompt_tokens == 0 {
            let why = format!("`{param}` is empty; give at least one token");
            return Err(ApiError::bad(param, why));
        }
        if prompt_tokens + 1 > context {
            let excess = prompt_tokens + 1 - context;
            let why = format!(
                "This model's maximum context length is {context} tokens. However, your prompt has {prompt_tokens} tokens, \
                 and the answer needs at least one: shorten the prompt by {excess}.",
            );
            return Err(ApiError {
                prompt_tokens: Some((prompt_tokens, context - 1)),
                ..ApiError::too_long(param, why)
            });
        }
        let room = context - prompt_tokens;
        let min_tokens = self.params.min_tokens;
        if min_tokens > room {
            let why =
                format!("`min_tokens` is {min_tokens}, but the prompt leaves room for {room}");
            return Err(ApiError::too_long("min_tokens", why));
        }
        let default = || config.max_new_tokens.map(|limit| limit.max(min_tokens));
        let limit = self.params.max_tokens.or_else(default);
        self.params.max_tokens = Some(limit.map_or(room, |limit| limit.min(room)));
        Ok(())
    }

    /// Checks how much is reported of prompts with as many tokens together.
    pub(crate) fn check_prompt_report(&self, prompt_tokens: usize) -> Result<()> {
        let Some(top) = self.params.prompt_logprobs else { return Ok(()) };
        let reported = prompt_tokens * self.n * (top as usize + 1);
        if reported > MAX_PROMPT_REPORT {
            let why = format!(
                "`prompt_logprobs` would report {reported} numbers of these prompts and choices, more than {MAX_PROMPT_REPORT}; \
                 ask for fewer, or send the prompts in several requests"
            );
            return Err(ApiError::bad("prompt_logprobs", why));
        }
        Ok(())
    }

    /// The request for one choice of a prompt. The seed counts up with the choice.
    pub(crate) fn request(
        &self,
        prompt: &[u32],
        guide: Option<Guide>,
        choice: usize,
    ) -> GenerationRequest {
        let mut params = with_choice_seed(&self.params, choice);
        let mut bad_words = self.bad_words.clone();
        if guide.is_none() && self.allowed_token_ids.is_none() {
            // A word of one token needs no mask: a bias forbids it where the logits are.
            let forbidden = bad_words.extract_if(.., |word| word.len() == 1).flatten();
            params.logit_bias.extend(forbidden.map(|token| (token, f32::NEG_INFINITY)));
        }
        let rules = TokenRules { guide, allowed: self.allowed_token_ids.clone(), bad_words };
        let mut engine_request = Request::new(prompt, params);
        engine_request.priority = self.priority;
        engine_request.cache_salt = self.cache_salt;
        engine_request.adapter = self.adapter.clone();
        let mask_failure = MaskFailure::default();
        engine_request.mask = rules.into_mask(Arc::clone(&mask_failure));
        GenerationRequest { engine_request, choice, mask_failure }
    }

    /// Refuses what cannot hold beside constraints: they may allow only some tokens, or only a stop token, which has to end
    /// the answer.
    pub(crate) fn refuse_beside_constraints(&self, constraints: &str) -> Result<()> {
        for (name, given) in [
            ("allowed_token_ids", self.allowed_token_ids.is_some()),
            ("min_tokens", self.params.min_tokens > 0),
            ("ignore_eos", self.params.ignore_eos),
        ] {
            if given {
                let why = format!("`{name}` cannot be combined with {constraints}");
                return Err(ApiError::bad(name, why));
            }
        }
        Ok(())
    }
}

/// The settings of a choice: the seed counts up.
fn with_choice_seed(params: &SamplingParams, choice: usize) -> SamplingParams {
    params.clone().with_seed(params.seed.wrapping_add(choice as u64))
}

fn cache_salt(fields: &Fields<'_>) -> Result<u64> {
    match fields.string("cache_salt")? {
        Some("") => Err(fields.wrong("cache_salt", "is empty; give a text, or leave it out")),
        salt => Ok(salt.map_or(0, salt_of)),
    }
}

fn random_seed() -> u64 {
    RandomState::new().hash_one(0)
}

/// The factor in this field by which logits of tokens that came before are divided.
pub(crate) fn repetition_penalty(fields: &Fields<'_>, name: &str) -> Result<Option<f32>> {
    let penalty = fields.number(name, MIN_REPETITION_PENALTY..=100.0)?;
    Ok(penalty.map(|penalty| penalty as f32))
}

/// -1 and 0 keep all tokens.
fn top_k(fields: &Fields<'_>) -> Result<u32> {
    let top_k = fields.integer("top_k", -1..=i64::MAX)?.unwrap_or(0);
    Ok(u32::try_from(top_k.max(0)).unwrap_or(0))
}

/// -1 means the model's context, and so does null: nothing is cut off.
fn truncate_prompt(fields: &Fields<'_>) -> Result<Option<usize>> {
    match fields.integer("truncate_prompt_tokens", -1..=i64::MAX)? {
        Some(0) => Err(fields.wrong("truncate_prompt_tokens", "is 0; it must be at least 1")),
        Some(-1) | None => Ok(None),
        Some(kept) => Ok(Some(kept as usize)),
    }
}

fn logit_bias(fields: &Fields<'_>, vocab: usize) -> Result<Vec<(u32, f32)>> {
    let Some(bias) = fields.object("logit_bias")? else { return Ok(Vec::new()) };
    let map: BTreeMap<String, Value> = fields.read("logit_bias")?.unwrap_or_default();
    let mut all = Vec::with_capacity(map.len());
    for name in map.keys() {
        let id = name.parse::<u32>().ok().filter(|&id| (id as usize) < vocab);
        let id = id.ok_or_else(|| {
            let why = format!("has the key `{name}`; keys are token ids, 0 to {}", vocab - 1);
            fields.wrong("logit_bias", why)
        })?;
        all.extend(bias.number(name, -100.0..=100.0)?.map(|value| (id, value as f32)));
    }
    Ok(all)
}

fn allowed_token_ids(fields: &Fields<'_>, vocab: usize) -> Result<Option<Vec<u32>>> {
    match fields.token_ids("allowed_token_ids", vocab)? {
        Some(ids) if ids.is_empty() => {
            let why = "is empty; name at least one token or leave it out";
            Err(fields.wrong("allowed_token_ids", why))
        }
        ids => Ok(ids),
    }
}

/// Each word is forbidden as it stands, and after a space as a model writes it inside a text.
fn bad_words(fields: &Fields<'_>) -> Result<Vec<Vec<u32>>> {
    let words: Vec<String> = fields.read("bad_words")?.unwrap_or_default();
    if words.iter().any(String::is_empty) {
        return Err(fields.wrong("bad_words", "has an empty word"));
    }
    let both = |word: &String| [word.clone(), format!(" {word}")];
    let mut all: Vec<Vec<u32>> =
        words.iter().flat_map(both).map(|word| ossmith_harmony::encode(&word)).collect();
    all.dedup();
    Ok(all)
}

/// The texts in this field that end an answer.
pub(crate) fn stop_strings(fields: &Fields<'_>, name: &str) -> Result<Vec<String>> {
    let stops: Vec<String> = match fields.get(name) {
        None => Vec::new(),
        Some(Value::String(stop)) => vec![stop.clone()],
        Some(Value::Array(_)) => fields.read(name)?.unwrap_or_default(),
        Some(other) => {
            let why = format!("is {}, not a string or a list of strings", describe(other));
            return Err(fields.wrong(name, why));
        }
    };
    if stops.iter().any(String::is_empty) {
        return Err(fields.wrong(name, "has an empty string"));
    }
    if stops.len() > MAX_STOP_STRINGS || stops.iter().any(|stop| stop.len() > MAX_STOP_BYTES) {
        let why =
            format!("has over {MAX_STOP_STRINGS} strings, or one over {MAX_STOP_BYTES} bytes");
        return Err(fields.wrong(name, why));
    }
    Ok(stops)
}
