//! `POST /v1/completions`: raw prompts, text or token ids, with no conversation around them. `text` reads the answer, `tell`
//! tells it whole or in chunks, `tokens` is the route that speaks token ids only.

mod tell;
mod text;
pub(crate) mod tokens;

use std::sync::Arc;

use axum::Extension;
use axum::extract::State;
use axum::response::Response;
use ossmith_harmony::{SpecialSet, encode_with_special};
use serde_json::{Map, Value};

use crate::access::RequestId;
use crate::app::{App, now};
use crate::chat::stream_options;
use crate::engine::{Ask, Sampling};
use crate::error::{ApiError, Result};
use crate::fields::{Fields, kind, token_ids};
use crate::format::Format;
use crate::guide::Guide;
use crate::guide::grammar::Compiled;
use crate::plan::{nth, refuse_beside_rules};
use crate::request::Body;
use crate::sampling::{Bounds, Common, fit};
use crate::sse;

/// Most prompts of one request.
const MOST_PROMPTS: usize = 1024;
/// Most generations of one request.
const MOST_GENERATIONS: usize = 4096;

/// How the answer is to be told.
#[derive(Clone, Debug)]
pub(crate) struct Telling {
    id: String,
    created: u64,
    model: String,
    /// Alternatives beside each token.
    logprobs: Option<u32>,
    token_ids: bool,
    tokens_as_ids: bool,
    /// Give the prompt back before the answer.
    echo: bool,
    /// The client wants the prompt alone; the one token that is generated is left out.
    discard: bool,
    skip_special: bool,
    include_usage: bool,
    continuous_usage: bool,
    interval: usize,
    stop_token_ids: Vec<u32>,
    stops: Vec<String>,
    keep_stop: bool,
    prompt_logprobs: bool,
    log: bool,
}

/// A request that was understood.
pub(crate) struct Request {
    prompts: Vec<Vec<u32>>,
    /// One for each prompt.
    samplings: Vec<Sampling>,
    n: usize,
    form: Option<Compiled>,
    telling: Telling,
    stream: bool,
}

pub(crate) async fn handle(
    State(app): State<Arc<App>>,
    Extension(RequestId(id)): Extension<RequestId>,
    body: Body,
) -> Result<Response> {
    let request = body.read(&app, move |app, body| read(app, &id, body)).await?;
    if request.telling.log {
        let prompts: Vec<String> = request.prompts.iter().map(|p| crate::chat::lossy(p)).collect();
        tracing::info!(id = request.telling.id, ?prompts, "prompts");
    }
    let generation = app.generate(request.asks())?;
    let teller = tell::Teller::new(request);
    if teller.streams() {
        return Ok(sse::response(generation, teller, app.config.timeout));
    }
    tell::whole(teller, generation, app.config.timeout).await
}

impl Request {
    fn asks(&self) -> Vec<Ask> {
        let ask = |index: usize| {
            let (prompt, choice) = (index / self.n, index % self.n);
            Ask {
                prompt: self.prompts[prompt].clone(),
                sampling: nth(&self.samplings[prompt], choice),
                guide: self.form.clone().map(Guide::of_text),
                alternative: choice,
                timeout: None,
            }
        };
        (0..self.prompts.len() * self.n).map(ask).collect()
    }
}

