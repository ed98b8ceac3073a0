//! The built-in chat page: one document, put together at its first request; no build step, nothing fetched from elsewhere.
//! `page/vendor` has the renderer of Markdown and the sanitiser, as their projects publish them.

use std::sync::LazyLock;

use axum::http::header;
use axum::response::IntoResponse;

use crate::ids::new_id;

/// The page but for the nonce of its scripts.
static PAGE: LazyLock<String> = LazyLock::new(|| {
    include_str!("page/page.html")
        .replacen("/* page.css */", include_str!("page/page.css"), 1)
        .replacen("/* marked.js */", include_str!("page/vendor/marked.js"), 1)
        .replacen("/* purify.js */", include_str!("page/vendor/purify.js"), 1)
        .replacen("/* page.js */", include_str!("page/page.js"), 1)
});

pub(crate) async fn page() -> impl IntoResponse {
    // Only scripts with this nonce run, so that no answer can bring one of its own.
    let nonce = new_id();
    let policy = format!(
        "default-src 'none'; script-src 'nonce-{nonce}'; style-src 'unsafe-inline'; connect-src 'self'; img-src data:; \
         base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    );
    let headers = [
        (header::CONTENT_TYPE, "text/html; charset=utf-8".to_owned()),
        (header::CACHE_CONTROL, "no-cache".to_owned()),
        (header::CONTENT_SECURITY_POLICY, policy),
    ];
    (headers, PAGE.replace("<script>", &format!("<script nonce=\"{nonce}\">")))
}
