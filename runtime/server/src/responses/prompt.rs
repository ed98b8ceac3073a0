//! What the prompt of a response is made of: the stored conversation before it, its input, instructions and tools. Creating,
//! counting and compacting begin with it.

use ossmith_harmony::{Conversation, PromptOptions, responses_conversation};
use serde_json::{Map, Value};

use super::items;
use crate::conversations;
use crate::error::{ApiError, Result};
use crate::fields::Fields;
use crate::options::generation::GenerationOptions;
use crate::options::hosted_tools::{HostedTools, ListedTools};
use crate::options::reasoning::ReasoningOptions;
use crate::options::structured_output::StructuredOutput;
use crate::options::tools::ToolOptions;
use crate::seal::TenantSealer;
use crate::state::AppState;
use crate::store::{TenantStore, is_response};
use crate::tenant::Tenant;
use crate::tool_servers::Catalog;
use crate::turn::prepare::{PreparedTurn, RequestOptions, render};

/// Fields for things that this server cannot do.
pub(super) const UNSUPPORTED: &[(&str, &str)] = &[
    ("prompt", "; this server stores no prompts"),
    ("n", ""),
    ("prompt_logprobs", " for responses"),
    ("return_token_ids", " for responses"),
    ("stream_interval", " for responses"),
];

/// Where a prompt comes from.
pub(super) struct PromptInput<'a> {
    options: RequestOptions<'a>,
    prompt_options: PromptOptions,
    sealer: TenantSealer<'a>,
    /// The word for the effort.
    pub(super) effort: &'a str,
    /// The input, without what came before.
    pub(super) input: Vec<Value>,
    /// Types of its items that were left out.
    pub(super) ignored: Vec<String>,
    /// The whole conversation before the answer.
    pub(super) context: Vec<Value>,
    /// The stored conversation that is continued.
    pub(super) conversation: Option<String>,
    /// The MCP servers that the request names, with their tools.
    pub(super) listed: Vec<ListedTools>,
}

impl<'a> PromptInput<'a> {
    pub(super) fn read(
        app: &'a AppState,
        tenant: Tenant,
        catalog: Catalog,
        fields: &Fields<'a>,
    ) -> Result<PromptInput<'a>> {
        let (reasoning, effort) = reasoning(fields)?;
        let mut hosted = HostedTools::new(catalog);
        let options = RequestOptions {
            config: &app.config,
            tools: ToolOptions::read_hosting(fields, &app.config, &mut hosted)?,
            output: StructuredOutput::read_responses(fields)?,
            reasoning,
            param: "input",
        };
        let items::Input { items: input, ignored } = match fields.get("input") {
            None => items::Input { items: Vec::new(), ignored: Vec::new() },
            Some(value) => items::normalize(value, app, tenant)?,
        };
        let conversation = conversation_id(fields)?.map(str::to_owned);
        let mut context = before(app.store.of(tenant), fields)?;
        context.extend(input.iter().cloned());
        Ok(PromptInput {
            prompt_options: options.prompt_options(instructions(fields)?),
            options,
            sealer: app.sealer.of(tenant),
            effort,
            input,
            ignored,
            context,
            conversation,
            listed: hosted.listed,
        })
    }

    /// The same without tools and a form: nothing but a text can be written.
    pub(super) fn text_only(mut self) -> PromptInput<'a> {
        self.options.tools = ToolOptions::default();
        self.options.output = StructuredOutput::default();
        self.prompt_options.built_in.clear();
        self.prompt_options.tools.clear();
        self.prompt_options.namespaces.clear();
        self.prompt_options.response_format = None;
        self
    }

    fn conversation_of(&self, items: &[Value]) -> Result<Conversation> {
        responses_conversation(&items::parse(items, self.sealer, "input")?, &self.prompt_options)
            .map_err(|why| ApiError::bad("input", why.to_string()))
    }

    /// Prepares the turn that continues these items.
    pub(super) fn prepare(
        &self,
        items: &[Value],
        generation: &GenerationOptions,
    ) -> Result<PreparedTurn> {
        self.options.prepare(&self.conversation_of(items)?, generation)
    }

    /// Prepares a turn from as many of the last items as fit: the oldest are left out.
    pub(super) fn prepare_shortened(&self, generation: &GenerationOptions) -> Result<PreparedTurn> {
        let (context, prepare) = (&self.context, |items: &[Value]| self.prepare(items, generation));
        let too_long = |turn: &Result<PreparedTurn>| {
            turn.as_ref().is_err_and(|why| why.code == Some("context_length_exceeded"))
        };
        let (mut best, mut too_few, mut enough) = (prepare(context), 0, context.len());
        if !too_long(&best) {
            return best;
        }
        // Leaving out `too_few` items is not enough; leaving out all would leave nothing to answer.
        while too_few + 1 < enough {
            let middle = too_few.midpoint(enough);
            let turn = prepare(&items::without_first(context, middle));
            if too_long(&turn) {
                too_few = middle;
            } else {
                (best, enough) = (turn, middle);
            }
        }
        best
    }
}

