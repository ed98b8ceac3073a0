//! `/v1/files`: files are uploaded, listed, read and deleted. An upload goes to disk as it comes.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Extension;
use axum::body::{Body, BodyDataStream};
use axum::extract::multipart::{Field, MultipartError};
use axum::extract::{FromRequest, Multipart, Query, Request, State};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_core::Stream;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;

use super::routes::files;
use crate::error::{ApiError, Result, json_body};
use crate::extract::{PathName, aside};
use crate::files::NewFile;
use crate::generation::within;
use crate::page;
use crate::sse::Frames;
use crate::state::AppState;
use crate::tenant::Tenant;

/// Most bytes of a field that is not the file.
const MAX_FIELD: usize = 4096;
/// Bytes of a file that are read at a time.
const PIECE: usize = 64 << 10;
/// Bytes of a form in which there must be a boundary, the head of a field, or content that is read: its reader keeps all before
/// that in memory.
const MAX_UNREAD: usize = 1 << 20;

fn unreadable(why: &MultipartError) -> ApiError {
    ApiError::bad("", format!("the form cannot be read: {}", why.body_text()))
}

/// A form that comes piece by piece.
struct Form {
    fields: Multipart,
    unread: Arc<AtomicUsize>,
    time: Option<Duration>,
}

/// The body of a form: one piece for each time that its reader looks, and an end where it makes nothing of many of them.
struct Pieces {
    body: BodyDataStream,
    unread: Arc<AtomicUsize>,
    rests: bool,
}

impl Stream for Pieces {
    type Item = std::result::Result<Bytes, axum::BoxError>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if std::mem::take(&mut self.rests) {
            // Its reader would go on for as long as there is something, and keep it all.
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        let piece = std::task::ready!(Pin::new(&mut self.body).poll_next(context));
        let Some(Ok(bytes)) = piece else {
            return Poll::Ready(piece.map(|p| p.map_err(Into::into)));
        };
        self.rests = true;
        let unread = self.unread.fetch_add(bytes.len(), Ordering::Relaxed) + bytes.len();
        Poll::Ready(Some(match unread > MAX_UNREAD {
            true => Err("too much of it is neither a field nor content".into()),
            false => Ok(bytes),
        }))
    }
}

impl Form {
    async fn new(request: Request, time: Option<Duration>) -> Result<Form> {
        let unread = Arc::new(AtomicUsize::new(0));
        let (parts, body) = request.into_parts();
        let (body, rests) = (body.into_data_stream(), false);
        let body = Body::from_stream(Pieces { body, unread: Arc::clone(&unread), rests });
        let fields = Multipart::from_request(Request::from_parts(parts, body), &()).await;
        let why = "the request is not a form: send multipart/form-data with `file` and `purpose`";
        let fields = fields.map_err(|_| ApiError::bad("", why))?;
        Ok(Form { fields, unread, time })
    }

    async fn next(&mut self) -> Result<Option<Field<'_>>> {
        let field = within(self.time, self.fields.next_field()).await?;
        let field = field.map_err(|why| too_much(&self.unread, &why))?;
        self.unread.store(0, Ordering::Relaxed);
        Ok(field)
    }
}

fn too_much(unread: &AtomicUsize, why: &MultipartError) -> ApiError {
    if unread.load(Ordering::Relaxed) <= MAX_UNREAD {
        return unreadable(why);
    }
    let why = format!(
        "the form has over {MAX_UNREAD} bytes without a boundary, or of a field that is not read"
    );
    ApiError::bad("", why)
}

pub(crate) async fn upload(
    State(app): State<Arc<AppState>>,
    Extension(tenant): Extension<Tenant>,
    request: Request,
) -> Result<impl IntoResponse> {
    let files = files(&app)?;
    let time = app.config.body_timeout;
    let mut form = Form::new(request, time).await?;
    let unread = Arc::clone(&form.unread);
    let (mut file, mut purpose, mut lifetime) = (None, None, None);
    while let Some(field) = form.next().await? {
        match field.name().unwrap_or_default() {
            "file" => {
                if file.is_some() {
                    return Err(ApiError::bad("file", "the form has two files"));
                }
                let name = field.file_name().unwrap_or("file.jsonl").chars().take(255).collect();
                let all = files.clone();
                // It reads the folders of all tenants.
                let new = aside(move || all.create(tenant)).await??;
                let new = receive(new, field, &unread, time).await?;
                file = Some((new, name));
            }
            "purpose" => purpose = Some(within(time, text(field, "purpose")).await??),
            "expires_after[seconds]" => {
                let seconds = within(time, text(field, "expires_after")).await??;
                let seconds: u64 = seconds.parse().map_err(|_| {
                    ApiError::bad("expires_after", "`expires_after[seconds]` is not a number")
                })?;
                lifetime = Some(Duration::from_secs(seconds));
            }
            // What else is known needs no reading.
            _ => {}
        }
    }
    match purpose.as_deref() {
        Some("batch") => {}
        None => return Err(ApiError::bad("purpose", "`purpose` is missing; it is `batch`")),
        Some(other) => {
            let other: String = other.chars().take(100).collect();
            let why = format!("`purpose` is `{other}`; this server takes files for `batch` only");
            return Err(ApiError::unsupported("purpose", why));
        }
    }
    let Some((file, name)): Option<(NewFile, String)> = file else {
        return Err(ApiError::bad("file", "`file` is missing"));
    };
    let all = files.clone();
    let kept = aside(move || all.keep(file, &name, "batch", lifetime)).await??;
    Ok(json_body(&kept))
}

