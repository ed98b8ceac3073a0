//! Log-probabilities in the forms that the APIs give them.

use ossmith::TokenLogprobs;
use serde_json::{Map, Value, json};

use crate::tokens::{bytes_of, text_of, unique_text_of};

/// Stands for minus infinity, which JSON has no number for; clients read it as "never".
const MIN_LOGPROB: f32 = -9999.0;

fn finite(logprob: f32) -> f32 {
    if logprob.is_finite() { logprob.max(MIN_LOGPROB) } else { MIN_LOGPROB }
}

/// An entry of Chat Completions' `logprobs.content`. Responses has the same form.
pub(crate) fn chat_entry(token: u32, logprobs: &TokenLogprobs, as_id: bool) -> Value {
    let one = |token: u32, logprob: f32| json!({"token": text_of(token, as_id), "logprob": finite(logprob), "bytes": bytes_of(token)});
    let mut entry = one(token, logprobs.logprob);
    entry["top_logprobs"] =
        logprobs.top.iter().map(|&(token, logprob)| one(token, logprob)).collect();
    entry
}

/// Completions' `logprobs`: four lists with an entry for each token.
#[derive(Clone, Debug, Default)]
pub(crate) struct TextLogprobs {
    tokens: Vec<Value>,
    token_logprobs: Vec<Value>,
    top_logprobs: Vec<Value>,
    text_offset: Vec<Value>,
}

impl TextLogprobs {
    /// Adds a token that begins at this place of the text, in characters.
    pub(crate) fn add(
        &mut self,
        token: u32,
        logprobs: Option<&TokenLogprobs>,
        offset: usize,
        as_id: bool,
    ) {
        self.tokens.push(unique_text_of(token, as_id).into());
        self.text_offset.push(offset.into());
        let Some(logprobs) = logprobs else {
            self.token_logprobs.push(Value::Null);
            self.top_logprobs.push(Value::Null);
            return;
        };
        self.token_logprobs.push(json!(finite(logprobs.logprob)));
        let all = logprobs.top.iter().copied().chain([(token, logprobs.logprob)]);
        let top: Map<String, Value> = all
            .map(|(token, logprob)| (unique_text_of(token, as_id), json!(finite(logprob))))
            .collect();
        self.top_logprobs.push(Value::Object(top));
    }

    /// The four lists, which are empty afterwards.
    pub(crate) fn take(&mut self) -> Value {
        let TextLogprobs { tokens, token_logprobs, top_logprobs, text_offset } =
            std::mem::take(self);
        json!({
            "tokens": tokens, "token_logprobs": token_logprobs, "top_logprobs": top_logprobs,
            "text_offset": text_offset,
        })
    }
}

/// vLLM's `prompt_logprobs`: a map for each prompt token, null for the first.
pub(crate) fn prompt_entries(prompt: &[u32], logprobs: &[Option<TokenLogprobs>]) -> Value {
    let entry = |token: u32, logprob: f32, rank: usize| {
        (
            token.to_string(),
            json!({"logprob": finite(logprob), "rank": rank, "decoded_token": text_of(token, false)}),
        )
    };
    let map = |(&token, logprobs): (&u32, &Option<TokenLogprobs>)| {
        let Some(TokenLogprobs { logprob, rank, top }) = logprobs else { return Value::Null };
        let mut map: Map<String, Value> = top
            .iter()
            .enumerate()
            .map(|(index, &(token, logprob))| entry(token, logprob, index + 1))
            .collect();
        map.extend([entry(token, *logprob, *rank as usize)]);
        Value::Object(map)
    };
    prompt.iter().zip(logprobs).map(map).collect()
}
