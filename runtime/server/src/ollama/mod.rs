//! Ollama's API, so that its clients find the model: `/api/chat` and `/api/generate` over the same turn as the other APIs, and
//! what is known about the model. `request` reads requests, `writer` writes answers as lines of JSON, `models` has the small routes.

pub(crate) mod models;
mod request;
mod writer;

use std::sync::Arc;

use axum::Extension;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use serde_json::{Map, Value};

use crate::clock;
use crate::error::{Result, json_body};
use crate::extract::RequestBody;
use crate::ids::RequestId;
use crate::sse;
use crate::state::AppState;
use crate::tenant::Tenant;
use crate::tokens::decode;
use request::{OllamaRequest, Task};
use writer::{Form, LineWriter};

pub(crate) async fn chat(
    State(app): State<Arc<AppState>>,
    Extension(RequestId(id)): Extension<RequestId>,
    Extension(tenant): Extension<Tenant>,
    body: RequestBody,
) -> Result<Response> {
    answer(app, id, tenant, body, Form::Chat, request::read_chat).await
}

pub(crate) async fn generate(
    State(app): State<Arc<AppState>>,
    Extension(RequestId(id)): Extension<RequestId>,
    Extension(tenant): Extension<Tenant>,
    body: RequestBody,
) -> Result<Response> {
    answer(app, id, tenant, body, Form::Generate, request::read_generate).await
}

async fn answer(
    app: Arc<AppState>,
    id: String,
    tenant: Tenant,
    body: RequestBody,
    form: Form,
    read: fn(&AppState, &Map<String, Value>) -> Result<OllamaRequest>,
) -> Result<Response> {
    let arrival = clock::now();
    let OllamaRequest { model, stream, task } = body.read(&app, read).await?;
    let (mut turn, thinking) = match task {
        // The model is loaded as long as the server runs.
        Task::Load { reason } => {
            return Ok(json_body(&writer::loaded(form, &model, reason)).into_response());
        }
        Task::Turn { turn, thinking } => (turn, thinking),
    };
    turn.compile(&app.compiler, tenant, app.config.timeout).await?;
    if app.config.log_prompts {
        tracing::info!(id, prompt = decode(&turn.prompt), "prompt");
    }
    let generation = app.generate(turn.generation_requests()?, tenant, arrival)?;
    let timeout = app.config.timeout;
    let mut writer = LineWriter::new(form, model, &turn, thinking, arrival, app);
    if stream {
        return Ok(sse::response(generation, writer, timeout));
    }
    generation.read_to_end(timeout, |_, event| writer.read(event)).await?;
    Ok(json_body(&writer.whole()).into_response())
}
