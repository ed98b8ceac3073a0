//! One alternative of a chat answer while it is written: its turn, and what has to be reported about it.

use serde::Serialize;
use serde_json::Value;

use super::{ChatRequest, Telling};
use crate::access::fresh_id;
use crate::engine::{Finish, Logprobs};
use crate::logprobs::chat_entry;
use crate::metrics::Metrics;
use crate::stops::ending;
use crate::turn::{Kind, Piece, Turn};

/// What a chunk adds, or what the whole message is.
#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct Delta {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) role: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) content: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) reasoning: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) reasoning_content: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) tool_calls: Vec<CallDelta>,
}

/// A call, or a piece of one.
#[derive(Clone, Debug, Serialize)]
pub(super) struct CallDelta {
    pub(super) index: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) id: Option<String>,
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    pub(super) kind: Option<&'static str>,
    pub(super) function: FunctionDelta,
}

#[derive(Clone, Debug, Serialize)]
pub(super) struct FunctionDelta {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) name: Option<String>,
    pub(super) arguments: String,
}

impl Delta {
    pub(super) fn is_empty(&self) -> bool {
        self.role.is_none()
            && self.content.is_none()
            && self.reasoning.is_none()
            && self.tool_calls.is_empty()
    }
}

/// How an alternative ended, as the API says it.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Ending {
    pub(super) finish_reason: &'static str,
    /// The stop string or the token that the client had asked for.
    pub(super) stop_reason: Value,
}

/// One alternative.
pub(super) struct Choice {
    turn: Turn,
    open: Option<Kind>,
    /// Calls so far, and how many of them are whole.
    calls: usize,
    whole_calls: usize,
    has_reasoning: bool,
    has_content: bool,
    /// What is not reported yet.
    pub(super) delta: Delta,
    pub(super) logprobs: Vec<Value>,
    pub(super) ids: Vec<u32>,
    /// Tokens generated.
    pub(super) tokens: usize,
    pub(super) ending: Option<Ending>,
}

impl Choice {
    pub(super) fn new(request: &ChatRequest) -> Choice {
        Choice {
            turn: request.planned.turn(),
            open: None,
            calls: 0,
            whole_calls: 0,
            has_reasoning: false,
            has_content: false,
            delta: Delta::default(),
            logprobs: Vec::new(),
            ids: Vec::new(),
            tokens: 0,
            ending: None,
        }
        .begin()
    }

    /// The message with which the turn begins may be part of the prompt.
    fn begin(mut self) -> Choice {
        // Only headers are, so there is no text to tell yet.
        self.turn.begun().into_iter().for_each(|piece| self.add(piece, None));
        self
    }

    /// Takes a token; true if it ends the alternative.
    pub(super) fn token(
        &mut self,
        id: u32,
        logprobs: Option<&Logprobs>,
        finish: Option<Finish>,
        telling: &Telling,
    ) -> bool {
        self.tokens += 1;
        if telling.token_ids {
            self.ids.push(id);
        }
        if telling.logprobs
            && let Some(logprobs) = logprobs
        {
            self.logprobs.push(chat_entry(id, logprobs, telling.tokens_as_ids));
        }
        let mut pieces = self.turn.push(id);
        let stopped = self.turn.stopped().map(str::to_owned);
        if finish.is_some() || stopped.is_some() {
            pieces.extend(self.turn.finish());
        }
        pieces.into_iter().for_each(|piece| self.add(piece, Some(telling)));
        let calls = self.whole_calls > 0 && stopped.is_none() && finish == Some(Finish::Stop);
        let ended = ending(stopped.as_deref(), finish, id, &telling.stop_token_ids);
        self.ending = ended.map(|(reason, stop_reason)| match calls {
            true => Ending { finish_reason: "tool_calls", stop_reason: Value::Null },
            false => Ending { finish_reason: reason, stop_reason },
        });
        self.ending.is_some()
    }

    fn add(&mut self, piece: Piece, telling: Option<&Telling>) {
        match piece {
            Piece::Start(kind) => {
                match &kind {
                    // Several messages on one field are apart by a line's end.
                    Kind::Reasoning if self.has_reasoning => self.reasoning("\n", telling),
                    Kind::Answer | Kind::Preamble if self.has_content => self.content("\n"),
                    Kind::Answer | Kind::Preamble => self.content(""),
                    Kind::Reasoning => {}
                    Kind::Call(name) => self.call(name.clone()),
                }
                self.open = Some(kind);
            }
            Piece::Text(text) => match &self.open {
                Some(Kind::Reasoning) => self.reasoning(&text, telling),
                Some(Kind::Call(_)) => self.arguments(text),
                _ => self.content(&text),
            },
            Piece::End { whole } => {
                let call = matches!(self.open.take(), Some(Kind::Call(_)));
                self.whole_calls += usize::from(call && whole);
            }
        }
    }

    fn reasoning(&mut self, text: &str, telling: Option<&Telling>) {
        self.has_reasoning = true;
        if telling.is_none_or(|telling| telling.reasoning) {
            self.delta.reasoning.get_or_insert_default().push_str(text);
        }
        if telling.is_some_and(|telling| telling.reasoning && telling.reasoning_content) {
            self.delta.reasoning_content.get_or_insert_default().push_str(text);
        }
    }

    fn content(&mut self, text: &str) {
        if !text.is_empty() {
            self.delta.content.get_or_insert_default().push_str(text);
        }
        self.has_content = true;
    }

    fn call(&mut self, name: String) {
        self.delta.tool_calls.push(CallDelta {
            index: self.calls,
            id: Some(format!("call_{}", fresh_id())),
            kind: Some("function"),
            function: FunctionDelta { name: Some(name), arguments: String::new() },
        });
        self.calls += 1;
    }

    fn arguments(&mut self, text: String) {
        let index = self.calls.saturating_sub(1);
        match self.delta.tool_calls.last_mut() {
            Some(call) if call.index == index => call.function.arguments.push_str(&text),
            _ => self.delta.tool_calls.push(CallDelta {
                index,
                id: None,
                kind: None,
                function: FunctionDelta { name: None, arguments: text },
            }),
        }
    }

    /// Calls that are whole.
    pub(super) fn whole_calls(&self) -> usize {
        self.whole_calls
    }

    /// Whether the answer has begun, even with an empty text.
    pub(super) fn has_content(&self) -> bool {
        self.has_content
    }

    pub(super) fn reasoning_tokens(&self) -> usize {
        self.turn.reasoning_tokens()
    }

    pub(super) fn report_repairs(&self, metrics: &Metrics) {
        metrics.repaired(self.turn.repairs());
    }
}
