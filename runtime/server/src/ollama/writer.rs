//! Answers in Ollama's form: a line of JSON for each piece of a stream, the last of which has the counts and times; or one
//! object with everything.

use std::sync::Arc;
use std::time::Instant;

use serde_json::{Value, json};

use crate::calendar::rfc3339;
use crate::clock;
use crate::error::{ApiError, Result};
use crate::error_form;
use crate::generation::GenerationEvent;
use crate::ids::{new_id_of, unix_seconds};
use crate::logprobs::TokenReport;
use crate::sse::{Flow, StreamWriter};
use crate::state::AppState;
use crate::turn::parser::{MessageKind, TurnEvent};
use crate::turn::prepare::PreparedTurn;
use crate::turn::reader::{TurnEnd, TurnReader, arguments_object};

/// The media type of lines of JSON.
pub(super) const LINES: &str = "application/x-ndjson";

/// Where the answer's text stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// In a message.
    Chat,
    /// In `response`.
    Generate,
}

/// Writes one answer.
pub(super) struct LineWriter {
    form: Form,
    model: String,
    thinking: bool,
    reader: TurnReader,
    app: Arc<AppState>,
    arrival: Instant,
    first_token: Option<Instant>,
    /// The kind of the message that is being read.
    kind: Option<MessageKind>,
    /// The arguments of the call that is being read.
    arguments: String,
    calls: usize,
    /// What was not sent.
    news: News,
}

/// What a line adds, or the whole answer.
#[derive(Default)]
struct News {
    text: String,
    thinking: String,
    calls: Vec<Value>,
    logprobs: Vec<TokenReport>,
}

impl News {
    fn is_empty(&self) -> bool {
        self.text.is_empty()
            && self.thinking.is_empty()
            && self.calls.is_empty()
            && self.logprobs.is_empty()
    }
}

/// The answer to a request without a prompt.
pub(super) fn loaded(form: Form, model: &str, reason: &str) -> Value {
    let mut line = line(form, model, News::default());
    line["done"] = true.into();
    line["done_reason"] = reason.into();
    line
}

fn line(form: Form, model: &str, news: News) -> Value {
    let mut line = json!({"model": model, "created_at": rfc3339(unix_seconds())});
    match form {
        Form::Chat => {
            let mut message = json!({"role": "assistant", "content": news.text});
            if !news.thinking.is_empty() {
                message["thinking"] = news.thinking.into();
            }
            if !news.calls.is_empty() {
                message["tool_calls"] = news.calls.into();
            }
            line["message"] = message;
        }
        Form::Generate => {
            line["response"] = news.text.into();
            if !news.thinking.is_empty() {
                line["thinking"] = news.thinking.into();
            }
        }
    }
    if !news.logprobs.is_empty() {
        line["logprobs"] = json!(news.logprobs);
    }
    line["done"] = false.into();
    line
}

impl LineWriter {
    pub(super) fn new(
        form: Form,
        model: String,
        turn: &PreparedTurn,
        thinking: bool,
        arrival: Instant,
        app: Arc<AppState>,
    ) -> LineWriter {
        let mut writer = LineWriter {
            form,
            model,
            thinking,
            reader: TurnReader::new(turn),
            app,
            arrival,
            first_token: None,
            kind: None,
            arguments: String::new(),
            calls: 0,
            news: News::default(),
        };
        let prefill = writer.reader.prefill_events();
        prefill.into_iter().for_each(|event| writer.on_turn_event(event));
        writer
    }

    /// Reads an event of the generation. True if the answer ends with it.
    pub(super) fn read(&mut self, event: GenerationEvent) -> Result<bool> {
        if let GenerationEvent::Token(token) = &event {
            self.first_token.get_or_insert_with(clock::now);
            let entry = |logprobs| TokenReport::new(token.id, logprobs, false);
            self.news.logprobs.extend(token.logprobs.as_ref().map(entry));
        }
        for event in self.reader.read(event)? {
            self.on_turn_event(event);
        }
        let ended = self.reader.end.is_some();
        if ended {
            self.app.metrics.record_repairs(self.reader.repairs());
        }
        Ok(ended)
    }

    fn on_turn_event(&mut self, event: TurnEvent) {
        match event {
            TurnEvent::Start(kind) => {
                self.arguments.clear();
                self.kind = Some(kind);
            }
            TurnEvent::Text(text) => match &self.kind {
                Some(MessageKind::Reasoning) if !self.thinking => {}
                Some(MessageKind::Reasoning) => self.news.thinking.push_str(&text),
                Some(MessageKind::Call(_)) => self.arguments.push_str(&text),
                _ => self.news.text.push_str(&text),
            },
            TurnEvent::End { whole } => {
                // A call is sent in one piece, and one that was cut off not at all.
                if let (Some(MessageKind::Call(target)), true) = (self.kind.take(), whole) {
                    let arguments = arguments_object(&self.arguments);
                    let function =
                        json!({"index": self.calls, "name": target.name, "arguments": arguments});
                    self.news.calls.push(json!({"id": new_id_of("call"), "function": function}));
                    self.calls += 1;
                }
            }
        }
    }

    /// The whole answer, or the last line of a stream.
    pub(super) fn whole(&mut self) -> Value {
        let news = std::mem::take(&mut self.news);
        let mut line = line(self.form, &self.model, news);
        let usage = self.reader.usage;
        let now = clock::now();
        let first = self.first_token.unwrap_or(now);
        let nanos =
            |from: Instant, to: Instant| to.saturating_duration_since(from).as_nanos() as u64;
        let length = self.reader.end == Some(TurnEnd::Length);
        for (name, value) in [
            ("done", true.into()),
            ("done_reason", if length { "length" } else { "stop" }.into()),
            ("total_duration", nanos(self.arrival, now).into()),
            ("load_duration", 0.into()),
            ("prompt_eval_count", usage.prompt.into()),
            ("prompt_eval_duration", nanos(self.arrival, first).into()),
            ("eval_count", usage.completion.into()),
            ("eval_duration", nanos(first, now).into()),
        ] {
            line[name] = value;
        }
        if self.app.config.log_prompts {
            tracing::info!(answer = line.to_string(), "answer");
        }
        line
    }
}

fn push(out: &mut Vec<u8>, line: &Value) {
    out.extend_from_slice(line.to_string().as_bytes());
    out.push(b'\n');
}

impl StreamWriter for LineWriter {
    fn begin(&mut self, _: &mut Vec<u8>) {}

    fn on_event(&mut self, _: usize, event: GenerationEvent, out: &mut Vec<u8>) -> Flow {
        match self.read(event) {
            Ok(ended) => {
                if !self.news.is_empty() {
                    let news = std::mem::take(&mut self.news);
                    push(out, &line(self.form, &self.model, news));
                }
                if ended { Flow::EndChoice } else { Flow::Continue }
            }
            Err(error) => {
                self.fail(error, out);
                Flow::EndStream
            }
        }
    }

    fn end(&mut self, out: &mut Vec<u8>) {
        let last = self.whole();
        push(out, &last);
    }

    fn fail(&mut self, error: ApiError, out: &mut Vec<u8>) {
        push(out, &error_form::ollama(&error, ""));
    }

    /// Lines of JSON have no comments, so it is a line that adds nothing.
    fn keep_alive(&mut self, out: &mut Vec<u8>) {
        push(out, &line(self.form, &self.model, News::default()));
    }

    fn content_type(&self) -> &'static str {
        LINES
    }
}
