//! What every request passes through before and after its handler: request id, API key, CORS, log line.

use std::sync::Arc;
use std::time::Instant;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use crate::error::ApiError;
use crate::error_form;
use crate::ids::{RequestId, new_id};
use crate::state::AppState;

/// The header that names a request, in both directions.
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// The header in which Anthropic's SDKs send their key.
const API_KEY: HeaderName = HeaderName::from_static("x-api-key");
const MAX_ID_LENGTH: usize = 64;

/// The outermost layer.
pub(crate) async fn handle(
    State(app): State<Arc<AppState>>,
    mut request: Request,
    next: Next,
) -> Response {
    let arrival = Instant::now();
    let id = given_id(request.headers()).unwrap_or_else(new_id);
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let origin = request.headers().get(header::ORIGIN).cloned();
    request.extensions_mut().insert(RequestId(id.clone()));

    let mut response = if method == Method::OPTIONS {
        StatusCode::NO_CONTENT.into_response()
    } else if let Err(refused) = check_key(&app.config.keys, &path, request.headers()) {
        refused.into_response()
    } else {
        next.run(request).await
    };
    if let Ok(value) = HeaderValue::from_str(&id) {
        response.headers_mut().insert(REQUEST_ID, value);
    }
    let mut response = error_form::apply(&path, &id, response);
    allow_origin(&app.config.origins, origin.as_ref(), response.headers_mut());
    log(&id, &method, &path, &response, arrival);
    response
}

fn log(id: &str, method: &Method, path: &str, response: &Response, arrival: Instant) {
    let (status, ms) = (response.status().as_u16(), arrival.elapsed().as_millis() as u64);
    match response.extensions().get::<ApiError>() {
        // A message may quote what the client sent, so only the field and the code are logged.
        Some(error) => {
            let (param, code) = (error.param.as_deref().unwrap_or("-"), error.code.unwrap_or("-"));
            tracing::info!(id, %method, path, status, ms, param, code, "request refused");
        }
        None => tracing::info!(id, %method, path, status, ms, "request"),
    }
}

fn given_id(headers: &HeaderMap) -> Option<String> {
    let id = headers.get(&REQUEST_ID)?.to_str().ok()?;
    let allowed = |c: char| c.is_ascii_alphanumeric() || "-_.:".contains(c);
    (!id.is_empty() && id.len() <= MAX_ID_LENGTH && id.chars().all(allowed)).then(|| id.to_owned())
}

/// Keys guard generation, stored responses, and what takes time in proportion to a body. Health, versions and metrics need no key,
/// so that a monitor can read them.
fn check_key(keys: &[String], path: &str, headers: &HeaderMap) -> Result<(), ApiError> {
    let guarded = ["/v1", "/api", "/inference", "/tokenize", "/detokenize"].iter().any(|root| {
        path.strip_prefix(root).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    });
    if keys.is_empty() || !guarded || path == "/api/version" {
        return Ok(());
    }
    let text = |name: HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
    let bearer = text(header::AUTHORIZATION).map(|value| {
        let (scheme, given) = value.split_once(' ').unwrap_or((value, ""));
        if scheme.eq_ignore_ascii_case("bearer") { given.trim() } else { "" }
    });
    // Anthropic's SDKs send a key under a name of their own, and may send both.
    let given = [bearer, text(API_KEY).map(str::trim)];
    if given == [None, None] {
        return Err(ApiError::no_key(
            "You did not provide an API key: send it as `Authorization: Bearer KEY` or as `x-api-key: KEY`",
        ));
    }
    // All keys are compared, so that the time does not reveal which one was nearly right.
    let known = |given: &str| keys.iter().fold(false, |known, key| known | same(key, given));
    if given.into_iter().flatten().fold(false, |found, given| found | known(given)) {
        return Ok(());
    }
    Err(ApiError::no_key("Incorrect API key provided"))
}

