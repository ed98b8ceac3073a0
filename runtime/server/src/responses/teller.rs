//! From a generation's updates to items, and to the events that say how they come about, in the order on which the SDKs
//! insist: every item is added before anything is said of it, and done before the next one is added.

use std::sync::Arc;

use serde::Serialize;
use serde_json::{Value, json};

use super::events::{EventLog, Voice};
use super::object::{self, Item, ItemKind, Status};
use super::request::Request;
use crate::access::fresh_id;
use crate::app::App;
use crate::engine::{Finish, Update};
use crate::error::{ApiError, Result};
use crate::logprobs::chat_entry;
use crate::sse::{Then, Writer};
use crate::turn::{Kind, Piece, Turn};
use crate::usage::Usage;

/// Tells one response.
pub(super) struct Teller {
    pub(super) request: Request,
    app: Arc<App>,
    turn: Turn,
    status: Status,
    output: Vec<Value>,
    /// The message being read, and the item that it has become.
    kind: Option<Kind>,
    open: Option<Item>,
    usage: Usage,
    /// Log-probabilities of tokens whose text is not told yet.
    logprobs: Vec<Value>,
    voice: Voice,
}

/// More of an item's text.
#[derive(Serialize)]
struct Delta<'a> {
    delta: &'a str,
    /// Messages have them, be they empty.
    #[serde(skip_serializing_if = "Option::is_none")]
    logprobs: Option<Vec<Value>>,
}

impl Teller {
    pub(super) fn new(request: Request, app: Arc<App>) -> Teller {
        let mut turn = request.planned.turn();
        let begun = turn.begun();
        let usage = Usage { prompt: request.planned.prompt.len(), ..Usage::default() };
        let mut teller = Teller {
            request,
            app,
            turn,
            status: Status::InProgress,
            output: Vec::new(),
            kind: None,
            open: None,
            usage,
            logprobs: Vec::new(),
            voice: Voice::default(),
        };
        let response = json!({"response": teller.response()});
        teller.voice.say("response.created", &response);
        teller.voice.say("response.in_progress", &response);
        begun.into_iter().for_each(|piece| teller.piece(piece));
        teller
    }

    /// The same without events.
    pub(super) fn silent(mut self) -> Teller {
        self.voice = Voice::silent();
        self
    }

    /// Events since they were last taken.
    pub(super) fn events(&mut self) -> &mut EventLog {
        &mut self.voice.log
    }

    /// Items that are done.
    pub(super) fn items(&self) -> usize {
        self.output.len()
    }

    /// The response as it is now.
    pub(super) fn response(&self) -> Value {
        let usage =
            (!matches!(self.status, Status::InProgress | Status::Queued)).then_some(self.usage);
        object::response(&self.request.id, &self.request.asked, &self.status, &self.output, usage)
    }

    /// Before anything was generated.
    pub(super) fn queued(&self) -> Value {
        object::response(&self.request.id, &self.request.asked, &Status::Queued, &[], None)
    }

    /// Takes an update; true if the response ends by it.
    pub(super) fn take(&mut self, update: Update) -> bool {
        match update {
            Update::Prompt { cached, .. } => self.usage.cached = cached,
            Update::Token { id, logprobs, finish } => {
                self.usage.completion += 1;
                if self.request.logprobs {
                    let as_ids = self.request.tokens_as_ids;
                    self.logprobs.extend(logprobs.map(|at| chat_entry(id, &at, as_ids)));
                }
                let mut pieces = self.turn.push(id);
                let stopped = self.turn.stopped().is_some();
                let ends = stopped || finish.is_some();
                if ends {
                    pieces.extend(self.turn.finish());
                }
                self.usage.reasoning = self.turn.reasoning_tokens();
                let cut = !stopped && finish == Some(Finish::Length);
                if ends {
                    self.status = if cut { Status::Incomplete } else { Status::Completed };
                }
                pieces.into_iter().for_each(|piece| self.piece(piece));
                return ends;
            }
            Update::Failed(error) => {
                self.end(Status::Failed(error));
                return true;
            }
        }
        false
    }

    /// Ends the response before its generation does.
    pub(super) fn end(&mut self, status: Status) {
        self.status = status;
        self.close(false);
    }

    /// After the last update: the response, which is stored if it is to be; an error if it failed.
    pub(super) fn finish(mut self) -> Result<Value> {
        let response = self.conclude();
        match self.status {
            Status::Failed(error) => Err(error),
            _ => Ok(response),
        }
    }

    /// Says the last event and stores the response.
    pub(super) fn conclude(&mut self) -> Value {
        let response = self.response();
        self.app.metrics.repaired(self.turn.repairs());
        if self.app.config.log_prompts {
            tracing::info!(id = self.request.id, answer = %response["output"], "answer");
        }
        if self.request.store && !self.request.background {
            let (request, context) = (&self.request, self.context());
            self.app.store.put(&request.id, &response, &request.input, &context);
        }
        self.voice.say(self.status.event(), json!({"response": response}));
        response
    }

