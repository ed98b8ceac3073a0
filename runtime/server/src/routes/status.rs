//! How the server is: health, version, load, metrics.

use std::sync::Arc;

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::json;

use crate::app::App;
use crate::error::{ApiError, json_body};

/// 200 with nothing in it while the engine runs. The server listens only once weights are loaded.
pub(crate) async fn health(State(app): State<Arc<App>>) -> Response {
    match app.source.failure() {
        None => StatusCode::OK.into_response(),
        Some(why) => {
            ApiError::unavailable(format!("the engine has stopped: {why}")).into_response()
        }
    }
}

pub(crate) async fn version() -> impl IntoResponse {
    json_body(&json!({"version": env!("CARGO_PKG_VERSION")}))
}

pub(crate) async fn load(State(app): State<Arc<App>>) -> impl IntoResponse {
    let stats = app.source.stats();
    json_body(&json!({"server_load": stats.running + stats.waiting}))
}

pub(crate) async fn metrics(State(app): State<Arc<App>>) -> impl IntoResponse {
    let config = &app.config;
    let text = app.metrics.text(config.name(), &app.source.stats(), &config.startup);
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text)
}

/// Load generators ask for it between runs, so that each begins cold.
pub(crate) async fn reset_prefix_cache(State(app): State<Arc<App>>) -> StatusCode {
    app.source.reset_prefix_cache();
    StatusCode::OK
}

/// Load generators ask for a profile whether or not the server keeps one; this one keeps none.
pub(crate) async fn no_profile() -> StatusCode {
    StatusCode::OK
}
