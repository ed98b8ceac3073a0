//! A chat answer in chunks, as the SDKs parse it: role, then a chunk a token, then the reason why it ended, then usage.

use std::sync::Arc;

use serde::Serialize;
use serde_json::{Value, json};

use super::choice::{Choice, Delta};
use super::{ChatRequest, Telling};
use crate::engine::Update;
use crate::logprobs::prompt_entries;
use crate::metrics::Metrics;
use crate::sse::{self, Then, Writer};
use crate::usage::Usage;

/// Writes one request's chunks.
pub(super) struct ChatWriter {
    request: ChatRequest,
    choices: Vec<Streamed>,
    cached: usize,
    metrics: Arc<Metrics>,
}

struct Streamed {
    choice: Choice,
    /// Tokens since the last chunk with something in it.
    waiting: usize,
    any: bool,
}

#[derive(Serialize)]
struct Chunk<'a> {
    id: &'a str,
    object: &'static str,
    created: u64,
    model: &'a str,
    system_fingerprint: Option<&'a str>,
    choices: Vec<ChunkChoice>,
    #[serde(skip_serializing_if = "Option::is_none")]
    usage: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    prompt_token_ids: Option<&'a [u32]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    prompt_logprobs: Option<Value>,
}

#[derive(Serialize)]
struct ChunkChoice {
    index: usize,
    delta: Delta,
    logprobs: Option<Value>,
    finish_reason: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    stop_reason: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    token_ids: Option<Vec<u32>>,
}

impl ChatWriter {
    pub(super) fn new(request: ChatRequest, metrics: Arc<Metrics>) -> ChatWriter {
        let streamed = |_| Streamed { choice: Choice::new(&request), waiting: 0, any: false };
        let choices = (0..request.planned.n).map(streamed).collect();
        ChatWriter { request, choices, cached: 0, metrics }
    }

    fn chunk(&self) -> Chunk<'_> {
        let telling = &self.request.telling;
        Chunk {
            id: &telling.id,
            object: "chat.completion.chunk",
            created: telling.created,
            model: &telling.model,
            system_fingerprint: None,
            choices: Vec::new(),
            usage: telling.continuous_usage.then(|| self.usage().json()),
            prompt_token_ids: None,
            prompt_logprobs: None,
        }
    }

    fn usage(&self) -> Usage {
        Usage {
            prompt: self.request.planned.prompt.len(),
            cached: self.cached,
            completion: self.choices.iter().map(|streamed| streamed.choice.tokens).sum(),
            reasoning: self.choices.iter().map(|s| s.choice.reasoning_tokens()).sum(),
        }
    }

    /// Writes what a choice has to report.
    fn report(&mut self, index: usize, out: &mut Vec<u8>) {
        let telling = &self.request.telling;
        let streamed = &mut self.choices[index];
        let choice = &mut streamed.choice;
        let (ends, delta) = (choice.ending.is_some(), std::mem::take(&mut choice.delta));
        let (mut logprobs, mut ids) =
            (std::mem::take(&mut choice.logprobs), std::mem::take(&mut choice.ids));
        let ending = choice.ending.clone();
        (streamed.waiting, streamed.any) = (0, true);
        let mut parts = Vec::new();
        if !delta.is_empty() || !ends {
            parts.push(part(
                index,
                delta,
                telling,
                std::mem::take(&mut logprobs),
                std::mem::take(&mut ids),
            ));
        }
        if let Some(ending) = ending {
            let mut last = part(index, Delta::default(), telling, logprobs, ids);
            last.finish_reason = Some(ending.finish_reason);
            last.stop_reason = Some(ending.stop_reason);
            parts.push(last);
        }
        for part in parts {
            sse::data(out, &Chunk { choices: vec![part], ..self.chunk() });
        }
    }
}

fn part(
    index: usize,
    delta: Delta,
    telling: &Telling,
    logprobs: Vec<Value>,
    ids: Vec<u32>,
) -> ChunkChoice {
    ChunkChoice {
        index,
        delta,
        logprobs: (telling.logprobs && !logprobs.is_empty())
            .then(|| json!({"content": logprobs, "refusal": null})),
        finish_reason: None,
        stop_reason: None,
        token_ids: telling.token_ids.then_some(ids),
    }
}

impl Writer for ChatWriter {
    fn begin(&mut self, out: &mut Vec<u8>) {
        let telling = &self.request.telling;
        for index in 0..self.choices.len() {
            let delta =
                Delta { role: Some("assistant"), content: Some(String::new()), ..Delta::default() };
            let first = part(index, delta, telling, Vec::new(), Vec::new());
            let ids =
                (telling.token_ids && index == 0).then_some(self.request.planned.prompt.as_slice());
            sse::data(out, &Chunk { choices: vec![first], prompt_token_ids: ids, ..self.chunk() });
        }
    }

    fn update(&mut self, index: usize, update: Update, out: &mut Vec<u8>) -> Then {
        match update {
            Update::Prompt { cached, logprobs, .. } => {
                if index == 0 {
                    self.cached = cached;
                    if !logprobs.is_empty() {
                        let entries = prompt_entries(&self.request.planned.prompt, &logprobs);
                        sse::data(out, &Chunk { prompt_logprobs: Some(entries), ..self.chunk() });
                    }
                }
                Then::GoOn
            }
            Update::Token { id, logprobs, finish } => {
                let telling = &self.request.telling;
                let streamed = &mut self.choices[index];
                let ends = streamed.choice.token(id, logprobs.as_ref(), finish, telling);
                streamed.waiting += 1;
                let due = !streamed.any || streamed.waiting >= telling.interval;
                if ends || (due && !streamed.choice.delta.is_empty()) {
                    self.report(index, out);
                }
                if ends {
                    self.choices[index].choice.report_repairs(&self.metrics);
                    return Then::EndChoice;
                }
                Then::GoOn
            }
            Update::Failed(error) => {
                self.fail(error, out);
                Then::EndStream
            }
        }
    }

    fn end(&mut self, out: &mut Vec<u8>) {
        if self.request.telling.include_usage {
            let usage = Some(self.usage().json());
            sse::data(out, &Chunk { usage, ..self.chunk() });
        }
        sse::done(out);
    }
}
