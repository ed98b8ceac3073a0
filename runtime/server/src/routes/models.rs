//! `/v1/models`: the one model, under each of its names, and its adapters.

use std::sync::Arc;

use axum::extract::State;
use axum::response::IntoResponse;
use serde_json::{Value, json};

use crate::error::{ApiError, Result, json_body};
use crate::extract::PathName;
use crate::state::AppState;

pub(crate) async fn list(State(app): State<Arc<AppState>>) -> impl IntoResponse {
    let models: Vec<Value> = app.config.all_names().iter().map(|name| card(&app, name)).collect();
    json_body(&json!({"object": "list", "data": models}))
}

pub(crate) async fn one(
    State(app): State<Arc<AppState>>,
    PathName(name): PathName,
) -> Result<impl IntoResponse> {
    if !app.config.serves(&name) {
        return Err(ApiError::no_model(&name, &app.config.all_names()));
    }
    Ok(json_body(&card(&app, &name)))
}

fn card(app: &AppState, name: &str) -> Value {
    let adapter = match app.config.serves_itself(name) {
        true => None,
        false => app.config.adapters.get(name),
    };
    let folder = adapter.as_ref().map(|adapter| adapter.folder().display().to_string());
    json!({
        "id": name,
        "object": "model",
        "created": app.created,
        "owned_by": "ossmith",
        "root": folder.as_ref().unwrap_or(&app.config.root),
        "parent": adapter.map(|_| app.config.name()),
        "max_model_len": app.config.context,
    })
}
