//! `POST /v1/completions`: raw prompts, text or token ids, with no conversation around them. `request` reads it, `text` makes a
//! text of the tokens, `format` is how the answer looks. `raw_tokens` is the route that takes and gives token ids only.

mod format;
pub(crate) mod native;
pub(crate) mod raw_tokens;
mod request;
mod text;

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
use crate::state::AppState;
use crate::tenant::Tenant;
use crate::tokens::decode;
use request::CompletionRequest;

pub(crate) async fn handle(
    State(app): State<Arc<AppState>>,
    Extension(RequestId(id)): Extension<RequestId>,
    Extension(tenant): Extension<Tenant>,
    body: RequestBody,
) -> Result<Response> {
    let arrival = clock::now();
    let read = move |app: &AppState, body: &_| CompletionRequest::read(app, &id, body);
    let mut request = body.read(&app, read).await?;
    request.compile(&app.compiler, tenant, app.config.timeout).await?;
    if request.options.log {
        let prompts: Vec<String> = request.prompts.iter().map(|prompt| decode(prompt)).collect();
        tracing::info!(id = request.options.id, ?prompts, "prompts");
    }
    let generation = app.generate(request.generation_requests()?, tenant, arrival)?;
    let CompletionRequest { prompts, n, format, options, .. } = request;
    let writer = ResponseWriter::new(format, options, prompts, n, Arc::clone(&app.metrics));
    writer.respond(generation, app.config.timeout).await
}

/// The prompts of a completion request.
pub(crate) fn prompts_of(
    app: &AppState,
    id: &str,
    body: &Map<String, Value>,
) -> Result<Vec<Vec<u32>>> {
    CompletionRequest::read(app, id, body).map(|request| request.prompts)
}
