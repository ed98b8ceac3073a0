//! `/v1/files`: files are uploaded, listed, read and deleted. An upload goes to disk as it comes.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use axum::Extension;
use axum::body::Body;
use axum::extract::multipart::{Field, MultipartError};
use axum::extract::{Multipart, Query, State};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;

use super::routes::files;
use crate::error::{ApiError, Result, json_body};
use crate::extract::PathName;
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

fn unreadable(why: &MultipartError) -> ApiError {
    ApiError::bad("", format!("the form cannot be read: {}", why.body_text()))
}

pub(crate) async fn upload(
    State(app): State<Arc<AppState>>,
    Extension(tenant): Extension<Tenant>,
    form: std::result::Result<Multipart, axum::extract::multipart::MultipartRejection>,
) -> Result<impl IntoResponse> {
    let files = files(&app)?;
    let mut form = form.map_err(|_| {
        ApiError::bad(
            "",
            "the request is not a form: send multipart/form-data with `file` and `purpose`",
        )
    })?;
    let (mut file, mut purpose, mut lifetime) = (None, None, None);
    let time = app.config.body_timeout;
    while let Some(field) =
        within(time, form.next_field()).await?.map_err(|why| unreadable(&why))?
    {
        match field.name().unwrap_or_default() {
            "file" => {
                if file.is_some() {
                    return Err(ApiError::bad("file", "the form has two files"));
                }
                let name = field.file_name().unwrap_or("file.jsonl").chars().take(255).collect();
                let all = files.clone();
                // It reads the folders of all tenants.
                let new = tokio::task::spawn_blocking(move || all.create(tenant)).await;
                let new = new.map_err(|why| ApiError::internal(why.to_string()))??;
                let new = receive(new, field, time).await?;
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
    Ok(json_body(&files.keep(file, &name, "batch", lifetime)?))
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
async fn receive(new: NewFile, mut field: Field<'_>, time: Option<Duration>) -> Result<NewFile> {
    let failed = |why: std::io::Error| {
        tracing::error!(%why, "an uploaded file cannot be written");
        ApiError::internal("the server cannot write the file")
    };
    let mut out = tokio::fs::File::create(&new.path).await.map_err(failed)?;
    while let Some(piece) = within(time, field.chunk()).await?.map_err(|why| unreadable(&why))? {
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
    let mut all = files(&app)?.list(tenant);
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
    files(&app)?.get(tenant, &id).map(|file| json_body(&file))
}

pub(crate) async fn delete(
    State(app): State<Arc<AppState>>,
    Extension(tenant): Extension<Tenant>,
    PathName(id): PathName,
) -> Result<impl IntoResponse> {
    files(&app)?.remove(tenant, &id)?;
    Ok(json_body(&json!({"id": id, "object": "file", "deleted": true})))
}

pub(crate) async fn content(
    State(app): State<Arc<AppState>>,
    Extension(tenant): Extension<Tenant>,
    PathName(id): PathName,
) -> Result<impl IntoResponse> {
    let path = files(&app)?.content(tenant, &id)?;
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
