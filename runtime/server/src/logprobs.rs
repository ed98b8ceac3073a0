//! Log-probabilities in the forms that the APIs give them. What is reported of one token is a kilobyte and more as JSON, and a
//! request may ask for tens of thousands: so it is kept as the engine gave it, and becomes JSON as it is written.

use std::sync::Arc;

use ossmith::TokenLogprobs;
use serde::ser::SerializeStruct;
use serde::{Serialize, Serializer};

use crate::tokens::{bytes_of, text_of, unique_text_of};

/// Stands for minus infinity, which JSON has no number for; clients read it as "never".
const MIN_LOGPROB: f64 = -9999.0;

fn finite(logprob: f32) -> f64 {
    if logprob.is_finite() { f64::from(logprob).max(MIN_LOGPROB) } else { MIN_LOGPROB }
}

/// A token of an answer with its log-probabilities.
#[derive(Clone, Debug)]
pub(crate) struct TokenReport {
    token: u32,
    logprobs: TokenLogprobs,
    /// Tokens are written as `token_id:N`.
    as_id: bool,
}

impl TokenReport {
    pub(crate) fn new(token: u32, logprobs: &TokenLogprobs, as_id: bool) -> TokenReport {
        TokenReport { token, logprobs: logprobs.clone(), as_id }
    }
}

/// An entry of Chat Completions' `logprobs.content`. Responses has the same form.
#[derive(Serialize)]
struct ChatEntry {
    token: String,
    logprob: f64,
    bytes: Vec<u8>,
    #[serde(skip_serializing_if = "Option::is_none")]
    top_logprobs: Option<Vec<ChatEntry>>,
}

impl ChatEntry {
    fn new(token: u32, logprob: f32, as_id: bool) -> ChatEntry {
        ChatEntry {
            token: text_of(token, as_id),
            logprob: finite(logprob),
            bytes: bytes_of(token),
            top_logprobs: None,
        }
    }
}

impl Serialize for TokenReport {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let TokenReport { token, ref logprobs, as_id } = *self;
        let top =
            logprobs.top.iter().map(|&(token, logprob)| ChatEntry::new(token, logprob, as_id));
        let entry = ChatEntry {
            top_logprobs: Some(top.collect()),
            ..ChatEntry::new(token, logprobs.logprob, as_id)
        };
        entry.serialize(serializer)
    }
}

/// Chat Completions' `logprobs`.
#[derive(Serialize)]
pub(crate) struct ContentLogprobs {
    content: Vec<TokenReport>,
    refusal: (),
}

impl ContentLogprobs {
    pub(crate) fn new(content: Vec<TokenReport>) -> ContentLogprobs {
        ContentLogprobs { content, refusal: () }
    }
}

/// Completions' `logprobs`: four lists with an entry for each token.
#[derive(Clone, Debug, Default)]
pub(crate) struct TextLogprobs {
    tokens: Vec<TextToken>,
    as_id: bool,
}

#[derive(Clone, Debug)]
struct TextToken {
    token: u32,
    logprobs: Option<TokenLogprobs>,
    offset: usize,
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
        self.as_id = as_id;
        self.tokens.push(TextToken { token, logprobs: logprobs.cloned(), offset });
    }
}

impl Serialize for TextLogprobs {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let (tokens, as_id) = (&self.tokens, self.as_id);
        let name = |of: &TextToken| unique_text_of(of.token, as_id);
        let logprob = |of: &TextToken| of.logprobs.as_ref().map(|found| finite(found.logprob));
        let top = |of: &TextToken| {
            let found = of.logprobs.as_ref()?;
            let own = Some((of.token, found.logprob)).filter(|&(token, _)| !lists(found, token));
            let all = found.top.iter().copied().chain(own);
            let named = all.map(|(token, logprob)| (unique_text_of(token, as_id), finite(logprob)));
            Some(Entries(named.collect()))
        };
        let mut lists = serializer.serialize_struct("logprobs", 4)?;
        lists.serialize_field("tokens", &Each(tokens, name))?;
        lists.serialize_field("token_logprobs", &Each(tokens, logprob))?;
        lists.serialize_field("top_logprobs", &Each(tokens, top))?;
        lists.serialize_field("text_offset", &Each(tokens, |of: &TextToken| of.offset))?;
        lists.end()
    }
}

