//! From the events of a generation to content blocks, and to the stream's events about them: every block is started, gets its
//! deltas and is stopped before the next one starts.

use std::sync::Arc;

use serde_json::{Value, json};

use super::request::{MessagesRequest, Shown};
use crate::error::{ApiError, Result};
use crate::error_form;
use crate::generation::GenerationEvent;
use crate::ids::new_id_of;
use crate::seal::Sealed;
use crate::sse::{self, Flow, StreamWriter};
use crate::state::AppState;
use crate::turn::parser::{MessageKind, TurnEvent};
use crate::turn::reader::{TurnEnd, TurnReader, arguments_object};

/// Writes one message.
pub(super) struct BlockWriter {
    request: MessagesRequest,
    app: Arc<AppState>,
    reader: TurnReader,
    /// Blocks that are done.
    content: Vec<Value>,
    /// The kind of the message that is being read, and the block that it has become.
    kind: Option<MessageKind>,
    open: Option<Block>,
    /// Blocks that were started.
    started: usize,
    /// Frames of the stream that were not passed on.
    frames: Vec<u8>,
}

/// A block while it is generated.
enum Block {
    Thinking(String),
    Text(String),
    ToolUse { id: String, name: String, input: String },
}

impl BlockWriter {
    pub(super) fn new(request: MessagesRequest, app: Arc<AppState>) -> BlockWriter {
        let reader = TurnReader::new(&request.turn);
        let mut writer = BlockWriter {
            request,
            app,
            reader,
            content: Vec::new(),
            kind: None,
            open: None,
            started: 0,
            frames: Vec::new(),
        };
        let message = writer.message();
        writer.emit("message_start", json!({"message": message}));
        let prefill = writer.reader.prefill_events();
        prefill.into_iter().for_each(|event| writer.on_turn_event(event));
        writer
    }

    /// Reads an event of the generation. True if the message ends with it.
    pub(super) fn read(&mut self, event: GenerationEvent) -> Result<bool> {
        for event in self.reader.read(event)? {
            self.on_turn_event(event);
        }
        let ended = self.reader.end.is_some();
        if ended {
            self.app.metrics.record_repairs(self.reader.repairs());
            if self.app.config.log_prompts {
                let answer = Value::from(self.content.clone());
                tracing::info!(id = self.request.id, answer = answer.to_string(), "answer");
            }
        }
        Ok(ended)
    }

    /// The message as it is now.
    pub(super) fn message(&self) -> Value {
        let (stop_reason, stop_sequence) = self.stop();
        let adapter = self.request.turn.options.adapter.as_ref();
        json!({
            "id": self.request.id,
            "type": "message",
            "role": "assistant",
            // The model or adapter that answers, whatever name it was called by.
            "model": adapter.map_or(self.app.config.name(), |adapter| adapter.name()),
            "content": self.content,
            "stop_reason": stop_reason,
            "stop_sequence": stop_sequence,
            "usage": self.usage(),
        })
    }

    fn stop(&self) -> (Option<&'static str>, Option<&str>) {
        match &self.reader.end {
            None => (None, None),
            Some(TurnEnd::Stop) => (Some("end_turn"), None),
            Some(TurnEnd::Call) => (Some("tool_use"), None),
            Some(TurnEnd::Length) => (Some("max_tokens"), None),
            Some(TurnEnd::StopString(stop)) => (Some("stop_sequence"), Some(stop)),
        }
    }

    /// Tokens that were found in the prefix cache are not counted as input a second time.
    fn usage(&self) -> Value {
        let usage = &self.reader.usage;
        json!({
            "input_tokens": usage.prompt.saturating_sub(usage.cached),
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": usage.cached,
            "output_tokens": usage.completion,
            "service_tier": "standard",
        })
    }

    fn on_turn_event(&mut self, event: TurnEvent) {
        match event {
            TurnEvent::Start(kind) => {
                let call = matches!(kind, MessageKind::Call(_));
                self.kind = Some(kind);
                // A call is a block from its header on, any other message once it has text.
                if call {
                    self.start();
                }
            }
            TurnEvent::Text(text) => {
                self.start();
                self.text(&text);
            }
            TurnEvent::End { whole } => {
                self.stop_block(whole);
                self.kind = None;
            }
        }
    }

