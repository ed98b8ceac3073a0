//! Between harmony and the messages of the Chat Completions and Responses APIs.
//!
//! Only shapes and rules: HTTP, ids and streaming frames are the server's. `chat` and `responses` read those APIs' histories into a
//! [`Conversation`]; [`Route`] is where each message of an answer goes, also while it is still streamed.

mod calls;
mod chat;
mod responses;

pub use chat::{
    ChatFunctionCall, ChatMessage, ChatReply, ChatToolCall, chat_conversation, chat_reply,
};
pub use responses::{
    MessageItem, OutputItem, ResponseItem, TypedItem, response_items, responses_conversation,
};

use calls::Calls;
use serde::{Deserialize, Deserializer};
use serde_json::Value;

use crate::parse::Header;
use crate::types::{
    Content, Conversation, DeveloperContent, Message, ReasoningEffort, Role, SystemContent, Tool,
    ToolNamespace,
};

/// What a prompt has besides its history.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PromptOptions {
    /// The current date, as `2026-01-31`.
    pub date: Option<String>,
    /// How much the model should reason; medium if absent.
    pub effort: Option<ReasoningEffort>,
    /// Tools that the model knows from its training, declared in the system message.
    pub built_in: Vec<ToolNamespace>,
    /// Function tools on offer.
    pub tools: Vec<Tool>,
    /// Function tools on offer in namespaces of their own.
    pub namespaces: Vec<ToolNamespace>,
    /// Instructions that come before those of the history.
    pub instructions: Option<String>,
    /// The format that the answer must have.
    pub response_format: Option<ResponseFormat>,
}

/// A format for the final answer, shown to the model after its tools.
#[derive(Clone, Debug, PartialEq)]
pub struct ResponseFormat {
    /// Its name.
    pub name: String,
    /// What it is for.
    pub description: Option<String>,
    /// Its JSON schema.
    pub schema: Value,
}

/// Why a history was not read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConvertError {
    /// A role that the API does not have.
    #[error("message {index} has the role {role:?}: use {known}")]
    UnknownRole {
        /// Index of the message or item.
        index: usize,
        /// The role.
        role: String,
        /// The roles that the API has.
        known: &'static str,
    },
    /// A part that is not text.
    #[error("message {index} has a content part of the type {kind:?}: only text is supported")]
    NotText {
        /// Index of the message or item.
        index: usize,
        /// The part's type.
        kind: String,
    },
    /// A user's message without content.
    #[error("message {index} is a user's and has no content: give a text, be it empty")]
    NoContent {
        /// Index of the message or item.
        index: usize,
    },
    /// A tool's answer to a call that the history does not have.
    #[error("message {index} answers the call {id:?}, which no message before it makes")]
    UnknownCall {
        /// Index of the message or item.
        index: usize,
        /// The call's id.
        id: String,
    },
}

/// Where a message of an answer goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route<'a> {
    /// To the reader's view of the model's reasoning. Calls of recipients that are not functions go there too: nobody
    /// requested them.
    Reasoning,
    /// To the reader, before calls (`commentary`).
    Preamble,
    /// To the reader: the answer (`final`).
    Final,
    /// A call of this function.
    Call(&'a str),
}

impl<'a> Route<'a> {
    /// The route of a message, by its channel and recipient.
    ///
    /// ```
    /// use ossmith_harmony::{Message, Route};
    /// assert_eq!(Route::of(Some("analysis"), None), Route::Reasoning);
    /// assert_eq!(Route::of(Some("commentary"), Some("functions.f")), Route::Call("f"));
    /// assert_eq!(Route::of(Some("commentary"), Some("python")), Route::Reasoning);
    /// ```
    pub fn of(channel: Option<&str>, recipient: Option<&'a str>) -> Self {
        match (recipient, channel) {
            (Some(recipient), _) => {
                recipient.strip_prefix("functions.").map_or(Self::Reasoning, Self::Call)
            }
            (None, Some("analysis")) => Self::Reasoning,
            (None, Some("commentary")) => Self::Preamble,
            (None, _) => Self::Final,
        }
    }
}

impl Header {
    /// Where the message with this header goes.
    pub fn route(&self) -> Route<'_> {
        Route::of(self.channel.as_deref(), self.recipient.as_deref())
    }
}

