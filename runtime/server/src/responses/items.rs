//! Input items: which types there are, their ids, how references to stored items are resolved, and what stands for each in a
//! prompt.

use std::collections::{HashMap, HashSet};

use ossmith_harmony::{ResponseItem, TypedItem};
use serde_json::{Value, json};

use super::hosted;
use crate::error::{ApiError, Result};
use crate::ids::new_id_of;
use crate::seal::{Sealed, TenantSealer};
use crate::state::AppState;
use crate::tenant::Tenant;

/// Types that harmony knows, and those that are resolved here.
const KNOWN: [&str; 9] = [
    "message",
    "reasoning",
    "function_call",
    "function_call_output",
    "custom_tool_call",
    "custom_tool_call_output",
    "item_reference",
    "compaction",
    "compaction_summary",
];

/// A request's input.
pub(crate) struct Input {
    /// Its items, with ids and without references.
    pub(crate) items: Vec<Value>,
    /// Types of items that were left out, because this server does not know them.
    pub(crate) ignored: Vec<String>,
}

/// The request's input as a list of items with ids. References are replaced by the items that they name.
pub(crate) fn normalize(input: &Value, app: &AppState, tenant: Tenant) -> Result<Input> {
    match input {
        Value::String(text) => {
            let content = json!([{"type": "input_text", "text": text}]);
            let item = json!({"type": "message", "role": "user", "content": content});
            Ok(Input { items: vec![with_id(item)], ignored: Vec::new() })
        }
        Value::Array(list) => read_list(list, app, tenant, "input"),
        _ => Err(ApiError::bad("input", "`input` is not a string or a list of items")),
    }
}

/// A list of items; `param` is the field that holds it.
pub(crate) fn read_list(
    list: &[Value],
    app: &AppState,
    tenant: Tenant,
    param: &str,
) -> Result<Input> {
    let mut read = Input { items: Vec::new(), ignored: Vec::new() };
    let mut ignored = HashSet::new();
    let mut stored = app.store.of(tenant).items(&references(list, param)?)?;
    for (index, item) in list.iter().enumerate() {
        let name = format!("{param}[{index}]");
        if !item.is_object() {
            return Err(ApiError::bad(name.clone(), format!("`{name}` is not an object")));
        }
        let kind = kind_of(item);
        if !KNOWN.contains(&kind) && !hosted::is_known(kind) {
            if app.config.strict_tools {
                return Err(unsupported(&name, kind));
            }
            if ignored.insert(kind) {
                read.ignored.push(kind.to_owned());
            }
            continue;
        }
        if kind == "item_reference" {
            let id = item["id"].as_str().unwrap_or_default();
            let found = stored.remove(id).ok_or_else(|| ApiError {
                param: Some(name),
                ..ApiError::not_found(None, format!("there is no stored item `{id}`"))
            });
            read.items.push(found?);
            continue;
        }
        check_sealed(item, app.sealer.of(tenant), &name)?;
        let mut item = item.clone();
        item["type"] = kind.into();
        read.items.push(with_id(item));
    }
    Ok(read)
}

/// An item's type. One without a type is a message, or, if it has nothing but an id, a reference.
fn kind_of(item: &Value) -> &str {
    let is_reference = || item["role"].is_null() && item["content"].is_null();
    match item["type"].as_str() {
        Some(kind) => kind,
        None if item["id"].is_string() && is_reference() => "item_reference",
        None => "message",
    }
}

fn unsupported(name: &str, kind: &str) -> ApiError {
    let why =
        format!("`{name}` has the type `{kind}`, which is not supported; use {}", KNOWN.join(", "));
    ApiError::unsupported(format!("{name}.type"), why)
}

/// The ids of stored items that the input refers to. Each may be named once, so that a short request cannot make a long prompt.
fn references<'a>(list: &'a [Value], param: &str) -> Result<HashSet<&'a str>> {
    let mut ids = HashSet::new();
    for (index, item) in list.iter().enumerate() {
        if item.is_object()
            && kind_of(item) == "item_reference"
            && !ids.insert(item["id"].as_str().unwrap_or_default())
        {
            let name = format!("{param}[{index}]");
            let why = format!("`{name}` refers to {} a second time", item["id"]);
            return Err(ApiError::bad(name, why));
        }
    }
    Ok(ids)
}

fn with_id(mut item: Value) -> Value {
    if item["id"].as_str().is_none_or(str::is_empty) {
        let prefix = match item["type"].as_str() {
            Some("reasoning") => "rs",
            Some("function_call") => "fc",
            Some("function_call_output") => "fco",
            Some("custom_tool_call") => "ctc",
            Some("custom_tool_call_output") => "ctco",
            Some("compaction" | "compaction_summary") => "cmp",
            Some("message") | None => "msg",
            Some(_) => "item",
        };
        item["id"] = new_id_of(prefix).into();
    }
    item
}

