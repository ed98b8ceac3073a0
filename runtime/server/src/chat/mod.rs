//! `POST /v1/chat/completions`: what a request says. `reply` has the whole answer, `stream` the answer in chunks, `choice`
//! what they share.

mod choice;
mod reply;
mod stream;

use std::sync::Arc;

use axum::Extension;
use axum::extract::State;
use axum::response::Response;
use ossmith_harmony::{ChatMessage, PromptOptions, chat_conversation};
use serde_json::{Map, Value};

use crate::access::RequestId;
use crate::app::{App, now};
use crate::config::Config;
use crate::error::{ApiError, Result};
use crate::fields::Fields;
use crate::format::Format;
use crate::plan::{Planned, Thinking, Wishes};
use crate::request::Body;
use crate::sampling::{Bounds, Common};
use crate::sse;
use crate::tools::Tools;

/// How the answer is to be told.
#[derive(Clone, Debug)]
pub(crate) struct Telling {
    pub(crate) id: String,
    pub(crate) created: u64,
    pub(crate) model: String,
    pub(crate) logprobs: bool,
    pub(crate) token_ids: bool,
    pub(crate) tokens_as_ids: bool,
    pub(crate) reasoning: bool,
    /// Also under its older name.
    pub(crate) reasoning_content: bool,
    pub(crate) include_usage: bool,
    pub(crate) continuous_usage: bool,
    pub(crate) interval: usize,
    /// Token ids that the client wants to end the answer.
    pub(crate) stop_token_ids: Vec<u32>,
    pub(crate) log: bool,
}

/// A request that was understood.
pub(crate) struct ChatRequest {
    pub(crate) planned: Planned,
    pub(crate) telling: Telling,
    stream: bool,
}

/// Fields that mean something which this server cannot do.
const UNSUPPORTED: &[(&str, &str)] = &[
    ("functions", "; use `tools`"),
    ("function_call", "; use `tool_choice`"),
    ("audio", "; only text is"),
    ("web_search_options", ""),
    ("documents", ""),
    ("chat_template", "; gpt-oss models have one format"),
    ("continue_final_message", ""),
    ("echo", " for chat"),
    ("mm_processor_kwargs", ""),
];

pub(crate) async fn handle(
    State(app): State<Arc<App>>,
    Extension(RequestId(id)): Extension<RequestId>,
    body: Body,
) -> Result<Response> {
    let request = body.read(&app, move |app, body| read(app, &id, body)).await?;
    if request.telling.log {
        tracing::info!(id = request.telling.id, prompt = %lossy(&request.planned.prompt), "prompt");
    }
    let generation = app.generate(request.planned.asks())?;
    let metrics = Arc::clone(&app.metrics);
    if request.stream {
        let writer = stream::ChatWriter::new(request, metrics);
        return Ok(sse::response(generation, writer, app.config.timeout));
    }
    reply::whole(request, generation, &metrics, app.config.timeout).await
}

fn read(app: &App, id: &str, body: &Map<String, Value>) -> Result<ChatRequest> {
    let fields = Fields::new(body);
    let config = &app.config;
    app.check_model(fields.string("model")?)?;
    fields.refuse(UNSUPPORTED)?;
    only_text(&fields)?;
    if !fields.bool("add_generation_prompt", true)? {
        return Err(ApiError::unsupported(
            "add_generation_prompt",
            "`add_generation_prompt` cannot be false for chat; use /v1/completions for raw prompts",
        ));
    }
    let stream = fields.bool("stream", false)?;
    let (include_usage, continuous_usage) = stream_options(&fields, stream)?;
    let bounds = Bounds { vocab: config.vocab, interval: config.stream_interval };
    let mut common = Common::read(&fields, bounds)?;
    let max_tokens = fields.count("max_completion_tokens", 1)?;
    let max_tokens = max_tokens.or(fields.count("max_tokens", 1)?);
    common.limit(&fields, max_tokens)?;
    let logprobs = fields.bool("logprobs", false)?;
    common.sampling.logprobs = top_logprobs(&fields, logprobs)?;
    let telling = Telling {
        id: format!("chatcmpl-{id}"),
        created: now(),
        model: fields.string("model")?.unwrap_or(config.name()).to_owned(),
        logprobs,
        token_ids: common.return_token_ids,
        tokens_as_ids: common.tokens_as_ids,
        reasoning: fields.bool("include_reasoning", true)?,
        reasoning_content: config.reasoning_content,
        include_usage,
        continuous_usage,
        interval: common.interval,
        stop_token_ids: common.sampling.stop_token_ids.clone(),
        log: config.log_prompts,
    };
    let planned = plan(config, &fields, &common)?;
    Ok(ChatRequest { planned, telling, stream })
}

