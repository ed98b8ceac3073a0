//! What a request to create a response says.

use serde_json::{Map, Value, json};

use super::prompt::{PromptInput, UNSUPPORTED, conversation_id, truncation};
use crate::bodies::HeldBody;
use crate::conversations::{bytes_of, check_room, metadata};
use crate::error::Result;
use crate::fields::Fields;
use crate::ids::{new_id_of, unix_seconds};
use crate::options::generation::GenerationOptions;
use crate::options::hosted_tools::ListedTools;
use crate::state::AppState;
use crate::store::{JsonText, text_of};
use crate::tenant::Tenant;
use crate::tool_servers::Catalog;
use crate::turn::prepare::PreparedTurn;

/// A request that was understood.
pub(crate) struct ResponseRequest {
    /// `resp_…`
    pub(super) id: String,
    pub(super) tenant: Tenant,
    pub(super) turn: PreparedTurn,
    pub(super) stream: bool,
    pub(super) background: bool,
    pub(super) store: bool,
    /// The response's fields that repeat the request.
    pub(super) echoed: Map<String, Value>,
    /// The input, without what came before, and the whole conversation before the answer, where they are stored with it. As text
    /// they take a small part of what they do as values, while the request waits.
    pub(super) input: JsonText,
    pub(super) context: JsonText,
    /// The stored conversation that it continues.
    pub(super) conversation: Option<String>,
    pub(super) logprobs: bool,
    pub(super) tokens_as_ids: bool,
    pub(super) reasoning: bool,
    /// Reasoning is also sent as a summary.
    pub(super) summary: bool,
    /// Reasoning also comes as a string that this server can read again.
    pub(super) sealed: bool,
    /// Types of input items that were left out.
    pub(super) ignored_items: Vec<String>,
    /// MCP servers whose tools the answer lists.
    pub(super) listed: Vec<ListedTools>,
    /// Most calls of tools that servers run.
    pub(super) max_tool_calls: usize,
    /// The room that it takes until it is answered.
    pub(super) _held: Option<HeldBody>,
}

pub(super) fn read(
    app: &AppState,
    tenant: Tenant,
    catalog: Catalog,
    body: &Map<String, Value>,
) -> Result<(ResponseRequest, usize)> {
    let fields = Fields::new(body);
    let config = &app.config;
    app.check_model(fields.string("model")?)?;
    fields.refuse(UNSUPPORTED)?;
    let stream = fields.bool("stream", false)?;
    let background = fields.bool("background", false)?;
    let store = fields.bool("store", true)?;
    if background && !store {
        return Err(fields.wrong("background", "needs `store: true`"));
    }
    fields.object("stream_options")?;
    let mut generation = GenerationOptions::read(&fields, config)?;
    generation.set_max_tokens(&fields, fields.count("max_output_tokens", 1)?)?;
    let include: Vec<String> = fields.read("include")?.unwrap_or_default();
    let top = fields.integer("top_logprobs", 0..=20)?.unwrap_or(0) as u32;
    let logprobs = top > 0 || include.iter().any(|name| name == "message.output_text.logprobs");
    generation.params.logprobs = logprobs.then_some(top);

    let prompt_input = PromptInput::read(app, tenant, catalog, &fields)?;
    if fields.get("input").is_none() {
        return Err(fields.wrong("input", "is missing"));
    }
    if prompt_input.context.is_empty() {
        return Err(fields.wrong("input", "is empty; give at least one item"));
    }
    if prompt_input.conversation.is_some() {
        check_room(bytes_of(&prompt_input.context), config.body_bytes, "input")?;
    }
    let turn = match truncation(&fields)? {
        "auto" => prompt_input.prepare_shortened(&generation)?,
        _ => prompt_input.prepare(&prompt_input.context, &generation)?,
    };
    let effort = prompt_input.effort;
    let echoed = echoed(app, &fields, effort, store, background)?;
    let PromptInput { input, ignored: ignored_items, context, conversation, mut listed, .. } =
        prompt_input;
    // A conversation has each list once.
    listed.retain(|listed| {
        !context.iter().any(|item| {
            item["type"] == "mcp_list_tools" && item["server_label"] == listed.label.as_str()
        })
    });
    let max_tool_calls = fields.count("max_tool_calls", 0)?.unwrap_or(usize::MAX);
    let kept = |items: &[Value]| text_of(if store || conversation.is_some() { items } else { &[] });
    let (input, context) = (kept(&input), kept(&context));
    let kept_bytes = input.len() + context.len();
    let request = ResponseRequest {
        // Not the request's own id: a client may send that again, and would then lose what is stored under it.
        id: new_id_of("resp"),
        tenant,
        turn,
        stream,
        background,
        store,
        echoed,
        input,
        context,
        conversation,
        logprobs,
        tokens_as_ids: generation.tokens_as_ids,
        reasoning: fields.bool("include_reasoning", true)?,
        summary: wants_summary(&fields)?,
        sealed: include.iter().any(|name| name == "reasoning.encrypted_content"),
        ignored_items,
        listed,
        max_tool_calls: max_tool_calls.min(config.tool_limits.calls),
        _held: None,
    };
    Ok((request, kept_bytes))
}

