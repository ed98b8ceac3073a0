//! Anthropic's Messages: `POST /v1/messages` and `/v1/messages/count_tokens`. `request` reads a request, `history` turns its
//! messages into those of a chat, `tools` its tools into functions, `writer` turns what is generated into content blocks and the stream's events about them.
//! The headers `anthropic-version` and `anthropic-beta` change nothing: fields are read where they are given.

mod history;
mod request;
mod tools;
mod writer;

use std::sync::Arc;

use axum::Extension;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use serde_json::{Map, Value, json};

use crate::clock;
use crate::error::{Result, json_body};
use crate::extract::RequestBody;
use crate::ids::RequestId;
use crate::ignored;
use crate::sse;
use crate::state::AppState;
use crate::tenant::Tenant;
use crate::tokens::decode;
use request::MessagesRequest;
use writer::BlockWriter;

pub(crate) async fn create(
    State(app): State<Arc<AppState>>,
    Extension(RequestId(id)): Extension<RequestId>,
    Extension(tenant): Extension<Tenant>,
    body: RequestBody,
) -> Result<Response> {
    let arrival = clock::now();
    let request_id = id.clone();
    let read = move |app: &AppState, body: &Map<String, Value>| {
        MessagesRequest::read(app, tenant, &request_id, body)
    };
    let mut request = body.read(&app, read).await?;
    request.turn.compile(&app.compiler, tenant, app.config.timeout).await?;
    if app.config.log_prompts {
        tracing::info!(id = request.id, prompt = decode(&request.turn.prompt), "prompt");
    }
    let generation = app.generate(request.turn.generation_requests()?, tenant, arrival)?;
    let (stream, timeout) = (request.stream, app.config.timeout);
    let ignored_tools = request.turn.ignored_tools.clone();
    let mut writer = BlockWriter::new(request, Arc::clone(&app));
    let mut response = match stream {
        true => sse::response(generation, writer, timeout),
        false => {
            generation.read_to_end(timeout, |_, event| writer.read(event)).await?;
            json_body(&writer.message()).into_response()
        }
    };
    ignored::report(&mut response, ignored::TOOLS, &ignored_tools, &id);
    Ok(response)
}

/// The tokens of the prompt that the same request would have, without an answer.
pub(crate) async fn count_tokens(
    State(app): State<Arc<AppState>>,
    Extension(tenant): Extension<Tenant>,
    body: RequestBody,
) -> Result<impl IntoResponse> {
    let count =
        move |app: &AppState, body: &Map<String, Value>| request::count_tokens(app, tenant, body);
    let tokens = body.read(&app, count).await?;
    Ok(json_body(&json!({"input_tokens": tokens})))
}
