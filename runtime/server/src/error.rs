//! Errors as OpenAI's SDKs expect them: a status and `{"error": {message, type, param, code}}`, with all four keys always present.

use std::borrow::Cow;
use std::panic::Location;
use std::time::Duration;

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

/// The server's result.
pub(crate) type Result<T> = std::result::Result<T, ApiError>;

/// A refusal or failure, as the client will read it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiError {
    /// HTTP status.
    pub status: StatusCode,
    /// What is wrong, and what to do.
    pub message: String,
    /// The field at fault.
    pub param: Option<String>,
    /// A code for programs.
    pub code: Option<&'static str>,
    /// Seconds after which the client may try again.
    pub retry_after: Option<u32>,
    /// The prompt's tokens and the most that there may be, where it has too many.
    pub prompt_tokens: Option<(usize, usize)>,
    /// Whether the message is a fixed text, which quotes nothing that the client sent, so that it may be logged.
    pub fixed: bool,
    /// Where in the source it was made.
    pub place: Place,
}

/// Where in the source an error was made, for the log. Errors that their clients read alike are equal.
#[derive(Clone, Copy, Debug)]
pub struct Place(&'static Location<'static>);

impl PartialEq for Place {
    fn eq(&self, _: &Place) -> bool {
        true
    }
}

impl Eq for Place {}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.0.file(), self.0.line())
    }
}

/// Characters of a message, and of the name of a field. What they quote may be as long as a body.
const MAX_MESSAGE: usize = 2000;
const MAX_PARAM: usize = 200;

/// A text without its middle, where it has more characters than this: a message begins with what is wrong and ends with
/// what to do.
fn shortened(text: String, most: usize) -> String {
    let count = if text.len() > most { text.chars().count() } else { 0 };
    if count <= most {
        return text;
    }
    let (first, last) = (most * 3 / 4, most / 4);
    let kept = |from: usize, count: usize| text.chars().skip(from).take(count);
    kept(0, first).chain(" … ".chars()).chain(kept(count - last, last)).collect()
}

impl ApiError {
    #[track_caller]
    fn new(status: StatusCode, message: impl Into<Cow<'static, str>>) -> ApiError {
        let message = message.into();
        let fixed = matches!(message, Cow::Borrowed(_));
        ApiError {
            status,
            message: shortened(message.into_owned(), MAX_MESSAGE),
            param: None,
            code: None,
            retry_after: None,
            prompt_tokens: None,
            fixed,
            place: Place(Location::caller()),
        }
    }

    /// 400: the request itself is at fault.
    #[track_caller]
    pub fn bad(param: impl Into<String>, message: impl Into<Cow<'static, str>>) -> ApiError {
        let param = Some(shortened(param.into(), MAX_PARAM)).filter(|param| !param.is_empty());
        ApiError { param, ..ApiError::new(StatusCode::BAD_REQUEST, message) }
    }

    /// 400: other servers have it, this one does not.
    #[track_caller]
    pub fn unsupported(
        param: impl Into<String>,
        message: impl Into<Cow<'static, str>>,
    ) -> ApiError {
        ApiError { code: Some("unsupported_value"), ..ApiError::bad(param, message) }
    }

    /// 400: the prompt and its answer do not fit into the context.
    #[track_caller]
    pub fn too_long(param: &str, message: impl Into<Cow<'static, str>>) -> ApiError {
        ApiError { code: Some("context_length_exceeded"), ..ApiError::bad(param, message) }
    }

    /// 400: a text could not be held to the form that the request gave, after its first token.
    #[track_caller]
    pub fn unfollowable(why: &str) -> ApiError {
        let message = format!(
            "the answer could not be held to the requested form to its end: {why}. Make the schema or grammar smaller, or simpler"
        );
        ApiError {
            code: Some("form_not_followed"),
            ..ApiError::new(StatusCode::BAD_REQUEST, message)
        }
    }

    /// 401: the API key is missing or wrong.
    #[track_caller]
    pub fn no_key(message: impl Into<Cow<'static, str>>) -> ApiError {
        ApiError {
            code: Some("invalid_api_key"),
            ..ApiError::new(StatusCode::UNAUTHORIZED, message)
        }
    }

    /// 403: what shows all tenants' traffic needs the operator's key.
    #[track_caller]
    pub fn no_operator() -> ApiError {
        let message = "this shows the traffic of all keys, and this server has several: start it with --operator-key, and send that key";
        ApiError {
            code: Some("operator_key_required"),
            ..ApiError::new(StatusCode::FORBIDDEN, message)
        }
    }

    /// 403: a page of another origin calls a server that needs no key.
    #[track_caller]
    pub fn foreign_page(origin: &str) -> ApiError {
        let origin: String = origin.chars().take(200).collect();
        let message = format!(
            "pages of `{origin}` may not call this server: it needs no key, so only its own pages may. Start it with --allowed-origins {origin}, or with --api-key"
        );
        ApiError {
            code: Some("origin_not_allowed"),
            ..ApiError::new(StatusCode::FORBIDDEN, message)
        }
    }

    /// 404: something of this name does not exist.
    #[track_caller]
    pub fn not_found(
        code: Option<&'static str>,
        message: impl Into<Cow<'static, str>>,
    ) -> ApiError {
        ApiError { code, ..ApiError::new(StatusCode::NOT_FOUND, message) }
    }

    /// 404: a model of this name is not served.
    #[track_caller]
    pub fn no_model(name: &str, served: &[String]) -> ApiError {
        let known = served.join(", ");
        ApiError {
            param: Some("model".to_owned()),
            ..ApiError::not_found(
                Some("model_not_found"),
                format!("The model `{name}` does not exist here; this server has: {known}"),
            )
        }
    }

