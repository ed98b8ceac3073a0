//! The messages of a request as those of a chat. A block of Anthropic's is a part of one message here, a message of its own
//! (`tool_result`), or is refused by name.

use ossmith_harmony::{
    ApiContent, ChatFunctionCall, ChatMessage, ChatToolCall, ConvertError, omitted_result,
};
use serde_json::Value;

use crate::error::{ApiError, Result};
use crate::fields::{Fields, describe};
use crate::seal::{Sealed, TenantSealer};

/// How the first block of Claude Code's system prompt begins. It counts requests for Anthropic and differs in each, so it would
/// keep every prompt from being found in the prefix cache.
const BILLING_HEADER: &str = "x-anthropic-billing-header";

/// A history, and for each of its messages the index of the request's message that it comes from.
pub(super) struct History {
    pub(super) messages: Vec<ChatMessage>,
    origins: Vec<usize>,
}

impl History {
    /// Reads `system` and `messages`.
    pub(super) fn read(fields: &Fields<'_>, sealer: TenantSealer<'_>) -> Result<History> {
        let mut history = History { messages: Vec::new(), origins: Vec::new() };
        for text in texts(fields, "system", "system")? {
            if !text.starts_with(BILLING_HEADER) {
                history.push(0, message("system", text));
            }
        }
        if fields.get("messages").is_none() {
            return Err(fields.wrong("messages", "is missing"));
        }
        let messages = fields.objects("messages")?;
        if messages.is_empty() {
            return Err(fields.wrong("messages", "is empty; give at least one message"));
        }
        for (index, message) in messages.iter().enumerate() {
            history.add(index, message, sealer)?;
        }
        if messages.last().is_some_and(|last| last.get("role") == Some(&"assistant".into())) {
            let name = format!("messages[{}]", messages.len() - 1);
            let why = format!(
                "`{name}` is the assistant's: an assistant prefill is not supported; end with a user's message"
            );
            return Err(ApiError::unsupported(name, why));
        }
        Ok(history)
    }

    /// An error of the conversion, with the request's own index.
    pub(super) fn error(&self, why: &ConvertError) -> ApiError {
        let ConvertError::UnknownCall { index, id } = why else {
            return ApiError::bad("messages", why.to_string());
        };
        let name = format!("messages[{}]", self.origins.get(*index).unwrap_or(&0));
        let why = format!("`{name}` has the result of {id:?}, which no `tool_use` before it made");
        ApiError::bad(name, why)
    }

    fn push(&mut self, origin: usize, message: ChatMessage) {
        self.messages.push(message);
        self.origins.push(origin);
    }

    fn add(&mut self, index: usize, fields: &Fields<'_>, sealer: TenantSealer<'_>) -> Result<()> {
        match fields.required_string("role")? {
            "user" => self.add_user(index, fields),
            "assistant" => self.add_assistant(index, fields, sealer),
            // Some clients put instructions between messages.
            "system" => {
                for text in texts(fields, "content", "system")? {
                    self.push(index, message("system", text));
                }
                Ok(())
            }
            other => {
                Err(fields.wrong("role", format!("is `{other}`; use user, assistant or system")))
            }
        }
    }

    /// Results of calls come first, in whatever order a client has them; what the user says is one message.
    fn add_user(&mut self, index: usize, fields: &Fields<'_>) -> Result<()> {
        let blocks = match fields.get("content") {
            None => return Err(fields.wrong("content", "is missing")),
            Some(Value::String(text)) => {
                self.push(index, message("user", text.clone()));
                return Ok(());
            }
            Some(Value::Array(list)) if list.is_empty() => {
                return Err(fields.wrong("content", "is empty; give at least one block"));
            }
            Some(_) => fields.objects("content")?,
        };
        let mut said = Vec::new();
        for block in &blocks {
            if block.required_string("type")? == "tool_result" {
                let mut result = message("tool", tool_result(block)?);
                result.tool_call_id = block.string("tool_use_id")?.map(str::to_owned);
                self.push(index, result);
            } else {
                said.push(text_of(block, "a user's message")?);
            }
        }
        if !said.is_empty() {
            self.push(index, message("user", said.join("\n")));
        }
        Ok(())
    }

    fn add_assistant(
        &mut self,
        index: usize,
        fields: &Fields<'_>,
        sealer: TenantSealer<'_>,
    ) -> Result<()> {
        let blocks = match fields.get("content") {
            None => return Ok(()),
            Some(Value::String(text)) => {
                self.push(index, message("assistant", text.clone()));
                return Ok(());
            }
            Some(_) => fields.objects("content")?,
        };
        let mut turn = AssistantTurn::default();
        for block in &blocks {
            match block.required_string("type")? {
                "thinking" => turn.thinking.extend(thinking(block, sealer)?),
                // Only the server that wrote it can read it, and this one writes none.
                "redacted_thinking" => {}
                "tool_use" | "server_tool_use" | "mcp_tool_use" => {
                    turn.calls.push(ChatToolCall {
                        id: block.string("id")?.unwrap_or_default().to_owned(),
                        name: block.required_string("name")?.to_owned(),
                        arguments: match block.get("input") {
                            None => "{}".to_owned(),
                            Some(Value::String(text)) => text.clone(),
                            Some(value) => value.to_string(),
                        },
                    });
                }
                // The server that wrote the message ran the tool.
                kind if kind.ends_with("_tool_result") => {
                    self.push_assistant(index, std::mem::take(&mut turn));
                    let mut result = message("tool", foreign_result(block.get("content")));
                    result.tool_call_id = block.string("tool_use_id")?.map(str::to_owned);
                    self.push(index, result);
                }
                _ => turn.said.push(text_of(block, "an assistant's message")?),
            }
        }
        self.push_assistant(index, turn);
        Ok(())
    }

