//! Chat Completions: its history into a conversation, an answer's messages into its message.

use serde::{Deserialize, Serialize};

use super::{
    ApiContent, Builder, ConvertError, PromptOptions, Route, arguments_text, first_with_text,
    input_as_arguments, instructs, null_as_empty, recipient_of,
};
use crate::types::{Conversation, Message};

/// A message of a Chat Completions request. Fields that do not matter to the prompt are ignored.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
pub struct ChatMessage {
    /// `system`, `developer`, `user`, `assistant`, `tool` or the older `function`.
    pub role: String,
    /// The name of the function that a tool's message is the result of.
    #[serde(default)]
    pub name: Option<String>,
    /// Its text; an assistant's may be absent.
    #[serde(default)]
    pub content: Option<ApiContent>,
    /// What an assistant wrote instead of an answer.
    #[serde(default)]
    pub refusal: Option<String>,
    /// An assistant's reasoning.
    #[serde(default)]
    pub reasoning: Option<String>,
    /// The older name of `reasoning`, which counts where `reasoning` is absent or empty.
    #[serde(default)]
    pub reasoning_content: Option<String>,
    /// An assistant's calls.
    #[serde(default)]
    pub tool_calls: Option<Vec<ChatToolCall>>,
    /// The older form of a single call.
    #[serde(default)]
    pub function_call: Option<ChatFunctionCall>,
    /// The call that a tool answers.
    #[serde(default)]
    pub tool_call_id: Option<String>,
}

/// The function of a call.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct ChatFunctionCall {
    /// Its name.
    pub name: String,
    /// Its arguments, which may come as an object. Null counts as absent, and both as no arguments.
    #[serde(default, deserialize_with = "arguments_text")]
    pub arguments: String,
}

/// A call of a function.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "WireCall")]
pub struct ChatToolCall {
    /// The call's id; empty in a reply, where the server gives it.
    pub id: String,
    /// The function's name.
    pub name: String,
    /// Its arguments, as the model wrote them.
    pub arguments: String,
}

/// A call of a function, or of a tool that takes a free-form text.
#[derive(Deserialize)]
struct WireCall {
    #[serde(default, deserialize_with = "null_as_empty")]
    id: String,
    #[serde(default)]
    function: Option<ChatFunctionCall>,
    #[serde(default)]
    custom: Option<CustomCall>,
}

#[derive(Deserialize)]
struct CustomCall {
    name: String,
    #[serde(default, deserialize_with = "null_as_empty")]
    input: String,
}

impl TryFrom<WireCall> for ChatToolCall {
    type Error = &'static str;

    fn try_from(call: WireCall) -> Result<Self, Self::Error> {
        let (name, arguments) = match (call.function, call.custom) {
            (Some(ChatFunctionCall { name, arguments }), _) => (name, arguments),
            (None, Some(CustomCall { name, input })) => (name, input_as_arguments(&input)),
            (None, None) => return Err("a call has neither a `function` nor a `custom`"),
        };
        Ok(Self { id: call.id, name, arguments })
    }
}

/// The conversation of a Chat Completions request, with the system message and, where needed, the developer message.
///
/// ```
/// use ossmith_harmony::{ChatMessage, PromptOptions, chat_conversation, decode, render_for_completion};
/// let history: Vec<ChatMessage> = serde_json::from_value(serde_json::json!([
///     { "role": "system", "content": "Be brief." },
///     { "role": "user", "content": "Weather in Paris?" },
///     { "role": "assistant", "tool_calls": [
///         { "id": "call_1", "type": "function", "function": { "name": "weather", "arguments": "{\"city\":\"Paris\"}" } }
///     ] },
///     { "role": "tool", "tool_call_id": "call_1", "content": "sunny" },
/// ]))?;
/// let conversation = chat_conversation(&history, &PromptOptions::default())?;
/// let prompt = decode(&render_for_completion(&conversation)?)?;
/// assert!(prompt.ends_with(
///     "<|start|>functions.weather to=assistant<|channel|>commentary<|message|>sunny<|end|><|start|>assistant"
/// ));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn chat_conversation(
    history: &[ChatMessage],
    options: &PromptOptions,
) -> Result<Conversation, ConvertError> {
    let mut builder = Builder::new(options);
    for (index, message) in history.iter().enumerate() {
        let content = message.content.as_ref();
        if matches!(message.role.as_str(), "tool" | "function") {
            let id = message.tool_call_id.as_deref().unwrap_or_default();
            let result = content.map(ApiContent::result_text).unwrap_or_default();
            builder.answer_call(index, id, message.name.as_deref(), result)?;
            continue;
        }
        let text = content.map(|content| content.text(index)).transpose()?;
        match message.role.as_str() {
            role if instructs(role) => builder.instruct(text.unwrap_or_default()),
            "user" => {
                let text = text.ok_or(ConvertError::NoContent { index })?;
                builder.push(Message::user(text));
            }
            "assistant" => assistant(&mut builder, message, text),
            role => {
                let known = "system, developer, user, assistant or tool";
                return Err(ConvertError::UnknownRole { index, role: role.to_owned(), known });
            }
        }
    }
    Ok(builder.finish(options))
}

