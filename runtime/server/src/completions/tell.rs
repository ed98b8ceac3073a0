//! A raw completion told whole, or in chunks: one a token, even where its text is empty.

use std::time::Duration;

use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde_json::Value;

use super::text::Choice;
use super::{Request, Telling};
use crate::engine::{Logprobs, Update};
use crate::error::{Result, json_body};
use crate::generation::{Generation, within};
use crate::logprobs::prompt_entries;
use crate::sse::{self, Then, Writer};
use crate::usage::Usage;

/// Tells one request's answer.
pub(super) struct Teller {
    request: Request,
    choices: Vec<Choice>,
    /// Tokens of each choice since its last chunk.
    waiting: Vec<usize>,
    cached: usize,
    /// Of each prompt, if asked for.
    prompt_logprobs: Vec<Value>,
}

/// A chunk, or the whole answer.
#[derive(Serialize)]
struct Chunk<'a> {
    id: &'a str,
    object: &'static str,
    created: u64,
    model: &'a str,
    system_fingerprint: Option<&'a str>,
    choices: Vec<Part>,
    #[serde(skip_serializing_if = "Option::is_none")]
    usage: Option<Value>,
}

/// A choice in it.
#[derive(Serialize)]
struct Part {
    index: usize,
    text: String,
    logprobs: Option<Value>,
    finish_reason: Option<&'static str>,
    stop_reason: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    token_ids: Option<Vec<u32>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    prompt_token_ids: Option<Vec<u32>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    prompt_logprobs: Option<Value>,
}

impl Teller {
    pub(super) fn new(request: Request) -> Teller {
        let count = request.prompts.len() * request.n;
        let choices = (0..count).map(|_| Choice::new(&request.telling)).collect();
        let prompt_logprobs = vec![Value::Null; request.prompts.len()];
        // At once with the first token, then after as many as were asked for.
        let waiting = vec![request.telling.interval; count];
        Teller { request, choices, waiting, cached: 0, prompt_logprobs }
    }

    pub(super) fn streams(&self) -> bool {
        self.request.stream
    }

    fn telling(&self) -> &Telling {
        &self.request.telling
    }

    fn usage(&self) -> Usage {
        let discarded = |choice: &Choice| if self.telling().discard { 0 } else { choice.tokens };
        Usage {
            prompt: self.request.prompts.iter().map(Vec::len).sum(),
            cached: self.cached,
            completion: self.choices.iter().map(discarded).sum(),
            reasoning: 0,
        }
    }

    /// Takes an update; says whether the choice has something to report, and whether it ends.
    fn take(&mut self, index: usize, update: Update) -> Result<(bool, bool)> {
        let telling = &self.request.telling;
        match update {
            Update::Prompt { cached, logprobs, .. } => {
                if index.is_multiple_of(self.request.n) {
                    self.cached += cached;
                }
                self.prompt(index, &logprobs);
                Ok((false, false))
            }
            Update::Token { id, logprobs, finish } => {
                // Where the source says nothing about the prompt, it is still given back.
                if telling.echo && self.choices[index].tokens == 0 && !self.choices[index].echoed {
                    self.prompt(index, &[]);
                }
                let telling = &self.request.telling;
                let ends = self.choices[index].token(id, logprobs.as_ref(), finish, telling);
                self.waiting[index] += 1;
                Ok((ends || self.waiting[index] >= telling.interval, ends))
            }
            Update::Failed(error) => Err(error),
        }
    }

    fn prompt(&mut self, index: usize, logprobs: &[Option<Logprobs>]) {
        let number = index / self.request.n;
        let prompt = &self.request.prompts[number];
        if self.request.telling.prompt_logprobs && !logprobs.is_empty() {
            self.prompt_logprobs[number] = prompt_entries(prompt, logprobs);
        }
        if self.request.telling.echo {
            self.choices[index].echo(prompt, logprobs, &self.request.telling);
        }
    }

    /// What a choice has to report.
    fn part(&mut self, index: usize, whole: bool) -> Part {
        let telling = &self.request.telling;
        let choice = &mut self.choices[index];
        self.waiting[index] = 0;
        let (finish_reason, stop_reason) = choice.ending.clone().unzip();
        let prompt = index / self.request.n;
        let first = !std::mem::replace(&mut choice.told, true);
        Part {
            index,
            text: std::mem::take(&mut choice.text),
            logprobs: telling.logprobs.map(|_| choice.logprobs.take()),
            finish_reason,
            stop_reason,
            token_ids: telling.token_ids.then(|| std::mem::take(&mut choice.ids)),
            prompt_token_ids: (telling.token_ids && (whole || first))
                .then(|| self.request.prompts[prompt].clone()),
            prompt_logprobs: (telling.prompt_logprobs && (whole || first))
                .then(|| self.prompt_logprobs[prompt].clone()),
        }
    }

    fn chunk(&self, choices: Vec<Part>, with_usage: bool) -> Chunk<'_> {
        let telling = self.telling();
        Chunk {
            id: &telling.id,
            object: "text_completion",
            created: telling.created,
            model: &telling.model,
            system_fingerprint: None,
            choices,
            usage: with_usage.then(|| self.usage().json()),
        }
    }
}

/// Waits for all generations.
pub(super) async fn whole(
    mut teller: Teller,
    mut generation: Generation,
    timeout: Option<Duration>,
) -> Result<Response> {
    let work = async {
        while let Some((index, update)) = generation.next().await {
            if teller.take(index, update)?.1 {
                generation.stop(index);
            }
        }
        Ok(())
    };
    within(timeout, work).await??;
    let parts: Vec<Part> =
        (0..teller.choices.len()).map(|index| teller.part(index, true)).collect();
    if teller.telling().log {
        let answers: Vec<&str> = parts.iter().map(|part| part.text.as_str()).collect();
        tracing::info!(id = teller.telling().id, ?answers, "answers");
    }
    Ok(json_body(&teller.chunk(parts, true)).into_response())
}

impl Writer for Teller {
    fn begin(&mut self, _: &mut Vec<u8>) {}

    fn update(&mut self, index: usize, update: Update, out: &mut Vec<u8>) -> Then {
        let (reports, ends) = match self.take(index, update) {
            Ok(what) => what,
            Err(error) => {
                self.fail(error, out);
                return Then::EndStream;
            }
        };
        if reports {
            let part = self.part(index, false);
            sse::data(out, &self.chunk(vec![part], self.telling().continuous_usage));
        }
        if ends { Then::EndChoice } else { Then::GoOn }
    }

    fn end(&mut self, out: &mut Vec<u8>) {
        if self.telling().include_usage {
            sse::data(out, &self.chunk(Vec::new(), true));
        }
        sse::done(out);
    }
}