/// The tokens of a request's prompt, be they too many for the model.
pub(super) fn count(
    app: &AppState,
    tenant: Tenant,
    catalog: Catalog,
    body: &Map<String, Value>,
) -> Result<usize> {
    let fields = Fields::new(body);
    app.check_model(fields.string("model")?)?;
    fields.refuse(UNSUPPORTED)?;
    let prompt_input = PromptInput::read(app, tenant, catalog, &fields)?;
    let generation = GenerationOptions::read(&fields, &app.config)?;
    match prompt_input.prepare(&prompt_input.context, &generation) {
        Err(why) if why.code == Some("context_length_exceeded") => {
            Ok(render(&prompt_input.conversation_of(&prompt_input.context)?, "input")?.len())
        }
        turn => turn.map(|turn| turn.prompt.len()),
    }
}

/// The effort, and the word for it: OpenAI's field, then that of Chat Completions. Both are checked if both are given.
fn reasoning<'a>(fields: &Fields<'a>) -> Result<(ReasoningOptions, &'a str)> {
    let of = |fields: &Fields<'a>, name: &str| -> Result<Option<(ReasoningOptions, &'a str)>> {
        Ok(ReasoningOptions::read(fields, name)?.zip(fields.string(name)?))
    };
    let nested = match fields.object("reasoning")? {
        Some(reasoning) => of(&reasoning, "effort")?,
        None => None,
    };
    let found = nested.or(of(fields, "reasoning_effort")?);
    Ok(found.unwrap_or((ReasoningOptions::default(), "medium")))
}

/// The instructions: a text, or a list of parts with texts.
fn instructions(fields: &Fields<'_>) -> Result<Option<String>> {
    let Some(Value::Array(parts)) = fields.get("instructions") else {
        return Ok(fields.string("instructions")?.map(str::to_owned));
    };
    let texts: Option<String> = parts.iter().map(|part| part["text"].as_str()).collect();
    let not_text = || fields.wrong("instructions", "has an entry that is not a part with a `text`");
    texts.ok_or_else(not_text).map(Some)
}

/// The stored conversation that a request names, as an id or as an object with one.
pub(super) fn conversation_id<'a>(fields: &Fields<'a>) -> Result<Option<&'a str>> {
    match fields.get("conversation") {
        Some(Value::Object(_)) => match fields.object("conversation")? {
            Some(conversation) => conversation.required_string("id").map(Some),
            None => Ok(None),
        },
        _ => fields.string("conversation"),
    }
}

/// What came before the input: a stored conversation, or the one up to a stored response.
fn before(store: TenantStore<'_>, fields: &Fields<'_>) -> Result<Vec<Value>> {
    let Some(id) = conversation_id(fields)? else { return previous(store, fields) };
    if fields.string("previous_response_id")?.is_some() {
        let why = "and `previous_response_id` cannot both be given; choose one";
        return Err(fields.wrong("conversation", why));
    }
    let entry = conversations::find(store, id);
    let entry = entry.map_err(|why| ApiError { param: Some("conversation".to_owned()), ..why })?;
    Ok(entry.context().unwrap_or_default())
}

/// The conversation up to the response that `previous_response_id` names.
fn previous(store: TenantStore<'_>, fields: &Fields<'_>) -> Result<Vec<Value>> {
    let Some(id) = fields.string("previous_response_id")? else { return Ok(Vec::new()) };
    let found = store.get(id)?.filter(|_| is_response(id));
    let Some(entry) = found else {
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

pub(super) fn truncation<'a>(fields: &Fields<'a>) -> Result<&'a str> {
    match fields.string("truncation")? {
        None => Ok("disabled"),
        Some(word @ ("auto" | "disabled")) => Ok(word),
        Some(other) => {
            Err(fields.wrong("truncation", format!("is `{other}`; use auto or disabled")))
        }
    }
}
