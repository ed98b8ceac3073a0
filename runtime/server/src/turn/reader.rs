//! One generation read as a turn: its messages, how it ends, and its token counts. For the APIs whose answers are one turn,
//! Messages and Ollama's.

use std::collections::HashMap;

use ossmith::FinishReason;
use serde_json::{Map, Value, json};

use super::parser::{MessageKind, TurnEvent, TurnParser};
use super::prepare::PreparedTurn;
use crate::error::Result;
use crate::generation::GenerationEvent;
use crate::usage::Usage;

/// How a turn ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum TurnEnd {
    /// The model ended it, with or without a call.
    Stop,
    /// It has a call, which the client is to answer.
    Call,
    /// This stop string was found.
    StopString(String),
    /// It was cut off by the limit of tokens.
    Length,
}

/// Reads one generation.
pub(crate) struct TurnReader {
    parser: TurnParser,
    /// The message that is being read is a call.
    in_call: bool,
    has_call: bool,
    pub(crate) usage: Usage,
    /// How the turn ended, once it has.
    pub(crate) end: Option<TurnEnd>,
}

impl TurnReader {
    pub(crate) fn new(turn: &PreparedTurn) -> TurnReader {
        TurnReader {
            parser: turn.parser(),
            in_call: false,
            has_call: false,
            usage: Usage { prompt: turn.prompt.len(), ..Usage::default() },
            end: None,
        }
    }

    /// The events of the prefill.
    pub(crate) fn prefill_events(&mut self) -> Vec<TurnEvent> {
        let events = self.parser.prefill_events();
        self.note(&events);
        events
    }

    /// What becomes certain with an event of the generation.
    pub(crate) fn read(&mut self, event: GenerationEvent) -> Result<Vec<TurnEvent>> {
        let token = match event {
            GenerationEvent::Prompt(info) => {
                self.usage.cached = info.cached_tokens;
                return Ok(Vec::new());
            }
            GenerationEvent::Token(token) => token,
            GenerationEvent::Failed(error) => return Err(error),
        };
        self.usage.completion += 1;
        let mut events = self.parser.push(token.id);
        let stopped = self.parser.stopped().map(str::to_owned);
        let ends = stopped.is_some() || token.finish.is_some();
        if ends {
            events.extend(self.parser.finish());
        }
        self.note(&events);
        self.usage.reasoning = self.parser.reasoning_tokens();
        if ends {
            self.end = Some(match (stopped, token.finish) {
                (Some(stop), _) => TurnEnd::StopString(stop),
                (None, Some(FinishReason::Length)) => TurnEnd::Length,
                _ if self.has_call => TurnEnd::Call,
                _ => TurnEnd::Stop,
            });
        }
        Ok(events)
    }

    fn note(&mut self, events: &[TurnEvent]) {
        for event in events {
            match event {
                TurnEvent::Start(kind) => self.in_call = matches!(kind, MessageKind::Call(_)),
                TurnEvent::Text(_) => {}
                TurnEvent::End { whole } => self.has_call |= self.in_call && *whole,
            }
        }
    }

    /// Repairs of what the model wrote, by kind.
    pub(crate) fn repairs(&self) -> &HashMap<&'static str, u64> {
        self.parser.repairs()
    }
}

/// Arguments as an object, for APIs that have no text there. What the model wrote instead of one stays under a name that no
/// function's schema has.
pub(crate) fn arguments_object(text: &str) -> Value {
    if text.trim().is_empty() {
        return Value::Object(Map::new());
    }
    match serde_json::from_str(text) {
        Ok(object @ Value::Object(_)) => object,
        _ => json!({"__not_an_object": text}),
    }
}
