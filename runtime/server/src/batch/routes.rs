//! `/v1/batches`: batches are started, followed and cancelled. Their objects are in the store of responses.

use std::collections::HashMap;
use std::sync::Arc;

use axum::Extension;
use axum::extract::{Query, State};
use axum::response::{IntoResponse, Response};
use serde_json::{Map, Value, json};

use super::job::{Job, error};
use super::line::ENDPOINTS;
use crate::alive::keep_alive;
use crate::conversations::metadata;
use crate::error::{ApiError, Result, json_body};
use crate::extract::{PathName, RequestBody, aside};
use crate::fields::Fields;
use crate::files::Files;
use crate::ids::{new_id_of, unix_seconds};
use crate::page;
use crate::state::AppState;
use crate::store::BATCH;
use crate::tenant::Tenant;

/// The time in which a batch is run, as requests have to name it.
const WINDOW: &str = "24h";
const WINDOW_SECONDS: u64 = 24 * 3600;

/// The files of the server.
pub(super) fn files(app: &AppState) -> Result<&Files> {
    app.files.as_ref().ok_or_else(|| {
        let why =
            "this server keeps no files; start it with --files FOLDER, or use `ossmith run-batch`";
        ApiError::not_found(Some("files_off"), why)
    })
}

pub(crate) async fn create(
    State(app): State<Arc<AppState>>,
    Extension(tenant): Extension<Tenant>,
    body: RequestBody,
) -> Result<impl IntoResponse> {
    let owner = Arc::clone(&app);
    let (batch, job) =
        body.read(&app, move |_, body: &Map<String, Value>| read(owner, tenant, body)).await?;
    let slot = app.batches.open.try_acquire(tenant).ok_or_else(|| {
        ApiError::overloaded(format!(
            "{} batches of yours run or wait, or too many of all; wait until one has ended",
            app.batches.most_open
        ))
    })?;
    app.store.of(tenant).put(&job.id, &batch, &[], &[])?;
    let alive = keep_alive(&app, tenant, job.id.clone(), || ())?;
    tokio::spawn(async move {
        job.run().await;
        drop((slot, alive));
    });
    Ok(json_body(&batch))
}

fn read(app: Arc<AppState>, tenant: Tenant, body: &Map<String, Value>) -> Result<(Value, Job)> {
    let files = files(&app)?.clone();
    let fields = Fields::new(body);
    let input_id = fields.required_string("input_file_id")?.to_owned();
    let endpoint = fields.required_string("endpoint")?.to_owned();
    if !ENDPOINTS.contains(&endpoint.as_str()) {
        let why = format!("is `{endpoint}`; use one of {}", ENDPOINTS.join(", "));
        return Err(fields.wrong("endpoint", why));
    }
    if fields.required_string("completion_window")? != WINDOW {
        return Err(fields.wrong("completion_window", format!("is not {WINDOW}")));
    }
    let metadata = metadata(&fields)?;
    let input = files.content(tenant, &input_id)?;
    if files.get(tenant, &input_id)?["purpose"] != "batch" {
        return Err(fields.wrong("input_file_id", "names a file whose purpose is not `batch`"));
    }
    let (id, now) = (new_id_of(BATCH.trim_end_matches('_')), unix_seconds());
    let expires = now + WINDOW_SECONDS;
    let batch = json!({
        "id": id,
        "object": "batch",
        "endpoint": endpoint,
        "errors": null,
        "input_file_id": input_id,
        "completion_window": WINDOW,
        "status": "validating",
        "output_file_id": null,
        "error_file_id": null,
        "created_at": now,
        "in_progress_at": null,
        "expires_at": expires,
        "finalizing_at": null,
        "completed_at": null,
        "failed_at": null,
        "expired_at": null,
        "cancelling_at": null,
        "cancelled_at": null,
        "request_counts": {"total": 0, "completed": 0, "failed": 0},
        "metadata": metadata,
    });
    Ok((batch, Job { app, files, tenant, id, endpoint, input, expires }))
}

pub(crate) async fn retrieve(
    State(app): State<Arc<AppState>>,
    Extension(tenant): Extension<Tenant>,
    PathName(id): PathName,
) -> Result<impl IntoResponse> {
    find(&app, tenant, &id).map(|batch| json_body(&batch))
}

pub(crate) async fn list(
    State(app): State<Arc<AppState>>,
    Extension(tenant): Extension<Tenant>,
    Query(query): Query<HashMap<String, String>>,
) -> Result<Response> {
    let entries = app.store.of(tenant).list(BATCH)?;
    let list = move || {
        let parsed = entries.iter().map(|entry| serde_json::from_str(&entry.response()));
        let mut batches: Vec<Value> = parsed.filter_map(std::result::Result::ok).collect();
        batches.sort_by_key(|batch| (batch["created_at"].as_u64(), batch["id"].to_string()));
        page::page(batches, &query)
    };
    aside(list).await?
}

pub(crate) async fn cancel(
    State(app): State<Arc<AppState>>,
    Extension(tenant): Extension<Tenant>,
    PathName(id): PathName,
) -> Result<impl IntoResponse> {
    let batch = find(&app, tenant, &id)?;
    let status = batch["status"].as_str().unwrap_or_default();
    if !["validating", "in_progress", "cancelling"].contains(&status) {
        return Err(ApiError::bad("batch_id", format!("the batch {id} is {status} already")));
    }
    let cancel = |batch: &mut Value, _: &mut Vec<Value>| {
        if ["validating", "in_progress"].iter().any(|status| batch["status"] == *status) {
            batch["status"] = "cancelling".into();
            batch["cancelling_at"] = unix_seconds().into();
        }
        Ok(())
    };
    app.store.of(tenant).update(&id, cancel)?;
    find(&app, tenant, &id).map(|batch| json_body(&batch))
}

fn find(app: &AppState, tenant: Tenant, id: &str) -> Result<Value> {
    let store = app.store.of(tenant);
    let entry = store.get(id)?.filter(|_| id.starts_with(BATCH));
    let batch: Option<Value> = entry.and_then(|entry| serde_json::from_str(&entry.response()).ok());
    let mut batch =
        batch.ok_or_else(|| ApiError::not_found(None, format!("there is no batch `{id}`")))?;
    let open = ["validating", "in_progress", "cancelling", "finalizing"];
    if open.iter().any(|status| batch["status"] == *status) && !store.is_alive(id)? {
        batch["status"] = "failed".into();
        batch["errors"] =
            json!({"object": "list", "data": [error("the server that ran it is gone")]});
    }
    Ok(batch)
}
