//! The response object and the items of its output.

use std::sync::Arc;

use serde_json::{Map, Value, json};

use crate::error::ApiError;
use crate::ids::unix_seconds;
use crate::logprobs::TokenReport;
use crate::options::call_target::{CallForm, CallTarget};
use crate::options::hosted_tool::{HostedKind, HostedTool, web_action};
use crate::tool_servers::ToolOutcome;
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
    pub(super) logprobs: Vec<TokenReport>,
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
    /// A call of a tool that a server runs, and what came of it.
    HostedCall {
        target: Arc<CallTarget>,
        host: Arc<HostedTool>,
        outcome: Option<ToolOutcome>,
    },
}

impl ItemKind {
    /// Whether the item's text is a content part.
    pub(super) fn has_parts(&self) -> bool {
        matches!(self, ItemKind::Reasoning { .. } | ItemKind::Message { .. })
    }
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
            ItemKind::HostedCall { target, host, outcome } => {
                let text = if whole { self.text.as_str() } else { "" };
                self.hosted_json(target, host, outcome.as_ref(), text, status)
            }
        }
    }

    fn hosted_json(
        &self,
        target: &CallTarget,
        host: &HostedTool,
        outcome: Option<&ToolOutcome>,
        text: &str,
        status: &str,
    ) -> Value {
        let output = outcome.map(|outcome| outcome.text.as_str());
        match host.kind {
            HostedKind::Browser => {
                let arguments = host.arguments(text).unwrap_or_default();
                json!({
                    "id": self.id, "type": "web_search_call", "status": status,
                    "action": web_action(&target.name, &arguments),
                })
            }
            HostedKind::Python => {
                let logs = output.map(|logs| json!([{"type": "logs", "logs": logs}]));
                json!({
                    "id": self.id, "type": "code_interpreter_call", "status": status, "code": text,
                    "container_id": host.server.label, "outputs": logs,
                })
            }
            HostedKind::Mcp => {
                let failed = outcome.is_some_and(|outcome| outcome.failed);
                let error = failed.then(|| {
                    let content = json!([{"type": "text", "text": output}]);
                    json!({"type": "mcp_tool_execution_error", "content": content})
                });
                json!({
                    "id": self.id, "type": "mcp_call", "status": status, "approval_request_id": null,
                    "server_label": target.namespace, "name": target.name, "arguments": text,
                    "output": output.filter(|_| !failed), "error": error,
                })
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
