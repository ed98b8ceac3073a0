//! The sampling fields that Chat Completions, Completions and Responses have in common, vLLM's extensions among them.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::config::Config;
use crate::engine::Sampling;
use crate::error::{ApiError, Result};
use crate::fields::{Fields, kind};

/// Everything a request says about sampling and about how its tokens are reported.
#[derive(Clone, Debug, Default)]
pub(crate) struct Common {
    pub(crate) sampling: Sampling,
    /// Texts that end the answer.
    pub(crate) stops: Vec<String>,
    pub(crate) keep_stop: bool,
    /// Alternatives for each prompt.
    pub(crate) n: usize,
    pub(crate) return_token_ids: bool,
    pub(crate) tokens_as_ids: bool,
    /// Tokens a chunk.
    pub(crate) interval: usize,
    pub(crate) truncate_prompt: Option<usize>,
    pub(crate) thinking_budget: Option<usize>,
}

/// What the sampling fields of one model may be.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    pub(crate) vocab: usize,
    pub(crate) interval: usize,
}

const MOST_STOPS: usize = 16;
const MOST_STOP_BYTES: usize = 1024;

impl Common {
    pub(crate) fn read(fields: &Fields<'_>, bounds: Bounds) -> Result<Common> {
        fields.refuse(&[
            ("use_beam_search", "; there is no beam search here"),
            ("logits_processors", ""),
            ("skip_reading_prefix_cache", ""),
        ])?;
        let f32_in = |name: &str, low: f64, high: f64| -> Result<Option<f32>> {
            Ok(fields.number(name, low..=high)?.map(|value| value as f32))
        };
        let base = Sampling::default();
        let sampling = Sampling {
            temperature: f32_in("temperature", 0.0, 2.0)?.unwrap_or(base.temperature),
            top_p: above_zero(fields, "top_p", 1.0)?.unwrap_or(base.top_p),
            top_k: top_k(fields)?,
            min_p: f32_in("min_p", 0.0, 1.0)?.unwrap_or(base.min_p),
            presence_penalty: f32_in("presence_penalty", -2.0, 2.0)?.unwrap_or_default(),
            frequency_penalty: f32_in("frequency_penalty", -2.0, 2.0)?.unwrap_or_default(),
            repetition_penalty: above_zero(fields, "repetition_penalty", 100.0)?.unwrap_or(1.0),
            // Any 64 bits will do: clients send negative seeds too.
            seed: fields.bits("seed")?,
            logit_bias: logit_bias(fields, bounds.vocab)?,
            allowed_token_ids: allowed(fields, bounds.vocab)?,
            bad_words: bad_words(fields)?,
            stop_token_ids: fields.token_ids("stop_token_ids", bounds.vocab)?.unwrap_or_default(),
            ignore_eos: fields.bool("ignore_eos", false)?,
            min_tokens: fields.count("min_tokens", 0)?.unwrap_or(0),
            max_tokens: None,
            logprobs: None,
            prompt_logprobs: fields.integer("prompt_logprobs", 0..=20)?.map(|n| n as u32),
            priority: fields
                .integer("priority", i64::from(i32::MIN)..=i64::from(i32::MAX))?
                .map_or(0, |n| n as i32),
        };
        Ok(Common {
            sampling,
            stops: stops(fields)?,
            keep_stop: fields.bool("include_stop_str_in_output", false)?,
            n: fields.integer("n", 1..=128)?.map_or(1, |n| n as usize),
            return_token_ids: fields.bool("return_token_ids", false)?,
            tokens_as_ids: fields.bool("return_tokens_as_token_ids", false)?,
            interval: fields
                .integer("stream_interval", 1..=4096)?
                .map_or(bounds.interval, |n| n as usize),
            truncate_prompt: truncate(fields)?,
            thinking_budget: fields.count("thinking_token_budget", 0)?,
        })
    }

    /// Leaves the prompt's last tokens, as many as were asked for.
    pub(crate) fn truncate(&self, prompt: &mut Vec<u32>) {
        if let Some(most) = self.truncate_prompt {
            prompt.drain(..prompt.len().saturating_sub(most));
        }
    }

