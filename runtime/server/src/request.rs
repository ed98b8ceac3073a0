//! What handlers are given of a request: its body, read where it holds up no other, and the id in its path. Whatever is wrong
//! with them is an error in OpenAI's shape.

use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::{FromRequest, FromRequestParts, Path, Request};
use axum::http::request::Parts;
use serde_json::{Map, Value};

use crate::app::App;
use crate::error::{ApiError, Result};
use crate::fields::parse_object;

/// A request's body.
pub(crate) struct Body {
    bytes: Bytes,
    /// Where it was sent to.
    path: String,
}

impl FromRequest<Arc<App>> for Body {
    type Rejection = ApiError;

    async fn from_request(request: Request, app: &Arc<App>) -> Result<Body> {
        let path = request.uri().path().to_owned();
        let bytes = Bytes::from_request(request, app).await;
        bytes.map(|bytes| Body { bytes, path }).map_err(|why| match why.status().as_u16() {
            413 => ApiError::too_large(app.config.body_bytes),
            _ => ApiError::bad("", format!("the request body cannot be read: {why}")),
        })
    }
}

impl Body {
    /// Its JSON object.
    pub(crate) fn object(&self) -> Result<Map<String, Value>> {
        parse_object(&self.bytes)
    }

    /// What `read` makes of it. That takes a while (parsing, tokenizing, compiling a schema), so it is done aside.
    pub(crate) async fn read<T: Send + 'static>(
        self,
        app: &Arc<App>,
        read: impl FnOnce(&App, &Map<String, Value>) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let (app, path) = (Arc::clone(app), self.path.clone());
        let done = tokio::task::spawn_blocking(move || read(&app, &self.object()?)).await;
        done.unwrap_or_else(|_| {
            // Only a bug panics; the request that met it is refused, and no other is touched. The panic's own message is
            // on stderr already, and may quote the request.
            tracing::error!(path, "reading a request panicked, which is a bug");
            Err(ApiError::bad("", "the request cannot be read by this server"))
        })
    }
}

/// What stands in the path's place for a name.
pub(crate) struct Named(pub(crate) String);

impl<S: Send + Sync> FromRequestParts<S> for Named {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Named> {
        let name = Path::<String>::from_request_parts(parts, state).await;
        let unreadable = |_| ApiError::bad("", "the path is not valid UTF-8");
        name.map(|Path(name)| Named(name)).map_err(unreadable)
    }
}
