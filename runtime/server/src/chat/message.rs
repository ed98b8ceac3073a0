//! The message that the model's tokens become: its reasoning, its text and its calls, as far as they were not sent.

use serde::Serialize;

use crate::ids::new_id_of;
use crate::logprobs::TokenReport;
use crate::options::call_target::{CallForm, CallTarget};
use crate::turn::parser::{MessageKind, TurnEvent, TurnParser};

/// Under which names reasoning is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ReasoningFields {
    None,
    Reasoning,
    /// Also under its older name, `reasoning_content`.
    Both,
}

/// What a chunk adds to the message, or the whole message.
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

/// A call, or more of one.
#[derive(Clone, Debug, Serialize)]
pub(super) struct CallDelta {
    /// Only chunks number their calls.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) index: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) id: Option<String>,
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    pub(super) kind: Option<&'static str>,
    #[serde(flatten)]
    pub(super) called: Called,
}

/// What is called, and with what.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Called {
    Function {
        #[serde(skip_serializing_if = "Option::is_none")]
        name: Option<String>,
        arguments: String,
    },
    Custom {
        #[serde(skip_serializing_if = "Option::is_none")]
        name: Option<String>,
        input: String,
    },
}

impl Called {
    fn new(form: CallForm, name: Option<String>, text: String) -> Called {
        match form {
            CallForm::Function => Called::Function { name, arguments: text },
            CallForm::Custom => Called::Custom { name, input: text },
        }
    }

    fn text(&mut self) -> &mut String {
        match self {
            Called::Function { arguments, .. } => arguments,
            Called::Custom { input, .. } => input,
        }
    }
}

impl Delta {
    pub(super) fn is_empty(&self) -> bool {
        self.role.is_none()
            && self.content.is_none()
            && self.reasoning.is_none()
            && self.tool_calls.is_empty()
    }
}

/// The content of one choice.
pub(super) struct Message {
    pub(super) parser: TurnParser,
    open: Option<MessageKind>,
    calls: usize,
    /// Calls that were not cut off.
    pub(super) whole_calls: usize,
    has_reasoning: bool,
    /// The text has started, even if it is empty.
    pub(super) has_content: bool,
    /// What was not sent.
    pub(super) delta: Delta,
    pub(super) logprobs: Vec<TokenReport>,
    /// Those of tokens of which no text was shown yet.
    pub(super) pending_logprobs: Vec<TokenReport>,
}

impl Message {
    pub(super) fn new(mut parser: TurnParser, reasoning: ReasoningFields) -> Message {
        let prefill = parser.prefill_events();
        let mut message = Message {
            parser,
            open: None,
            calls: 0,
            whole_calls: 0,
            has_reasoning: false,
            has_content: false,
            delta: Delta::default(),
            logprobs: Vec::new(),
            pending_logprobs: Vec::new(),
        };
        prefill.into_iter().for_each(|event| message.on_event(event, reasoning));
        message
    }

    pub(super) fn on_event(&mut self, event: TurnEvent, reasoning: ReasoningFields) {
        match event {
            TurnEvent::Start(kind) => {
                self.pending_logprobs.clear();
                match &kind {
                    // Several messages in one field are separated by a line feed.
                    MessageKind::Reasoning if self.has_reasoning => {
                        self.add_reasoning("\n", reasoning);
                    }
                    MessageKind::Reasoning => {}
                    MessageKind::Final | MessageKind::Preamble if self.has_content => {
                        self.add_content("\n");
                    }
                    MessageKind::Final | MessageKind::Preamble => self.add_content(""),
                    MessageKind::Call(target) => self.add_call(target),
                }
                self.open = Some(kind);
            }
            TurnEvent::Text(text) => {
                // Log-probabilities are those of `content`.
                let mut shown = std::mem::take(&mut self.pending_logprobs);
                match &self.open {
                    Some(MessageKind::Reasoning) => self.add_reasoning(&text, reasoning),
                    Some(MessageKind::Call(target)) => self.add_arguments(target.form, text),
                    _ => {
                        self.logprobs.append(&mut shown);
                        self.add_content(&text);
                    }
                }
            }
            TurnEvent::End { whole } => {
                self.pending_logprobs.clear();
                let call = matches!(self.open.take(), Some(MessageKind::Call(_)));
                self.whole_calls += usize::from(call && whole);
            }
        }
    }

    fn add_reasoning(&mut self, text: &str, fields: ReasoningFields) {
        self.has_reasoning = true;
        if fields != ReasoningFields::None {
            self.delta.reasoning.get_or_insert_default().push_str(text);
        }
        if fields == ReasoningFields::Both {
            self.delta.reasoning_content.get_or_insert_default().push_str(text);
        }
    }

    fn add_content(&mut self, text: &str) {
        self.has_content = true;
        if !text.is_empty() {
            self.delta.content.get_or_insert_default().push_str(text);
        }
    }

    fn add_call(&mut self, target: &CallTarget) {
        let kind = match target.form {
            CallForm::Function => "function",
            CallForm::Custom => "custom",
        };
        self.delta.tool_calls.push(CallDelta {
            index: Some(self.calls),
            id: Some(new_id_of("call")),
            kind: Some(kind),
            called: Called::new(target.form, Some(target.name.clone()), String::new()),
        });
        self.calls += 1;
    }

    fn add_arguments(&mut self, form: CallForm, text: String) {
        let index = self.calls.saturating_sub(1);
        match self.delta.tool_calls.last_mut() {
            Some(call) if call.index == Some(index) => call.called.text().push_str(&text),
            _ => self.delta.tool_calls.push(CallDelta {
                index: Some(index),
                id: None,
                kind: None,
                called: Called::new(form, None, text),
            }),
        }
    }
}