/// Whether a summary of the reasoning is wanted. There is no model that writes one, so it is the reasoning itself.
fn wants_summary(fields: &Fields<'_>) -> Result<bool> {
    let Some(reasoning) = fields.object("reasoning")? else { return Ok(false) };
    // The older name counts where the newer one is absent.
    for name in ["summary", "generate_summary"] {
        match reasoning.string(name)? {
            None => {}
            Some("auto" | "concise" | "detailed") => return Ok(true),
            Some("none") => return Ok(false),
            Some(other) => {
                let why = format!("is `{other}`; use auto, concise, detailed or none");
                return Err(reasoning.wrong(name, why));
            }
        }
    }
    Ok(false)
}

/// The fields of the response that repeat the request.
fn echoed(
    app: &AppState,
    fields: &Fields<'_>,
    effort: &str,
    store: bool,
    background: bool,
) -> Result<Map<String, Value>> {
    let given = |name: &str, default: Value| fields.get(name).cloned().unwrap_or(default);
    let metadata = metadata(fields)?;
    let truncation = truncation(fields)?;
    let summary = fields.object("reasoning")?.and_then(|fields| fields.get("summary").cloned());
    let format = fields.object("text")?.and_then(|text| text.get("format").cloned());
    let value = json!({
        "object": "response",
        "created_at": unix_seconds(),
        "completed_at": null,
        "conversation": conversation_id(fields)?.map(|id| json!({"id": id})),
        "background": background,
        "error": null,
        "incomplete_details": null,
        "instructions": given("instructions", Value::Null),
        "max_output_tokens": given("max_output_tokens", Value::Null),
        "max_tool_calls": given("max_tool_calls", Value::Null),
        "metadata": metadata,
        "model": fields.string("model")?.unwrap_or(app.config.name()),
        "parallel_tool_calls": given("parallel_tool_calls", true.into()),
        "previous_response_id": given("previous_response_id", Value::Null),
        "prompt_cache_key": given("prompt_cache_key", Value::Null),
        "reasoning": {"effort": effort, "summary": summary},
        "safety_identifier": given("safety_identifier", Value::Null),
        "service_tier": "default",
        "store": store,
        "temperature": given("temperature", json!(1.0)),
        "text": {"format": format.unwrap_or_else(|| json!({"type": "text"}))},
        "tool_choice": given("tool_choice", "auto".into()),
        "tools": tools(fields),
        "top_logprobs": given("top_logprobs", 0.into()),
        "top_p": given("top_p", json!(1.0)),
        "truncation": truncation,
        "user": given("user", Value::Null),
    });
    match value {
        Value::Object(map) => Ok(map),
        _ => Ok(Map::new()),
    }
}

/// The request's tools, with the fields that SDKs require of functions.
fn tools(fields: &Fields<'_>) -> Value {
    let mut tools = fields.get("tools").cloned().unwrap_or_else(|| json!([]));
    for tool in tools.as_array_mut().into_iter().flatten() {
        if let Value::Object(tool) = tool
            && tool.get("type").is_some_and(|kind| kind == "function")
        {
            tool.entry("parameters").or_insert(Value::Null);
            tool.entry("strict").or_insert(Value::Bool(false));
        }
        // What authenticates a client is nobody else's to read.
        if let Value::Object(tool) = tool {
            ["headers", "authorization"].iter().for_each(|name| drop(tool.shift_remove(*name)));
        }
    }
    tools
}
