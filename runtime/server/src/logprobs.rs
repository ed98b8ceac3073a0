//! Log-probabilities in the forms that the APIs give them.

use ossmith_harmony::{special, token_bytes};
use serde_json::{Map, Value, json};

use crate::engine::{Candidate, Logprobs};

/// Below this JSON has no number for it; clients take it for "never".
const LEAST: f32 = -9999.0;

/// A token's bytes, a special token's being its name.
pub(crate) fn bytes_of(token: u32) -> Vec<u8> {
    match (token_bytes(token), special::name(token)) {
        (Some(bytes), _) => bytes.to_vec(),
        (None, Some(name)) => name.as_bytes().to_vec(),
        (None, None) => Vec::new(),
    }
}

/// A token's text, which may hold U+FFFD where the token is part of a character; or `token_id:N`.
pub(crate) fn text_of(token: u32, as_id: bool) -> String {
    if as_id {
        return format!("token_id:{token}");
    }
    String::from_utf8_lossy(&bytes_of(token)).into_owned()
}

fn finite(logprob: f32) -> f32 {
    if logprob.is_finite() { logprob.max(LEAST) } else { LEAST }
}

/// An entry of Chat Completions' `logprobs.content` (Responses' form is the same).
pub(crate) fn chat_entry(token: u32, logprobs: &Logprobs, as_id: bool) -> Value {
    let one = |token: u32, logprob: f32| json!({"token": text_of(token, as_id), "logprob": finite(logprob), "bytes": bytes_of(token)});
    let mut entry = one(token, logprobs.logprob);
    let top: Vec<Value> = logprobs.top.iter().map(|best| one(best.token, best.logprob)).collect();
    entry["top_logprobs"] = Value::Array(top);
    entry
}

/// Completions' `logprobs`, a list for each of its four fields.
#[derive(Clone, Debug, Default)]
pub(crate) struct TextLogprobs {
    tokens: Vec<Value>,
    logprobs: Vec<Value>,
    top: Vec<Value>,
    offsets: Vec<Value>,
}

impl TextLogprobs {
    /// A token that begins at this place of the text, in characters.
    pub(crate) fn add(
        &mut self,
        token: u32,
        logprobs: Option<&Logprobs>,
        offset: usize,
        as_id: bool,
    ) {
        self.tokens.push(text_of(token, as_id).into());
        self.offsets.push(offset.into());
        match logprobs {
            None => {
                self.logprobs.push(Value::Null);
                self.top.push(Value::Null);
            }
            Some(logprobs) => {
                self.logprobs.push(json!(finite(logprobs.logprob)));
                let own = Candidate { token, logprob: logprobs.logprob };
                let all = logprobs.top.iter().chain(std::iter::once(&own));
                let map: Map<String, Value> = all
                    .map(|best| (text_of(best.token, as_id), json!(finite(best.logprob))))
                    .collect();
                self.top.push(Value::Object(map));
            }
        }
    }

    /// The four lists, which are empty afterwards.
    pub(crate) fn take(&mut self) -> Value {
        let TextLogprobs { tokens, logprobs, top, offsets } = std::mem::take(self);
        json!({"tokens": tokens, "token_logprobs": logprobs, "top_logprobs": top, "text_offset": offsets})
    }
}

/// vLLM's `prompt_logprobs`: a map for each prompt token, null for the first.
pub(crate) fn prompt_entries(prompt: &[u32], logprobs: &[Option<Logprobs>]) -> Value {
    let entry = |token: u32, logprob: f32, rank: usize| {
        (
            token.to_string(),
            json!({"logprob": finite(logprob), "rank": rank, "decoded_token": text_of(token, false)}),
        )
    };
    let map = |(&token, at): (&u32, &Option<Logprobs>)| match at {
        None => Value::Null,
        Some(at) => {
            let mut map: Map<String, Value> = at
                .top
                .iter()
                .enumerate()
                .map(|(i, best)| entry(best.token, best.logprob, i + 1))
                .collect();
            map.extend([entry(token, at.logprob, at.rank as usize)]);
            Value::Object(map)
        }
    };
    prompt.iter().zip(logprobs).map(map).collect()
}
