//! What a request to `/api/chat` or `/api/generate` says.

use ossmith_harmony::{ApiContent, ChatMessage, ChatToolCall, chat_conversation};
use serde_json::{Map, Value, json};

use super::models::model;
use crate::error::{ApiError, Result};
use crate::fields::{Fields, describe};
use crate::options::generation::{GenerationOptions, repetition_penalty};
use crate::options::reasoning::ReasoningOptions;
use crate::options::structured_output::StructuredOutput;
use crate::options::tools::ToolOptions;
use crate::state::AppState;
use crate::turn::prepare::{PreparedTurn, RequestOptions};

/// A request that was understood.
pub(super) struct OllamaRequest {
    /// The name by which the client calls the model.
    pub(super) model: String,
    pub(super) stream: bool,
    pub(super) task: Task,
}

/// What is to be done.
pub(super) enum Task {
    /// A request without a prompt loads the model, or with `keep_alive: 0` unloads it.
    Load { reason: &'static str },
    /// A turn, with its reasoning shown or not.
    Turn { turn: Box<PreparedTurn>, thinking: bool },
}

const UNSUPPORTED: &[(&str, &str)] = &[
    ("images", ": gpt-oss reads text only"),
    ("suffix", ": gpt-oss does not fill in the middle"),
    ("template", "; gpt-oss models have one format"),
    ("context", "; send the history to /api/chat"),
    ("raw", "; use /v1/completions for raw prompts"),
];

/// Samplers that the engine does not have, with the value that turns each off.
const SAMPLERS: [(&str, f64); 3] = [("mirostat", 0.0), ("tfs_z", 1.0), ("typical_p", 1.0)];

pub(super) fn read_chat(app: &AppState, body: &Map<String, Value>) -> Result<OllamaRequest> {
    let fields = Fields::new(body);
    let messages = fields.objects("messages")?.iter().map(message).collect::<Result<Vec<_>>>()?;
    read(app, &fields, messages, "messages")
}

pub(super) fn read_generate(app: &AppState, body: &Map<String, Value>) -> Result<OllamaRequest> {
    let fields = Fields::new(body);
    let mut messages = Vec::new();
    if let Some(prompt) = fields.string("prompt")?.filter(|prompt| !prompt.is_empty()) {
        let system = fields.string("system")?.unwrap_or_default();
        messages.extend([text("system", system), text("user", prompt)]);
    }
    read(app, &fields, messages, "prompt")
}

fn read(
    app: &AppState,
    fields: &Fields<'_>,
    messages: Vec<ChatMessage>,
    param: &'static str,
) -> Result<OllamaRequest> {
    let model = model(app, fields)?.to_owned();
    fields.refuse(UNSUPPORTED)?;
    let stream = fields.bool("stream", true)?;
    if messages.is_empty() {
        let zero = fields.get("keep_alive").is_some_and(is_zero);
        let reason = if zero { "unload" } else { "load" };
        return Ok(OllamaRequest { model, stream, task: Task::Load { reason } });
    }
    let generation = generation(app, fields)?;
    let (reasoning, thinking) = think(fields)?;
    let tools = match param {
        "messages" => ToolOptions::read(fields, &app.config)?,
        _ => ToolOptions::default(),
    };
    let output = format(fields)?;
    let options = RequestOptions { config: &app.config, tools, output, reasoning, param };
    let conversation = chat_conversation(&messages, &options.prompt_options(None))
        .map_err(|why| ApiError::bad(param, why.to_string()))?;
    let turn = Box::new(options.prepare(&conversation, &generation)?);
    Ok(OllamaRequest { model, stream, task: Task::Turn { turn, thinking } })
}

/// A time of zero, in any of its spellings.
fn is_zero(time: &Value) -> bool {
    match time {
        Value::Number(seconds) => seconds.as_f64() == Some(0.0),
        Value::String(text) => text.trim_end_matches(char::is_alphabetic).parse() == Ok(0.0),
        _ => false,
    }
}

/// `options`, and the log-probabilities that are wanted. Settings of Ollama's runner (`num_ctx`, `num_gpu`, `num_thread`, …) have
/// no meaning here, where memory is reserved when the server starts.
fn generation(app: &AppState, fields: &Fields<'_>) -> Result<GenerationOptions> {
    let empty = Map::new();
    let options = fields.object("options")?.unwrap_or_else(|| Fields::new(&empty));
    for (name, off) in SAMPLERS {
        if options.number(name, f64::MIN..=f64::MAX)?.is_some_and(|value| value != off) {
            let name = options.name(name);
            let why = format!("`{name}` is not supported; leave it out, or give {off}");
            return Err(ApiError::unsupported(name, why));
        }
    }
    options.refuse(&[("n", "")])?;
    let mut generation = GenerationOptions::read(&options, &app.config)?;
    generation.adapter = app.config.adapter(Some(model(app, fields)?))?;
    let penalty = repetition_penalty(&options, "repeat_penalty")?;
    // A window of no tokens is no penalty; any other is the whole text.
    if options.integer("repeat_last_n", -1..=i64::MAX)? != Some(0)
        && let Some(penalty) = penalty
    {
        generation.params = generation.params.with_repetition_penalty(penalty);
    }
    // A negative seed stands for any.
    if options.integer("seed", i64::MIN..=i64::MAX)?.is_some_and(|seed| seed < 0) {
        generation.set_random_seed();
    }
    let limit = options.integer("num_predict", -2..=i64::MAX)?.filter(|limit| *limit > 0);
    generation.set_max_tokens(&options, limit.map(|n| usize::try_from(n).unwrap_or(usize::MAX)))?;
    let top = fields.integer("top_logprobs", 0..=20)?.unwrap_or(0) as u32;
    generation.params.logprobs = fields.bool("logprobs", false)?.then_some(top);
    Ok(generation)
}

/// `think`: whether reasoning is sent, or how much of it there is to be. Without it, it is sent.
fn think(fields: &Fields<'_>) -> Result<(ReasoningOptions, bool)> {
    match fields.get("think") {
        None | Some(Value::Bool(true)) => Ok((ReasoningOptions::default(), true)),
        Some(Value::Bool(false)) => {
            Ok((ReasoningOptions { off: true, ..ReasoningOptions::default() }, false))
        }
        Some(Value::String(_)) => {
            let reasoning = ReasoningOptions::read(fields, "think")?.unwrap_or_default();
            Ok((reasoning, !reasoning.off))
        }
        Some(other) => {
            let why = format!("is {}, not true, false or a word", describe(other));
            Err(fields.wrong("think", why))
        }
    }
}

/// `format`: `json`, or a schema.
fn format(fields: &Fields<'_>) -> Result<StructuredOutput> {
    let format = match fields.get("format") {
        None => return Ok(StructuredOutput::default()),
        Some(Value::String(word)) if word.is_empty() => return Ok(StructuredOutput::default()),
        Some(Value::String(word)) if word == "json" => json!({"type": "json_object"}),
        Some(Value::String(word)) => {
            return Err(fields.wrong("format", format!("is `{word}`; use json or a JSON schema")));
        }
        Some(schema @ Value::Object(_)) => {
            json!({"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}})
        }
        Some(other) => {
            let why = format!("is {}, not `json` or a JSON schema", describe(other));
            return Err(fields.wrong("format", why));
        }
    };
    let map = Map::from_iter([("response_format".to_owned(), format)]);
    StructuredOutput::read_chat(&Fields::new(&map))
}

fn text(role: &str, text: &str) -> ChatMessage {
    ChatMessage {
        role: role.to_owned(),
        content: Some(ApiContent::Text(text.to_owned())),
        ..ChatMessage::default()
    }
}

fn message(fields: &Fields<'_>) -> Result<ChatMessage> {
    fields.refuse(&[("images", ": gpt-oss reads text only")])?;
    let calls = fields.objects("tool_calls")?.iter().map(call).collect::<Result<Vec<_>>>()?;
    let owned = |name| Result::Ok(fields.string(name)?.map(str::to_owned));
    let (role, content) = (fields.required_string("role")?, fields.string("content")?);
    if role == "user" && content.is_none() {
        return Err(fields.wrong("content", "is missing"));
    }
    Ok(ChatMessage {
        reasoning: owned("thinking")?,
        name: owned("tool_name")?,
        tool_call_id: owned("tool_call_id")?,
        tool_calls: (!calls.is_empty()).then_some(calls),
        ..text(role, content.unwrap_or_default())
    })
}

fn call(fields: &Fields<'_>) -> Result<ChatToolCall> {
    let Some(function) = fields.object("function")? else {
        return Err(fields.wrong("function", "is missing"));
    };
    Ok(ChatToolCall {
        id: fields.string("id")?.unwrap_or_default().to_owned(),
        name: function.required_string("name")?.to_owned(),
        arguments: match function.get("arguments") {
            None => String::new(),
            Some(Value::String(text)) => text.clone(),
            Some(value) => value.to_string(),
        },
    })
}
