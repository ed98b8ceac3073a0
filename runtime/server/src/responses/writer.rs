//! From the events of a generation to output items, and to the stream's events about them, in the order that the SDKs require:
//! every item is added before any other event about it, and done before the next one is added.

use std::sync::Arc;

use ossmith::FinishReason;
use ossmith_harmony::Message;
use serde::Serialize;
use serde_json::{Value, json};

use super::events::EventEmitter;
use super::object::{self, Item, ItemKind, Status};
use super::request::ResponseRequest;
use crate::conversations;
use crate::error::{ApiError, Result};
use crate::generation::{GeneratedToken, GenerationEvent};
use crate::ids::new_id_of;
use crate::logprobs::TokenReport;
use crate::options::call_target::{CallForm, CallTarget};
use crate::options::hosted_tool::HostedKind;
use crate::seal::Sealed;
use crate::sse::{Flow, StreamWriter};
use crate::state::AppState;
use crate::store::{EventLog, values_of};
use crate::tool_servers::ToolOutcome;
use crate::turn::parser::{MessageKind, TurnEvent, TurnParser};
use crate::turn::prepare::PreparedTurn;
use crate::usage::Usage;

/// Writes one response.
pub(super) struct ItemWriter {
    pub(super) request: ResponseRequest,
    app: Arc<AppState>,
    parser: TurnParser,
    status: Status,
    /// Items that are done.
    output: Vec<Value>,
    /// The kind of the message that is being read, and the item that it has become.
    kind: Option<MessageKind>,
    open: Option<Item>,
    /// Calls that servers are to run, in the round that is being read.
    calls: Vec<HostedCall>,
    /// That round has a call which the client is to answer.
    has_client_call: bool,
    /// Its tokens, where tools may be run.
    generated: Vec<u32>,
    usage: Usage,
    /// Tokens of reasoning of the rounds before.
    reasoning_before: usize,
    /// Log-probabilities of tokens whose text was not emitted.
    logprobs: Vec<TokenReport>,
    emitter: EventEmitter,
}

/// A call that a server is to run.
pub(super) struct HostedCall {
    /// The index of its item.
    index: usize,
    item: Item,
    pub(super) target: Arc<CallTarget>,
    /// What the model wrote.
    pub(super) text: String,
}

/// More of an item's text.
#[derive(Serialize)]
struct Delta<'a> {
    delta: &'a str,
    /// Only messages have them, even if there are none.
    #[serde(skip_serializing_if = "Option::is_none")]
    logprobs: Option<Vec<TokenReport>>,
}

impl ItemWriter {
    pub(super) fn new(request: ResponseRequest, app: Arc<AppState>) -> ItemWriter {
        let mut parser = request.turn.parser();
        let prefill = parser.prefill_events();
        let usage = Usage { prompt: request.turn.prompt.len(), ..Usage::default() };
        let mut writer = ItemWriter {
            request,
            app,
            parser,
            status: Status::InProgress,
            output: Vec::new(),
            kind: None,
            open: None,
            calls: Vec::new(),
            has_client_call: false,
            generated: Vec::new(),
            usage,
            reasoning_before: 0,
            logprobs: Vec::new(),
            emitter: EventEmitter::default(),
        };
        let response = json!({"response": writer.response()});
        writer.emitter.emit("response.created", &response);
        writer.emitter.emit("response.in_progress", &response);
        writer.list_tools();
        prefill.into_iter().for_each(|event| writer.on_turn_event(event));
        writer
    }

    /// The same writer without events.
    pub(super) fn silent(mut self) -> ItemWriter {
        self.emitter = EventEmitter::silent();
        self
    }

    /// Events that were not passed on.
    pub(super) fn events(&mut self) -> &mut EventLog {
        &mut self.emitter.log
    }

    /// The number of items that are done.
    pub(super) fn items(&self) -> usize {
        self.output.len()
    }

