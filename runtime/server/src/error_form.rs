//! The form in which the clients of each API read errors. Handlers all fail with an [`ApiError`], which is written as OpenAI's
//! clients expect it; on the paths of another API, the response is written anew here.

use axum::http::{HeaderName, HeaderValue};
use axum::response::Response;
use serde_json::{Value, json};

use crate::error::ApiError;

/// The header in which Anthropic's SDKs look for a request's id.
const REQUEST_ID: HeaderName = HeaderName::from_static("request-id");

/// A response on this path as its API has it.
pub(crate) fn apply(path: &str, request_id: &str, mut response: Response) -> Response {
    let form = match path.split('/').nth(1) {
        Some("v1") if is_anthropic(path) => anthropic,
        Some("api") => ollama,
        _ => return response,
    };
    if let Some(error) = response.extensions().get::<ApiError>() {
        *response.body_mut() = form(error, request_id).to_string().into();
    }
    if let (true, Ok(id)) = (is_anthropic(path), HeaderValue::from_str(request_id)) {
        response.headers_mut().insert(REQUEST_ID, id);
    }
    response
}

fn is_anthropic(path: &str) -> bool {
    path.strip_prefix("/v1/messages").is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// Anthropic's: `{type: "error", error: {type, message, details: {error_code}}, request_id}`.
pub(crate) fn anthropic(error: &ApiError, request_id: &str) -> Value {
    let kind = match error.status.as_u16() {
        401 => "authentication_error",
        403 => "permission_error",
        404 => "not_found_error",
        408 | 504 => "timeout_error",
        413 => "request_too_large",
        429 => "rate_limit_error",
        503 => "overloaded_error",
        status if status >= 500 => "api_error",
        _ => "invalid_request_error",
    };
    // Claude Code recognises a full context by these words and numbers, and shortens its history.
    let message = match error.prompt_tokens {
        Some((tokens, limit)) => {
            format!("prompt is too long: {tokens} tokens > {limit} maximum. {}", error.message)
        }
        None => error.message.clone(),
    };
    let mut inner = json!({"type": kind, "message": message});
    if let Some(code) = error.code {
        inner["details"] = json!({"error_code": code});
    }
    json!({"type": "error", "error": inner, "request_id": request_id})
}

/// Ollama's: `{error: MESSAGE}`.
pub(crate) fn ollama(error: &ApiError, _request_id: &str) -> Value {
    json!({"error": error.message})
}
