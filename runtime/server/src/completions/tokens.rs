//! `POST /inference/v1/generate`: token ids in, token ids out, for programs that bring their own tokenizer.

use std::sync::Arc;

use axum::Extension;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use serde_json::{Map, Value, json};

use crate::access::RequestId;
use crate::app::App;
use crate::engine::{Ask, Finish, Sampling, Update};
use crate::error::{Result, json_body};
use crate::fields::Fields;
use crate::generation::within;
use crate::logprobs::{chat_entry, prompt_entries};
use crate::plan::nth;
use crate::request::Body;
use crate::sampling::{Bounds, Common, fit};
use crate::sse::{self, Then, Writer};
use crate::usage::Usage;

pub(crate) async fn handle(
    State(app): State<Arc<App>>,
    Extension(RequestId(id)): Extension<RequestId>,
    body: Body,
) -> Result<Response> {
    let mut teller = read(&app, &id, &body.object()?)?;
    let ask = |choice: usize| Ask {
        prompt: teller.prompt.clone(),
        sampling: nth(&teller.sampling, choice),
        guide: None,
        alternative: choice,
        timeout: None,
    };
    let mut generation = app.generate((0..teller.choices.len()).map(ask).collect())?;
    if teller.stream {
        return Ok(sse::response(generation, teller, app.config.timeout));
    }
    let work = async {
        while let Some((index, update)) = generation.next().await {
            teller.take(index, update)?;
        }
        Ok(())
    };
    within(app.config.timeout, work).await??;
    let parts: Vec<Value> = (0..teller.choices.len()).map(|index| teller.part(index)).collect();
    let body = json!({
        "request_id": teller.id, "choices": parts, "prompt_logprobs": teller.prompt_logprobs,
        "usage": teller.usage().json(),
    });
    Ok(json_body(&body).into_response())
}

struct Teller {
    id: String,
    prompt: Vec<u32>,
    sampling: Sampling,
    stream: bool,
    /// Tokens a chunk.
    interval: usize,
    cached: usize,
    /// Not told yet.
    prompt_logprobs: Option<Value>,
    choices: Vec<Choice>,
}

#[derive(Clone, Default)]
struct Choice {
    ids: Vec<u32>,
    logprobs: Vec<Value>,
    tokens: usize,
    finish: Option<&'static str>,
}

fn read(app: &App, id: &str, body: &Map<String, Value>) -> Result<Teller> {
    let fields = Fields::new(body);
    let config = &app.config;
    app.check_model(fields.string("model")?)?;
    let prompt = fields.token_ids("token_ids", config.vocab)?;
    let mut prompt = prompt.ok_or_else(|| fields.wrong("token_ids", "is missing"))?;
    let empty = Map::new();
    let inner = fields.object("sampling_params")?.unwrap_or(Fields::new(&empty));
    inner.refuse(&[
        ("stop", "; use `stop_token_ids`"),
        ("structured_outputs", " on this route"),
        ("thinking_token_budget", " on this route"),
    ])?;
    let bounds = Bounds { vocab: config.vocab, interval: config.stream_interval };
    let mut common = Common::read(&inner, bounds)?;
    common.truncate(&mut prompt);
    common.limit(&inner, Some(inner.count("max_tokens", 1)?.unwrap_or(16)))?;
    common.sampling.logprobs = inner.integer("logprobs", 0..=20)?.map(|top| top as u32);
    fit(&mut common.sampling, prompt.len(), config, "token_ids")?;
    Ok(Teller {
        id: fields.string("request_id")?.map_or_else(|| id.to_owned(), str::to_owned),
        prompt,
        sampling: common.sampling,
        stream: fields.bool("stream", false)?,
        interval: common.interval,
        cached: 0,
        prompt_logprobs: None,
        choices: vec![Choice::default(); common.n],
    })
}

impl Teller {
    /// Takes an update; says whether the choice has something to report.
    fn take(&mut self, index: usize, update: Update) -> Result<bool> {
        let choice = &mut self.choices[index];
        match update {
            Update::Prompt { cached, logprobs, .. } if index == 0 => {
                self.cached = cached;
                self.prompt_logprobs =
                    (!logprobs.is_empty()).then(|| prompt_entries(&self.prompt, &logprobs));
            }
            Update::Prompt { .. } => {}
            Update::Token { id, logprobs, finish } => {
                choice.tokens += 1;
                choice.ids.push(id);
                choice.logprobs.extend(logprobs.map(|l| chat_entry(id, &l, true)));
                choice.finish = finish.map(|finish| match finish {
                    Finish::Stop => "stop",
                    Finish::Length => "length",
                });
                // At once with the first token, then after as many as were asked for.
                let due = choice.tokens == 1 || choice.ids.len() >= self.interval;
                return Ok(due || choice.finish.is_some());
            }
            Update::Failed(error) => return Err(error),
        }
        Ok(false)
    }

    fn part(&mut self, index: usize) -> Value {
        let choice = &mut self.choices[index];
        let logprobs = std::mem::take(&mut choice.logprobs);
        json!({
            "index": index,
            "token_ids": std::mem::take(&mut choice.ids),
            "finish_reason": choice.finish,
            "logprobs": self.sampling.logprobs.map(|_| json!({"content": logprobs})),
        })
    }

    fn usage(&self) -> Usage {
        let completion = self.choices.iter().map(|choice| choice.tokens).sum();
        Usage { prompt: self.prompt.len(), cached: self.cached, completion, reasoning: 0 }
    }
}

impl Writer for Teller {
    fn begin(&mut self, _: &mut Vec<u8>) {}

    fn update(&mut self, index: usize, update: Update, out: &mut Vec<u8>) -> Then {
        match self.take(index, update) {
            Ok(true) => {
                let mut chunk = json!({"request_id": self.id, "choices": [self.part(index)]});
                if let Some(logprobs) = self.prompt_logprobs.take() {
                    chunk["prompt_logprobs"] = logprobs;
                }
                sse::data(out, &chunk);
                Then::GoOn
            }
            Ok(false) => Then::GoOn,
            Err(error) => {
                self.fail(error, out);
                Then::EndStream
            }
        }
    }

    fn end(&mut self, out: &mut Vec<u8>) {
        let usage = self.usage().json();
        sse::data(out, &json!({"request_id": self.id, "choices": [], "usage": usage}));
        sse::done(out);
    }
}
