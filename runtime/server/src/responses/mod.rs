//! `/v1/responses`: create (plain, streamed, in the background), retrieve, delete, cancel, list input items. `request` reads
//! what is asked, `teller` turns updates into items and `events`, `job` runs what outlives its connection, `store` keeps what
//! may be asked for later.

mod events;
mod items;
mod job;
mod object;
mod request;
pub(crate) mod store;
mod teller;

use std::collections::HashMap;
use std::sync::Arc;

use axum::Extension;
use axum::extract::{Query, State};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use crate::access::RequestId;
use crate::app::App;
use crate::error::{ApiError, Result, json_body, json_text};
use crate::generation::within;
use crate::request::{Body, Named};
use crate::sse;
use job::Job;
use teller::Teller;

pub(crate) async fn create(
    State(app): State<Arc<App>>,
    Extension(RequestId(id)): Extension<RequestId>,
    body: Body,
) -> Result<Response> {
    let request = body.read(&app, request::read).await?;
    if app.config.log_prompts {
        let prompt = crate::chat::lossy(&request.planned.prompt);
        tracing::info!(id, response = request.id, prompt, "prompt");
    }
    let mut generation = app.generate(request.planned.asks())?;
    let (stream, background) = (request.stream, request.background);
    let timeout = app.config.timeout;
    let teller = Teller::new(request, Arc::clone(&app));
    if background {
        let job = Job::start(teller, generation, &app.store);
        return Ok(if stream {
            job::follow(job, 0)
        } else {
            json_body(&job.response()).into_response()
        });
    }
    if stream {
        return Ok(sse::response(generation, teller, timeout));
    }
    let mut teller = teller.silent();
    let work = async {
        while let Some((_, update)) = generation.next().await {
            if teller.take(update) {
                generation.stop(0);
            }
        }
    };
    within(timeout, work).await?;
    Ok(json_body(&teller.finish()?).into_response())
}

pub(crate) async fn retrieve(
    State(app): State<Arc<App>>,
    Named(id): Named,
    Query(query): Query<HashMap<String, String>>,
) -> Result<Response> {
    let entry = app.store.get(&id).ok_or_else(|| missing(&id))?;
    if query.get("stream").is_none_or(|stream| stream != "true") {
        return Ok(json_text(entry.response()).into_response());
    }
    let Some(job) = entry.job() else {
        let why =
            "only responses made with `background: true` and `stream: true` can be streamed again";
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
    Ok(job::follow(job, after))
}

pub(crate) async fn delete(
    State(app): State<Arc<App>>,
    Named(id): Named,
) -> Result<impl IntoResponse> {
    let entry = app.store.remove(&id).ok_or_else(|| missing(&id))?;
    if let Some(job) = entry.job() {
        job.cancel();
    }
    Ok(json_body(&json!({"id": id, "object": "response", "deleted": true})))
}

pub(crate) async fn cancel(
    State(app): State<Arc<App>>,
    Named(id): Named,
) -> Result<impl IntoResponse> {
    let entry = app.store.get(&id).ok_or_else(|| missing(&id))?;
    let Some(job) = entry.job() else {
        let why = "only responses made with `background: true` can be cancelled";
        return Err(ApiError::bad("response_id", why));
    };
    match job.cancel() {
        Some(response) => Ok(json_body(&response)),
        None => Err(ApiError::bad("response_id", format!("the response {id} has ended already"))),
    }
}

pub(crate) async fn input_items(
    State(app): State<Arc<App>>,
    Named(id): Named,
    Query(query): Query<HashMap<String, String>>,
) -> Result<impl IntoResponse> {
    let entry = app.store.get(&id).ok_or_else(|| missing(&id))?;
    let mut items = entry.input();
    match query.get("order").map(String::as_str) {
        None | Some("desc") => items.reverse(),
        Some("asc") => {}
        Some(_) => return Err(ApiError::bad("order", "`order` is not asc or desc")),
    }
    if let Some(after) = query.get("after") {
        let at = items.iter().position(|item| item["id"] == after.as_str());
        items.drain(..at.map_or(items.len(), |at| at + 1));
    }
    let limit = match query.get("limit").map(|limit| limit.parse::<usize>()) {
        None => 20,
        Some(Ok(limit @ 1..=100)) => limit,
        Some(_) => return Err(ApiError::bad("limit", "`limit` is not a number from 1 to 100")),
    };
    let has_more = items.len() > limit;
    items.truncate(limit);
    let id_of = |item: Option<&Value>| item.map_or(Value::Null, |item| item["id"].clone());
    Ok(json_body(&json!({
        "object": "list",
        "first_id": id_of(items.first()),
        "last_id": id_of(items.last()),
        "has_more": has_more,
        "data": items,
    })))
}

fn missing(id: &str) -> ApiError {
    ApiError::not_found(None, format!("there is no stored response `{id}`"))
}
