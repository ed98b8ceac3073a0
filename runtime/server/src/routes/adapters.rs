//! Loading and unloading LoRA adapters while the server runs, by vLLM's routes. They read folders of this machine, so they
//! are the operator's.

use std::path::PathBuf;
use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;

use crate::adapters::AdapterRefusal;
use crate::error::{ApiError, Result};
use crate::extract::RequestBody;
use crate::fields::Fields;
use crate::state::AppState;

pub(crate) async fn load(State(app): State<Arc<AppState>>, body: RequestBody) -> Result<String> {
    body.read(&app, |app, body| {
        let fields = Fields::new(body);
        let name = fields.required_string("lora_name")?;
        let folder = PathBuf::from(fields.required_string("lora_path")?);
        let replaces = fields.bool("load_inplace", false)?;
        if name.is_empty() || app.config.serves_itself(name) {
            let taken = "is empty or a name of the model itself; choose another";
            return Err(fields.wrong("lora_name", taken));
        }
        match app.config.adapters.load(name, &folder, replaces) {
            Ok(()) => Ok(format!("Success: LoRA adapter '{name}' added successfully.")),
            Err(AdapterRefusal::NameTaken(name)) => Err(fields.wrong(
                "lora_name",
                format!("is `{name}`, which is loaded; unload it first, or send `load_inplace`"),
            )),
            Err(AdapterRefusal::Unusable(why)) => Err(ApiError::bad("lora_path", why)),
        }
    })
    .await
}

pub(crate) async fn unload(
    State(app): State<Arc<AppState>>,
    body: RequestBody,
) -> Result<(StatusCode, String)> {
    body.read(&app, |app, body| {
        let name = Fields::new(body).required_string("lora_name")?;
        if !app.config.adapters.unload(name) {
            return Err(ApiError::no_model(name, &app.config.all_names()));
        }
        Ok((StatusCode::OK, format!("Success: LoRA adapter '{name}' removed successfully.")))
    })
    .await
}
