//! What handlers get of a request: its body, which is read on a thread where it delays no other request, and the name in its path.
//! Whatever is wrong with them is an error in OpenAI's form.

use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::{FromRequest, FromRequestParts, Path, Request};
use axum::http::request::Parts;
use serde_json::{Map, Value};

use crate::error::{ApiError, Result};
use crate::fields::parse_object;
use crate::state::AppState;

/// A request's body.
pub(crate) struct RequestBody {
    bytes: Bytes,
    /// The path of the request.
    path: String,
}

impl FromRequest<Arc<AppState>> for RequestBody {
    type Rejection = ApiError;

    async fn from_request(request: Request, app: &Arc<AppState>) -> Result<RequestBody> {
        let path = request.uri().path().to_owned();
        let bytes = Bytes::from_request(request, app).await;
        bytes.map(|bytes| RequestBody { bytes, path }).map_err(|why| match why.status().as_u16() {
            413 => ApiError::too_large(app.config.body_bytes),
            _ => ApiError::bad("", format!("the request body cannot be read: {why}")),
        })
    }
}

impl RequestBody {
    /// The body as a JSON object.
    pub(crate) fn object(&self) -> Result<Map<String, Value>> {
        parse_object(&self.bytes)
    }

    /// Has `read` read the body on a blocking thread, because parsing, tokenizing and compiling a schema take a while.
    pub(crate) async fn read<T: Send + 'static>(
        self,
        app: &Arc<AppState>,
        read: impl FnOnce(&AppState, &Map<String, Value>) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let (app, path) = (Arc::clone(app), self.path.clone());
        let done = tokio::task::spawn_blocking(move || read(&app, &self.object()?)).await;
        done.unwrap_or_else(|_| {
            // A panic is a bug, and must not affect other requests. Its message is on stderr already; it is not repeated here,
            // because it may quote the request.
            tracing::error!(path, "reading a request panicked, which is a bug");
            Err(ApiError::bad("", "the request cannot be read by this server"))
        })
    }
}

/// The name in a path, such as a response's id.
pub(crate) struct PathName(pub(crate) String);

impl<S: Send + Sync> FromRequestParts<S> for PathName {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<PathName> {
        let name = Path::<String>::from_request_parts(parts, state).await;
        let unreadable = |_| ApiError::bad("", "the path is not valid UTF-8");
        name.map(|Path(name)| PathName(name)).map_err(unreadable)
    }
}
