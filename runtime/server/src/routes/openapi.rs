//! `/openapi.json`.

use axum::http::header;
use axum::response::IntoResponse;

static DOCUMENT: &str = include_str!("openapi.json");

pub(crate) async fn document() -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "application/json")], DOCUMENT)
}
