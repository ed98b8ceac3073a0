//! `/v1/responses/compact`: a conversation becomes what its user wrote and a sealed summary, which the model writes. A later
//! request sends both back in place of the conversation.

use std::sync::Arc;

use axum::Extension;
use axum::extract::State;
use axum::response::IntoResponse;
use serde_json::{Map, Value, json};

use super::items;
use super::object::usage_json;
use super::prompt::{PromptInput, UNSUPPORTED};
use crate::clock;
use crate::conversations::bytes_of;
use crate::error::{ApiError, Result, json_body};
use crate::extract::{RequestBody, aside};
use crate::fields::Fields;
use crate::ids::{RequestId, new_id_of, unix_seconds};
use crate::ignored;
use crate::options::generation::GenerationOptions;
use crate::seal::Sealed;
use crate::state::AppState;
use crate::tenant::Tenant;
use crate::tool_servers::Catalog;
use crate::turn::parser::{MessageKind, TurnEvent};
use crate::turn::prepare::PreparedTurn;
use crate::turn::reader::TurnReader;

/// What the model is asked after the conversation.
const INSTRUCTION: &str = "Write a summary of this conversation with which another assistant can continue it without having read it: \
    what the user wants, what was decided, what was done and found out with names and values, what failed, and what is left to do. \
    Write nothing but the summary.";

/// A conversation that is to be compacted.
struct CompactRequest {
    turn: PreparedTurn,
    /// What the user wrote.
    kept: Vec<Value>,
    ignored_items: Vec<String>,
}

fn read(
    app: &AppState,
    tenant: Tenant,
    catalog: Catalog,
    body: &Map<String, Value>,
) -> Result<(CompactRequest, usize)> {
    let fields = Fields::new(body);
    app.check_model(fields.string("model")?)?;
    fields.refuse(UNSUPPORTED)?;
    let mut prompt_input = PromptInput::read(app, tenant, catalog, &fields)?.text_only();
    if prompt_input.context.is_empty() {
        return Err(fields.wrong("input", "is empty; give at least one item"));
    }
    let is_users = |item: &&Value| item["type"] == "message" && item["role"] == "user";
    let kept: Vec<Value> =
        prompt_input.context.iter().filter(is_users).cloned().map(items::as_listed).collect();
    let kept_bytes = bytes_of(&kept);
    let ask = json!({"type": "message", "role": "user", "content": INSTRUCTION});
    prompt_input.context.push(ask);
    let generation = GenerationOptions::read(&fields, &app.config)?;
    // A conversation is compacted when it hardly fits any more.
    let turn = prompt_input.prepare_shortened(&generation)?;
    Ok((CompactRequest { turn, kept, ignored_items: prompt_input.ignored }, kept_bytes))
}

pub(crate) async fn compact(
    State(app): State<Arc<AppState>>,
    Extension(RequestId(id)): Extension<RequestId>,
    Extension(tenant): Extension<Tenant>,
    body: RequestBody,
) -> Result<impl IntoResponse> {
    let arrival = clock::now();
    let catalog = app.tool_servers.catalog().await;
    let read_body = move |app: &AppState, body: &_| read(app, tenant, catalog, body);
    let (request, _held) = body.read_keeping(&app, read_body).await?;
    let CompactRequest { mut turn, kept: mut output, ignored_items } = request;
    turn.compile(&app.compiler, tenant, app.config.timeout).await?;
    let generation = app.generate(turn.generation_requests()?, tenant, arrival)?;
    let mut reader = TurnReader::new(&turn);
    let (mut summary, mut is_final) = (String::new(), false);
    let read = |_, event| {
        for event in reader.read(event)? {
            match event {
                TurnEvent::Start(kind) => is_final = kind == MessageKind::Final,
                TurnEvent::Text(text) if is_final => summary.push_str(&text),
                _ => {}
            }
        }
        Ok(reader.end.is_some())
    };
    generation.read_to_end(app.config.timeout, read).await?;
    if summary.trim().is_empty() {
        // What a model writes is never an error. The model that reads the item learns that there is no summary.
        tracing::warn!(id, "the model wrote no summary of a conversation");
    }
    let sealed = app.sealer.of(tenant).seal(Sealed::Summary, &summary);
    let sealed = sealed.ok_or_else(|| ApiError::internal("the summary could not be sealed"))?;
    let item = json!({"id": new_id_of("cmp"), "type": "compaction", "encrypted_content": sealed});
    output.push(item);
    let usage = usage_json(&reader.usage);
    let write = move || {
        json_body(&json!({
            "id": new_id_of("resp"),
            "object": "response.compaction",
            "created_at": unix_seconds(),
            "output": output,
            "usage": usage,
        }))
    };
    let mut response = aside(write).await?.into_response();
    ignored::report(&mut response, ignored::ITEMS, &ignored_items, &id);
    Ok(response)
}
