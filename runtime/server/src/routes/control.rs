//! Pausing the engine and putting it to sleep, by vLLM's routes, as trainers do before they change its weights or need its
//! memory. They stop everybody's requests, so they are the operator's.

use std::collections::HashMap;
use std::sync::Arc;

use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::IntoResponse;
use ossmith::{PauseMode, SleepLevel};
use serde_json::json;

use crate::backend::EngineControl;
use crate::error::{ApiError, Result, json_body};
use crate::extract::aside;
use crate::state::AppState;

pub(crate) async fn pause(
    State(app): State<Arc<AppState>>,
    Query(query): Query<HashMap<String, String>>,
) -> Result<impl IntoResponse> {
    let mode = mode_of(&query)?;
    blocking(&app, move |engine| engine.pause(mode)).await?;
    Ok(json_body(&json!({"status": "paused"})))
}

pub(crate) async fn resume(State(app): State<Arc<AppState>>) -> Result<impl IntoResponse> {
    blocking(&app, |engine| engine.unpause()).await?;
    Ok(json_body(&json!({"status": "resumed"})))
}

pub(crate) async fn is_paused(State(app): State<Arc<AppState>>) -> Result<impl IntoResponse> {
    Ok(json_body(&json!({"is_paused": control(&app)?.is_paused()})))
}

pub(crate) async fn sleep(
    State(app): State<Arc<AppState>>,
    Query(query): Query<HashMap<String, String>>,
) -> Result<impl IntoResponse> {
    let mode = mode_of(&query)?;
    let level = match query.get("level").map_or("1", String::as_str) {
        "1" => SleepLevel::One,
        "2" => SleepLevel::Two,
        other => {
            let problem = format!("`level` is `{other}`, expected 1 or 2");
            return Err(ApiError::bad("level", problem));
        }
    };
    blocking(&app, move |engine| engine.sleep(level, mode)).await?;
    Ok(StatusCode::OK)
}

pub(crate) async fn wake(State(app): State<Arc<AppState>>) -> Result<impl IntoResponse> {
    blocking(&app, |engine| engine.wake()).await?;
    Ok(StatusCode::OK)
}

pub(crate) async fn is_sleeping(State(app): State<Arc<AppState>>) -> Result<impl IntoResponse> {
    Ok(json_body(&json!({"is_sleeping": control(&app)?.is_asleep()})))
}

fn mode_of(query: &HashMap<String, String>) -> Result<PauseMode> {
    match query.get("mode").map_or("abort", String::as_str) {
        "abort" => Ok(PauseMode::Abort),
        "wait" => Ok(PauseMode::Wait),
        "keep" => Ok(PauseMode::Keep),
        other => {
            let problem = format!("`mode` is `{other}`, expected abort, wait or keep");
            Err(ApiError::bad("mode", problem))
        }
    }
}

fn control(app: &AppState) -> Result<&dyn EngineControl> {
    let none = || ApiError::bad("", "this server's backend can be neither paused nor changed");
    app.backend.control().ok_or_else(none)
}

/// Has the engine do what may take long on a thread where it delays no other request.
pub(crate) async fn blocking<T: Send + 'static>(
    app: &Arc<AppState>,
    work: impl FnOnce(&dyn EngineControl) -> ossmith::Result<T> + Send + 'static,
) -> Result<T> {
    let app = Arc::clone(app);
    aside(move || Ok(work(control(&app)?)?)).await?
}
