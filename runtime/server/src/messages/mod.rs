//! Anthropic's Messages: `POST /v1/messages` and `/v1/messages/count_tokens`. `request` reads a request, `history` turns its
//! messages into those of a chat, `writer` turns what is generated into content blocks and the stream's events about them.
//! The headers `anthropic-version` and `anthropic-beta` change nothing: fields are read where they are given.

mod history;
mod request;
mod writer;

use std::sync::Arc;
use std::time::Instant;

use axum::Extension;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use serde_json::json;

use crate::error::{Result, json_body};
use crate::extract::RequestBody;
use crate::generation::within;
use crate::ids::RequestId;
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
    let arrival = Instant::now();
    let mut request =
        body.read(&app, move |app, body| MessagesRequest::read(app, &id, body)).await?;
    request.turn.compile(&app.compiler, tenant, app.config.timeout).await?;
    if app.config.log_prompts {
        tracing::info!(id = request.id, prompt = decode(&request.turn.prompt), "prompt");
    }
    let mut generation = app.generate(request.turn.generation_requests()?, tenant, arrival)?;
    let (stream, timeout) = (request.stream, app.config.timeout);
    let mut writer = BlockWriter::new(request, Arc::clone(&app));
    if stream {
        return Ok(sse::response(generation, writer, timeout));
    }
    let collect = async {
        while let Some((_, event)) = generation.next().await {
            if writer.read(event)? {
                generation.stop(0);
            }
        }
        Result::Ok(writer.message())
    };
    Ok(json_body(&within(timeout, collect).await??).into_response())
}

/// The tokens of the prompt that the same request would have, without an answer.
pub(crate) async fn count_tokens(
    State(app): State<Arc<AppState>>,
    body: RequestBody,
) -> Result<impl IntoResponse> {
    let tokens = body.read(&app, request::count_tokens).await?;
    Ok(json_body(&json!({"input_tokens": tokens})))
}