    /// The response as it is now.
    pub(super) fn response(&self) -> Value {
        let usage =
            (!matches!(self.status, Status::InProgress | Status::Queued)).then_some(self.usage);
        object::response(&self.request.id, &self.request.echoed, &self.status, &self.output, usage)
    }

    /// The response before anything was generated.
    pub(super) fn queued(&self) -> Value {
        object::response(&self.request.id, &self.request.echoed, &Status::Queued, &[], None)
    }

    /// Reads an event of the generation. True if the response ends with it.
    pub(super) fn read(&mut self, event: GenerationEvent) -> bool {
        match event {
            GenerationEvent::Prompt(info) => {
                self.usage.cached += info.cached_tokens;
                false
            }
            GenerationEvent::Token(token) => self.read_token(&token),
            GenerationEvent::Failed(error) => {
                self.end(Status::Failed(error));
                true
            }
        }
    }

    fn read_token(&mut self, token: &GeneratedToken) -> bool {
        self.usage.completion += 1;
        if self.request.turn.has_hosted_tools() {
            self.generated.push(token.id);
        }
        if self.request.logprobs {
            let as_ids = self.request.tokens_as_ids;
            let entry = |logprobs| TokenReport::new(token.id, logprobs, as_ids);
            self.logprobs.extend(token.logprobs.as_ref().map(entry));
        }
        let mut events = self.parser.push(token.id);
        let stopped = self.parser.stopped().is_some();
        let ended = stopped || token.finish.is_some();
        let cut = !stopped && token.finish == Some(FinishReason::Length);
        if ended {
            events.extend(self.parser.finish());
            self.status = if cut { Status::Incomplete } else { Status::Completed };
        }
        self.usage.reasoning = self.reasoning_before + self.parser.reasoning_tokens();
        events.into_iter().for_each(|event| self.on_turn_event(event));
        if ended && !self.calls.is_empty() {
            // It goes on with their results.
            self.status = Status::InProgress;
        }
        ended
    }

    /// The calls that servers are to run now; none if the answer has ended.
    pub(super) fn take_calls(&mut self) -> Vec<HostedCall> {
        match self.status {
            Status::InProgress => std::mem::take(&mut self.calls),
            _ => Vec::new(),
        }
    }

    /// A call is being run.
    pub(super) fn begin_call(&mut self, call: &HostedCall) {
        let event = match hosted_kind(&call.target) {
            Some(HostedKind::Browser) => "response.web_search_call.searching",
            Some(HostedKind::Python) => "response.code_interpreter_call.interpreting",
            Some(HostedKind::Mcp) | None => return,
        };
        self.emitter.emit_about(event, &call.item, call.index, json!({}));
    }

    /// A call was run.
    pub(super) fn end_call(&mut self, call: HostedCall, result: ToolOutcome) {
        let HostedCall { index, mut item, target, .. } = call;
        let kind = hosted_kind(&target);
        // A search or a run that fails is one that was done: their events know no failure.
        let failed = result.failed && kind == Some(HostedKind::Mcp);
        if let ItemKind::HostedCall { outcome, .. } = &mut item.kind {
            *outcome = Some(result);
        }
        let event = match kind {
            Some(HostedKind::Browser) => "response.web_search_call.completed",
            Some(HostedKind::Python) => "response.code_interpreter_call.completed",
            _ if failed => "response.mcp_call.failed",
            _ => "response.mcp_call.completed",
        };
        self.emitter.emit_about(event, &item, index, json!({}));
        let done = item.json(if failed { "failed" } else { "completed" }, true);
        self.emit_done(index, &done);
        self.output[index] = done;
    }