    /// Everything that was said, for a response that goes on from here.
    pub(super) fn context(&self) -> Vec<Value> {
        self.request.context.iter().chain(&self.output).cloned().collect()
    }

    fn piece(&mut self, piece: Piece) {
        match piece {
            Piece::Start(kind) => {
                let call = matches!(kind, Kind::Call(_));
                self.logprobs.clear();
                self.kind = Some(kind);
                // Calls are known by their header; texts only count once there is some.
                if call {
                    self.add_item();
                }
            }
            Piece::Text(text) => {
                self.add_item();
                self.text(&text);
            }
            Piece::End { whole } => {
                if whole && self.kind == Some(Kind::Answer) {
                    self.add_item();
                }
                self.close(whole || self.status == Status::Completed);
                self.kind = None;
            }
        }
    }

    /// Makes an item of the message being read, unless it is one.
    fn add_item(&mut self) {
        if self.open.is_some() {
            return;
        }
        let (prefix, kind) = match &self.kind {
            Some(Kind::Reasoning) if !self.request.reasoning => return,
            Some(Kind::Reasoning) => ("rs", ItemKind::Reasoning),
            Some(Kind::Preamble) => ("msg", ItemKind::Message { phase: "commentary" }),
            Some(Kind::Answer) => ("msg", ItemKind::Message { phase: "final_answer" }),
            Some(Kind::Call(name)) => {
                let call_id = format!("call_{}", fresh_id());
                ("fc", ItemKind::Call { call_id, name: name.clone() })
            }
            None => return,
        };
        let id = format!("{prefix}_{}", fresh_id());
        let item = Item { id, kind, text: String::new(), logprobs: Vec::new() };
        let index = self.output.len();
        self.voice.say(
            "response.output_item.added",
            json!({"output_index": index, "item": item.json("in_progress", false)}),
        );
        if !matches!(item.kind, ItemKind::Call { .. }) {
            let part = json!({"part": item.empty_part()});
            self.voice.say_about("response.content_part.added", &item, index, part);
        }
        self.open = Some(item);
    }

    fn text(&mut self, text: &str) {
        let (index, logprobs) = (self.output.len(), std::mem::take(&mut self.logprobs));
        let Some(item) = &mut self.open else { return };
        item.text.push_str(text);
        let event = match item.kind {
            ItemKind::Reasoning => "response.reasoning_text.delta",
            ItemKind::Message { .. } => "response.output_text.delta",
            ItemKind::Call { .. } => "response.function_call_arguments.delta",
        };
        let is_message = matches!(item.kind, ItemKind::Message { .. });
        if is_message {
            item.logprobs.extend(logprobs.iter().cloned());
        }
        let delta = Delta { delta: text, logprobs: is_message.then_some(logprobs) };
        self.voice.say_about(event, item, index, delta);
    }

    /// The item at hand is done.
    fn close(&mut self, whole: bool) {
        let Some(item) = self.open.take() else { return };
        let index = self.output.len();
        let text = &item.text;
        let (event, more) = match &item.kind {
            ItemKind::Reasoning => ("response.reasoning_text.done", json!({"text": text})),
            ItemKind::Message { .. } => {
                let more = json!({"text": text, "logprobs": item.logprobs});
                ("response.output_text.done", more)
            }
            ItemKind::Call { name, .. } => {
                let more = json!({"name": name, "arguments": text});
                ("response.function_call_arguments.done", more)
            }
        };
        self.voice.say_about(event, &item, index, more);
        if !matches!(item.kind, ItemKind::Call { .. }) {
            let part = json!({"part": item.part()});
            self.voice.say_about("response.content_part.done", &item, index, part);
        }
        let done = item.json(if whole { "completed" } else { "incomplete" }, true);
        self.voice.say("response.output_item.done", json!({"output_index": index, "item": done}));
        self.output.push(done);
    }
}

impl Writer for Teller {
    fn begin(&mut self, out: &mut Vec<u8>) {
        self.voice.log.drain_to(out);
    }

    fn update(&mut self, _: usize, update: Update, out: &mut Vec<u8>) -> Then {
        let ends = self.take(update);
        self.voice.log.drain_to(out);
        if ends { Then::EndChoice } else { Then::GoOn }
    }

    fn end(&mut self, out: &mut Vec<u8>) {
        self.conclude();
        self.voice.log.drain_to(out);
    }

    fn fail(&mut self, error: ApiError, out: &mut Vec<u8>) {
        Teller::end(self, Status::Failed(error));
        Writer::end(self, out);
    }
}
