//! Which pages of the web may call. A browser sends the `Origin` of the page with every call that could change something, and
//! a server without keys is open to whatever page its user has open; so there a page of another origin is refused unless the
//! operator listed it. Where keys are required, the key is what admits a page, and CORS only says who may read.

use std::net::IpAddr;

use axum::http::{HeaderMap, HeaderValue, header};

use crate::error::ApiError;

/// Refuses a request to a server without keys that a page of another origin makes.
pub(crate) fn check(origins: &[String], headers: &HeaderMap) -> Result<(), ApiError> {
    let Some(origin) = headers.get(header::ORIGIN) else { return Ok(()) };
    let text = origin.to_str().unwrap_or_default();
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    if !is_allowed(origins, text) && !is_own(text, host) {
        return Err(ApiError::foreign_page(text));
    }
    let kind = headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
    match kind.map(|kind| kind.split(';').next().unwrap_or_default().trim()) {
        // A page may send other types anywhere without asking first.
        Some(kind) if !kind.eq_ignore_ascii_case("application/json") => {
            Err(ApiError::media("Content-Type", kind, "application/json"))
        }
        _ => Ok(()),
    }
}

/// Adds what tells a browser that a page of this origin may read the answer.
pub(crate) fn allow(origins: &[String], origin: Option<&HeaderValue>, headers: &mut HeaderMap) {
    let Some(origin) = origin else { return };
    if !origin.to_str().is_ok_and(|origin| is_allowed(origins, origin)) {
        return;
    }
    let any = origins.iter().any(|allowed| allowed == "*");
    let allowed = if any { HeaderValue::from_static("*") } else { origin.clone() };
    headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, allowed);
    for (name, value) in [
        (header::ACCESS_CONTROL_ALLOW_METHODS, "GET, POST, DELETE, OPTIONS"),
        (header::ACCESS_CONTROL_ALLOW_HEADERS, "*, Authorization"),
        (
            header::ACCESS_CONTROL_EXPOSE_HEADERS,
            "X-Request-Id, Request-Id, Retry-After, X-Ossmith-Ignored-Tools, X-Ossmith-Ignored-Items",
        ),
        (header::ACCESS_CONTROL_MAX_AGE, "86400"),
        (header::VARY, "Origin"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
}

fn is_allowed(origins: &[String], origin: &str) -> bool {
    origins.iter().any(|allowed| allowed == "*" || allowed == origin)
}

/// Whether an origin is that of the server's own pages. A name with a domain does not count: whoever owns the domain can
/// have it lead here, and his pages then have this origin too.
fn is_own(origin: &str, host: &str) -> bool {
    let Some((_, authority)) = origin.split_once("://") else { return false };
    if !authority.eq_ignore_ascii_case(host) {
        return false;
    }
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.chars().all(|c| c.is_ascii_digit()) => name,
        _ => host,
    };
    let address = name.trim_start_matches('[').trim_end_matches(']');
    let local = [".local", ".localhost"].iter().any(|end| name.ends_with(end));
    address.parse::<IpAddr>().is_ok() || !name.contains('.') || local
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;

    #[test]
    fn pages_of_other_origins_do_not_drive_an_open_server() {
        let listed = ["http://good.example".to_owned()];
        let any = ["*".to_owned()];
        for (origins, origin, host, kind, status) in [
            (&listed[..0], None, "127.0.0.1:8000", Some("text/plain"), None),
            (&listed[..0], Some("http://127.0.0.1:8000"), "127.0.0.1:8000", None, None),
            (&listed[..0], Some("http://localhost:8000"), "localhost:8000", None, None),
            (&listed[..0], Some("http://[::1]:8000"), "[::1]:8000", None, None),
            (&listed[..0], Some("http://box:8000"), "box:8000", None, None),
            (&listed[..0], Some("http://localhost:3000"), "localhost:8000", None, Some(403)),
            (&listed[..0], Some("http://evil.example"), "127.0.0.1:8000", None, Some(403)),
            (&listed[..0], Some("null"), "127.0.0.1:8000", None, Some(403)),
            // A name that its owner has pointed here.
            (&listed[..0], Some("http://evil.example"), "evil.example", None, Some(403)),
            (&listed, Some("http://good.example"), "127.0.0.1:8000", None, None),
            (&listed, Some("http://bad.example"), "127.0.0.1:8000", None, Some(403)),
            (&any, Some("http://bad.example"), "x", Some("application/json; charset=utf-8"), None),
            (&any, Some("http://bad.example"), "x", Some("text/plain"), Some(415)),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(header::HOST, host.parse().unwrap());
            headers.extend(origin.map(|origin| (header::ORIGIN, origin.parse().unwrap())));
            headers.extend(kind.map(|kind| (header::CONTENT_TYPE, kind.parse().unwrap())));
            let refused = check(origins, &headers).err().map(|why| why.status.as_u16());
            assert_eq!(refused, status, "{origins:?} {origin:?} {host} {kind:?}");
        }
    }
}