    /// The turn that goes on with these results; none if the answer ends here, because the client has a call to answer or there is
    /// no room.
    pub(super) fn next_round(
        &mut self,
        results: &[Message],
        more_calls: bool,
    ) -> Option<&PreparedTurn> {
        self.app.metrics.record_repairs(self.parser.repairs());
        if self.has_client_call {
            self.status = Status::Completed;
            return None;
        }
        let generated = std::mem::take(&mut self.generated);
        let turn = &self.request.turn;
        match turn.continued(&generated, results, more_calls, &self.app.config) {
            Ok(next) => {
                self.usage.prompt += next.prompt.len();
                self.reasoning_before = self.usage.reasoning;
                self.parser = next.parser();
                self.request.turn = next;
                Some(&self.request.turn)
            }
            Err(_) => {
                self.status = Status::Incomplete;
                None
            }
        }
    }

    /// The tools of the MCP servers that the request names, as items.
    fn list_tools(&mut self) {
        for listed in std::mem::take(&mut self.request.listed) {
            let index = self.output.len();
            let (id, label) = (new_id_of("mcpl"), listed.label);
            let item = |tools: Vec<Value>| {
                json!({
                    "id": id, "type": "mcp_list_tools", "server_label": label, "tools": tools,
                    "error": null,
                })
            };
            let about = json!({"item_id": id, "output_index": index});
            let added = json!({"output_index": index, "item": item(Vec::new())});
            self.emitter.emit("response.output_item.added", added);
            self.emitter.emit("response.mcp_list_tools.in_progress", &about);
            self.emitter.emit("response.mcp_list_tools.completed", &about);
            let done = item(listed.tools);
            self.emit_done(index, &done);
            self.output.push(done);
        }
    }

    fn emit_done(&mut self, index: usize, item: &Value) {
        let done = json!({"output_index": index, "item": item});
        self.emitter.emit("response.output_item.done", done);
    }

    /// Ends the response before its generation does.
    pub(super) fn end(&mut self, status: Status) {
        self.status = status;
        self.close(false);
        // So is a call that is still run.
        for item in self.output.iter_mut().filter(|item| item["status"] == "in_progress") {
            item["status"] = "incomplete".into();
        }
    }

    /// After the last event: the response, which is stored if the request wants it; an error if it failed.
    pub(super) fn finish(mut self) -> Result<Value> {
        let response = self.conclude();
        match self.status {
            Status::Failed(error) => Err(error),
            _ => Ok(response),
        }
    }

    /// Emits the last event and stores the response.
    pub(super) fn conclude(&mut self) -> Value {
        let mut response = self.response();
        self.app.metrics.record_repairs(self.parser.repairs());
        if self.app.config.log_prompts {
            tracing::info!(id = self.request.id, answer = response["output"].to_string(), "answer");
        }
        if self.request.store && !self.request.background {
            let (request, context) = (&self.request, self.context());
            let store = self.app.store.of(request.tenant);
            if store.put(&request.id, &response, &values_of(&request.input), &context).is_err() {
                // The answer is there all the same. Whoever wants to continue it can see that it is not stored.
                response["store"] = false.into();
            }
        }
        let ended = matches!(self.status, Status::Completed | Status::Incomplete);
        if let (Some(id), true) = (&self.request.conversation, ended) {
            let (store, most) =
                (self.app.store.of(self.request.tenant), self.app.config.body_bytes);
            let (input, output) = (values_of(&self.request.input), &self.output);
            // A conversation that was deleted meanwhile stays so. One that others have filled has its answer all the same, and
            // who continues it can see that it is not part of it.
            if let Err(why) = conversations::append(store, id, &input, output, "input", most) {
                tracing::warn!(
                    id = self.request.id,
                    why = &*why.message,
                    "an answer is not added to its conversation"
                );
                response["conversation"] = Value::Null;
            }
        }
        self.emitter.emit(self.status.event(), json!({"response": response}));
        response
    }

    /// The whole conversation, for a response that continues it.
    pub(super) fn context(&self) -> Vec<Value> {
        let mut context = values_of(&self.request.context);
        context.extend_from_slice(&self.output);
        context
    }