    /// Makes a block of the message that is being read, unless it is one already.
    fn start(&mut self) {
        if self.open.is_some() {
            return;
        }
        let block = match &self.kind {
            Some(MessageKind::Reasoning) if self.request.thinking == Shown::Not => return,
            Some(MessageKind::Reasoning) => Block::Thinking(String::new()),
            Some(MessageKind::Preamble | MessageKind::Final) => Block::Text(String::new()),
            Some(MessageKind::Call(target)) => Block::ToolUse {
                id: new_id_of("toolu"),
                name: target.name.clone(),
                input: String::new(),
            },
            None => return,
        };
        let json = block.json("");
        self.emit("content_block_start", json!({"index": self.started, "content_block": json}));
        self.open = Some(block);
        self.started += 1;
    }

    fn text(&mut self, text: &str) {
        let delta = match &mut self.open {
            None => return,
            Some(Block::Thinking(all)) => {
                all.push_str(text);
                if self.request.thinking == Shown::Omitted {
                    return;
                }
                json!({"type": "thinking_delta", "thinking": text})
            }
            Some(Block::Text(all)) => {
                all.push_str(text);
                json!({"type": "text_delta", "text": text})
            }
            Some(Block::ToolUse { input, .. }) => {
                input.push_str(text);
                json!({"type": "input_json_delta", "partial_json": text})
            }
        };
        self.emit_delta(delta);
    }

    /// The open block is done. A call that was cut off cannot be executed, so it is no part of the message.
    fn stop_block(&mut self, whole: bool) {
        let Some(mut block) = self.open.take() else { return };
        let mut signature = String::new();
        if let Block::Thinking(text) = &mut block {
            signature = match self.request.thinking {
                Shown::Omitted => {
                    let sealer = self.app.sealer.of(self.request.tenant);
                    sealer.seal(Sealed::Reasoning, &std::mem::take(text)).unwrap_or_default()
                }
                Shown::Whole | Shown::Not => signature_of(text),
            };
            self.emit_delta(json!({"type": "signature_delta", "signature": signature}));
        }
        let json = block.json(&signature);
        self.emit("content_block_stop", json!({"index": self.started - 1}));
        if whole || !matches!(block, Block::ToolUse { .. }) {
            self.content.push(json);
        }
    }

    fn emit_delta(&mut self, delta: Value) {
        self.emit("content_block_delta", json!({"index": self.started - 1, "delta": delta}));
    }

    fn emit(&mut self, kind: &str, mut event: Value) {
        if self.request.stream {
            event["type"] = kind.into();
            sse::named(&mut self.frames, kind, &event);
        }
    }

    fn drain_to(&mut self, out: &mut Vec<u8>) {
        out.append(&mut self.frames);
    }
}

impl Block {
    fn json(&self, signature: &str) -> Value {
        match self {
            Block::Thinking(text) => {
                json!({"type": "thinking", "thinking": text, "signature": signature})
            }
            Block::Text(text) => json!({"type": "text", "text": text}),
            Block::ToolUse { id, name, input } => {
                json!({"type": "tool_use", "id": id, "name": name, "input": arguments_object(input)})
            }
        }
    }
}

/// What clients must send back with a block of reasoning. It names the text; nothing depends on it, so a history from elsewhere
/// is taken as it is.
fn signature_of(text: &str) -> String {
    blake3::hash(text.as_bytes()).to_hex().to_string()
}

impl StreamWriter for BlockWriter {
    fn begin(&mut self, out: &mut Vec<u8>) {
        self.drain_to(out);
    }

    fn on_event(&mut self, _: usize, event: GenerationEvent, out: &mut Vec<u8>) -> Flow {
        match self.read(event) {
            Ok(ended) => {
                self.drain_to(out);
                if ended { Flow::EndChoice } else { Flow::Continue }
            }
            Err(error) => {
                self.fail(error, out);
                Flow::EndStream
            }
        }
    }

    fn end(&mut self, out: &mut Vec<u8>) {
        let (stop_reason, stop_sequence) = self.stop();
        let delta = json!({"stop_reason": stop_reason, "stop_sequence": stop_sequence});
        let usage = self.usage();
        self.emit("message_delta", json!({"delta": delta, "usage": usage}));
        self.emit("message_stop", json!({}));
        self.drain_to(out);
    }

    fn fail(&mut self, error: ApiError, out: &mut Vec<u8>) {
        self.drain_to(out);
        let id = self.request.id.trim_start_matches("msg_");
        sse::named(out, "error", &error_form::anthropic(&error, id));
    }

    fn keep_alive(&mut self, out: &mut Vec<u8>) {
        sse::named(out, "ping", &json!({"type": "ping"}));
    }
}
