//! From the events of a generation to output items, and to the stream's events about them, in the order that the SDKs require:
//! every item is added before any other event about it, and done before the next one is added.

use std::sync::Arc;

use ossmith::FinishReason;
use serde::Serialize;
use serde_json::{Value, json};

use super::events::EventEmitter;
use super::object::{self, Item, ItemKind, Status};
use super::request::ResponseRequest;
use crate::conversations;
use crate::error::{ApiError, Result};
use crate::generation::{GeneratedToken, GenerationEvent};
use crate::ids::new_id_of;
use crate::logprobs::chat_entry;
use crate::options::call_target::CallForm;
use crate::seal::Sealed;
use crate::sse::{Flow, StreamWriter};
use crate::state::AppState;
use crate::store::EventLog;
use crate::turn::parser::{MessageKind, TurnEvent, TurnParser};
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
    usage: Usage,
    /// Log-probabilities of tokens whose text was not emitted.
    logprobs: Vec<Value>,
    emitter: EventEmitter,
}

/// More of an item's text.
#[derive(Serialize)]
struct Delta<'a> {
    delta: &'a str,
    /// Only messages have them, even if there are none.
    #[serde(skip_serializing_if = "Option::is_none")]
    logprobs: Option<Vec<Value>>,
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
            usage,
            logprobs: Vec::new(),
            emitter: EventEmitter::default(),
        };
        let response = json!({"response": writer.response()});
        writer.emitter.emit("response.created", &response);
        writer.emitter.emit("response.in_progress", &response);
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
                self.usage.cached = info.cached_tokens;
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
        if self.request.logprobs {
            let as_ids = self.request.tokens_as_ids;
            let entry = |logprobs| chat_entry(token.id, logprobs, as_ids);
            self.logprobs.extend(token.logprobs.as_ref().map(entry));
        }
        let mut events = self.parser.push(token.id);
        let stopped = self.parser.stopped().is_some();
        let ended = stopped || token.finish.is_some();
        if ended {
            events.extend(self.parser.finish());
            let cut = !stopped && token.finish == Some(FinishReason::Length);
            self.status = if cut { Status::Incomplete } else { Status::Completed };
        }
        self.usage.reasoning = self.parser.reasoning_tokens();
        events.into_iter().for_each(|event| self.on_turn_event(event));
        ended
    }

    /// Ends the response before its generation does.
    pub(super) fn end(&mut self, status: Status) {
        self.status = status;
        self.close(false);
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
        let response = self.response();
        self.app.metrics.record_repairs(self.parser.repairs());
        if self.app.config.log_prompts {
            tracing::info!(id = self.request.id, answer = response["output"].to_string(), "answer");
        }
        if self.request.store && !self.request.background {
            let (request, context) = (&self.request, self.context());
            let store = self.app.store.of(request.tenant);
            store.put(&request.id, &response, &request.input, &context);
        }
        let ended = matches!(self.status, Status::Completed | Status::Incomplete);
        if let (Some(id), true) = (&self.request.conversation, ended) {
            let added: Vec<Value> =
                self.request.input.iter().chain(&self.output).cloned().collect();
            // A conversation that was deleted meanwhile stays so.
            let _ = conversations::append(self.app.store.of(self.request.tenant), id, &added);
        }
        self.emitter.emit(self.status.event(), json!({"response": response}));
        response
    }

    /// The whole conversation, for a response that continues it.
    pub(super) fn context(&self) -> Vec<Value> {
        self.request.context.iter().chain(&self.output).cloned().collect()
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
            Some(MessageKind::Call(target)) => {
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
        if !matches!(item.kind, ItemKind::Call { .. }) {
            let part = json!({"part": item.empty().part()});
            self.emitter.emit_about("response.content_part.added", &item, index, part);
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
        self.emitter.emit_about(event, &item, index, more);
        if !matches!(item.kind, ItemKind::Call { .. }) {
            let part = json!({"part": item.part()});
            self.emitter.emit_about("response.content_part.done", &item, index, part);
        }
        let done = item.json(if whole { "completed" } else { "incomplete" }, true);
        self.emitter
            .emit("response.output_item.done", json!({"output_index": index, "item": done}));
        self.output.push(done);
    }
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

    fn end(&mut self, out: &mut Vec<u8>) {
        self.conclude();
        self.emitter.log.drain_to(out);
    }

    fn fail(&mut self, error: ApiError, out: &mut Vec<u8>) {
        ItemWriter::end(self, Status::Failed(error));
        StreamWriter::end(self, out);
    }
}
