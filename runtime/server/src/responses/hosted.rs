//! Calls of the API's own tools in a history, such as `local_shell_call` or `mcp_call`, as calls of functions and their results.
//! This server runs none of them, but clients replay those that another server or the client itself ran.

use std::collections::HashMap;

use ossmith_harmony::omitted_result;
use serde_json::{Map, Value, json};

/// Calls whose results are items of their own.
const CALLS: [&str; 5] =
    ["local_shell_call", "shell_call", "apply_patch_call", "computer_call", "tool_search_call"];
/// Those results.
const RESULTS: [&str; 5] = [
    "local_shell_call_output",
    "shell_call_output",
    "apply_patch_call_output",
    "computer_call_output",
    "tool_search_output",
];
/// Calls that carry their results.
const WHOLE_CALLS: [&str; 5] = [
    "web_search_call",
    "file_search_call",
    "code_interpreter_call",
    "image_generation_call",
    "mcp_call",
];
/// Items that say nothing to the model: lists of tools, approvals, settings.
const NOTES: [&str; 7] = [
    "mcp_list_tools",
    "mcp_approval_request",
    "mcp_approval_response",
    "additional_tools",
    "configuration_update",
    "program",
    "program_output",
];

/// Whether this is a type of such an item.
pub(super) fn is_known(kind: &str) -> bool {
    [&CALLS[..], &RESULTS, &WHOLE_CALLS, &NOTES].iter().any(|kinds| kinds.contains(&kind))
}

/// Whether an item of this type is a call.
pub(super) fn is_call(kind: &str) -> bool {
    matches!(kind, "function_call" | "custom_tool_call") || CALLS.contains(&kind)
}

/// Whether an item of this type is the result of a call.
pub(super) fn is_result(kind: &str) -> bool {
    matches!(kind, "function_call_output" | "custom_tool_call_output") || RESULTS.contains(&kind)
}

/// The call's id by the item's id: the results of some tools name the item.
pub(super) fn call_ids(items: &[Value]) -> HashMap<&str, &str> {
    let calls = items.iter().filter(|item| item["type"].as_str().is_some_and(is_call));
    calls.filter_map(|item| item["id"].as_str().zip(item["call_id"].as_str())).collect()
}

/// The items that stand for this one in a prompt; none if it is of no such type.
pub(super) fn as_functions(item: &Value, call_ids: &HashMap<&str, &str>) -> Option<Vec<Value>> {
    let kind = item["type"].as_str()?;
    let own_id = item["call_id"].as_str().or(item["id"].as_str()).unwrap_or_default();
    if NOTES.contains(&kind) {
        return Some(Vec::new());
    }
    if RESULTS.contains(&kind) {
        let id = call_ids.get(own_id).copied().unwrap_or(own_id);
        let output = item.get("output").or(item.get("tools")).unwrap_or(&Value::Null);
        let text = match output["type"].as_str() {
            // It holds a whole image.
            Some(kind @ "computer_screenshot") => omitted_result(kind),
            _ => text_of(output),
        };
        return Some(vec![result(id, text)]);
    }
    let is_whole = WHOLE_CALLS.contains(&kind);
    if !is_whole && !CALLS.contains(&kind) {
        return None;
    }
    let name = kind.trim_end_matches("_call");
    let of = |fields: &[&str]| -> Value {
        let found = fields.iter().filter_map(|&field| Some((field, item.get(field)?)));
        found.map(|(field, value)| (field.to_owned(), value.clone())).collect::<Map<_, _>>().into()
    };
    let arguments = match kind {
        "mcp_call" | "tool_search_call" => text_of(&item["arguments"]),
        "file_search_call" => of(&["queries"]).to_string(),
        "code_interpreter_call" => of(&["code"]).to_string(),
        "image_generation_call" => "{}".to_owned(),
        "apply_patch_call" => item["operation"].to_string(),
        _ if item["action"].is_object() => item["action"].to_string(),
        _ => of(&["actions"]).to_string(),
    };
    let mut call = json!({
        "type": "function_call", "call_id": own_id, "name": name, "arguments": arguments,
    });
    if kind == "mcp_call" {
        call["name"] = item["name"].clone();
        call["namespace"] = item["server_label"].clone();
    }
    let mut items = vec![call];
    if is_whole {
        let status = item["status"].as_str().unwrap_or("completed");
        let found = ["output", "error", "results", "outputs"]
            .iter()
            .filter_map(|field| item.get(*field))
            .find(|value| !value.is_null());
        items.push(result(own_id, found.map_or_else(|| status.to_owned(), text_of)));
    }
    Some(items)
}

fn result(call_id: &str, output: String) -> Value {
    json!({"type": "function_call_output", "call_id": call_id, "output": output})
}

/// A text as it is; anything else as JSON.
fn text_of(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        other => other.to_string(),
    }
}
