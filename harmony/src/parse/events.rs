//! The events of the lenient parser, and how to gather them into messages.

use super::repair::Repair;
use crate::types::{Content, Message, Role};

/// A message's header, read and repaired. No field ever holds a control token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// Who writes.
    pub role: Role,
    /// The author's name; for a tool, the tool's.
    pub name: Option<String>,
    /// The channel; always there for an assistant.
    pub channel: Option<String>,
    /// Whom the message is for, such as `functions.get_weather`; absent means all.
    pub recipient: Option<String>,
    /// What the content is, such as `json`.
    pub content_type: Option<String>,
    /// Whether the content type followed `<|constrain|>`.
    pub constrained: bool,
}

impl Header {
    /// Whether the assistant calls a tool.
    pub fn is_call(&self) -> bool {
        self.role == Role::Assistant && self.recipient.is_some()
    }

    /// The function's name, for a call of a function tool.
    pub fn function(&self) -> Option<&str> {
        if !self.is_call() {
            return None;
        }
        self.recipient.as_deref()?.strip_prefix("functions.")
    }

    /// The message with this header and this text, in the official form.
    pub fn into_message(self, text: String) -> Message {
        let content_type = match (self.constrained, self.content_type) {
            (true, format) => Some(format!("<|constrain|>{}", format.unwrap_or_default())),
            (false, content_type) => content_type,
        };
        Message {
            role: self.role,
            name: self.name,
            content: vec![Content::Text { text }],
            channel: self.channel,
            recipient: self.recipient,
            content_type,
        }
    }
}

/// How a message ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// `<|end|>`: more of the turn may follow. Also where a new message began without it.
    End,
    /// `<|return|>` or `<|endoftext|>`: the turn is over.
    Return,
    /// `<|call|>`: the recipient has to answer.
    Call,
    /// The input ended.
    Cut,
}

/// A step in reading a message. Each message gives one `MessageStart`, any number of `Text` or `Arguments`, one `MessageEnd`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event<'a> {
    /// The header is complete: role, channel and recipient are known.
    MessageStart(&'a Header),
    /// More of a message's text: whole characters, never empty.
    Text(&'a str),
    /// More of what a tool is called with: whole characters, never empty.
    Arguments(&'a str),
    /// The message is complete.
    MessageEnd(Stop),
    /// Something was repaired.
    Repaired(&'a Repair),
}

/// Gathers events into messages.
#[derive(Clone, Debug, Default)]
pub struct Collector {
    /// The message being read.
    open: Option<(Header, String)>,
    parsed: Parsed,
}

/// What lenient parsing found.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Parsed {
    /// All messages; the last one may be cut off.
    pub messages: Vec<Message>,
    /// How the last message ended.
    pub stop: Option<Stop>,
    /// The repairs, in order.
    pub repairs: Vec<Repair>,
}

impl Collector {
    /// Takes an event.
    pub fn add(&mut self, event: Event<'_>) {
        match event {
            Event::MessageStart(header) => self.open = Some((header.clone(), String::new())),
            Event::Text(delta) | Event::Arguments(delta) => {
                if let Some((_, text)) = &mut self.open {
                    text.push_str(delta);
                }
            }
            Event::MessageEnd(stop) => {
                self.parsed.stop = Some(stop);
                self.parsed
                    .messages
                    .extend(self.open.take().map(|(header, text)| header.into_message(text)));
            }
            Event::Repaired(repair) => self.parsed.repairs.push(repair.clone()),
        }
    }

    /// What was found.
    pub fn finish(self) -> Parsed {
        self.parsed
    }
}