/// Compares in a time that depends only on the lengths.
fn same(key: &str, given: &str) -> bool {
    let (key, given) = (key.as_bytes(), given.as_bytes());
    let mut differ = u8::from(key.len() != given.len() || key.is_empty());
    for (index, byte) in given.iter().enumerate() {
        differ |= byte ^ key.get(index % key.len().max(1)).copied().unwrap_or(0);
    }
    std::hint::black_box(differ) == 0
}

fn allow_origin(origins: &[String], origin: Option<&HeaderValue>, headers: &mut HeaderMap) {
    let Some(origin) = origin else { return };
    let any = origins.iter().any(|allowed| allowed == "*");
    let listed = origin.to_str().is_ok_and(|o| origins.iter().any(|allowed| allowed == o));
    if !any && !listed {
        return;
    }
    let allowed = if any { HeaderValue::from_static("*") } else { origin.clone() };
    headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, allowed);
    for (name, value) in [
        (header::ACCESS_CONTROL_ALLOW_METHODS, "GET, POST, DELETE, OPTIONS"),
        (header::ACCESS_CONTROL_ALLOW_HEADERS, "*, Authorization"),
        (header::ACCESS_CONTROL_EXPOSE_HEADERS, "X-Request-Id, Request-Id, Retry-After"),
        (header::ACCESS_CONTROL_MAX_AGE, "86400"),
        (header::VARY, "Origin"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;

    #[test]
    fn only_a_known_key_opens_a_guarded_path() {
        let keys = ["first".to_owned(), "second".to_owned()];
        for (path, value, open) in [
            ("/v1/models", Some("Bearer first"), true),
            ("/v1/models", Some("bearer second"), true),
            ("/v1/models", Some("Bearer firs"), false),
            ("/v1/models", Some("Bearer firstfirst"), false),
            ("/v1/models", Some("Bearer "), false),
            ("/v1/models", Some("Basic first"), false),
            ("/v1/models", Some("first"), false),
            ("/v1/models", None, false),
            ("/inference/v1/generate", None, false),
            ("/tokenize", None, false),
            ("/detokenize", Some("Bearer wrong"), false),
            ("/detokenize", Some("Bearer second"), true),
            ("/v1beta", None, true),
            ("/health", None, true),
            ("/metrics", Some("Bearer wrong"), true),
            ("/v1/messages", Some("second"), false),
            ("/api/chat", None, false),
            ("/api/chat", Some("Bearer first"), true),
            ("/api/version", None, true),
        ] {
            let mut headers = HeaderMap::new();
            headers.extend(value.map(|v| (header::AUTHORIZATION, v.parse().unwrap())));
            assert_eq!(check_key(&keys, path, &headers).is_ok(), open, "{path} {value:?}");
            assert!(check_key(&[], path, &headers).is_ok());
        }
    }

    #[test]
    fn a_key_may_come_under_anthropic_s_name() {
        let keys = ["first".to_owned()];
        for (key, bearer, open) in [
            (Some("first"), None, true),
            (Some("wrong"), None, false),
            (Some(""), None, false),
            (Some("first"), Some("Bearer of something else"), true),
            (Some("wrong"), Some("Bearer first"), true),
            (Some("wrong"), Some("Bearer wrong"), false),
        ] {
            let mut headers = HeaderMap::new();
            headers.extend(key.map(|v| (API_KEY, v.parse().unwrap())));
            headers.extend(bearer.map(|v| (header::AUTHORIZATION, v.parse().unwrap())));
            let given = check_key(&keys, "/v1/messages", &headers);
            assert_eq!(given.is_ok(), open, "{key:?} {bearer:?}");
        }
    }

    #[test]
    fn invalid_request_ids_are_replaced() {
        for (given, kept) in [("abc-1", true), ("", false), ("a b", false), ("é", false)] {
            let mut headers = HeaderMap::new();
            headers.insert(REQUEST_ID, HeaderValue::from_bytes(given.as_bytes()).unwrap());
            assert_eq!(given_id(&headers).is_some(), kept, "{given}");
        }
    }
}