fn read(app: &App, id: &str, body: &Map<String, Value>) -> Result<Request> {
    let fields = Fields::new(body);
    let config = &app.config;
    app.check_model(fields.string("model")?)?;
    fields.refuse(&[
        ("suffix", "; gpt-oss models cannot fill in"),
        ("thinking_token_budget", " for raw prompts"),
    ])?;
    let stream = fields.bool("stream", false)?;
    let (include_usage, continuous_usage) = stream_options(&fields, stream)?;
    let bounds = Bounds { vocab: config.vocab, interval: config.stream_interval };
    let mut common = Common::read(&fields, bounds)?;
    if fields.integer("best_of", 1..=128)?.is_some_and(|best| best as usize != common.n) {
        return Err(ApiError::unsupported("best_of", "`best_of` is not supported; use `n`"));
    }
    let echo = fields.bool("echo", false)?;
    let max_tokens = fields.count("max_tokens", i64::from(!echo))?.unwrap_or(16);
    common.limit(&fields, Some(max_tokens.max(1)))?;
    let logprobs = fields.integer("logprobs", 0..=20)?.map(|top| top as u32);
    common.sampling.logprobs = logprobs;
    let asked_for_prompt = common.sampling.prompt_logprobs.is_some();
    if echo && logprobs.is_some() {
        common.sampling.prompt_logprobs = common.sampling.prompt_logprobs.max(logprobs);
    }
    let prompts = prompts(&fields, config.vocab, &common)?;
    if prompts.len() * common.n > MOST_GENERATIONS {
        return Err(fields.wrong("n", format!("times prompts is over {MOST_GENERATIONS}")));
    }
    let fitted = |prompt: &Vec<u32>| {
        let mut sampling = common.sampling.clone();
        fit(&mut sampling, prompt.len(), config, "prompt")?;
        Ok(sampling)
    };
    let samplings = prompts.iter().map(fitted).collect::<Result<Vec<Sampling>>>()?;
    let form = Format::of_chat(&fields)?.compile()?;
    if form.is_some() {
        refuse_beside_rules(&common.sampling, "a response format")?;
    }
    let telling = Telling {
        id: format!("cmpl-{id}"),
        created: now(),
        model: fields.string("model")?.unwrap_or(config.name()).to_owned(),
        logprobs,
        token_ids: common.return_token_ids,
        tokens_as_ids: common.tokens_as_ids,
        echo,
        discard: max_tokens == 0,
        skip_special: fields.bool("skip_special_tokens", true)?,
        include_usage,
        continuous_usage,
        interval: common.interval,
        stop_token_ids: common.sampling.stop_token_ids.clone(),
        stops: common.stops.clone(),
        keep_stop: common.keep_stop,
        prompt_logprobs: asked_for_prompt,
        log: config.log_prompts,
    };
    Ok(Request { prompts, samplings, n: common.n, form, telling, stream })
}

/// A string, strings, ids or lists of ids; special tokens may be written by name in strings.
fn prompts(fields: &Fields<'_>, vocab: usize, common: &Common) -> Result<Vec<Vec<u32>>> {
    let value = fields.get("prompt").ok_or_else(|| fields.wrong("prompt", "is missing"))?;
    let mut prompts = match value {
        Value::String(text) => vec![encode(text)],
        Value::Array(list) => match list.first() {
            None => return Err(fields.wrong("prompt", "is empty")),
            Some(Value::Number(_)) => vec![token_ids(value, "prompt", vocab)?],
            Some(_) if list.len() > MOST_PROMPTS => {
                return Err(fields.wrong("prompt", format!("has over {MOST_PROMPTS} prompts")));
            }
            Some(_) => {
                let one = |(index, item): (usize, &Value)| match item {
                    Value::String(text) => Ok(encode(text)),
                    other => token_ids(other, &format!("prompt[{index}]"), vocab),
                };
                list.iter().enumerate().map(one).collect::<Result<_>>()?
            }
        },
        other => {
            return Err(fields.wrong(
                "prompt",
                format!("is {}, not text, token ids, or a list of either", kind(other)),
            ));
        }
    };
    prompts.iter_mut().for_each(|prompt| common.truncate(prompt));
    Ok(prompts)
}

/// Text as tokens, special tokens by name; nothing is disallowed, so it cannot fail.
pub(crate) fn encode(text: &str) -> Vec<u32> {
    encode_with_special(text, &SpecialSet::All, &SpecialSet::NONE)
        .unwrap_or_else(|_| ossmith_harmony::encode(text))
}
