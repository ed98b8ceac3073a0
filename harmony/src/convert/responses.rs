//! Responses: its items into a conversation, an answer's messages into items.

use serde::{Deserialize, Serialize};

use super::{
    ApiContent, Builder, ConvertError, PromptOptions, Route, arguments_text, input_as_arguments,
    instructs, null_as_empty, recipient_of,
};
use crate::types::{Conversation, Message};

/// An item of a Responses request or answer. Ids of items and their status are the server's.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(
    untagged,
    expecting = "an item is neither a message nor reasoning, function_call or function_call_output"
)]
pub enum ResponseItem {
    /// Anything with a type of its own.
    Typed(TypedItem),
    /// A message that does not say that it is one.
    Message(MessageItem),
}

/// Items by their `type`.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum TypedItem {
    /// A text to or from the model.
    Message(MessageItem),
    /// The model's reasoning.
    Reasoning {
        /// The reasoning.
        #[serde(default)]
        content: Option<ApiContent>,
        /// A summary; used where there is no reasoning.
        #[serde(default)]
        summary: Option<ApiContent>,
    },
    /// The model's call of a function.
    FunctionCall {
        /// The call's id.
        #[serde(default, deserialize_with = "null_as_empty")]
        call_id: String,
        /// The function's name.
        name: String,
        /// The namespace that the function is in; the functions' own if absent.
        #[serde(default)]
        namespace: Option<String>,
        /// Its arguments, which may come as an object. Null counts as absent, and both as no arguments.
        #[serde(default, deserialize_with = "arguments_text")]
        arguments: String,
    },
    /// The model's call of a tool that takes a free-form text.
    CustomToolCall {
        /// The call's id.
        #[serde(default, deserialize_with = "null_as_empty")]
        call_id: String,
        /// The tool's name.
        name: String,
        /// The namespace that the tool is in; the functions' own if absent.
        #[serde(default)]
        namespace: Option<String>,
        /// The text.
        #[serde(default, deserialize_with = "null_as_empty")]
        input: String,
    },
    /// The answer to a call.
    #[serde(alias = "custom_tool_call_output")]
    FunctionCallOutput {
        /// The call's id.
        #[serde(default, deserialize_with = "null_as_empty")]
        call_id: String,
        /// The answer.
        #[serde(default)]
        output: Option<ApiContent>,
    },
}

/// A message item.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct MessageItem {
    /// `system`, `developer`, `user` or `assistant`.
    pub role: String,
    /// Its text. Only a user's message must have one.
    #[serde(default)]
    pub content: Option<ApiContent>,
    /// `commentary` for a text before calls, else the answer.
    #[serde(default)]
    pub phase: Option<String>,
}

/// The conversation of a Responses request, with the system message and, where needed, the developer message.
///
/// ```
/// use ossmith_harmony::{PromptOptions, ResponseItem, responses_conversation};
/// let items: Vec<ResponseItem> = serde_json::from_value(serde_json::json!([
///     { "role": "user", "content": "Weather in Paris?" },
///     { "type": "reasoning", "content": [{ "type": "reasoning_text", "text": "Look it up." }] },
///     { "type": "function_call", "call_id": "call_1", "name": "weather", "arguments": "{}" },
///     { "type": "function_call_output", "call_id": "call_1", "output": "sunny" },
/// ]))?;
/// let conversation = responses_conversation(&items, &PromptOptions::default())?;
/// assert_eq!(conversation.messages.len(), 5); // the system message comes first
/// assert_eq!(conversation.messages[4].name.as_deref(), Some("functions.weather"));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn responses_conversation(
    items: &[ResponseItem],
    options: &PromptOptions,
) -> Result<Conversation, ConvertError> {
    let mut builder = Builder::new(options);
    for (index, item) in items.iter().enumerate() {
        match item {
            ResponseItem::Message(message) | ResponseItem::Typed(TypedItem::Message(message)) => {
                add_message(&mut builder, index, message)?;
            }
            ResponseItem::Typed(TypedItem::Reasoning { content, summary }) => {
                let text = |content: &Option<ApiContent>| {
                    content.as_ref().map_or(Ok(String::new()), |c| c.text(index))
                };
                let reasoning = text(content)?;
                let reasoning = if reasoning.is_empty() { text(summary)? } else { reasoning };
                if !reasoning.is_empty() {
                    builder.assistant("analysis", reasoning);
                }
            }
            ResponseItem::Typed(TypedItem::FunctionCall {
                call_id,
                name,
                namespace,
                arguments,
            }) => {
                let recipient = recipient_of(namespace.as_deref(), name);
                builder.call(call_id.clone(), recipient, arguments.clone());
            }
            ResponseItem::Typed(TypedItem::CustomToolCall { call_id, name, namespace, input }) => {
                let recipient = recipient_of(namespace.as_deref(), name);
                builder.call(call_id.clone(), recipient, input_as_arguments(input));
            }
            ResponseItem::Typed(TypedItem::FunctionCallOutput { call_id, output }) => {
                let output = output.as_ref().map(ApiContent::result_text);
                builder.answer_call(index, call_id, None, output.unwrap_or_default())?;
            }
        }
    }
    Ok(builder.finish(options))
}

fn add_message(
    builder: &mut Builder,
    index: usize,
    message: &MessageItem,
) -> Result<(), ConvertError> {
    let text = message.content.as_ref().map(|content| content.text(index)).transpose()?;
    match message.role.as_str() {
        role if instructs(role) => builder.instruct(text.unwrap_or_default()),
        "user" => {
            let text = text.ok_or(ConvertError::NoContent { index })?;
            builder.push(Message::user(text));
        }
        "assistant" => {
            let Some(text) = text else { return Ok(()) };
            let is_preamble = message.phase.as_deref() == Some("commentary");
            builder.assistant(if is_preamble { "commentary" } else { "final" }, text);
        }
        role => {
            let known = "system, developer, user or assistant; results of calls are items of the type function_call_output";
            return Err(ConvertError::UnknownRole { index, role: role.to_owned(), known });
        }
    }
    Ok(())
}

/// An item of an answer, without ids and status.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum OutputItem {
    /// The model's reasoning.
    Reasoning {
        /// The reasoning.
        text: String,
    },
    /// A text to the reader.
    Message {
        /// The text.
        text: String,
        /// `commentary` before calls, else `final_answer`.
        phase: &'static str,
    },
    /// A call of a function.
    FunctionCall {
        /// The function's name.
        name: String,
        /// Its arguments, as the model wrote them.
        arguments: String,
    },
}

/// The items that an answer's messages make, one each, in order.
pub fn response_items(messages: &[Message]) -> Vec<OutputItem> {
    let item = |message: &Message| {
        let text = message.text();
        match Route::of(message.channel.as_deref(), message.recipient.as_deref()) {
            Route::Reasoning => OutputItem::Reasoning { text },
            Route::Preamble => OutputItem::Message { text, phase: "commentary" },
            Route::Final => OutputItem::Message { text, phase: "final_answer" },
            Route::Call(name) => {
                OutputItem::FunctionCall { name: name.to_owned(), arguments: text }
            }
        }
    };
    messages.iter().map(item).collect()
}
