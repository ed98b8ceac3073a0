//! Changing weights while the server runs, by vLLM's route. It reads files of this machine, so it is the operator's.

use std::path::PathBuf;
use std::sync::Arc;

use axum::extract::State;
use axum::response::IntoResponse;
use ossmith::Error;
use serde_json::json;

use super::control::blocking;
use crate::error::{ApiError, Result, json_body};
use crate::extract::RequestBody;
use crate::fields::Fields;
use crate::state::AppState;

pub(crate) async fn update(
    State(app): State<Arc<AppState>>,
    body: RequestBody,
) -> Result<impl IntoResponse> {
    let read = |_: &AppState, body: &_| {
        let fields = Fields::new(body);
        let info = fields.object("update_info")?;
        let info = info.ok_or_else(|| fields.wrong("update_info", "is missing"))?;
        Ok(PathBuf::from(info.required_string("path")?))
    };
    let path = body.read(&app, read).await?;
    // The files are the caller's: what is wrong with them is wrong with the request.
    let updated = blocking(&app, move |engine| match engine.update_weights(&path) {
        Err(why @ (Error::Checkpoint { .. } | Error::File { .. } | Error::Weight { .. })) => {
            Ok(Err(ApiError::bad("update_info", why.to_string())))
        }
        updated => updated.map(Ok),
    });
    let count = updated.await??;
    Ok(json_body(&json!({"message": "Weights updated", "weights": count})))
}
