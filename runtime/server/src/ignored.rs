//! What a request has and its answer does without, because this server does not run it: one line in the log, and a header of the
//! answer that names it.

use axum::http::{HeaderName, HeaderValue};
use axum::response::Response;

/// Types of tools that were left out.
pub(crate) const TOOLS: HeaderName = HeaderName::from_static("x-ossmith-ignored-tools");
/// Types of input items that were left out.
pub(crate) const ITEMS: HeaderName = HeaderName::from_static("x-ossmith-ignored-items");

/// Names that fit into a header.
const MAX_NAMES: usize = 16;
const MAX_NAME_LENGTH: usize = 64;

/// Reports these types, if there are any. `id` is the request's.
pub(crate) fn report(response: &mut Response, header: HeaderName, types: &[String], id: &str) {
    if types.is_empty() {
        return;
    }
    let names = listed(types);
    tracing::warn!(id, types = names, header = %header, "a request has types that are left out");
    if let Ok(value) = HeaderValue::from_str(&names) {
        response.headers_mut().insert(header, value);
    }
}

/// The names, as far as a header may have them. A client chose them.
fn listed(types: &[String]) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() || "_-.".contains(c) { c } else { '?' };
    let name = |name: &String| name.chars().take(MAX_NAME_LENGTH).map(plain).collect::<String>();
    let mut names: Vec<String> = types.iter().take(MAX_NAMES).map(name).collect();
    if types.len() > MAX_NAMES {
        names.push(format!("and {} more", types.len() - MAX_NAMES));
    }
    names.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_made_to_fit() {
        let names =
            |types: &[&str]| listed(&types.iter().map(|&name| name.to_owned()).collect::<Vec<_>>());
        assert_eq!(names(&["web_search", "a b\n,é"]), "web_search, a?b???");
        assert_eq!(names(&["x"; 20]), format!("{}and 4 more", "x, ".repeat(16)));
        assert_eq!(names(&[&"x".repeat(100)]), "x".repeat(64));
    }
}
