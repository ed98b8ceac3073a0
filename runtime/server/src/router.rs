//! Every path of the server, and the handler behind it.

use std::sync::Arc;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::http::{Method, Uri};
use axum::middleware::from_fn_with_state;
use axum::routing::{get, post};

use crate::backend::GenerationBackend;
use crate::config::Config;
use crate::error::ApiError;
use crate::middleware;
use crate::state::AppState;
use crate::{batch, chat, completions, conversations, messages, ollama, responses, routes};

/// The whole server over a backend: [`api`], the chat page at `/`, and an answer for every other path.
pub fn router(config: Config, backend: Arc<dyn GenerationBackend>) -> Router {
    with_state(AppState::new(config, backend))
}

/// The routes of the APIs alone, to be merged into the router of an application that has routes of its own, or nested below
/// a path of it. Requests for other paths do not pass through it. The caller serves it on a runtime of tokio, and stops the
/// backend when it has served enough.
///
/// ```
/// use std::sync::Arc;
///
/// use axum::Router;
/// use axum::routing::get;
/// use ossmith::EngineHandle;
/// use ossmith_server::{Config, EngineBackend, api};
///
/// fn application(engine: EngineHandle) -> Router {
///     let config = Config::of_engine(&engine);
///     Router::new()
///         .route("/", get(|| async { "An application with a page of its own." }))
///         .merge(api(config, Arc::new(EngineBackend::new(engine))))
/// }
/// ```
pub fn api(config: Config, backend: Arc<dyn GenerationBackend>) -> Router {
    let app = AppState::new(config, backend);
    finish(routes(&app), app)
}

pub(crate) fn with_state(app: Arc<AppState>) -> Router {
    let router = routes(&app).route("/", get(routes::page::page)).fallback(|uri: Uri| async move {
        ApiError::not_found(
            None,
            format!("there is no {}; /openapi.json lists what there is", uri.path()),
        )
    });
    finish(router, app)
}

fn finish(router: Router<Arc<AppState>>, app: Arc<AppState>) -> Router {
    router
        .method_not_allowed_fallback(|method: Method, uri: Uri| async move {
            ApiError::method(method.as_str(), uri.path())
        })
        // Bodies have limits of their own.
        .layer(DefaultBodyLimit::disable())
        .layer(from_fn_with_state(Arc::clone(&app), middleware::handle))
        .with_state(app)
}

fn routes(app: &AppState) -> Router<Arc<AppState>> {
    let mut router = Router::new()
        .route("/v1/models", get(routes::models::list))
        .route("/v1/models/{*id}", get(routes::models::one))
        .route("/v1/chat/completions", post(chat::handle))
        .route("/v1/completions", post(completions::handle))
        .route("/v1/responses", post(responses::create))
        .route("/v1/responses/input_tokens", post(responses::input_tokens))
        .route("/v1/responses/compact", post(responses::compact))
        .route("/v1/responses/{id}", get(responses::retrieve).delete(responses::delete))
        .route("/v1/responses/{id}/cancel", post(responses::cancel))
        .route("/v1/responses/{id}/input_items", get(responses::input_items))
        .route("/v1/messages", post(messages::create))
        .route("/v1/messages/count_tokens", post(messages::count_tokens))
        .route("/api/version", get(ollama::models::version))
        .route("/api/tags", get(ollama::models::tags))
        .route("/api/ps", get(ollama::models::running))
        .route("/api/show", post(ollama::models::show))
        .route("/api/pull", post(ollama::models::pull))
        .route("/api/chat", post(ollama::chat))
        .route("/api/generate", post(ollama::generate))
        .route("/v1/conversations", post(conversations::create))
        .route(
            "/v1/conversations/{id}",
            get(conversations::retrieve).post(conversations::update).delete(conversations::delete),
        )
        .route(
            "/v1/conversations/{id}/items",
            get(conversations::list_items).post(conversations::add_items),
        )
        .route(
            "/v1/conversations/{id}/items/{item}",
            get(conversations::retrieve_item).delete(conversations::delete_item),
        )
        .route("/v1/files", get(batch::list_files).post(batch::upload))
        .route("/v1/files/{id}", get(batch::retrieve_file).delete(batch::delete))
        .route("/v1/files/{id}/content", get(batch::content))
        .route("/v1/batches", get(batch::list).post(batch::create))
        .route("/v1/batches/{id}", get(batch::retrieve))
        .route("/v1/batches/{id}/cancel", post(batch::cancel))
        .route("/inference/v1/generate", post(completions::raw_tokens::handle))
        .route("/generate", post(completions::native::handle))
        .route("/v1/chat/completions/render", post(routes::worker::render_chat))
        .route("/v1/completions/render", post(routes::worker::render_completion))
        .route("/v1/responses/render", post(routes::worker::render_response))
        .route("/model_info", get(routes::worker::model_info))
        .route("/get_model_info", get(routes::worker::model_info))
        .route("/server_info", get(routes::worker::server_info))
        .route("/get_server_info", get(routes::worker::server_info))
        .route("/get_load", get(routes::status::get_load))
        .route("/kv_event_sources", get(routes::worker::kv_event_sources))
        .route("/tokenize", post(routes::tokenize::tokenize))
        .route("/detokenize", post(routes::tokenize::detokenize))
        .route("/tokenizer_info", get(routes::tokenize::tokenizer_info))
        .route("/health", get(routes::status::health))
        .route("/ping", get(routes::status::health).post(routes::status::health))
        .route("/version", get(routes::status::version))
        .route("/load", get(routes::status::load))
        .route("/metrics", get(routes::status::metrics))
        .route("/debug/steps", get(routes::status::steps))
        .route("/openapi.json", get(routes::openapi::document));
    if app.config.adapters.runtime {
        router = router
            .route("/v1/load_lora_adapter", post(routes::adapters::load))
            .route("/v1/unload_lora_adapter", post(routes::adapters::unload));
    }
    if app.config.development {
        router = router
            .route("/reset_prefix_cache", post(routes::status::reset_prefix_cache))
            .route("/pause", post(routes::control::pause))
            .route("/resume", post(routes::control::resume))
            .route("/is_paused", get(routes::control::is_paused))
            .route("/sleep", post(routes::control::sleep))
            .route("/wake_up", post(routes::control::wake))
            .route("/is_sleeping", get(routes::control::is_sleeping))
            .route("/update_weights", post(routes::weights::update))
            .route("/start_profile", post(routes::status::no_profile))
            .route("/stop_profile", post(routes::status::no_profile));
    }
    router
}
