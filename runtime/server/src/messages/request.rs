//! What a request to `/v1/messages` says. Its fields are those of Anthropic's reference; sampling fields have the same names as in
//! the other APIs, so vLLM's extensions (`seed`, `min_p`, `repetition_penalty`, …) are read here, too.

use ossmith_harmony::{Conversation, chat_conversation};
use serde_json::{Map, Value, json};

use super::history::History;
use super::tools;
use crate::error::{ApiError, Result};
use crate::fields::Fields;
use crate::options::generation::{GenerationOptions, stop_strings};
use crate::options::reasoning::ReasoningOptions;
use crate::options::structured_output::StructuredOutput;
use crate::state::AppState;
use crate::tenant::Tenant;
use crate::turn::prepare::{PreparedTurn, RequestOptions, render};

/// A request that was understood.
pub(super) struct MessagesRequest {
    /// `msg_…`
    pub(super) id: String,
    pub(super) turn: PreparedTurn,
    pub(super) stream: bool,
    pub(super) tenant: Tenant,
    pub(super) thinking: Shown,
}

/// How reasoning is sent, in blocks of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shown {
    Not,
    Whole,
    /// Without its text, which is sealed in the signature.
    Omitted,
}

const UNSUPPORTED: &[(&str, &str)] = &[
    ("mcp_servers", "; this server runs no tools"),
    ("container", "; this server runs no code"),
    ("n", " for messages"),
    ("prompt_logprobs", " for messages"),
    ("return_token_ids", " for messages"),
    ("stream_interval", " for messages"),
    ("stop", "; use `stop_sequences`"),
];

impl MessagesRequest {
    pub(super) fn read(
        app: &AppState,
        tenant: Tenant,
        id: &str,
        body: &Map<String, Value>,
    ) -> Result<MessagesRequest> {
        let fields = Fields::new(body);
        app.check_model(fields.string("model")?)?;
        fields.refuse(UNSUPPORTED)?;
        refuse_threads(&fields)?;
        let mut generation = GenerationOptions::read(&fields, &app.config)?;
        generation.stop_strings = stop_strings(&fields, "stop_sequences")?;
        let max_tokens = fields.count("max_tokens", 1)?;
        let max_tokens = max_tokens.ok_or_else(|| fields.wrong("max_tokens", "is missing"))?;
        generation.set_max_tokens(&fields, Some(max_tokens))?;
        let Thinking { reasoning, budget, shown } = Thinking::read(&fields)?;
        generation.thinking_budget = budget.or(generation.thinking_budget);
        if !matches!(fields.get("metadata"), None | Some(Value::Object(_))) {
            return Err(fields.wrong("metadata", "is not an object"));
        }
        let options = options(app, &fields, reasoning)?;
        let conversation = conversation(app, tenant, &fields, &options)?;
        Ok(MessagesRequest {
            id: format!("msg_{id}"),
            turn: options.prepare(&conversation, &generation)?,
            stream: fields.bool("stream", false)?,
            tenant,
            thinking: shown,
        })
    }
}

/// The tokens of a request's prompt, be they too many for the model.
pub(super) fn count_tokens(
    app: &AppState,
    tenant: Tenant,
    body: &Map<String, Value>,
) -> Result<usize> {
    let fields = Fields::new(body);
    app.check_model(fields.string("model")?)?;
    fields.refuse(UNSUPPORTED)?;
    let options = options(app, &fields, Thinking::read(&fields)?.reasoning)?;
    Ok(render(&conversation(app, tenant, &fields, &options)?, options.param)?.len())
}

fn options<'a>(
    app: &'a AppState,
    fields: &Fields<'_>,
    reasoning: ReasoningOptions,
) -> Result<RequestOptions<'a>> {
    Ok(RequestOptions {
        config: &app.config,
        tools: tools::read(fields, &app.config)?,
        output: output(fields)?,
        reasoning,
        param: "messages",
    })
}

fn conversation(
    app: &AppState,
    tenant: Tenant,
    fields: &Fields<'_>,
    options: &RequestOptions<'_>,
) -> Result<Conversation> {
    let history = History::read(fields, app.sealer.of(tenant))?;
    chat_conversation(&history.messages, &options.prompt_options(None))
        .map_err(|why| history.error(&why))
}

/// A thread is a history that the server holds. The tool runners of Anthropic's SDKs begin one, and send the whole history where
/// this code tells them that there is none.
fn refuse_threads(fields: &Fields<'_>) -> Result<()> {
    if fields.get("thread").is_none() {
        return Ok(());
    }
    let why = "`thread` is not supported: this server holds no threads; send the whole history as `messages`";
    Err(ApiError { code: Some("thread_unsupported_request"), ..ApiError::bad("thread", why) })
}

/// `thinking` and `output_config.effort`.
struct Thinking {
    reasoning: ReasoningOptions,
    /// Most tokens of reasoning.
    budget: Option<usize>,
    shown: Shown,
}

impl Thinking {
    /// Without `thinking` the model reasons as it always does, but no blocks of it are sent: a client that did not ask for
    /// them reads the first block as the answer.
    fn read(fields: &Fields<'_>) -> Result<Thinking> {
        let effort = match fields.object("output_config")? {
            Some(config) => ReasoningOptions::read(&config, "effort")?,
            None => None,
        };
        let mut reasoning = effort.unwrap_or_default();
        let (mut budget, mut shown) = (None, Shown::Not);
        let Some(thinking) = fields.object("thinking")? else {
            return Ok(Thinking { reasoning, budget, shown });
        };
        match thinking.required_string("type")? {
            "enabled" => {
                budget = thinking.count("budget_tokens", 1)?;
                shown = Shown::Whole;
            }
            "adaptive" => shown = Shown::Whole,
            "disabled" => reasoning.off = true,
            other => {
                let why = format!("is `{other}`; use enabled, adaptive or disabled");
                return Err(thinking.wrong("type", why));
            }
        }
        match thinking.string("display")? {
            None | Some("summarized") => {}
            Some("omitted") if shown == Shown::Whole => shown = Shown::Omitted,
            Some("omitted") => {}
            Some(other) => {
                let why = format!("is `{other}`; use summarized or omitted");
                return Err(thinking.wrong("display", why));
            }
        }
        Ok(Thinking { reasoning, budget, shown })
    }
}

/// The schema of the answer: `output_config.format`, or `output_format` as betas had it.
fn output(fields: &Fields<'_>) -> Result<StructuredOutput> {
    let nested = match fields.object("output_config")? {
        Some(config) => config.object("format")?,
        None => None,
    };
    let Some(format) = nested.map_or_else(|| fields.object("output_format"), |it| Ok(Some(it)))?
    else {
        return Ok(StructuredOutput::default());
    };
    match format.required_string("type")? {
        "json_schema" => {}
        other => return Err(format.wrong("type", format!("is `{other}`; use json_schema"))),
    }
    if format.object("schema")?.is_none() {
        return Err(format.wrong("schema", "is missing"));
    }
    let schema = json!({"name": "answer", "schema": format.get("schema"), "strict": true});
    let chat = json!({"response_format": {"type": "json_schema", "json_schema": schema}});
    match chat {
        Value::Object(map) => StructuredOutput::read_chat(&Fields::new(&map)),
        _ => Ok(StructuredOutput::default()),
    }
}
