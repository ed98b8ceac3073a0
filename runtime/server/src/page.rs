//! A page of stored items, as OpenAI's lists have it.

use std::collections::HashMap;

use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use crate::error::{ApiError, Result, json_body};

/// The items, oldest first, cut as `order`, `after` and `limit` want it.
pub(crate) fn page(mut items: Vec<Value>, query: &HashMap<String, String>) -> Result<Response> {
    match query.get("order").map(String::as_str) {
        None | Some("desc") => items.reverse(),
        Some("asc") => {}
        Some(_) => return Err(ApiError::bad("order", "`order` is not asc or desc")),
    }
    if let Some(after) = query.get("after") {
        let at = items.iter().position(|item| item["id"] == after.as_str());
        let missing = || ApiError::bad("after", format!("`after` is `{after}`, which is no item"));
        items.drain(..=at.ok_or_else(missing)?);
    }
    let limit = match query.get("limit").map(|limit| limit.parse::<usize>()) {
        None => 20,
        Some(Ok(limit @ 1..=100)) => limit,
        Some(_) => return Err(ApiError::bad("limit", "`limit` is not a number from 1 to 100")),
    };
    let has_more = items.len() > limit;
    items.truncate(limit);
    Ok(list(&items, has_more))
}

/// Items as a list.
pub(crate) fn list(items: &[Value], has_more: bool) -> Response {
    let id_of = |item: Option<&Value>| item.map_or(Value::Null, |item| item["id"].clone());
    json_body(&json!({
        "object": "list",
        "first_id": id_of(items.first()),
        "last_id": id_of(items.last()),
        "has_more": has_more,
        "data": items,
    }))
    .into_response()
}