    fn push_assistant(&mut self, index: usize, turn: AssistantTurn) {
        let AssistantTurn { said, thinking, calls } = turn;
        let has_text = !said.is_empty();
        if !has_text && thinking.is_empty() && calls.is_empty() {
            return;
        }
        self.push(
            index,
            ChatMessage {
                role: "assistant".to_owned(),
                content: has_text.then(|| ApiContent::Text(said.join("\n"))),
                reasoning: Some(thinking.join("\n")),
                tool_calls: (!calls.is_empty()).then_some(calls),
                function_call: None::<ChatFunctionCall>,
                ..ChatMessage::default()
            },
        );
    }
}

/// What an assistant wrote before a result or the end of its message.
#[derive(Default)]
struct AssistantTurn {
    said: Vec<String>,
    thinking: Vec<String>,
    calls: Vec<ChatToolCall>,
}

/// The text of a block of reasoning: its own, or, where it was omitted, what this server sealed in its signature. What another
/// server sealed only that one can read.
fn thinking(block: &Fields<'_>, sealer: TenantSealer<'_>) -> Result<Option<String>> {
    let text = block.string("thinking")?.unwrap_or_default();
    let signature = block.string("signature")?.unwrap_or_default();
    Ok(match text.is_empty() {
        true => sealer.open(Sealed::Reasoning, signature, "signature").ok(),
        false => Some(text.to_owned()),
    })
}

/// What a tool returned that another server ran: its texts, and all else as JSON without what only that server can read.
fn foreign_result(content: Option<&Value>) -> String {
    let part = |value: &Value| match (value, value["text"].as_str()) {
        (Value::String(text), _) => text.clone(),
        (_, Some(text)) => text.to_owned(),
        (Value::Object(map), None) => {
            let readable = map.iter().filter(|(name, _)| !name.starts_with("encrypted_"));
            Value::Object(readable.map(|(name, value)| (name.clone(), value.clone())).collect())
                .to_string()
        }
        (other, None) => other.to_string(),
    };
    match content {
        None => String::new(),
        Some(Value::Array(parts)) => parts.iter().map(part).collect::<Vec<_>>().join("\n"),
        Some(value) => part(value),
    }
}

fn message(role: &str, text: String) -> ChatMessage {
    ChatMessage {
        role: role.to_owned(),
        content: Some(ApiContent::Text(text)),
        ..ChatMessage::default()
    }
}

/// What a function returned, or that it failed. A sentence stands for an image or a document that is no plain text: what a
/// tool returns must not end the conversation.
fn tool_result(block: &Fields<'_>) -> Result<String> {
    let holder = "a tool's result";
    let text = match block.get("content") {
        Some(Value::Array(_)) => {
            let part = |part: &Fields<'_>| match text_of(part, holder) {
                Err(_) if matches!(part.string("type"), Ok(Some("image" | "document"))) => {
                    Ok(omitted_result(part.required_string("type")?))
                }
                text => text,
            };
            block.objects("content")?.iter().map(part).collect::<Result<Vec<_>>>()?.join("\n")
        }
        _ => texts(block, "content", holder)?.join("\n"),
    };
    // The model has no other way to see it.
    Ok(match block.bool("is_error", false)? {
        true => format!("Error: {text}"),
        false => text,
    })
}

/// A text, or the texts of a list of blocks; none if the field is absent.
fn texts(fields: &Fields<'_>, field: &str, holder: &str) -> Result<Vec<String>> {
    match fields.get(field) {
        None => Ok(Vec::new()),
        Some(Value::String(text)) => Ok(vec![text.clone()]),
        Some(Value::Array(_)) => {
            fields.objects(field)?.iter().map(|block| text_of(block, holder)).collect()
        }
        Some(other) => {
            let why = format!("is {}, not a string or a list of blocks", describe(other));
            Err(fields.wrong(field, why))
        }
    }
}

/// The text of a block. Documents are read where they are plain text.
fn text_of(block: &Fields<'_>, holder: &str) -> Result<String> {
    let kind = block.required_string("type")?;
    match kind {
        "text" => return Ok(block.required_string("text")?.to_owned()),
        "document" => {
            if let Some(source) = block.object("source")? {
                let text = match source.string("type")? {
                    Some("text") => Some(source.required_string("data")?.to_owned()),
                    Some("content") => Some(texts(&source, "content", "a document")?.join("\n")),
                    _ => None,
                };
                if let Some(text) = text {
                    let titles = [block.string("title")?, block.string("context")?];
                    let above = titles.into_iter().flatten().map(str::to_owned);
                    return Ok(above.chain([text]).collect::<Vec<_>>().join("\n"));
                }
            }
        }
        "search_result" => {
            let above = [block.string("title")?, block.string("source")?];
            let above = above.into_iter().flatten().map(str::to_owned);
            let text = texts(block, "content", "a search result")?;
            return Ok(above.chain(text).collect::<Vec<_>>().join("\n"));
        }
        _ => {}
    }
    let name = block.name("type");
    let what = match kind {
        "image" => "images are not supported: gpt-oss reads text only".to_owned(),
        "document" => "of documents only plain text is supported".to_owned(),
        other => format!("blocks of the type `{other}` are not supported in {holder}"),
    };
    Err(ApiError::unsupported(name.clone(), format!("`{name}` is `{kind}`; {what}")))
}