    /// Sets the limit of tokens and checks what depends on it.
    pub(crate) fn limit(&mut self, fields: &Fields<'_>, max_tokens: Option<usize>) -> Result<()> {
        let min = self.sampling.min_tokens;
        if max_tokens.is_some_and(|most| min > most) {
            return Err(
                fields.wrong("min_tokens", format!("is {min}, which is over the most tokens"))
            );
        }
        self.sampling.max_tokens = max_tokens;
        Ok(())
    }
}

fn above_zero(fields: &Fields<'_>, name: &str, high: f64) -> Result<Option<f32>> {
    match fields.number(name, 0.0..=high)? {
        Some(value) if value as f32 <= 0.0 => {
            Err(fields.wrong(name, format!("is {value}; it must be above 0 and at most {high}")))
        }
        value => Ok(value.map(|value| value as f32)),
    }
}

/// -1 and 0 mean all tokens.
fn top_k(fields: &Fields<'_>) -> Result<u32> {
    let top_k = fields.integer("top_k", -1..=i64::MAX)?.unwrap_or(0);
    Ok(u32::try_from(top_k.max(0)).unwrap_or(0))
}

/// `-1` (the model's context) and null mean no cut.
fn truncate(fields: &Fields<'_>) -> Result<Option<usize>> {
    let most = fields.integer("truncate_prompt_tokens", -1..=i64::MAX)?;
    match most {
        Some(0) => Err(fields.wrong("truncate_prompt_tokens", "is 0; it must be at least 1")),
        Some(-1) | None => Ok(None),
        Some(most) => Ok(Some(most as usize)),
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

fn allowed(fields: &Fields<'_>, vocab: usize) -> Result<Option<Vec<u32>>> {
    match fields.token_ids("allowed_token_ids", vocab)? {
        Some(ids) if ids.is_empty() => {
            Err(fields
                .wrong("allowed_token_ids", "is empty; name at least one token or leave it out"))
        }
        ids => Ok(ids),
    }
}

/// Each word is forbidden as it stands and after a space, as a model would write it inside a text.
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

fn stops(fields: &Fields<'_>) -> Result<Vec<String>> {
    let stops: Vec<String> = match fields.get("stop") {
        None => Vec::new(),
        Some(Value::String(stop)) => vec![stop.clone()],
        Some(Value::Array(_)) => fields.read("stop")?.unwrap_or_default(),
        Some(other) => {
            let why = format!("is {}, not a string or a list of strings", kind(other));
            return Err(fields.wrong("stop", why));
        }
    };
    if stops.iter().any(String::is_empty) {
        return Err(fields.wrong("stop", "has an empty string"));
    }
    if stops.len() > MOST_STOPS || stops.iter().any(|stop| stop.len() > MOST_STOP_BYTES) {
        let why = format!("has over {MOST_STOPS} strings, or one over {MOST_STOP_BYTES} bytes");
        return Err(fields.wrong("stop", why));
    }
    Ok(stops)
}

/// Checks that prompt and answer fit the context, and cuts the limit, or the model's own if the request has none, to
/// what does.
pub(crate) fn fit(
    sampling: &mut Sampling,
    prompt: usize,
    config: &Config,
    param: &str,
) -> Result<()> {
    let context = config.context;
    if prompt == 0 {
        return Err(ApiError::bad(param, format!("`{param}` is empty; give at least one token")));
    }
    if prompt + 1 > context {
        return Err(ApiError::too_long(
            param,
            format!(
                "This model's maximum context length is {context} tokens. However, your prompt has {prompt} tokens, and \
                 the answer needs at least one: shorten the prompt by {}.",
                prompt + 1 - context
            ),
        ));
    }
    let room = context - prompt;
    if sampling.min_tokens > room {
        let why = format!(
            "`min_tokens` is {}, and the prompt leaves room for {room}",
            sampling.min_tokens
        );
        return Err(ApiError::too_long("min_tokens", why));
    }
    let models_own = || config.max_new_tokens.map(|most| most.max(sampling.min_tokens));
    let most = sampling.max_tokens.or_else(models_own);
    sampling.max_tokens = Some(most.map_or(room, |most| most.min(room)));
    Ok(())
}