/// Content as both APIs write it: a string or a list of typed parts.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(untagged, expecting = "content is neither a string nor a list of parts with a type")]
pub enum ApiContent {
    /// A text.
    Text(String),
    /// Parts; only those with a text can be used.
    Parts(Vec<ApiPart>),
}

/// A part of a content.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct ApiPart {
    /// `text`, `input_text`, `output_text`, `reasoning_text`, `summary_text` or `refusal`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The text of every type but `refusal`.
    #[serde(default)]
    pub text: Option<String>,
    /// The text of a `refusal`.
    #[serde(default)]
    pub refusal: Option<String>,
}

impl ApiPart {
    /// Whether its type is one of texts.
    fn is_text(&self) -> bool {
        matches!(
            self.kind.as_str(),
            "text" | "input_text" | "output_text" | "reasoning_text" | "summary_text" | "refusal"
        )
    }

    /// The part's text. Typed clients write all fields of all types, so both fields may be there: the one that the type
    /// names counts, and the other one only where that is absent or empty.
    fn text(&self) -> Option<&str> {
        let (named, other) = match self.kind.as_str() {
            "refusal" => (&self.refusal, &self.text),
            _ if self.is_text() => (&self.text, &self.refusal),
            _ => return None,
        };
        first_with_text(named.as_deref(), other.as_deref())
    }
}

/// Of two spellings of one text the first that is not empty; an empty one only where there is nothing else.
fn first_with_text<'a>(preferred: Option<&'a str>, other: Option<&'a str>) -> Option<&'a str> {
    preferred.filter(|text| !text.is_empty()).or(other).or(preferred)
}

impl ApiContent {
    /// The text of a tool's result. A tool may return an image, and its conversation has to go on, so a sentence stands for
    /// each part that is no text.
    fn result_text(&self) -> String {
        match self {
            Self::Text(text) => text.clone(),
            Self::Parts(parts) => parts
                .iter()
                .map(|part| match part.text() {
                    Some(text) => text.to_owned(),
                    None if part.is_text() => String::new(),
                    None => omitted_result(&part.kind),
                })
                .collect(),
        }
    }

    /// The whole text.
    fn text(&self, index: usize) -> Result<String, ConvertError> {
        match self {
            Self::Text(text) => Ok(text.clone()),
            Self::Parts(parts) => parts
                .iter()
                .map(|part| {
                    let not_text = || ConvertError::NotText { index, kind: part.kind.clone() };
                    part.text().ok_or_else(not_text)
                })
                .collect(),
        }
    }
}

/// Collects a history into a conversation.
struct Builder {
    /// Instructions at the head of the history, which join the first developer message.
    instructions: Vec<String>,
    messages: Vec<Message>,
    calls: Calls,
    /// The results since the last other message, each with the number of the call that it answers.
    results: Vec<(usize, Message)>,
}

impl Builder {
    fn new(options: &PromptOptions) -> Self {
        let instructions = options.instructions.iter().filter(|text| !text.is_empty());
        Self {
            instructions: instructions.cloned().collect(),
            messages: Vec::new(),
            calls: Calls::default(),
            results: Vec::new(),
        }
    }

    /// Adds a message that is no result.
    fn push(&mut self, message: Message) {
        self.place_results();
        self.messages.push(message);
    }

    /// Results of several calls come in the calls' order, whichever was there first: a result has no id in harmony, so
    /// two results of the same function differ only by their order.
    fn place_results(&mut self) {
        self.results.sort_by_key(|(call, _)| *call);
        self.messages.extend(self.results.drain(..).map(|(_, result)| result));
    }

    /// A system or developer message of the API: at the head it joins the instructions, later it is a message of its own. An
    /// empty one is left out.
    fn instruct(&mut self, text: String) {
        if text.is_empty() {
            return;
        }
        if self.messages.is_empty() && self.results.is_empty() {
            self.instructions.push(text);
        } else {
            self.push(Message::developer(DeveloperContent::new(text)));
        }
    }

    fn assistant(&mut self, channel: &str, text: String) {
        self.push(Message::assistant(text).on_channel(channel));
    }