    /// 405.
    #[track_caller]
    pub fn method(method: &str, path: &str) -> ApiError {
        ApiError::new(
            StatusCode::METHOD_NOT_ALLOWED,
            format!("{method} is not allowed on {path}; /openapi.json lists what is"),
        )
    }

    /// 408: the request took longer than the server allows.
    #[track_caller]
    pub fn timed_out(limit: Duration) -> ApiError {
        let seconds = limit.as_secs();
        ApiError {
            code: Some("request_timeout"),
            ..ApiError::new(
                StatusCode::REQUEST_TIMEOUT,
                format!("the request was not done after {seconds} s, which is this server's limit"),
            )
        }
    }

    /// 408: the body did not arrive in time.
    #[track_caller]
    pub fn slow_body(limit: Duration) -> ApiError {
        let seconds = limit.as_secs_f64();
        let message = format!("the request body did not arrive within {seconds} s");
        ApiError {
            code: Some("request_timeout"),
            ..ApiError::new(StatusCode::REQUEST_TIMEOUT, message)
        }
    }

    /// 413: the body is larger than the limit.
    #[track_caller]
    pub fn too_large(limit_bytes: usize) -> ApiError {
        ApiError::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            format!("the request body is over {limit_bytes} bytes, which is this server's limit"),
        )
    }

    /// 415: a header names a form of body that is not read here.
    #[track_caller]
    pub fn media(name: &str, found: &str, expected: &str) -> ApiError {
        let found: String = found.chars().take(100).collect();
        let message = format!("the request's {name} is `{found}`; send {expected}");
        ApiError {
            param: Some(name.to_owned()),
            ..ApiError::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, message)
        }
    }

    /// 424: a tool server that the request needs does not answer.
    #[track_caller]
    pub fn tool_server(label: &str, why: &str) -> ApiError {
        ApiError {
            param: Some("tools".to_owned()),
            code: Some("tool_server_unavailable"),
            ..ApiError::new(
                StatusCode::FAILED_DEPENDENCY,
                format!("the tool server `{label}` does not list its tools: {why}"),
            )
        }
    }

    /// 429: the queue is full.
    #[track_caller]
    pub fn overloaded(message: impl Into<Cow<'static, str>>) -> ApiError {
        ApiError {
            code: Some("queue_full"),
            retry_after: Some(1),
            ..ApiError::new(StatusCode::TOO_MANY_REQUESTS, message)
        }
    }

    /// 503: the server is stopping, or its engine has stopped.
    #[track_caller]
    pub fn unavailable(message: impl Into<Cow<'static, str>>) -> ApiError {
        ApiError {
            code: Some("unavailable"),
            retry_after: Some(5),
            ..ApiError::new(StatusCode::SERVICE_UNAVAILABLE, message)
        }
    }

    /// 500: the engine failed at a valid request.
    #[track_caller]
    pub fn internal(message: impl Into<Cow<'static, str>>) -> ApiError {
        ApiError {
            code: Some("server_error"),
            ..ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, message)
        }
    }

    /// The JSON body.
    pub fn body(&self) -> Value {
        let kind = match self.status.as_u16() {
            429 => "rate_limit_error",
            status if status >= 500 => "server_error",
            _ => "invalid_request_error",
        };
        json!({"error": {
            "message": self.message, "type": kind, "param": self.param, "code": self.code,
        }})
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = (self.status, json_body(&self.body())).into_response();
        let headers = response.headers_mut();
        if let Some(seconds) = self.retry_after {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if self.status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        // The middleware's log line shows why the request failed.
        response.extensions_mut().insert(self);
        response
    }
}

impl From<ossmith::Error> for ApiError {
    fn from(error: ossmith::Error) -> ApiError {
        match error {
            ossmith::Error::QueueFull { .. } => ApiError::overloaded(error.to_string()),
            ossmith::Error::ShutDown
            | ossmith::Error::Stopped { .. }
            | ossmith::Error::Asleep { .. } => ApiError::unavailable(error.to_string()),
            ossmith::Error::InvalidOption { .. } => ApiError::bad("", error.to_string()),
            ossmith::Error::PromptTooLong { .. } => ApiError::too_long("", error.to_string()),
            error if error.is_bad_request() => ApiError::bad("", error.to_string()),
            other => ApiError::internal(other.to_string()),
        }
    }
}

/// A JSON body with its header.
pub(crate) fn json_body<T: serde::Serialize>(value: &T) -> impl IntoResponse + use<T> {
    json_text(json_of(value))
}

/// A value as JSON.
pub(crate) fn json_of(value: &impl serde::Serialize) -> String {
    // Our own types always serialise.
    serde_json::to_string(value).unwrap_or_default()
}

/// A body of text that is JSON already, with its header.
pub(crate) fn json_text(text: String) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "application/json")], text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_keeps_its_ends_however_long_what_it_quotes_is() {
        for quoted in ["x", "é", "👩"] {
            let error = ApiError::no_model(&quoted.repeat(1 << 20), &["nano".to_owned()]);
            assert!(error.message.chars().count() <= MAX_MESSAGE + 3, "{}", error.message.len());
            assert!(error.message.starts_with(&format!("The model `{quoted}{quoted}")));
            assert!(error.message.ends_with("does not exist here; this server has: nano"));
        }
        let param = ApiError::bad("a".repeat(1000), "short").param.expect("a param");
        assert!(param.len() < 2 * MAX_PARAM);
        assert_eq!(shortened("é".repeat(MAX_MESSAGE), MAX_MESSAGE), "é".repeat(MAX_MESSAGE));
    }
}
