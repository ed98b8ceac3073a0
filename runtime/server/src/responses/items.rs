//! Input items: which types there are, their ids, and how references to stored items are resolved.

use std::collections::{HashMap, HashSet};

use ossmith_harmony::ResponseItem;
use serde_json::{Value, json};

use crate::error::{ApiError, Result};
use crate::ids::new_id_of;
use crate::store::TenantStore;

/// Types that can be part of a prompt.
const KNOWN: [&str; 5] =
    ["message", "reasoning", "function_call", "function_call_output", "item_reference"];

/// The request's input as a list of items with ids. References are replaced by the items that they name.
pub(super) fn normalize(input: &Value, store: TenantStore<'_>) -> Result<Vec<Value>> {
    let list = match input {
        Value::String(text) => {
            let content = json!([{"type": "input_text", "text": text}]);
            return Ok(vec![with_id(
                json!({"type": "message", "role": "user", "content": content}),
            )]);
        }
        Value::Array(list) => list,
        _ => return Err(ApiError::bad("input", "`input` is not a string or a list of items")),
    };
    let mut stored = store.items(&references(list)?);
    list.iter().enumerate().map(|(index, item)| one(index, item, &mut stored)).collect()
}

/// The ids of stored items that the input refers to. Each may be named once, so that a short request cannot make a long prompt.
fn references(list: &[Value]) -> Result<HashSet<&str>> {
    let mut ids = HashSet::new();
    for (index, item) in list.iter().enumerate() {
        if item["type"] == "item_reference" && !ids.insert(item["id"].as_str().unwrap_or_default())
        {
            let name = format!("input[{index}]");
            let why = format!("`{name}` refers to {} a second time", item["id"]);
            return Err(ApiError::bad(name, why));
        }
    }
    Ok(ids)
}

/// An item as part of a prompt. `stored` has the items that the input refers to.
fn one(index: usize, item: &Value, stored: &mut HashMap<String, Value>) -> Result<Value> {
    let name = format!("input[{index}]");
    let Value::Object(map) = item else {
        return Err(ApiError::bad(name.clone(), format!("`{name}` is not an object")));
    };
    let kind = map.get("type").and_then(Value::as_str).unwrap_or("message");
    if !KNOWN.contains(&kind) {
        let why = format!(
            "`{name}` has the type `{kind}`, which is not supported; use {}",
            KNOWN.join(", ")
        );
        return Err(ApiError::unsupported(format!("{name}.type"), why));
    }
    if kind == "item_reference" {
        let id = map.get("id").and_then(Value::as_str).unwrap_or_default();
        return stored.remove(id).ok_or_else(|| ApiError {
            param: Some(name),
            ..ApiError::not_found(None, format!("there is no stored item `{id}`"))
        });
    }
    let mut item = item.clone();
    item["type"] = kind.into();
    Ok(with_id(item))
}

fn with_id(mut item: Value) -> Value {
    if item["id"].as_str().is_none_or(str::is_empty) {
        let prefix = match item["type"].as_str() {
            Some("reasoning") => "rs",
            Some("function_call") => "fc",
            Some("function_call_output") => "fco",
            _ => "msg",
        };
        item["id"] = new_id_of(prefix).into();
    }
    item
}

/// All items but the first `count`, without the results of calls that are among those.
pub(super) fn without_first(items: &[Value], count: usize) -> Vec<Value> {
    let (_, rest) = items.split_at(count.min(items.len()));
    let calls = |item: &&Value| item["type"] == "function_call";
    let ids: Vec<&Value> = rest.iter().filter(calls).map(|call| &call["call_id"]).collect();
    let kept =
        |item: &&Value| item["type"] != "function_call_output" || ids.contains(&&item["call_id"]);
    rest.iter().filter(kept).cloned().collect()
}

/// Items as harmony reads them.
pub(super) fn parse(items: &[Value]) -> Result<Vec<ResponseItem>> {
    let item = |(index, item): (usize, &Value)| {
        <ResponseItem as serde::Deserialize>::deserialize(item).map_err(|why| {
            let name = format!("input[{index}]");
            ApiError::bad(name.clone(), format!("`{name}`: {why}"))
        })
    };
    items.iter().enumerate().map(item).collect()
}
