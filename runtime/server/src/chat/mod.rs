//! `POST /v1/chat/completions`: `request` reads it, `message` makes a message of what the model writes, `format` is how the
//! answer looks, whole and in chunks.

mod format;
mod message;
pub(crate) mod request;

use std::sync::Arc;

use axum::Extension;
use axum::extract::State;
use axum::response::Response;
use serde_json::{Map, Value};

use crate::answer::ResponseWriter;
use crate::clock;
use crate::error::Result;
use crate::extract::RequestBody;
use crate::ids::RequestId;
use crate::ignored;
use crate::state::AppState;
use crate::tenant::Tenant;
use crate::tokens::decode;
use format::ChatFormat;
use request::ChatRequest;

pub(crate) async fn handle(
    State(app): State<Arc<AppState>>,
    Extension(RequestId(id)): Extension<RequestId>,
    Extension(tenant): Extension<Tenant>,
    body: RequestBody,
) -> Result<Response> {
    let arrival = clock::now();
    let request_id = id.clone();
    let read =
        move |app: &AppState, body: &Map<String, Value>| ChatRequest::read(app, &request_id, body);
    let request = body.read(&app, read).await?;
    let ChatRequest { mut turn, options, reasoning } = request;
    turn.compile(&app.compiler, tenant, app.config.timeout).await?;
    if options.log {
        tracing::info!(id = options.id, prompt = decode(&turn.prompt), "prompt");
    }
    let generation = app.generate(turn.generation_requests()?, tenant, arrival)?;
    let (prompts, n) = (vec![turn.prompt.clone()], turn.options.n);
    let ignored_tools = turn.ignored_tools.clone();
    let format = ChatFormat { turn, reasoning };
    let writer = ResponseWriter::new(format, options, prompts, n, Arc::clone(&app.metrics));
    let mut response = writer.respond(generation, app.config.timeout).await?;
    ignored::report(&mut response, ignored::TOOLS, &ignored_tools, &id);
    Ok(response)
}
