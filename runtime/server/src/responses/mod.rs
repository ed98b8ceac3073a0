//! `/v1/responses`: create (whole, streamed, in the background), retrieve, delete, cancel, list input items, count tokens, compact. `request` reads a
//! request, `writer` turns what is generated into items and `events`, `rounds` runs tools in between, `background` runs responses without a connection.

mod background;
mod compact;
mod events;
mod hosted;
pub(crate) mod items;
mod object;
mod prompt;
mod request;
mod rounds;
mod writer;

use std::collections::HashMap;
use std::sync::Arc;

use axum::Extension;
use axum::extract::{Query, State};
use axum::response::{IntoResponse, Response};
use serde_json::{Map, Value, json};

use crate::clock;
use crate::error::{ApiError, Result, json_body, json_text};
use crate::extract::{PathName, RequestBody, aside};
use crate::generation::within;
use crate::ids::RequestId;
use crate::ignored;
use crate::page;
use crate::sse;
use crate::state::AppState;
use crate::store::{Entry, is_response};
use crate::tenant::Tenant;
use crate::tokens::decode;
use background::Reader;
pub(crate) use compact::compact;
use rounds::Rounds;
use writer::ItemWriter;

pub(crate) async fn create(
    State(app): State<Arc<AppState>>,
    Extension(RequestId(id)): Extension<RequestId>,
    Extension(tenant): Extension<Tenant>,
    body: RequestBody,
) -> Result<Response> {
    let arrival = clock::now();
    let catalog = app.tool_servers.catalog().await;
    let read =
        move |app: &AppState, body: &Map<String, Value>| request::read(app, tenant, catalog, body);
    let (mut request, held) = body.read_keeping(&app, read).await?;
    request._held = Some(held);
    request.turn.compile(&app.compiler, tenant, app.config.timeout).await?;
    if app.config.log_prompts {
        let prompt = decode(&request.turn.prompt);
        tracing::info!(id, response = request.id, prompt, "prompt");
    }
    let generation = app.generate(request.turn.generation_requests()?, tenant, arrival)?;
    let (stream, in_background) = (request.stream, request.background);
    let timeout = app.config.timeout;
    let (ignored_tools, ignored_items) =
        (request.turn.ignored_tools.clone(), request.ignored_items.clone());
    let report = |mut response: Response| {
        ignored::report(&mut response, ignored::TOOLS, &ignored_tools, &id);
        ignored::report(&mut response, ignored::ITEMS, &ignored_items, &id);
        response
    };
    let has_hosted_tools = request.turn.has_hosted_tools();
    // It writes the response twice, with all that it repeats of the request.
    let owner = Arc::clone(&app);
    let writer = aside(move || ItemWriter::new(request, owner)).await?;
    let rounds = Rounds::new(&app, tenant, arrival);
    if in_background {
        let start = move || background::start(writer, generation, rounds, app, tenant);
        let (job, queued) = aside(start).await??;
        return Ok(report(match stream {
            true => background::follow(job, 0, Reader::Guest),
            false => json_body(&queued).into_response(),
        }));
    }
    if stream && has_hosted_tools {
        let job = background::start_unstored(writer, generation, rounds);
        return Ok(report(background::follow(job, 0, Reader::Owner)));
    }
    if stream {
        return Ok(report(sse::response(generation, writer, timeout)));
    }
    let mut writer = writer.silent();
    within(timeout, rounds.run(&mut writer, generation, |_| {})).await?;
    let finish = move || writer.finish().map(|answer| json_body(&answer));
    Ok(report(aside(finish).await??.into_response()))
}

