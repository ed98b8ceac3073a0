//! What a request to create a response says.

use ossmith_harmony::responses_conversation;
use serde_json::{Map, Value, json};

use super::items;
use crate::access::fresh_id;
use crate::app::{App, now};
use crate::error::{ApiError, Result};
use crate::fields::Fields;
use crate::format::Format;
use crate::plan::{Planned, Thinking, Wishes};
use crate::sampling::{Bounds, Common};
use crate::tools::Tools;

/// A request that was understood.
pub(crate) struct Request {
    /// `resp_…`
    pub(super) id: String,
    pub(super) planned: Planned,
    pub(super) stream: bool,
    pub(super) background: bool,
    pub(super) store: bool,
    /// The response's fields that say what was asked.
    pub(super) asked: Map<String, Value>,
    /// This request's input.
    pub(super) input: Vec<Value>,
    /// Everything before the answer.
    pub(super) context: Vec<Value>,
    pub(super) logprobs: bool,
    pub(super) tokens_as_ids: bool,
    pub(super) reasoning: bool,
}

const UNSUPPORTED: &[(&str, &str)] = &[
    ("prompt", "; there are no stored prompts here"),
    ("conversation", "; use `previous_response_id`"),
    ("n", ""),
    ("prompt_logprobs", " for responses"),
    ("return_token_ids", " for responses"),
    ("stream_interval", " for responses"),
];

pub(super) fn read(app: &App, body: &Map<String, Value>) -> Result<Request> {
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
    let bounds = Bounds { vocab: config.vocab, interval: 1 };
    let mut common = Common::read(&fields, bounds)?;
    common.limit(&fields, fields.count("max_output_tokens", 1)?)?;
    let include: Vec<String> = fields.read("include")?.unwrap_or_default();
    let top = fields.integer("top_logprobs", 0..=20)?.unwrap_or(0) as u32;
    let logprobs = top > 0 || include.iter().any(|name| name == "message.output_text.logprobs");
    common.sampling.logprobs = logprobs.then_some(top);

    let (thinking, effort) = thinking(&fields)?;
    let wishes = Wishes {
        config,
        tools: Tools::read(&fields)?,
        format: Format::of_responses(&fields)?,
        thinking,
        common: &common,
        param: "input",
    };
    let value = fields.get("input").ok_or_else(|| fields.wrong("input", "is missing"))?;
    let input = items::normal(value, &app.store)?;
    let mut context = previous(app, &fields)?;
    context.extend(input.iter().cloned());
    if context.is_empty() {
        return Err(fields.wrong("input", "is empty; give at least one item"));
    }
    let options = wishes.prompt_options(fields.string("instructions")?.map(str::to_owned));
    let plan = |context: &[Value]| {
        let conversation = responses_conversation(&items::parsed(context)?, &options)
            .map_err(|why| ApiError::bad("input", why.to_string()))?;
        wishes.plan(&conversation)
    };
    let planned = match truncation(&fields)? {
        "auto" => shortened(&context, plan)?,
        _ => plan(&context)?,
    };
    Ok(Request {
        // Not the request's own id: a client may repeat that, and would lose what is stored under it.
        id: format!("resp_{}", fresh_id()),
        planned,
        stream,
        background,
        store,
        asked: asked(app, &fields, effort, store, background)?,
        input,
        context,
        logprobs,
        tokens_as_ids: common.tokens_as_ids,
        reasoning: fields.bool("include_reasoning", true)?,
    })
}

/// The effort, and the word for it: OpenAI's field, then that of Chat Completions. Both are checked if both are given.
fn thinking<'a>(fields: &Fields<'a>) -> Result<(Thinking, &'a str)> {
    let of = |fields: &Fields<'a>, name: &str| -> Result<Option<(Thinking, &'a str)>> {
        Ok(Thinking::read(fields, name)?.zip(fields.string(name)?))
    };
    let nested = match fields.object("reasoning")? {
        Some(reasoning) => of(&reasoning, "effort")?,
        None => None,
    };
    let found = nested.or(of(fields, "reasoning_effort")?);
    Ok(found.unwrap_or((Thinking::default(), "medium")))
}

/// What was said before, by `previous_response_id`.
fn previous(app: &App, fields: &Fields<'_>) -> Result<Vec<Value>> {
    let Some(id) = fields.string("previous_response_id")? else { return Ok(Vec::new()) };
    let Some(entry) = app.store.get(id) else {
        return Err(ApiError {
            param: Some("previous_response_id".to_owned()),
            ..ApiError::not_found(
                Some("previous_response_not_found"),
                format!("Previous response with id '{id}' not found."),
            )
        });
    };
    entry.context().ok_or_else(|| {
        fields.wrong("previous_response_id", "names a response that has not ended yet")
    })
}

fn truncation<'a>(fields: &Fields<'a>) -> Result<&'a str> {
    match fields.string("truncation")? {
        None => Ok("disabled"),
        Some(word @ ("auto" | "disabled")) => Ok(word),
        Some(other) => {
            Err(fields.wrong("truncation", format!("is `{other}`; use auto or disabled")))
        }
    }
}

/// The plan of as many of the last items as fit; the oldest are left out first.
fn shortened(context: &[Value], plan: impl Fn(&[Value]) -> Result<Planned>) -> Result<Planned> {
    let without = |count: usize| plan(&items::after(context, count));
    let too_long = |planned: &Result<Planned>| {
        planned.as_ref().is_err_and(|why| why.code == Some("context_length_exceeded"))
    };
    let (mut best, mut few, mut enough) = (plan(context), 0, context.len());
    if !too_long(&best) {
        return best;
    }
    // Leaving out `few` is not enough; leaving out all would leave nothing to answer.
    while few + 1 < enough {
        let middle = few.midpoint(enough);
        let planned = without(middle);
        if too_long(&planned) {
            few = middle;
        } else {
            (best, enough) = (planned, middle);
        }
    }
    best
}

/// The fields of the response that repeat the request.
fn asked(
    app: &App,
    fields: &Fields<'_>,
    effort: &str,
    store: bool,
    background: bool,
) -> Result<Map<String, Value>> {
    let given = |name: &str, default: Value| fields.get(name).cloned().unwrap_or(default);
    let metadata = given("metadata", json!({}));
    if !metadata.is_object() {
        return Err(fields.wrong("metadata", "is not an object"));
    }
    let truncation = truncation(fields)?;
    let summary = fields.object("reasoning")?.and_then(|fields| fields.get("summary").cloned());
    let format = fields.object("text")?.and_then(|text| text.get("format").cloned());
    let value = json!({
        "object": "response",
        "created_at": now(),
        "completed_at": null,
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

/// The tools with the fields that SDKs require.
fn tools(fields: &Fields<'_>) -> Value {
    let mut tools = fields.get("tools").cloned().unwrap_or_else(|| json!([]));
    for tool in tools.as_array_mut().into_iter().flatten() {
        if let Value::Object(tool) = tool {
            tool.entry("parameters").or_insert(Value::Null);
            tool.entry("strict").or_insert(Value::Bool(false));
        }
    }
    tools
}
