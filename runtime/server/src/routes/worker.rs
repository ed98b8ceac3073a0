//! What routers in front of several servers ask of each: which model it is, how large it is, how busy it is, and the tokens of a
//! request's prompt. The names are SGLang's and vLLM's.

use std::sync::Arc;

use axum::Extension;
use axum::extract::State;
use axum::response::IntoResponse;
use ossmith::PAGE_TOKENS;
use serde_json::{Map, Value, json};

use crate::chat;
use crate::completions;
use crate::error::{Result, json_body};
use crate::extract::RequestBody;
use crate::fields::Fields;
use crate::ids::RequestId;
use crate::options::generation::GenerationOptions;
use crate::responses;
use crate::state::AppState;
use crate::tenant::Tenant;

/// `/model_info` and, as older routers spell it, `/get_model_info`.
pub(crate) async fn model_info(State(app): State<Arc<AppState>>) -> impl IntoResponse {
    let config = &app.config;
    json_body(&json!({
        "model_path": config.root,
        "tokenizer_path": config.root,
        "served_model_name": config.name(),
        "is_generation": true,
        "preferred_sampling_params": null,
        "model_type": "gpt_oss",
        "architectures": ["GptOssForCausalLM"],
        "max_context_length": config.context,
        "vocab_size": config.vocab,
        "has_image_understanding": false,
        "has_audio_understanding": false,
    }))
}

/// `/server_info` and `/get_server_info`.
pub(crate) async fn server_info(State(app): State<Arc<AppState>>) -> impl IntoResponse {
    let config = &app.config;
    let metrics = app.backend.metrics();
    let tokens = metrics.pages_total * PAGE_TOKENS;
    json_body(&json!({
        "version": env!("CARGO_PKG_VERSION"),
        "model_path": config.root,
        "tokenizer_path": config.root,
        "served_model_name": config.name(),
        "context_length": config.context,
        "max_total_num_tokens": tokens,
        "tp_size": config.ranks,
        "dp_size": config.engines,
        "page_size": PAGE_TOKENS,
        "block_size": PAGE_TOKENS,
        "num_running_reqs": metrics.running,
        "num_waiting_reqs": metrics.waiting,
        "vllm_config": {
            "model_config": {"model": config.root, "max_model_len": config.context},
            "cache_config": {"block_size": PAGE_TOKENS, "num_gpu_blocks": metrics.pages_total},
            "parallel_config": {
                "tensor_parallel_size": config.ranks,
                "data_parallel_size": config.engines,
            },
        },
    }))
}

/// `/kv_event_sources`: this server publishes no events about its cache, so there are none.
pub(crate) async fn kv_event_sources() -> impl IntoResponse {
    json_body(&json!([]))
}

/// The prompt of a chat, as the tokens that the model would read.
pub(crate) async fn render_chat(
    State(app): State<Arc<AppState>>,
    Extension(RequestId(id)): Extension<RequestId>,
    body: RequestBody,
) -> Result<impl IntoResponse> {
    let render = move |app: &AppState, body: &Map<String, Value>| {
        let fields = Fields::new(body);
        app.check_model(fields.string("model")?)?;
        let generation = GenerationOptions::read(&fields, &app.config)?;
        let prompt = chat::request::prepare(&app.config, &fields, &generation)?.prompt;
        Ok(rendered(app, fields.string("model")?, &format!("chatcmpl-{id}"), &prompt))
    };
    Ok(json_body(&body.read(&app, render).await?))
}

/// The prompts of a completion.
pub(crate) async fn render_completion(
    State(app): State<Arc<AppState>>,
    Extension(RequestId(id)): Extension<RequestId>,
    body: RequestBody,
) -> Result<impl IntoResponse> {
    let render = move |app: &AppState, body: &Map<String, Value>| {
        let model = Fields::new(body).string("model")?;
        let prompts = completions::prompts_of(app, &id, body)?;
        let of_prompt = |(index, prompt): (usize, &Vec<u32>)| {
            rendered(app, model, &format!("cmpl-{id}-{index}"), prompt)
        };
        Ok(prompts.iter().enumerate().map(of_prompt).collect::<Vec<Value>>())
    };
    Ok(json_body(&body.read(&app, render).await?))
}

/// The prompt of a response.
pub(crate) async fn render_response(
    State(app): State<Arc<AppState>>,
    Extension(RequestId(id)): Extension<RequestId>,
    Extension(tenant): Extension<Tenant>,
    body: RequestBody,
) -> Result<impl IntoResponse> {
    let (model, prompt) = responses::rendered_prompt(&app, tenant, body).await?;
    Ok(json_body(&rendered(&app, model.as_deref(), &format!("resp_{id}"), &prompt)))
}

fn rendered(app: &AppState, model: Option<&str>, id: &str, prompt: &[u32]) -> Value {
    let model = model.unwrap_or(app.config.name());
    json!({"request_id": id, "model": model, "token_ids": prompt, "sampling_params": {}})
}