    /// A call of a tool by its full name.
    fn call(&mut self, id: String, recipient: String, arguments: String) {
        let arguments = if arguments.is_empty() { "{}".to_owned() } else { arguments };
        let last = self.messages.last().filter(|_| self.results.is_empty());
        let continues = last.is_some_and(|last| last.role == Role::Assistant);
        self.push(Message::tool_call(recipient.clone(), arguments));
        self.calls.push(id, recipient, continues);
    }

    /// A result of a call.
    fn answer_call(
        &mut self,
        index: usize,
        id: &str,
        function: Option<&str>,
        output: String,
    ) -> Result<(), ConvertError> {
        let number = self.calls.answer(id, function);
        let number =
            number.ok_or_else(|| ConvertError::UnknownCall { index, id: id.to_owned() })?;
        let result = Message::tool_result(self.calls.recipient(number).to_owned(), output);
        self.results.push((number, result));
        Ok(())
    }

    fn finish(mut self, options: &PromptOptions) -> Conversation {
        self.place_results();
        let mut system = SystemContent {
            conversation_start_date: options.date.clone(),
            reasoning_effort: Some(options.effort.unwrap_or_default()),
            ..SystemContent::gpt_oss()
        };
        for tools in &options.built_in {
            system = system.with_tools(tools.clone());
        }
        let mut messages = vec![Message::system(system)];
        let instructions = (!self.instructions.is_empty()).then(|| self.instructions.join("\n\n"));
        let has_tools = !options.tools.is_empty() || !options.namespaces.is_empty();
        if instructions.is_some() || has_tools || options.response_format.is_some() {
            let mut content = DeveloperContent { instructions, tools: None }
                .with_functions(options.tools.iter().cloned());
            for namespace in &options.namespaces {
                content = content.with_namespace(namespace.clone());
            }
            let is_empty = content == DeveloperContent::default();
            let mut developer = Message::developer(content);
            if let Some(format) = &options.response_format {
                let gap = if is_empty { "" } else { "\n\n" };
                developer.content.push(Content::Text { text: format!("{gap}{}", format.text()) });
            }
            messages.push(developer);
        }
        messages.extend(self.messages);
        Conversation { messages }
    }
}

impl ResponseFormat {
    /// The block of a developer message.
    fn text(&self) -> String {
        let comment: String = self
            .description
            .iter()
            .flat_map(|text| text.lines())
            .map(|line| format!("// {line}\n"))
            .collect();
        format!("# Response Formats\n\n## {}\n\n{comment}{}", self.name, self.schema)
    }
}

/// The full name of a function: `functions.f`, or `crm.f` of the namespace `crm`.
fn recipient_of(namespace: Option<&str>, function: &str) -> String {
    let namespace = namespace.filter(|name| !name.is_empty()).unwrap_or("functions");
    format!("{namespace}.{function}")
}

/// What a model reads in place of a part of a tool's result that is no text, by the part's type.
///
/// ```
/// let text = ossmith_harmony::omitted_result("input_image");
/// assert_eq!(text, "[a result of the type image was left out: this model reads text]");
/// ```
pub fn omitted_result(kind: &str) -> String {
    let what = kind.trim_start_matches("input_").trim_start_matches("computer_");
    let what = what.trim_end_matches("_url");
    format!("[a result of the type {what} was left out: this model reads text]")
}

/// The arguments of a tool that takes a free-form text: as a function, it has one string.
fn input_as_arguments(input: &str) -> String {
    serde_json::json!({"input": input}).to_string()
}

/// A string, where null counts as an empty one.
fn null_as_empty<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

/// Arguments: JSON in a string, or, as some clients send it, the object itself. Null counts as no arguments.
fn arguments_text<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    match Option::<Value>::deserialize(deserializer)? {
        None => Ok(String::new()),
        Some(Value::String(text)) => Ok(text),
        Some(arguments @ Value::Object(_)) => Ok(arguments.to_string()),
        Some(_) => Err(serde::de::Error::custom("arguments are neither a string nor an object")),
    }
}

/// The role of a message that only instructs.
fn instructs(role: &str) -> bool {
    matches!(Role::by_name(role), Some(Role::System | Role::Developer))
}