/// Reasoning, then text, then calls: the order in which a model writes them.
fn assistant(builder: &mut Builder, message: &ChatMessage, text: Option<String>) {
    let (newer, older) = (message.reasoning.as_deref(), message.reasoning_content.as_deref());
    if let Some(reasoning) = first_with_text(newer, older).filter(|t| !t.is_empty()) {
        builder.assistant("analysis", reasoning.to_owned());
    }
    let text = with_refusal(text, message.refusal.as_deref());
    let calls = message.tool_calls.as_deref().unwrap_or_default();
    let older = message.function_call.as_ref().filter(|_| calls.is_empty());
    let has_calls = older.is_some() || !calls.is_empty();
    match text {
        Some(text) if has_calls && !text.is_empty() => builder.assistant("commentary", text),
        Some(text) if !has_calls => builder.assistant("final", text),
        _ => {}
    }
    if let Some(ChatFunctionCall { name, arguments }) = older {
        builder.call(String::new(), recipient_of(None, name), arguments.clone());
    }
    for call in calls {
        builder.call(call.id.clone(), recipient_of(None, &call.name), call.arguments.clone());
    }
}

/// An assistant's text and its refusal. A message has one of them; where a client sends two, neither is lost.
fn with_refusal(text: Option<String>, refusal: Option<&str>) -> Option<String> {
    let Some(refusal) = refusal.filter(|refusal| !refusal.is_empty()) else { return text };
    match text.filter(|text| !text.is_empty()) {
        Some(text) if text != refusal => Some(format!("{text}\n{refusal}")),
        _ => Some(refusal.to_owned()),
    }
}

/// An answer in the terms of Chat Completions.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ChatReply {
    /// The answer and its preambles; absent if there is none.
    pub content: Option<String>,
    /// The reasoning; absent if there is none.
    pub reasoning: Option<String>,
    /// The calls, in order.
    pub tool_calls: Vec<ChatToolCall>,
}

/// The reply that an answer's messages make.
///
/// ```
/// use ossmith_harmony::{Message, chat_reply};
/// let reply = chat_reply(&[
///     Message::assistant("Hm.").on_channel("analysis"),
///     Message::function_call("weather", "{}"),
/// ]);
/// assert_eq!(reply.reasoning.as_deref(), Some("Hm."));
/// assert_eq!((reply.content, reply.tool_calls[0].name.as_str()), (None, "weather"));
/// ```
pub fn chat_reply(messages: &[Message]) -> ChatReply {
    let mut reply = ChatReply::default();
    for message in messages {
        let text = message.text();
        match Route::of(message.channel.as_deref(), message.recipient.as_deref()) {
            Route::Reasoning => add_line(&mut reply.reasoning, &text),
            Route::Preamble | Route::Final => add_line(&mut reply.content, &text),
            Route::Call(name) => reply.tool_calls.push(ChatToolCall {
                id: String::new(),
                name: name.to_owned(),
                arguments: text,
            }),
        }
    }
    reply
}

/// Several messages on one field are joined with a line's end.
fn add_line(field: &mut Option<String>, text: &str) {
    match field {
        Some(field) => {
            field.push('\n');
            field.push_str(text);
        }
        None => *field = Some(text.to_owned()),
    }
}
