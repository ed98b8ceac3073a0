//! What handlers get of a request: its body, which is read on a thread where it delays no other request, and the name in its path.
//! Whatever is wrong with them is an error in OpenAI's form.

use std::sync::Arc;

use axum::extract::{FromRequest, FromRequestParts, Path, Request};
use axum::http::header;
use axum::http::request::Parts;
use serde_json::{Map, Value};

use crate::bodies::HeldBody;
use crate::error::{ApiError, Result};
use crate::fields::parse_object;
use crate::state::AppState;
use crate::tenant::Tenant;

/// A request's body.
pub(crate) struct RequestBody {
    body: HeldBody,
    /// The path of the request.
    path: String,
    tenant: Tenant,
}

impl FromRequest<Arc<AppState>> for RequestBody {
    type Rejection = ApiError;

    async fn from_request(request: Request, app: &Arc<AppState>) -> Result<RequestBody> {
        let (parts, body) = request.into_parts();
        let path = parts.uri.path().to_owned();
        let encoding = parts.headers.get(header::CONTENT_ENCODING);
        let encoding = encoding.map_or("", |encoding| encoding.to_str().unwrap_or("?"));
        if !["", "identity"].contains(&encoding) {
            app.bodies.discard(body.into_data_stream());
            return Err(ApiError::media("Content-Encoding", encoding, "identity"));
        }
        // The middleware has put it there.
        let tenant = parts.extensions.get::<Tenant>().copied().unwrap_or(Tenant::ONLY);
        let body = app.bodies.receive(tenant, &parts.headers, body).await?;
        Ok(RequestBody { body, path, tenant })
    }
}

impl RequestBody {
    /// Has `read` read the body on a blocking thread, because parsing, tokenizing and measuring a schema take a while; a large
    /// body waits for its turn.
    pub(crate) async fn read<T: Send + 'static>(
        self,
        app: &Arc<AppState>,
        read: impl FnOnce(&AppState, &Map<String, Value>) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        self.read_keeping(app, |app, body| Ok((read(app, body)?, 0))).await.map(|(done, _)| done)
    }

    /// The same for a request that keeps some bytes until it is answered, which `read` returns too. They count as its body did.
    pub(crate) async fn read_keeping<T: Send + 'static>(
        self,
        app: &Arc<AppState>,
        read: impl FnOnce(&AppState, &Map<String, Value>) -> Result<(T, usize)> + Send + 'static,
    ) -> Result<(T, HeldBody)> {
        let RequestBody { mut body, path, tenant } = self;
        let turn = app.reading.turn(tenant, body.bytes().len()).await;
        let app = Arc::clone(app);
        let work = move || {
            // Until it is read, even if nobody waits for it any more.
            let _turn = turn;
            let (done, kept_bytes) = read(&app, &parse_object(body.bytes())?)?;
            body.keep(kept_bytes)?;
            Ok((done, body))
        };
        let done = tokio::task::spawn_blocking(work).await;
        done.unwrap_or_else(|_| {
            // A panic is a bug, and must not affect other requests. Its message was logged already; it is not repeated here,
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

/// Does what may take long, as the disk and large JSON do, where it holds up no other request.
///
/// # Errors
/// The work panicked, which was logged.
pub(crate) async fn aside<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|_| ApiError::internal("the request ended without an answer, which is a bug"))
}
