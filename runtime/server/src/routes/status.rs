//! The state of the server: health, version, load, metrics.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use axum::extract::{Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::json;

use crate::error::{ApiError, Result, json_body};
use crate::state::AppState;

/// 200 with an empty body while the engine runs. The server listens only once the weights are loaded.
pub(crate) async fn health(State(app): State<Arc<AppState>>) -> Response {
    match app.backend.failure() {
        None => StatusCode::OK.into_response(),
        Some(why) => {
            ApiError::unavailable(format!("the engine has stopped: {why}")).into_response()
        }
    }
}

pub(crate) async fn version() -> impl IntoResponse {
    json_body(&json!({"version": env!("CARGO_PKG_VERSION")}))
}

pub(crate) async fn load(State(app): State<Arc<AppState>>) -> impl IntoResponse {
    let metrics = app.backend.metrics();
    json_body(&json!({"server_load": metrics.running + metrics.waiting}))
}

/// The load as vllm-router reads it: requests that run or wait.
pub(crate) async fn get_load(State(app): State<Arc<AppState>>) -> impl IntoResponse {
    let metrics = app.backend.metrics();
    json_body(&json!({
        "load": metrics.running + metrics.waiting,
        "num_reqs": metrics.running + metrics.waiting,
        "num_waiting_reqs": metrics.waiting,
    }))
}

pub(crate) async fn metrics(State(app): State<Arc<AppState>>) -> impl IntoResponse {
    let config = &app.config;
    let dropped = config.dropped_log_lines.load(Ordering::Relaxed);
    let text = app.metrics.text(config.name(), &app.backend.engines(), &config.startup, dropped);
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text)
}

/// Steps of the engine that are shown unless a number is given, and at most.
const SHOWN_STEPS: usize = 64;
const MAX_STEPS: usize = 512;

/// What the last steps did and who took part, also after the engine has failed. For operators: it shows all tenants' traffic, as
/// numbers.
pub(crate) async fn steps(
    State(app): State<Arc<AppState>>,
    Query(query): Query<HashMap<String, String>>,
) -> Result<impl IntoResponse> {
    let count = match query.get("count") {
        None => SHOWN_STEPS,
        Some(count) => match count.parse::<usize>() {
            Ok(count) if (1..=MAX_STEPS).contains(&count) => count,
            _ => return Err(ApiError::bad("count", "`count` is not a number from 1 to 512")),
        },
    };
    let engines = app.backend.engines();
    let engine = match query.get("engine").map(|engine| engine.parse::<usize>()) {
        None => 0,
        Some(Ok(engine)) if engine < engines.len() => engine,
        Some(_) => {
            let last = engines.len() - 1;
            let problem = format!("`engine` is not a number from 0 to {last}");
            return Err(ApiError::bad("engine", problem));
        }
    };
    let (data, failure) = (app.backend.recent_steps(engine, count), &engines[engine].failure);
    Ok(json_body(&json!({"object": "list", "engine": engine, "data": data, "failure": failure})))
}

/// Load generators call it between runs, so that each begins with an empty cache.
pub(crate) async fn reset_prefix_cache(State(app): State<Arc<AppState>>) -> StatusCode {
    app.backend.reset_prefix_cache();
    StatusCode::OK
}

/// Load generators request a profile whether or not the server can make one; this one cannot.
pub(crate) async fn no_profile() -> StatusCode {
    StatusCode::OK
}