/// An item as lists show it: a message's content is a list of parts.
pub(crate) fn as_listed(mut item: Value) -> Value {
    if let Some(text) = item["content"].as_str().map(str::to_owned) {
        item["content"] = match item["role"].as_str() {
            Some("assistant") => json!([{"type": "output_text", "text": text, "annotations": []}]),
            _ => json!([{"type": "input_text", "text": text}]),
        };
    }
    if item["type"] == "message" && item["status"].is_null() {
        item["status"] = "completed".into();
    }
    item
}

/// All items but the first `count`, without the results of calls that are among those.
pub(crate) fn without_first(items: &[Value], count: usize) -> Vec<Value> {
    let (_, rest) = items.split_at(count.min(items.len()));
    let is = |item: &Value, of: fn(&str) -> bool| item["type"].as_str().is_some_and(of);
    let calls = rest.iter().filter(|item| is(item, hosted::is_call));
    let ids: HashSet<&str> =
        calls.flat_map(|call| [&call["call_id"], &call["id"]]).filter_map(Value::as_str).collect();
    let answers = |item: &Value| {
        let id = item["call_id"].as_str().or(item["id"].as_str());
        id.is_some_and(|id| ids.contains(id))
    };
    let kept = |item: &&Value| !is(item, hosted::is_result) || answers(item);
    rest.iter().filter(kept).cloned().collect()
}

/// What an item holds that only this server can read, if it does: its kind and its string.
fn sealed_of(item: &Value) -> Option<(Sealed, &str)> {
    let sealed = item["encrypted_content"].as_str().filter(|sealed| !sealed.is_empty())?;
    match item["type"].as_str() {
        Some("reasoning") => Some((Sealed::Reasoning, sealed)),
        Some("compaction" | "compaction_summary") => Some((Sealed::Summary, sealed)),
        _ => None,
    }
}

fn check_sealed(item: &Value, sealer: TenantSealer<'_>, name: &str) -> Result<()> {
    match sealed_of(item) {
        Some((kind, sealed)) => {
            sealer.open(kind, sealed, &format!("{name}.encrypted_content")).map(drop)
        }
        None => Ok(()),
    }
}

/// What a model reads in place of the conversation that was compacted.
const SUMMARY_OF: &str = "The conversation before was replaced by this summary of it:\n\n";
/// The same where no summary was written.
const NO_SUMMARY: &str = "The conversation before was left out, and there is no summary of it.";

/// Items as harmony reads them.
pub(crate) fn parse(
    items: &[Value],
    sealer: TenantSealer<'_>,
    param: &str,
) -> Result<Vec<ResponseItem>> {
    let call_ids = hosted::call_ids(items);
    let mut parsed = Vec::with_capacity(items.len());
    for (index, item) in items.iter().enumerate() {
        let name = format!("{param}[{index}]");
        let shown = match shown(item, &call_ids, sealer, &name)? {
            Some(shown) => shown,
            None => vec![item.clone()],
        };
        for item in shown {
            // Every item has a type here, so an error can name the field.
            let item = <TypedItem as serde::Deserialize>::deserialize(&item)
                .map_err(|why| ApiError::bad(name.clone(), format!("`{name}`: {why}")))?;
            parsed.push(ResponseItem::Typed(item));
        }
    }
    Ok(parsed)
}

/// What stands for an item in a prompt; none if it is shown as it is.
fn shown(
    item: &Value,
    call_ids: &HashMap<&str, &str>,
    sealer: TenantSealer<'_>,
    name: &str,
) -> Result<Option<Vec<Value>>> {
    let opened = sealed_of(item)
        .map(|(kind, sealed)| sealer.open(kind, sealed, &format!("{name}.encrypted_content")));
    Ok(match item["type"].as_str() {
        Some("reasoning") => opened.transpose()?.map(|text| {
            vec![json!({
                "type": "reasoning", "content": [{"type": "reasoning_text", "text": text}],
            })]
        }),
        Some("compaction" | "compaction_summary") => {
            let text = opened.transpose()?.unwrap_or_default();
            let content = match text.trim().is_empty() {
                true => NO_SUMMARY.to_owned(),
                false => format!("{SUMMARY_OF}{text}"),
            };
            Some(vec![json!({"type": "message", "role": "developer", "content": content})])
        }
        _ => hosted::as_functions(item, call_ids),
    })
}
