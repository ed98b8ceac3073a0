//! What happens to every request before and after its handler: request ids, keys, CORS, the log line.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use crate::app::App;
use crate::error::ApiError;

/// The header that names a request, in both directions.
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const LONGEST_ID: usize = 64;

/// A request's id: the client's own, else a new one.
#[derive(Clone, Debug)]
pub(crate) struct RequestId(pub(crate) String);

/// An id that no other request of this process or another has, in practice.
pub(crate) fn fresh_id() -> String {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let mixed = |salt: u64| {
        use std::hash::{BuildHasher, RandomState};
        RandomState::new().hash_one((now.as_nanos(), count, salt))
    };
    format!("{:016x}{:08x}", mixed(1), mixed(2) as u32)
}

/// The outermost layer.
pub(crate) async fn around(
    State(app): State<Arc<App>>,
    mut request: Request,
    next: Next,
) -> Response {
    let begun = Instant::now();
    let id = given_id(request.headers()).unwrap_or_else(fresh_id);
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
    allow_origin(&app.config.origins, origin.as_ref(), response.headers_mut());
    log(&id, &method, &path, &response, begun);
    response
}

fn log(id: &str, method: &Method, path: &str, response: &Response, begun: Instant) {
    let (status, ms) = (response.status().as_u16(), begun.elapsed().as_millis() as u64);
    match response.extensions().get::<ApiError>() {
        // A message may quote what a client sent, so only its kind is logged.
        Some(error) => {
            let (param, code) = (error.param.as_deref().unwrap_or("-"), error.code.unwrap_or("-"));
            tracing::info!(id, %method, path, status, ms, param, code, "request refused");
        }
        None => tracing::info!(id, %method, path, status, ms, "request"),
    }
}

fn given_id(headers: &HeaderMap) -> Option<String> {
    let id = headers.get(&REQUEST_ID)?.to_str().ok()?;
    let fine = |c: char| c.is_ascii_alphanumeric() || "-_.:".contains(c);
    (!id.is_empty() && id.len() <= LONGEST_ID && id.chars().all(fine)).then(|| id.to_owned())
}

/// Keys guard what generates and what was stored; health and metrics stay open for those who watch a server.
fn check_key(keys: &[String], path: &str, headers: &HeaderMap) -> Result<(), ApiError> {
    let guarded = ["/v1", "/inference"].iter().any(|root| {
        path.strip_prefix(root).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    });
    if keys.is_empty() || !guarded {
        return Ok(());
    }
    let value = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let Some(value) = value else {
        return Err(ApiError::no_key(
            "You did not provide an API key: send it as `Authorization: Bearer KEY`",
        ));
    };
    let (scheme, given) = value.split_once(' ').unwrap_or((value, ""));
    // All keys are compared, so that the time says nothing about which was nearly right.
    let known = keys.iter().fold(false, |known, key| known | same(key, given.trim()));
    if scheme.eq_ignore_ascii_case("bearer") && known {
        return Ok(());
    }
    Err(ApiError::no_key("Incorrect API key provided"))
}

/// Compares in a time that depends on the lengths only.
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
        (header::ACCESS_CONTROL_EXPOSE_HEADERS, "X-Request-Id, Retry-After"),
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
    fn keys_open_what_they_guard() {
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
            ("/v1beta", None, true),
            ("/health", None, true),
            ("/metrics", Some("Bearer wrong"), true),
        ] {
            let mut headers = HeaderMap::new();
            headers.extend(value.map(|v| (header::AUTHORIZATION, v.parse().unwrap())));
            assert_eq!(check_key(&keys, path, &headers).is_ok(), open, "{path} {value:?}");
            assert!(check_key(&[], path, &headers).is_ok());
        }
    }

    #[test]
    fn odd_request_ids_are_replaced() {
        for (given, kept) in [("abc-1", true), ("", false), ("a b", false), ("é", false)] {
            let mut headers = HeaderMap::new();
            headers.insert(REQUEST_ID, HeaderValue::from_bytes(given.as_bytes()).unwrap());
            assert_eq!(given_id(&headers).is_some(), kept, "{given}");
        }
        assert_ne!(fresh_id(), fresh_id());
    }
}
