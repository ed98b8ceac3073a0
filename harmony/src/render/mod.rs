//! Conversations to tokens.
//!
//! The pieces of a header and each content object are encoded one by one, so no token crosses their borders; text never becomes
//! a special token, whatever it looks like. `contents` writes the text of system and developer messages, `schema` and `typescript`
//! turn JSON schemas into types, `spans` tells which message a token came from. With [`RenderOptions::default`] the tokens equal the
//! reference library's.

mod contents;
mod json;
mod schema;
mod spans;
mod typescript;

pub use spans::{MessageSpan, Rendered};

use crate::encoding::encode_into;
use crate::special::{CALL, CHANNEL, CONSTRAIN, END, MESSAGE, RETURN, START, Token};
use crate::types::{Content, Conversation, Message, Role};

/// Which messages on the channel `analysis` are left out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DropAnalysis {
    /// None.
    Never,
    /// As the reference does: if the last assistant message is on `final`, those before the first message on `final`.
    #[default]
    BeforeFirstFinal,
    /// Those before the last assistant message on `final`. What follows it is a tool round that is still open, so it stays.
    BeforeLastFinal,
}

/// Where a message's recipient is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RecipientPlace {
    /// Before the channel, as the reference does: ` to=functions.f<|channel|>commentary`.
    #[default]
    BeforeChannel,
    /// After the channel, where a model often writes it: `<|channel|>commentary to=functions.f`. A conversation rendered the way
    /// it was sampled finds its prefix in a cache.
    AfterChannel,
}

/// How JSON schemas are shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SchemaStyle {
    /// As the reference does; it shows some schemas as `any` and comments only the first line of a text.
    #[default]
    Reference,
    /// Also `anyOf`, `allOf`, `$ref`, `const`, and enums of numbers; unions in arrays in brackets; each line of a comment marked.
    Full,
}

/// How to render; the default is what the reference library does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RenderOptions {
    /// Which analysis is left out.
    pub drop_analysis: DropAnalysis,
    /// Where recipients are written.
    pub recipient: RecipientPlace,
    /// How parameters of tools are shown.
    pub schemas: SchemaStyle,
}

/// Why a conversation was not rendered.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RenderError {
    /// A tool message has no author's name.
    #[error("a tool message has no name: set it to the tool's, such as \"functions.get_weather\"")]
    ToolWithoutName,
    /// System content in another message.
    #[error("system content stands in a message of the role {}: move it to a system message", .0.as_str())]
    MisplacedSystemContent(Role),
    /// Developer content in another message.
    #[error("developer content stands in a message of the role {}: move it to a developer message", .0.as_str())]
    MisplacedDeveloperContent(Role),
}

/// The conversation's tokens, ready for the assistant's turn: they end with `<|start|>assistant`.
///
/// ```
/// use ossmith_harmony::{Conversation, Message, decode, render_for_completion};
/// let tokens = render_for_completion(&Conversation::new([Message::user("Hi!")]))?;
/// assert_eq!(decode(&tokens)?, "<|start|>user<|message|>Hi!<|end|><|start|>assistant");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn render_for_completion(conversation: &Conversation) -> Result<Vec<Token>, RenderError> {
    render_for_completion_with(conversation, Role::Assistant, &RenderOptions::default())
}

/// [`render_for_completion`] for any next role and with options.
pub fn render_for_completion_with(
    conversation: &Conversation,
    next_role: Role,
    options: &RenderOptions,
) -> Result<Vec<Token>, RenderError> {
    let mut tokens = render(conversation, options)?;
    tokens.push(START);
    encode_into(next_role.as_str(), &mut tokens);
    Ok(tokens)
}

/// The tokens of all messages.
pub fn render(
    conversation: &Conversation,
    options: &RenderOptions,
) -> Result<Vec<Token>, RenderError> {
    Ok(render_spans(conversation, options)?.tokens)
}

/// [`render`], ending with `<|return|>` where the last message is the assistant's final answer, as a model is trained to end it.
///
/// ```
/// use ossmith_harmony::{Conversation, Message, RenderOptions, render_for_training, special};
/// let conversation = Conversation::new([Message::user("Hi!"), Message::assistant("Hello.").on_channel("final")]);
/// assert_eq!(render_for_training(&conversation, &RenderOptions::default())?.last(), Some(&special::RETURN));
/// # Ok::<(), ossmith_harmony::RenderError>(())
/// ```
pub fn render_for_training(
    conversation: &Conversation,
    options: &RenderOptions,
) -> Result<Vec<Token>, RenderError> {
    let mut tokens = render(conversation, options)?;
    end_for_training(conversation, &mut tokens);
    Ok(tokens)
}

/// Replaces the last token as [`render_for_training`] documents.
fn end_for_training(conversation: &Conversation, tokens: &mut [Token]) {
    let answered = conversation
        .messages
        .last()
        .is_some_and(|m| m.role == Role::Assistant && m.channel.as_deref() == Some("final"));
    if let (true, Some(last)) = (answered, tokens.last_mut()) {
        *last = RETURN;
    }
}

/// The tokens of one message, as in a conversation without function tools.
pub fn render_message(message: &Message) -> Result<Vec<Token>, RenderError> {
    let mut tokens = Vec::new();
    message_into(message, false, &RenderOptions::default(), &mut tokens)?;
    Ok(tokens)
}

/// The tokens of one message; `has_function_tools` adds the hint about calls to a system message's channels.
pub fn render_message_with(
    message: &Message,
    has_function_tools: bool,
    options: &RenderOptions,
) -> Result<Vec<Token>, RenderError> {
    let mut tokens = Vec::new();
    message_into(message, has_function_tools, options, &mut tokens)?;
    Ok(tokens)
}

