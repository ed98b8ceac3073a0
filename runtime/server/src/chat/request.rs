//! What a chat request says.

use ossmith_harmony::{ChatMessage, Conversation, chat_conversation};
use serde_json::{Map, Value};

use super::message::ReasoningFields;
use crate::answer::ResponseOptions;
use crate::config::Config;
use crate::error::{ApiError, Result};
use crate::fields::Fields;
use crate::options::generation::GenerationOptions;
use crate::options::reasoning::ReasoningOptions;
use crate::options::stream::StreamOptions;
use crate::options::structured_output::StructuredOutput;
use crate::options::tools::ToolOptions;
use crate::state::AppState;
use crate::turn::prepare::{PreparedTurn, RequestOptions, render};

/// A request that was understood.
pub(crate) struct ChatRequest {
    pub(super) turn: PreparedTurn,
    pub(super) options: ResponseOptions,
    pub(super) reasoning: ReasoningFields,
}

/// Fields for things that this server cannot do.
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

impl ChatRequest {
    pub(super) fn read(app: &AppState, id: &str, body: &Map<String, Value>) -> Result<ChatRequest> {
        let fields = Fields::new(body);
        let config = &app.config;
        app.check_model(fields.string("model")?)?;
        fields.refuse(UNSUPPORTED)?;
        refuse_modalities(&fields)?;
        if !fields.bool("add_generation_prompt", true)? {
            return Err(ApiError::unsupported(
                "add_generation_prompt",
                "`add_generation_prompt` cannot be false for chat; use /v1/completions for raw prompts",
            ));
        }
        let stream = StreamOptions::read(&fields)?;
        let mut generation = GenerationOptions::read(&fields, config)?;
        let max_tokens = fields.count("max_completion_tokens", 1)?;
        let max_tokens = max_tokens.or(fields.count("max_tokens", 1)?);
        generation.set_max_tokens(&fields, max_tokens)?;
        generation.params.logprobs = logprobs(&fields)?;
        let model = fields.string("model")?.unwrap_or(config.name());
        let id = format!("chatcmpl-{id}");
        let options = ResponseOptions::new(id, model, stream, &generation, config.log_prompts);
        let reasoning = match fields.bool("include_reasoning", true)? {
            false => ReasoningFields::None,
            true if config.reasoning_content => ReasoningFields::Both,
            true => ReasoningFields::Reasoning,
        };
        let turn = prepare(config, &fields, &generation)?;
        Ok(ChatRequest { turn, options, reasoning })
    }
}

/// The prompt of a chat, and the rules of its turn.
pub(crate) fn prepare(
    config: &Config,
    fields: &Fields<'_>,
    generation: &GenerationOptions,
) -> Result<PreparedTurn> {
    let options = request_options(config, fields)?;
    options.prepare(&conversation(fields, &options)?, generation)
}

/// The tokens of a chat's history, without those that begin an answer.
pub(crate) fn render_history(config: &Config, fields: &Fields<'_>) -> Result<Vec<u32>> {
    let options = request_options(config, fields)?;
    let mut tokens = render(&conversation(fields, &options)?, "messages")?;
    // `<|start|>assistant` is two tokens.
    tokens.truncate(tokens.len().saturating_sub(2));
    Ok(tokens)
}

fn request_options<'a>(config: &'a Config, fields: &Fields<'_>) -> Result<RequestOptions<'a>> {
    Ok(RequestOptions {
        config,
        tools: ToolOptions::read(fields, config)?,
        output: StructuredOutput::read_chat(fields)?,
        reasoning: reasoning(fields)?,
        param: "messages",
    })
}

fn conversation(fields: &Fields<'_>, options: &RequestOptions<'_>) -> Result<Conversation> {
    chat_conversation(&messages(fields)?, &options.prompt_options(None))
        .map_err(|why| ApiError::bad("messages", why.to_string()))
}

fn messages(fields: &Fields<'_>) -> Result<Vec<ChatMessage>> {
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
fn reasoning(fields: &Fields<'_>) -> Result<ReasoningOptions> {
    let mut found = ReasoningOptions::read(fields, "reasoning_effort")?;
    for (object, field) in [("reasoning", "effort"), ("chat_template_kwargs", "reasoning_effort")] {
        if let Some(inner) = fields.object(object)? {
            found = found.or(ReasoningOptions::read(&inner, field)?);
        }
    }
    Ok(found.unwrap_or_default())
}

fn refuse_modalities(fields: &Fields<'_>) -> Result<()> {
    let modalities: Vec<String> = fields.read("modalities")?.unwrap_or_default();
    match modalities.iter().find(|modality| *modality != "text") {
        None => Ok(()),
        Some(other) => Err(ApiError::unsupported(
            "modalities",
            format!("`modalities` has `{other}`, which is not supported; only text is"),
        )),
    }
}

/// How many alternatives each token's log-probability comes with; none if they are not wanted.
fn logprobs(fields: &Fields<'_>) -> Result<Option<u32>> {
    let wanted = fields.bool("logprobs", false)?;
    let top = fields.integer("top_logprobs", 0..=20)?.unwrap_or(0) as u32;
    if !wanted && top > 0 {
        return Err(fields.wrong("top_logprobs", "is only allowed with `logprobs: true`"));
    }
    Ok(wanted.then_some(top))
}
