//! What every request passes through before and after its handler: request id, API key, origin, log line.

use std::sync::Arc;
use std::time::Instant;

use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use tracing::Instrument;

use crate::clock;
use crate::error::ApiError;
use crate::error_form;
use crate::generation::TRACE;
use crate::ids::{RequestId, new_id};
use crate::metrics::NO_ROUTE;
use crate::origins;
use crate::state::AppState;
use crate::tenant::Tenant;

/// The header that names a request, in both directions.
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const MAX_ID_LENGTH: usize = 64;

/// The outermost layer.
pub(crate) async fn handle(
    State(app): State<Arc<AppState>>,
    mut request: Request,
    next: Next,
) -> Response {
    let arrival = clock::now();
    let id = given_id(request.headers()).unwrap_or_else(new_id);
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let matched = request.extensions().get::<MatchedPath>().cloned();
    let route = matched.as_ref().map_or(NO_ROUTE, MatchedPath::as_str);
    let origin = request.headers().get(header::ORIGIN).cloned();
    request.extensions_mut().insert(RequestId(id.clone()));

    let mut response = if method == Method::OPTIONS {
        StatusCode::NO_CONTENT.into_response()
    } else {
        match admit(&app, &path, request.headers()) {
            Ok(tenant) => {
                request.extensions_mut().insert(tenant);
                // Generations are within it, so that it ends with the last token.
                let span = tracing::debug_span!(target: TRACE, "request", id, %method, route);
                next.run(request).instrument(span).await
            }
            Err(refused) => {
                if !request.headers().contains_key(header::EXPECT) {
                    app.bodies.discard(request.into_body().into_data_stream());
                }
                refused.into_response()
            }
        }
    };
    if let Ok(value) = HeaderValue::from_str(&id) {
        response.headers_mut().insert(REQUEST_ID, value);
    }
    let mut response = error_form::apply(&path, &id, response);
    origins::allow(&app.config.origins, origin.as_ref(), response.headers_mut());
    log(&id, &method, &path, &response, arrival);
    let seconds = clock::since(arrival).as_secs_f64();
    app.metrics.record(|counts| counts.http.count(route, &method, response.status(), seconds));
    response
}

/// Whose a request is, before any of its body is read.
fn admit(app: &AppState, path: &str, headers: &HeaderMap) -> Result<Tenant, ApiError> {
    if app.keys.is_open() {
        origins::check(&app.config.origins, headers)?;
    }
    app.keys.tenant(path, headers)
}

fn log(id: &str, method: &Method, path: &str, response: &Response, arrival: Instant) {
    let (status, ms) = (response.status().as_u16(), clock::since(arrival).as_millis() as u64);
    match response.extensions().get::<ApiError>() {
        // A message may quote what the client sent, so it is logged only where it is a text of ours. Where it is not, the
        // place in the source says what was wrong.
        Some(error) => {
            let (param, code) = (error.param.as_deref().unwrap_or("-"), error.code.unwrap_or("-"));
            let reason = if error.fixed { &error.message } else { "-" };
            let at = error.place.to_string();
            tracing::info!(id, %method, path, status, ms, param, code, reason, at, "request refused");
        }
        None => tracing::info!(id, %method, path, status, ms, "request"),
    }
}

fn given_id(headers: &HeaderMap) -> Option<String> {
    let id = headers.get(&REQUEST_ID)?.to_str().ok()?;
    let allowed = |c: char| c.is_ascii_alphanumeric() || "-_.:".contains(c);
    (!id.is_empty() && id.len() <= MAX_ID_LENGTH && id.chars().all(allowed)).then(|| id.to_owned())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;

    #[test]
    fn invalid_request_ids_are_replaced() {
        for (given, kept) in [("abc-1", true), ("", false), ("a b", false), ("é", false)] {
            let mut headers = HeaderMap::new();
            headers.insert(REQUEST_ID, HeaderValue::from_bytes(given.as_bytes()).unwrap());
            assert_eq!(given_id(&headers).is_some(), kept, "{given}");
        }
    }
}
