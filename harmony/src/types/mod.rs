//! Conversations and what they consist of, in the official JSON form.
//!
//! Plain data: nothing here knows tokens. `content` has the structured contents of system and developer messages, `tools` the
//! namespaces of tools. Absent fields stay absent: no default is filled in when a conversation is read or rendered.

mod content;
mod tools;

pub use content::{ChannelConfig, Content, DeveloperContent, ReasoningEffort, SystemContent};
pub use tools::{Tool, ToolNamespace};

use serde::{Deserialize, Deserializer, Serialize};

/// Who wrote a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// A person.
    User,
    /// The model.
    Assistant,
    /// The conversation's frame: identity, dates, effort, channels, built-in tools.
    System,
    /// The application's instructions and function tools.
    Developer,
    /// A tool's answer; the tool is the message's name.
    Tool,
}

impl Role {
    /// The role's name as it stands in a header.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::Assistant => "assistant",
            Self::System => "system",
            Self::Developer => "developer",
            Self::Tool => "tool",
        }
    }

    /// The role of this name.
    pub fn by_name(name: &str) -> Option<Self> {
        [Self::User, Self::Assistant, Self::System, Self::Developer, Self::Tool]
            .into_iter()
            .find(|r| r.as_str() == name)
    }
}

/// A list of messages.
///
/// ```
/// use ossmith_harmony::{Conversation, DeveloperContent, Message, SystemContent, render_for_completion};
/// let conversation = Conversation::new([
///     Message::system(SystemContent::gpt_oss()),
///     Message::developer(DeveloperContent::new("Answer in riddles.")),
///     Message::user("What is 2 + 2?"),
/// ]);
/// assert!(render_for_completion(&conversation)?.ends_with(&[200_006, 173_781])); // <|start|>assistant
/// # Ok::<(), ossmith_harmony::RenderError>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Conversation {
    /// The messages, oldest first.
    pub messages: Vec<Message>,
}

impl Conversation {
    /// A conversation of these messages.
    pub fn new(messages: impl IntoIterator<Item = Message>) -> Self {
        Self { messages: messages.into_iter().collect() }
    }
}

/// One message: a header and its content.
///
/// In JSON the content may also be a string, which is the same as a list of one text.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Message {
    /// Who wrote it.
    pub role: Role,
    /// The author's name; a tool message has to have one to be rendered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Its content.
    #[serde(deserialize_with = "text_or_list")]
    pub content: Vec<Content>,
    /// `analysis`, `commentary` or `final` for an assistant's messages.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub channel: Option<String>,
    /// Whom it is for, such as `functions.get_weather`; absent means all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recipient: Option<String>,
    /// What the content is, such as `<|constrain|>json`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content_type: Option<String>,
}

impl Message {
    /// A message with one content and nothing else set.
    pub fn new(role: Role, content: impl Into<Content>) -> Self {
        Self {
            role,
            name: None,
            content: vec![content.into()],
            channel: None,
            recipient: None,
            content_type: None,
        }
    }

    /// A user's text.
    pub fn user(text: impl Into<String>) -> Self {
        Self::new(Role::User, Content::text(text))
    }

    /// The model's text; see [`Self::on_channel`].
    pub fn assistant(text: impl Into<String>) -> Self {
        Self::new(Role::Assistant, Content::text(text))
    }

    /// A system message.
    pub fn system(content: SystemContent) -> Self {
        Self::new(Role::System, content)
    }

    /// A developer message.
    pub fn developer(content: DeveloperContent) -> Self {
        Self::new(Role::Developer, content)
    }

    /// A call of a function tool, as the model writes it.
    ///
    /// ```
    /// use ossmith_harmony::{Message, decode, render_message};
    /// let call = Message::function_call("get_weather", r#"{"city":"Paris"}"#);
    /// assert_eq!(
    ///     decode(&render_message(&call)?)?,
    ///     r#"<|start|>assistant to=functions.get_weather<|channel|>commentary <|constrain|>json<|message|>{"city":"Paris"}<|call|>"#
    /// );
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn function_call(function: &str, arguments: impl Into<String>) -> Self {
        Self::tool_call(format!("functions.{function}"), arguments)
    }

    /// A call of a tool by its full name, such as `functions.get_weather`, with arguments in JSON.
    pub fn tool_call(tool: impl Into<String>, arguments: impl Into<String>) -> Self {
        Self {
            recipient: Some(tool.into()),
            content_type: Some("<|constrain|>json".to_owned()),
            ..Self::assistant(arguments).on_channel("commentary")
        }
    }

    /// The answer of a tool (`functions.get_weather`, `python`, …) to the assistant's call.
    pub fn tool_result(tool: impl Into<String>, output: impl Into<String>) -> Self {
        Self {
            name: Some(tool.into()),
            recipient: Some("assistant".to_owned()),
            ..Self::new(Role::Tool, Content::text(output)).on_channel("commentary")
        }
    }

    /// The same message on this channel.
    #[must_use]
    pub fn on_channel(self, channel: impl Into<String>) -> Self {
        Self { channel: Some(channel.into()), ..self }
    }

    /// All its texts, joined; system and developer contents have none.
    pub fn text(&self) -> String {
        self.content
            .iter()
            .filter_map(|c| match c {
                Content::Text { text } => Some(text.as_str()),
                _ => None,
            })
            .collect()
    }
}

fn text_or_list<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Content>, D::Error> {
    #[derive(Deserialize)]
    #[serde(
        untagged,
        expecting = "content is neither a string nor a list of content objects with known types and fields"
    )]
    enum TextOrList {
        Text(String),
        List(Vec<Content>),
    }
    Ok(match TextOrList::deserialize(deserializer)? {
        TextOrList::Text(text) => vec![Content::Text { text }],
        TextOrList::List(list) => list,
    })
}