    fn on_turn_event(&mut self, event: TurnEvent) {
        match event {
            TurnEvent::Start(kind) => {
                let call = matches!(kind, MessageKind::Call(_));
                self.logprobs.clear();
                self.kind = Some(kind);
                // A call is an item from its header on, any other message once it has text.
                if call {
                    self.add_item();
                }
            }
            TurnEvent::Text(text) => {
                self.add_item();
                self.text(&text);
            }
            TurnEvent::End { whole } => {
                if whole && self.kind == Some(MessageKind::Final) {
                    self.add_item();
                }
                self.close(whole || self.status == Status::Completed);
                self.kind = None;
            }
        }
    }

    /// Makes an item of the message that is being read, unless it is one already.
    fn add_item(&mut self) {
        if self.open.is_some() {
            return;
        }
        let (prefix, kind) = match &self.kind {
            Some(MessageKind::Reasoning) if !self.request.reasoning => return,
            Some(MessageKind::Reasoning) => {
                ("rs", ItemKind::Reasoning { summary: self.request.summary })
            }
            Some(MessageKind::Preamble) => ("msg", ItemKind::Message { phase: "commentary" }),
            Some(MessageKind::Final) => ("msg", ItemKind::Message { phase: "final_answer" }),
            Some(MessageKind::Call(target)) if target.host.is_some() => {
                let prefix = match hosted_kind(target) {
                    Some(HostedKind::Browser) => "ws",
                    Some(HostedKind::Python) => "ci",
                    _ => "mcp",
                };
                let Some(host) = target.host.clone() else { return };
                (prefix, ItemKind::HostedCall { target: Arc::clone(target), host, outcome: None })
            }
            Some(MessageKind::Call(target)) => {
                self.has_client_call = true;
                let prefix = match target.form {
                    CallForm::Function => "fc",
                    CallForm::Custom => "ctc",
                };
                let call_id = new_id_of("call");
                (prefix, ItemKind::Call { call_id, target: Arc::clone(target) })
            }
            None => return,
        };
        let (id, text, logprobs) = (new_id_of(prefix), String::new(), Vec::new());
        let item = Item { id, kind, text, logprobs, sealed: None };
        let index = self.output.len();
        self.emitter.emit(
            "response.output_item.added",
            json!({"output_index": index, "item": item.json("in_progress", false)}),
        );
        if matches!(item.kind, ItemKind::Reasoning { summary: true }) {
            let part = json!({"part": item.empty().summary_part()});
            let event = "response.reasoning_summary_part.added";
            self.emitter.emit_about_summary(event, &item, index, part);
        }
        if item.kind.has_parts() {
            let part = json!({"part": item.empty().part()});
            self.emitter.emit_about("response.content_part.added", &item, index, part);
        }
        if let ItemKind::HostedCall { host, .. } = &item.kind {
            let event = match host.kind {
                HostedKind::Browser => "response.web_search_call.in_progress",
                HostedKind::Python => "response.code_interpreter_call.in_progress",
                HostedKind::Mcp => "response.mcp_call.in_progress",
            };
            self.emitter.emit_about(event, &item, index, json!({}));
        }
        self.open = Some(item);
    }

    fn text(&mut self, text: &str) {
        let (index, logprobs) = (self.output.len(), std::mem::take(&mut self.logprobs));
        let Some(item) = &mut self.open else { return };
        item.text.push_str(text);
        let event = match &item.kind {
            ItemKind::Reasoning { .. } => "response.reasoning_text.delta",
            ItemKind::Message { .. } => "response.output_text.delta",
            ItemKind::Call { target, .. } => match target.form {
                CallForm::Function => "response.function_call_arguments.delta",
                CallForm::Custom => "response.custom_tool_call_input.delta",
            },
            ItemKind::HostedCall { host, .. } => match host.kind {
                HostedKind::Browser => return,
                HostedKind::Python => "response.code_interpreter_call_code.delta",
                HostedKind::Mcp => "response.mcp_call_arguments.delta",
            },
        };
        if matches!(item.kind, ItemKind::Reasoning { summary: true }) {
            let delta = Delta { delta: text, logprobs: None };
            let event = "response.reasoning_summary_text.delta";
            self.emitter.emit_about_summary(event, item, index, delta);
        }
        let is_message = matches!(item.kind, ItemKind::Message { .. });
        if is_message {
            item.logprobs.extend(logprobs.iter().cloned());
        }
        let delta = Delta { delta: text, logprobs: is_message.then_some(logprobs) };
        self.emitter.emit_about(event, item, index, delta);
    }