/// The prompt of a chat, and the rules of its turn.
pub(crate) fn plan(config: &Config, fields: &Fields<'_>, common: &Common) -> Result<Planned> {
    let wishes = wishes(config, fields, common)?;
    let messages = messages(fields)?;
    let conversation = chat_conversation(&messages, &wishes.prompt_options(None))
        .map_err(|why| ApiError::bad("messages", why.to_string()))?;
    wishes.plan(&conversation)
}

/// What a chat's prompt has besides its history.
pub(crate) fn prompt_options(config: &Config, fields: &Fields<'_>) -> Result<PromptOptions> {
    Ok(wishes(config, fields, &Common::default())?.prompt_options(None))
}

fn wishes<'a>(config: &'a Config, fields: &Fields<'_>, common: &'a Common) -> Result<Wishes<'a>> {
    Ok(Wishes {
        config,
        tools: Tools::read(fields)?,
        format: Format::of_chat(fields)?,
        thinking: thinking(fields)?,
        common,
        param: "messages",
    })
}

/// The history.
pub(crate) fn messages(fields: &Fields<'_>) -> Result<Vec<ChatMessage>> {
    let list = match fields.get("messages") {
        None => return Err(fields.wrong("messages", "is missing")),
        Some(Value::Array(list)) => list,
        Some(_) => return Err(fields.wrong("messages", "is not a list")),
    };
    if list.is_empty() {
        return Err(fields.wrong("messages", "is empty; give at least one message"));
    }
    let message = |(index, value): (usize, &Value)| {
        let name = format!("messages[{index}]");
        serde::Deserialize::deserialize(value)
            .map_err(|why| ApiError::bad(name.clone(), format!("`{name}`: {why}")))
    };
    list.iter().enumerate().map(message).collect()
}

/// The effort: OpenAI's field, then that of Responses, then vLLM's template argument. All that are given are checked.
fn thinking(fields: &Fields<'_>) -> Result<Thinking> {
    let mut found = Thinking::read(fields, "reasoning_effort")?;
    for (object, field) in [("reasoning", "effort"), ("chat_template_kwargs", "reasoning_effort")] {
        if let Some(inner) = fields.object(object)? {
            found = found.or(Thinking::read(&inner, field)?);
        }
    }
    Ok(found.unwrap_or_default())
}

fn only_text(fields: &Fields<'_>) -> Result<()> {
    let modalities: Vec<String> = fields.read("modalities")?.unwrap_or_default();
    match modalities.iter().find(|modality| *modality != "text") {
        None => Ok(()),
        Some(other) => Err(ApiError::unsupported(
            "modalities",
            format!("`modalities` has `{other}`, which is not supported; only text is"),
        )),
    }
}

/// `stream_options`: whether to send usage at the end, and with every chunk.
pub(crate) fn stream_options(fields: &Fields<'_>, stream: bool) -> Result<(bool, bool)> {
    let Some(options) = fields.object("stream_options")? else { return Ok((false, false)) };
    if !stream {
        return Err(fields.wrong("stream_options", "is only allowed with `stream: true`"));
    }
    let continuous = options.bool("continuous_usage_stats", false)?;
    Ok((options.bool("include_usage", false)?, continuous))
}

fn top_logprobs(fields: &Fields<'_>, logprobs: bool) -> Result<Option<u32>> {
    let top = fields.integer("top_logprobs", 0..=20)?;
    match (logprobs, top) {
        (false, Some(top)) if top > 0 => {
            Err(fields.wrong("top_logprobs", "is only allowed with `logprobs: true`"))
        }
        (false, _) => Ok(None),
        (true, top) => Ok(Some(top.unwrap_or(0) as u32)),
    }
}

/// Tokens as text, for the log.
pub(crate) fn lossy(tokens: &[u32]) -> String {
    ossmith_harmony::decode_lossy(tokens).unwrap_or_default()
}