async fn text(mut field: Field<'_>, name: &str) -> Result<String> {
    let mut text = Vec::new();
    while let Some(piece) = field.chunk().await.map_err(|why| unreadable(&why))? {
        text.extend_from_slice(&piece);
        if text.len() > MAX_FIELD {
            return Err(ApiError::bad(name, format!("`{name}` is too long")));
        }
    }
    String::from_utf8(text).map_err(|_| ApiError::bad(name, format!("`{name}` is not UTF-8")))
}

/// Writes a field to disk. Each piece has the time of a request's body.
async fn receive(
    new: NewFile,
    mut field: Field<'_>,
    unread: &AtomicUsize,
    time: Option<Duration>,
) -> Result<NewFile> {
    let failed = |why: std::io::Error| {
        tracing::error!(%why, "an uploaded file cannot be written");
        ApiError::internal("the server cannot write the file")
    };
    let mut out = tokio::fs::File::create(&new.path).await.map_err(failed)?;
    while let Some(piece) = within(time, field.chunk()).await?.map_err(|why| unreadable(&why))? {
        unread.store(0, Ordering::Relaxed);
        new.claim(piece.len() as u64)?;
        out.write_all(&piece).await.map_err(failed)?;
    }
    out.flush().await.map_err(failed)?;
    Ok(new)
}

pub(crate) async fn list(
    State(app): State<Arc<AppState>>,
    Extension(tenant): Extension<Tenant>,
    Query(query): Query<HashMap<String, String>>,
) -> Result<Response> {
    let files = files(&app)?.clone();
    let mut all = aside(move || files.list(tenant)).await?;
    if let Some(purpose) = query.get("purpose") {
        all.retain(|file| file["purpose"] == purpose.as_str());
    }
    page::page(all, &query)
}

pub(crate) async fn retrieve(
    State(app): State<Arc<AppState>>,
    Extension(tenant): Extension<Tenant>,
    PathName(id): PathName,
) -> Result<impl IntoResponse> {
    let files = files(&app)?.clone();
    aside(move || files.get(tenant, &id)).await?.map(|file| json_body(&file))
}

pub(crate) async fn delete(
    State(app): State<Arc<AppState>>,
    Extension(tenant): Extension<Tenant>,
    PathName(id): PathName,
) -> Result<impl IntoResponse> {
    let files = files(&app)?.clone();
    let deleted = json!({"id": id, "object": "file", "deleted": true});
    aside(move || files.remove(tenant, &id)).await??;
    Ok(json_body(&deleted))
}

pub(crate) async fn content(
    State(app): State<Arc<AppState>>,
    Extension(tenant): Extension<Tenant>,
    PathName(id): PathName,
) -> Result<impl IntoResponse> {
    let (files, asked) = (files(&app)?.clone(), id.clone());
    let path = aside(move || files.content(tenant, &asked)).await??;
    let gone = |_| ApiError::not_found(None, format!("there is no file `{id}`"));
    let mut file = tokio::fs::File::open(path).await.map_err(gone)?;
    let (sender, receiver) = mpsc::channel::<Bytes>(4);
    tokio::spawn(async move {
        loop {
            let mut piece = Vec::with_capacity(PIECE);
            let read = (&mut file).take(PIECE as u64).read_to_end(&mut piece).await;
            if !read.is_ok_and(|bytes| bytes > 0) || sender.send(piece.into()).await.is_err() {
                return;
            }
        }
    });
    let kind = [(header::CONTENT_TYPE, "application/octet-stream")];
    Ok((kind, Body::from_stream(Frames(receiver))))
}