pub(crate) async fn retrieve(
    State(app): State<Arc<AppState>>,
    Extension(tenant): Extension<Tenant>,
    PathName(id): PathName,
    Query(query): Query<HashMap<String, String>>,
) -> Result<Response> {
    let entry = stored(&app, tenant, &id)?;
    if query.get("stream").is_none_or(|stream| stream != "true") {
        let state = move || background::state(&app, tenant, &id, &entry);
        return Ok(json_text(aside(state).await??).into_response());
    }
    let Some(job) = entry.job() else {
        let why = "only responses created with `background: true` can be streamed again, and only by the server that runs them";
        return Err(ApiError::bad("stream", why));
    };
    let after = match query.get("starting_after") {
        None => 0,
        Some(number) => {
            number.parse::<usize>().map(|after| after.saturating_add(1)).map_err(|_| {
                ApiError::bad("starting_after", "`starting_after` is not a sequence number")
            })?
        }
    };
    Ok(background::follow(job, after, Reader::Guest))
}

pub(crate) async fn delete(
    State(app): State<Arc<AppState>>,
    Extension(tenant): Extension<Tenant>,
    PathName(id): PathName,
) -> Result<impl IntoResponse> {
    let entry = stored(&app, tenant, &id)?;
    if entry.is_elsewhere() {
        app.store.of(tenant).request_cancel(&id)?;
    }
    app.store.of(tenant).remove(&id)?;
    if let Some(job) = entry.job() {
        job.cancel();
    }
    Ok(json_body(&json!({"id": id, "object": "response", "deleted": true})))
}

pub(crate) async fn cancel(
    State(app): State<Arc<AppState>>,
    Extension(tenant): Extension<Tenant>,
    PathName(id): PathName,
) -> Result<Response> {
    let entry = stored(&app, tenant, &id)?;
    if entry.is_elsewhere() {
        let cancelled = background::cancel_elsewhere(&app, tenant, &id).await?;
        return Ok(json_text(cancelled).into_response());
    }
    let Some(job) = entry.job() else {
        let why = "only responses created with `background: true` can be cancelled";
        return Err(ApiError::bad("response_id", why));
    };
    match job.cancel() {
        Some(response) => Ok(json_body(&response).into_response()),
        None => Err(ApiError::bad("response_id", format!("the response {id} has ended already"))),
    }
}

pub(crate) async fn input_items(
    State(app): State<Arc<AppState>>,
    Extension(tenant): Extension<Tenant>,
    PathName(id): PathName,
    Query(query): Query<HashMap<String, String>>,
) -> Result<impl IntoResponse> {
    let entry = stored(&app, tenant, &id)?;
    aside(move || page::page(entry.input(), &query)).await?
}

/// The tokens of a request's prompt.
pub(crate) async fn input_tokens(
    State(app): State<Arc<AppState>>,
    Extension(tenant): Extension<Tenant>,
    body: RequestBody,
) -> Result<impl IntoResponse> {
    let catalog = app.tool_servers.catalog().await;
    let read =
        move |app: &AppState, body: &Map<String, Value>| prompt::count(app, tenant, catalog, body);
    let count = body.read(&app, read).await?;
    Ok(json_body(&json!({"object": "response.input_tokens", "input_tokens": count})))
}

/// The prompt of a request.
pub(crate) async fn rendered_prompt(
    app: &Arc<AppState>,
    tenant: Tenant,
    body: RequestBody,
) -> Result<(Option<String>, Vec<u32>)> {
    let catalog = app.tool_servers.catalog().await;
    let read = move |app: &AppState, body: &Map<String, Value>| {
        let model = body.get("model").and_then(Value::as_str).map(str::to_owned);
        request::read(app, tenant, catalog, body).map(|(request, _)| (model, request.turn.prompt))
    };
    body.read(app, read).await
}

/// A stored response.
fn stored(app: &AppState, tenant: Tenant, id: &str) -> Result<Entry> {
    let entry = app.store.of(tenant).get(id)?.filter(|_| is_response(id));
    entry.ok_or_else(|| missing(id))
}

fn missing(id: &str) -> ApiError {
    ApiError::not_found(None, format!("there is no stored response `{id}`"))
}