/// Whether a token is among the most likely ones that are listed.
fn lists(logprobs: &TokenLogprobs, token: u32) -> bool {
    logprobs.top.iter().any(|&(listed, _)| listed == token)
}

/// vLLM's `prompt_logprobs`: a map for each prompt token, null for the first.
#[derive(Clone, Debug)]
pub(crate) struct PromptLogprobs(Arc<Vec<(u32, Option<TokenLogprobs>)>>);

impl PromptLogprobs {
    pub(crate) fn new(prompt: &[u32], logprobs: Vec<Option<TokenLogprobs>>) -> PromptLogprobs {
        PromptLogprobs(Arc::new(prompt.iter().copied().zip(logprobs).collect()))
    }
}

#[derive(Serialize)]
struct PromptEntry {
    logprob: f64,
    rank: usize,
    decoded_token: String,
}

impl Serialize for PromptLogprobs {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let map = |(token, found): &(u32, Option<TokenLogprobs>)| {
            let found = found.as_ref()?;
            let own = (*token, found.logprob, found.rank as usize);
            let top = found.top.iter().enumerate().map(|(index, &(listed, logprob))| {
                // Among equals its rank is not its place in the list.
                if listed == *token { own } else { (listed, logprob, index + 1) }
            });
            let all = top.chain(Some(own).filter(|_| !lists(found, *token)));
            let entry = |(token, logprob, rank): (u32, f32, usize)| {
                let decoded_token = text_of(token, false);
                (token, PromptEntry { logprob: finite(logprob), rank, decoded_token })
            };
            Some(Entries(all.map(entry).collect()))
        };
        Each(&self.0, map).serialize(serializer)
    }
}

/// What a function makes of each element, as a list.
struct Each<'a, T, F>(&'a [T], F);

impl<T, R: Serialize, F: Fn(&T) -> R> Serialize for Each<'_, T, F> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.0.iter().map(&self.1))
    }
}

/// The entries of a map, in their order.
struct Entries<K, V>(Vec<(K, V)>);

impl<K: Serialize, V: Serialize> Serialize for Entries<K, V> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(key, value)| (key, value)))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn logprobs(top: Vec<(u32, f32)>) -> TokenLogprobs {
        TokenLogprobs { logprob: -0.5, rank: 1, top }
    }

    #[test]
    fn a_token_is_listed_once_in_every_form() {
        let (listed, apart) =
            (logprobs(vec![(66, -0.5), (65, f32::NEG_INFINITY)]), logprobs(vec![(65, -0.25)]));
        let mut text = TextLogprobs::default();
        text.add(64, None, 0, true);
        text.add(65, Some(&listed), 1, true);
        text.add(66, Some(&apart), 2, true);
        assert_eq!(
            json!(text),
            json!({
                "tokens": ["token_id:64", "token_id:65", "token_id:66"],
                "token_logprobs": [null, -0.5, -0.5],
                "top_logprobs": [
                    null,
                    {"token_id:66": -0.5, "token_id:65": MIN_LOGPROB},
                    {"token_id:65": -0.25, "token_id:66": -0.5},
                ],
                "text_offset": [0, 1, 2],
            })
        );
        let prompt = PromptLogprobs::new(&[64, 65, 66], vec![None, Some(listed), Some(apart)]);
        let entry = |token: u32, logprob: f64, rank: usize| json!({"logprob": logprob, "rank": rank, "decoded_token": text_of(token, false)});
        assert_eq!(
            json!(prompt),
            json!([
                null,
                {"66": entry(66, -0.5, 1), "65": entry(65, -0.5, 1)},
                {"65": entry(65, -0.25, 1), "66": entry(66, -0.5, 1)},
            ])
        );
        let report = TokenReport::new(66, &logprobs(vec![(65, -0.25)]), true);
        assert_eq!(
            json!(ContentLogprobs::new(vec![report])),
            json!({
                "content": [{
                    "token": "token_id:66", "logprob": -0.5, "bytes": bytes_of(66),
                    "top_logprobs": [{"token": "token_id:65", "logprob": -0.25, "bytes": bytes_of(65)}],
                }],
                "refusal": null,
            })
        );
    }
}
