//! What Ollama's clients ask about models: `/api/version`, `/api/tags`, `/api/show`, `/api/ps`, and `/api/pull` of what is there.

use std::sync::Arc;

use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use crate::calendar::rfc3339;
use crate::config::Config;
use crate::error::{Result, json_body};
use crate::extract::RequestBody;
use crate::fields::Fields;
use crate::state::AppState;

/// The version of Ollama whose API this is. Clients refuse one that is too old for them: Codex wants 0.13.4.
const API_VERSION: &str = "0.13.5";
/// A time at which no client expects the model to be gone.
const NEVER: &str = "2100-01-01T00:00:00Z";

pub(crate) async fn version() -> impl IntoResponse {
    json_body(&json!({"version": API_VERSION, "ossmith": env!("CARGO_PKG_VERSION")}))
}

pub(crate) async fn tags(State(app): State<Arc<AppState>>) -> impl IntoResponse {
    let models: Vec<Value> = names(&app.config).map(|name| card(&app, name)).collect();
    json_body(&json!({"models": models}))
}

pub(crate) async fn running(State(app): State<Arc<AppState>>) -> impl IntoResponse {
    let card = |name: &String| {
        let mut card = card(&app, name);
        card["size_vram"] = card["size"].clone();
        card["expires_at"] = NEVER.into();
        card["context_length"] = app.config.context.into();
        card
    };
    json_body(&json!({"models": names(&app.config).map(card).collect::<Vec<_>>()}))
}

pub(crate) async fn show(
    State(app): State<Arc<AppState>>,
    body: RequestBody,
) -> Result<impl IntoResponse> {
    body.read(&app, |app, body| {
        model(app, &Fields::new(body))?;
        let config = &app.config;
        Ok(json_body(&json!({
            "modelfile": format!("FROM {}\n", config.root),
            "parameters": "",
            // Prompts are harmony's, which no template states.
            "template": "",
            "modified_at": rfc3339(app.created),
            "details": details(config),
            "model_info": {
                "general.architecture": "gptoss",
                "general.basename": config.root,
                "general.parameter_count": config.parameters,
                "gptoss.context_length": config.context,
            },
            "capabilities": ["completion", "tools", "thinking"],
        })))
    })
    .await
}

/// Nothing is fetched: the model that is served is there, and no other can be had.
pub(crate) async fn pull(State(app): State<Arc<AppState>>, body: RequestBody) -> Result<Response> {
    body.read(&app, |app, body| {
        let fields = Fields::new(body);
        model(app, &fields)?;
        let done = json!({"status": "success"});
        if !fields.bool("stream", true)? {
            return Ok(json_body(&done).into_response());
        }
        let lines = format!("{}\n{done}\n", json!({"status": "pulling manifest"}));
        Ok(([(header::CONTENT_TYPE, super::writer::LINES)], lines).into_response())
    })
    .await
}

/// The model's name, which some clients still send as `name`.
pub(super) fn model<'a>(app: &AppState, fields: &Fields<'a>) -> Result<&'a str> {
    let name = match fields.string("model")? {
        Some(name) => name,
        None => fields.string("name")?.ok_or_else(|| fields.wrong("model", "is missing"))?,
    };
    app.check_model(Some(name))?;
    Ok(name)
}

/// Names for Ollama's lists: those that are served, and further ones that are written as Ollama does, with a tag.
fn names(config: &Config) -> impl Iterator<Item = &String> {
    let tagged = |name: &&String| name.contains(':') && !name.contains(['/', '*']);
    config.names.iter().chain(config.aliases.iter().filter(tagged))
}

fn card(app: &AppState, name: &str) -> Value {
    let config = &app.config;
    json!({
        "name": name,
        "model": name,
        "modified_at": rfc3339(app.created),
        "size": config.weight_bytes,
        // It tells models apart; nothing can be fetched by it.
        "digest": blake3::hash(config.root.as_bytes()).to_hex().as_str(),
        "details": details(config),
    })
}

fn details(config: &Config) -> Value {
    json!({
        "parent_model": "",
        "format": "safetensors",
        "family": "gptoss",
        "families": ["gptoss"],
        "parameter_size": parameter_size(config.parameters),
        "quantization_level": "MXFP4",
    })
}

/// A count of parameters as Ollama writes it: `20.9B`.
fn parameter_size(parameters: u64) -> String {
    match parameters {
        0 => String::new(),
        count if count < 1_000_000_000 => format!("{:.1}M", count as f64 / 1e6),
        count => format!("{:.1}B", count as f64 / 1e9),
    }
}