    /// The open item is done.
    fn close(&mut self, whole: bool) {
        let Some(mut item) = self.open.take() else { return };
        let index = self.output.len();
        if matches!(item.kind, ItemKind::Reasoning { .. }) && self.request.sealed {
            let sealer = self.app.sealer.of(self.request.tenant);
            item.sealed = sealer.seal(Sealed::Reasoning, &item.text);
        }
        if matches!(item.kind, ItemKind::Reasoning { summary: true }) {
            let text = json!({"text": item.text});
            let event = "response.reasoning_summary_text.done";
            self.emitter.emit_about_summary(event, &item, index, text);
            let part = json!({"part": item.summary_part()});
            let event = "response.reasoning_summary_part.done";
            self.emitter.emit_about_summary(event, &item, index, part);
        }
        let text = &item.text;
        let (event, more) = match &item.kind {
            ItemKind::Reasoning { .. } => ("response.reasoning_text.done", json!({"text": text})),
            ItemKind::Message { .. } => {
                let more = json!({"text": text, "logprobs": item.logprobs});
                ("response.output_text.done", more)
            }
            ItemKind::HostedCall { host, .. } => match host.kind {
                HostedKind::Browser => ("", json!({})),
                HostedKind::Python => {
                    ("response.code_interpreter_call_code.done", json!({"code": text}))
                }
                HostedKind::Mcp => ("response.mcp_call_arguments.done", json!({"arguments": text})),
            },
            ItemKind::Call { target, .. } => match target.form {
                CallForm::Function => {
                    let more = json!({"name": target.name, "arguments": text});
                    ("response.function_call_arguments.done", more)
                }
                CallForm::Custom => {
                    ("response.custom_tool_call_input.done", json!({"input": text}))
                }
            },
        };
        if !event.is_empty() {
            self.emitter.emit_about(event, &item, index, more);
        }
        if item.kind.has_parts() {
            let part = json!({"part": item.part()});
            self.emitter.emit_about("response.content_part.done", &item, index, part);
        }
        if let (ItemKind::HostedCall { target, .. }, true) = (&item.kind, whole) {
            // It is done once it was run.
            let (target, text) = (Arc::clone(target), item.text.clone());
            self.output.push(item.json("in_progress", true));
            self.calls.push(HostedCall { index, item, target, text });
            return;
        }
        let done = item.json(if whole { "completed" } else { "incomplete" }, true);
        self.emit_done(index, &done);
        self.output.push(done);
    }
}

fn hosted_kind(target: &CallTarget) -> Option<HostedKind> {
    target.host.as_ref().map(|host| host.kind)
}

impl StreamWriter for ItemWriter {
    fn begin(&mut self, out: &mut Vec<u8>) {
        self.emitter.log.drain_to(out);
    }

    fn on_event(&mut self, _: usize, event: GenerationEvent, out: &mut Vec<u8>) -> Flow {
        let ended = self.read(event);
        self.emitter.log.drain_to(out);
        if ended { Flow::EndChoice } else { Flow::Continue }
    }

    fn ends_slowly(&self) -> bool {
        self.request.store || self.request.conversation.is_some()
    }

    fn end(&mut self, out: &mut Vec<u8>) {
        self.conclude();
        self.emitter.log.drain_to(out);
    }

    fn fail(&mut self, error: ApiError, out: &mut Vec<u8>) {
        ItemWriter::end(self, Status::Failed(error));
        StreamWriter::end(self, out);
    }
}