/// The tokens of all messages and where each message lies in them.
///
/// ```
/// use ossmith_harmony::{Conversation, Message, RenderOptions, Role, render_spans};
/// let conversation = Conversation::new([Message::user("Hi!"), Message::assistant("Hello.").on_channel("final")]);
/// let rendered = render_spans(&conversation, &RenderOptions::default())?;
/// // A trainer's loss mask: only what the assistant wrote.
/// let mask = rendered.loss_mask(|span| conversation.messages[span.message].role == Role::Assistant);
/// assert_eq!(mask.iter().filter(|&&m| m).count(), 3 + 2 + 1); // <|channel|>final<|message|>, Hello., <|end|>
/// # Ok::<(), ossmith_harmony::RenderError>(())
/// ```
pub fn render_spans(
    conversation: &Conversation,
    options: &RenderOptions,
) -> Result<Rendered, RenderError> {
    let hint = has_function_tools(conversation);
    let dropped_before = dropped_before(&conversation.messages, options.drop_analysis);
    let mut rendered = Rendered::default();
    for (index, message) in conversation.messages.iter().enumerate() {
        if index < dropped_before && message.channel.as_deref() == Some("analysis") {
            continue;
        }
        let start = rendered.tokens.len();
        let parts = message_into(message, hint, options, &mut rendered.tokens)?;
        rendered.spans.push(MessageSpan {
            message: index,
            tokens: start..rendered.tokens.len(),
            body: parts.body..rendered.tokens.len(),
            content: parts.content..rendered.tokens.len() - 1,
        });
    }
    Ok(rendered)
}

/// [`render_spans`] for training: see [`render_for_training`].
pub fn render_spans_for_training(
    conversation: &Conversation,
    options: &RenderOptions,
) -> Result<Rendered, RenderError> {
    let mut rendered = render_spans(conversation, options)?;
    end_for_training(conversation, &mut rendered.tokens);
    Ok(rendered)
}

/// Whether any developer message offers functions, which the system message then mentions.
fn has_function_tools(conversation: &Conversation) -> bool {
    conversation.messages.iter().flat_map(|m| &m.content).any(|content| match content {
        Content::DeveloperContent(developer) => developer
            .tools
            .as_ref()
            .and_then(|t| t.get("functions"))
            .is_some_and(|n| !n.tools.is_empty()),
        _ => false,
    })
}

/// The index before which analysis is left out.
fn dropped_before(messages: &[Message], drop: DropAnalysis) -> usize {
    let on_final = |m: &Message| m.channel.as_deref() == Some("final");
    let last_final = || messages.iter().rposition(|m| m.role == Role::Assistant && on_final(m));
    match drop {
        DropAnalysis::Never => 0,
        DropAnalysis::BeforeFirstFinal => {
            let answered =
                messages.iter().rfind(|m| m.role == Role::Assistant).is_some_and(on_final);
            if answered { messages.iter().position(on_final).unwrap_or(0) } else { 0 }
        }
        DropAnalysis::BeforeLastFinal => last_final().unwrap_or(0),
    }
}

/// Where a message's parts begin.
struct Parts {
    /// After the role: what an assistant writes itself.
    body: usize,
    /// After `<|message|>`.
    content: usize,
}

fn message_into(
    message: &Message,
    has_function_tools: bool,
    options: &RenderOptions,
    tokens: &mut Vec<Token>,
) -> Result<Parts, RenderError> {
    tokens.push(START);
    match (message.role, &message.name) {
        (Role::Tool, Some(name)) => encode_into(name, tokens),
        (Role::Tool, None) => return Err(RenderError::ToolWithoutName),
        (role, name) => {
            encode_into(role.as_str(), tokens);
            if let Some(name) = name {
                encode_into(&format!(":{name}"), tokens);
            }
        }
    }
    let body = tokens.len();
    let recipient =
        message.recipient.as_deref().filter(|&r| r != "all").map(|r| format!(" to={r}"));
    let after_channel =
        options.recipient == RecipientPlace::AfterChannel && message.channel.is_some();
    if let (false, Some(recipient)) = (after_channel, &recipient) {
        encode_into(recipient, tokens);
    }
    if let Some(channel) = &message.channel {
        tokens.push(CHANNEL);
        encode_into(channel, tokens);
    }
    if let (true, Some(recipient)) = (after_channel, &recipient) {
        encode_into(recipient, tokens);
    }
    if let Some(content_type) = &message.content_type {
        match content_type.strip_prefix("<|constrain|>") {
            Some(format) => {
                encode_into(" ", tokens);
                tokens.push(CONSTRAIN);
                encode_into(format, tokens);
            }
            None => encode_into(&format!(" {content_type}"), tokens),
        }
    }
    tokens.push(MESSAGE);
    let content = tokens.len();
    for part in &message.content {
        match part {
            Content::Text { text } => encode_into(text, tokens),
            Content::SystemContent(system) if message.role == Role::System => {
                encode_into(
                    &contents::system_text(system, has_function_tools, options.schemas),
                    tokens,
                );
            }
            Content::DeveloperContent(developer) if message.role == Role::Developer => {
                encode_into(&contents::developer_text(developer, options.schemas), tokens);
            }
            Content::SystemContent(_) => {
                return Err(RenderError::MisplacedSystemContent(message.role));
            }
            Content::DeveloperContent(_) => {
                return Err(RenderError::MisplacedDeveloperContent(message.role));
            }
        }
    }
    tokens.push(if message.role == Role::Assistant && message.recipient.is_some() {
        CALL
    } else {
        END
    });
    Ok(Parts { body, content })
}
