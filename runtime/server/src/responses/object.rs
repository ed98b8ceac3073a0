//! The response object and the items of its output.

use std::sync::Arc;

use serde_json::{Map, Value, json};

use crate::error::ApiError;
use crate::ids::unix_seconds;
use crate::options::call_target::{CallForm, CallTarget};
use crate::usage::Usage;

/// The status of a response.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Status {
    Queued,
    InProgress,
    Completed,
    /// Cut off by the limit of tokens.
    Incomplete,
    Cancelled,
    Failed(ApiError),
}

impl Status {
    pub(super) fn name(&self) -> &'static str {
        match self {
            Status::Queued => "queued",
            Status::InProgress => "in_progress",
            Status::Completed => "completed",
            Status::Incomplete => "incomplete",
            Status::Cancelled => "cancelled",
            Status::Failed(_) => "failed",
        }
    }

    /// The type of the event with which a stream ends.
    pub(super) fn event(&self) -> &'static str {
        match self {
            Status::Incomplete => "response.incomplete",
            Status::Failed(_) | Status::Cancelled => "response.failed",
            _ => "response.completed",
        }
    }
}

/// The response object. `echoed` has the fields that repeat the request.
pub(super) fn response(
    id: &str,
    echoed: &Map<String, Value>,
    status: &Status,
    output: &[Value],
    usage: Option<Usage>,
) -> Value {
    let mut map = echoed.clone();
    map.insert("id".to_owned(), id.into());
    map.insert("status".to_owned(), status.name().into());
    map.insert("output".to_owned(), output.to_vec().into());
    map.insert("usage".to_owned(), usage.map_or(Value::Null, |usage| usage_json(&usage)));
    match status {
        Status::Completed => {
            map.insert("completed_at".to_owned(), unix_seconds().into());
        }
        Status::Incomplete => {
            map.insert("incomplete_details".to_owned(), json!({"reason": "max_output_tokens"}));
        }
        Status::Failed(error) => {
            let error = json!({"code": "server_error", "message": error.message});
            map.insert("error".to_owned(), error);
        }
        _ => {}
    }
    Value::Object(map)
}

pub(super) fn usage_json(usage: &Usage) -> Value {
    json!({
        "input_tokens": usage.prompt,
        "input_tokens_details": {"cached_tokens": usage.cached, "cache_write_tokens": 0},
        "output_tokens": usage.completion,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning},
        "total_tokens": usage.prompt + usage.completion,
    })
}

/// An item of the output while it is generated.
#[derive(Clone, Debug)]
pub(super) struct Item {
    pub(super) id: String,
    pub(super) kind: ItemKind,
    pub(super) text: String,
    pub(super) logprobs: Vec<Value>,
    /// Reasoning that only this server can read, if the request wants it.
    pub(super) sealed: Option<String>,
}

#[derive(Clone, Debug)]
pub(super) enum ItemKind {
    /// With `summary`, the reasoning stands there, too.
    Reasoning {
        summary: bool,
    },
    Message {
        phase: &'static str,
    },
    Call {
        call_id: String,
        target: Arc<CallTarget>,
    },
}

impl Item {
    /// The item with its content, or, if it is not `whole`, as it is before its content.
    pub(super) fn json(&self, status: &str, whole: bool) -> Value {
        let content = if whole { vec![self.part()] } else { Vec::new() };
        match &self.kind {
            ItemKind::Reasoning { summary } => {
                let summary =
                    if *summary && whole { vec![self.summary_part()] } else { Vec::new() };
                json!({
                    "id": self.id, "type": "reasoning", "summary": summary, "content": content,
                    "encrypted_content": self.sealed, "status": status,
                })
            }
            ItemKind::Message { phase } => json!({
                "id": self.id, "type": "message", "role": "assistant", "status": status,
                "content": content, "phase": phase,
            }),
            ItemKind::Call { call_id, target } => {
                let (kind, field) = match target.form {
                    CallForm::Function => ("function_call", "arguments"),
                    CallForm::Custom => ("custom_tool_call", "input"),
                };
                let mut item = json!({
                    "id": self.id, "type": kind, "call_id": call_id, "name": target.name,
                    field: if whole { self.text.as_str() } else { "" }, "status": status,
                });
                if let Some(namespace) = &target.namespace {
                    item["namespace"] = namespace.as_str().into();
                }
                item
            }
        }
    }

    /// The only part of its summary.
    pub(super) fn summary_part(&self) -> Value {
        json!({"type": "summary_text", "text": self.text})
    }

    /// Its only content part.
    pub(super) fn part(&self) -> Value {
        match self.kind {
            ItemKind::Reasoning { .. } => json!({"type": "reasoning_text", "text": self.text}),
            _ => json!({
                "type": "output_text", "text": self.text, "annotations": [], "logprobs": self.logprobs,
            }),
        }
    }

    /// The item before its text.
    pub(super) fn empty(&self) -> Item {
        Item { text: String::new(), logprobs: Vec::new(), ..self.clone() }
    }
}
