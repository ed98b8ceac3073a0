//! `POST /inference/v1/generate`: token ids in, token ids out, for programs that bring their own tokenizer.

use std::sync::Arc;

use axum::Extension;
use axum::extract::State;
use axum::response::Response;
use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::answer::{AnswerFormat, Choice, Ending, ResponseOptions, ResponseState, ResponseWriter};
use crate::clock;
use crate::error::{Result, json_of};
use crate::extract::RequestBody;
use crate::fields::Fields;
use crate::generation::GeneratedToken;
use crate::ids::RequestId;
use crate::logprobs::{PromptLogprobs, TokenReport};
use crate::options::generation::GenerationOptions;
use crate::options::stream::StreamOptions;
use crate::sse;
use crate::state::AppState;
use crate::tenant::Tenant;

/// Limit of tokens where a request names none.
const DEFAULT_MAX_TOKENS: usize = 16;

pub(crate) async fn handle(
    State(app): State<Arc<AppState>>,
    Extension(RequestId(id)): Extension<RequestId>,
    Extension(tenant): Extension<Tenant>,
    body: RequestBody,
) -> Result<Response> {
    let arrival = clock::now();
    let read = move |app: &AppState, body: &_| RawRequest::read(app, &id, body);
    let RawRequest { prompt, generation, options } = body.read(&app, read).await?;
    let requests = (0..generation.n).map(|choice| generation.request(&prompt, None, choice));
    let running = app.generate(requests.collect(), tenant, arrival)?;
    let metrics = Arc::clone(&app.metrics);
    let writer = ResponseWriter::new(RawFormat, options, vec![prompt], generation.n, metrics);
    writer.respond(running, app.config.timeout).await
}

/// A request that was understood.
struct RawRequest {
    prompt: Vec<u32>,
    generation: GenerationOptions,
    options: ResponseOptions,
}

impl RawRequest {
    fn read(app: &AppState, id: &str, body: &Map<String, Value>) -> Result<RawRequest> {
        let fields = Fields::new(body);
        let config = &app.config;
        app.check_model(fields.string("model")?)?;
        let prompt = fields.token_ids("token_ids", config.vocab)?;
        let mut prompt = prompt.ok_or_else(|| fields.wrong("token_ids", "is missing"))?;
        let empty = Map::new();
        let params = fields.object("sampling_params")?.unwrap_or(Fields::new(&empty));
        params.refuse(&[
            ("stop", "; use `stop_token_ids`"),
            ("structured_outputs", " on this route"),
            ("thinking_token_budget", " on this route"),
        ])?;
        let mut generation = GenerationOptions::read(&params, config)?;
        generation.adapter = config.adapter(fields.string("model")?)?;
        generation.truncate(&mut prompt);
        let max_tokens = params.count("max_tokens", 1)?.unwrap_or(DEFAULT_MAX_TOKENS);
        generation.set_max_tokens(&params, Some(max_tokens))?;
        generation.params.logprobs = params.integer("logprobs", 0..=20)?.map(|top| top as u32);
        generation.clamp_max_tokens(prompt.len(), config, "token_ids")?;
        generation.check_prompt_report(prompt.len())?;
        let stream = StreamOptions {
            stream: fields.bool("stream", false)?,
            include_usage: true,
            continuous_usage: false,
        };
        let id = fields.string("request_id")?.unwrap_or(id).to_owned();
        let options = ResponseOptions {
            token_ids: true,
            tokens_as_ids: true,
            ..ResponseOptions::new(id, config.name(), stream, &generation, false)
        };
        Ok(RawRequest { prompt, generation, options })
    }
}

/// The format of this route's answers, whose only content is token ids and log-probabilities.
struct RawFormat;

impl AnswerFormat for RawFormat {
    type Content = Vec<TokenReport>;
    type Part = Part;

    fn content(&self) -> Vec<TokenReport> {
        Vec::new()
    }

    fn read_token(
        &self,
        logprobs: &mut Vec<TokenReport>,
        token: &GeneratedToken,
        options: &ResponseOptions,
    ) -> Option<Ending> {
        let entry = |of_token| TokenReport::new(token.id, of_token, options.tokens_as_ids);
        logprobs.extend(token.logprobs.as_ref().map(entry));
        Ending::of(token, None, &[])
    }

    fn parts(&self, state: &ResponseState, choice: &mut Choice<Vec<TokenReport>>) -> Vec<Part> {
        let content = std::mem::take(&mut choice.content);
        vec![Part {
            index: choice.index,
            token_ids: std::mem::take(&mut choice.ids),
            finish_reason: choice.ending.as_ref().map(|ending| ending.finish_reason),
            logprobs: state.options.logprobs.then_some(RawLogprobs { content }),
        }]
    }

    fn write_chunk(&self, state: &mut ResponseState, part: Part, out: &mut Vec<u8>) {
        // They come with the first chunk.
        let prompt_logprobs = state.prompt_logprobs.first_mut().and_then(Option::take);
        let request_id = &state.options.id;
        sse::data(out, &Chunk { request_id, choices: [part], prompt_logprobs });
    }

    fn write_closing(&self, state: &ResponseState, out: &mut Vec<u8>) {
        let (id, usage) = (&state.options.id, state.usage().json());
        sse::data(out, &json!({"request_id": id, "choices": [], "usage": usage}));
    }

    fn whole(&self, state: &ResponseState, mut choices: Vec<Choice<Vec<TokenReport>>>) -> String {
        json_of(&Whole {
            request_id: &state.options.id,
            choices: choices.iter_mut().flat_map(|choice| self.parts(state, choice)).collect(),
            prompt_logprobs: state.prompt_logprobs.first().and_then(Option::as_ref),
            usage: state.usage().json(),
        })
    }
}

/// A choice, whole or in a chunk.
#[derive(Serialize)]
struct Part {
    index: usize,
    token_ids: Vec<u32>,
    finish_reason: Option<&'static str>,
    logprobs: Option<RawLogprobs>,
}

#[derive(Serialize)]
struct RawLogprobs {
    content: Vec<TokenReport>,
}

#[derive(Serialize)]
struct Chunk<'a> {
    request_id: &'a str,
    choices: [Part; 1],
    #[serde(skip_serializing_if = "Option::is_none")]
    prompt_logprobs: Option<PromptLogprobs>,
}

#[derive(Serialize)]
struct Whole<'a> {
    request_id: &'a str,
    choices: Vec<Part>,
    prompt_logprobs: Option<&'a PromptLogprobs>,
    usage: Value,
}
