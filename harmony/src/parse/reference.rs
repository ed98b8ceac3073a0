//! The reference library's parser, step for step, for complete and for streamed tokens.
//!
//! It exists so that both answers can be compared and so that nothing changes for those who rely on it: it fails on malformed
//! headers, knows nothing between messages but `<|start|>`, and keeps all messages. New code should use [`super::StreamParser`].

use super::header::{self, ParseError, ReferenceHeader};
use crate::encoding::push_token_bytes;
use crate::special::{CALL, END, MESSAGE, RETURN, START, Token};
use crate::types::{Content, Message, Role};
use crate::utf8::LaggingDecoder;

/// How much the reference parser accepts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Strictness {
    /// Every message has to be whole.
    #[default]
    Strict,
    /// A message that stops before `<|message|>` is kept, where its role is known.
    KeepUnfinishedHeaders,
}

/// Where the parser is.
#[derive(Clone, Debug)]
enum State {
    /// Waiting for `<|start|>`.
    Start,
    /// Reading a header.
    Header { text: Vec<u8>, readable: bool },
    /// Reading a content.
    Content { header: ReferenceHeader, text: String, decoder: LaggingDecoder },
}

impl State {
    fn new_header() -> Self {
        Self::Header { text: Vec::new(), readable: true }
    }
}

/// The reference's streaming parser.
///
/// ```
/// use ossmith_harmony::{ReferenceParser, Role, Strictness, encode, special};
/// let mut parser = ReferenceParser::new(Some(Role::Assistant), Strictness::Strict);
/// parser.push(special::CHANNEL)?;
/// parser.push(encode("final")[0])?;
/// parser.push(special::MESSAGE)?;
/// assert_eq!(parser.push(encode("Hello")[0])?, Some("Hello"));
/// parser.finish()?;
/// assert_eq!(parser.messages()[0].text(), "Hello");
/// # Ok::<(), ossmith_harmony::ParseError>(())
/// ```
#[derive(Clone, Debug)]
pub struct ReferenceParser {
    strictness: Strictness,
    /// The role of the message whose header comes next, where the caller knows it.
    given_role: Option<Role>,
    state: State,
    messages: Vec<Message>,
    scratch: Vec<u8>,
}

impl ReferenceParser {
    /// A parser; with a role, the first message's `<|start|>` and role are not in the tokens.
    pub fn new(role: Option<Role>, strictness: Strictness) -> Self {
        let state = if role.is_some() { State::new_header() } else { State::Start };
        Self { strictness, given_role: role, state, messages: Vec::new(), scratch: Vec::new() }
    }

    /// Takes the next token and returns the text that it added to the content, if any.
    pub fn push(&mut self, token: Token) -> Result<Option<&str>, ParseError> {
        let is_stop = matches!(token, RETURN | END | CALL);
        match &mut self.state {
            State::Start if token == START => self.state = State::new_header(),
            State::Start => return Err(ParseError::ExpectedStart { token }),
            State::Header { text, readable } => {
                if token == MESSAGE {
                    let header = header::read(header_text(text, *readable)?, self.given_role)?;
                    self.given_role = None;
                    self.state = State::Content {
                        header,
                        text: String::new(),
                        decoder: LaggingDecoder::default(),
                    };
                } else if is_stop && self.strictness == Strictness::KeepUnfinishedHeaders {
                    self.end_in_header()?;
                } else {
                    *readable &= push_token_bytes(token, text);
                }
            }
            State::Content { .. } if is_stop => self.end_message(),
            State::Content { text, decoder, .. } => {
                self.scratch.clear();
                if !push_token_bytes(token, &mut self.scratch) {
                    decoder.block();
                }
                let before = text.len();
                decoder.push(&self.scratch, text);
                if text.len() > before
                    && let State::Content { text, .. } = &self.state
                {
                    return Ok(Some(&text[before..]));
                }
            }
        }
        Ok(None)
    }

    /// Says that the input has ended.
    pub fn finish(&mut self) -> Result<(), ParseError> {
        match &self.state {
            State::Start => Ok(()),
            State::Header { .. } => Err(ParseError::EndInHeader),
            State::Content { .. } => {
                self.end_message();
                Ok(())
            }
        }
    }

    fn end_message(&mut self) {
        if let State::Content { header, mut text, mut decoder } =
            std::mem::replace(&mut self.state, State::Start)
        {
            decoder.finish(&mut text);
            self.messages.push(message(header, text));
        }
    }

    /// A stop token before `<|message|>`: what follows the channel is the content, if the role is known.
    fn end_in_header(&mut self) -> Result<(), ParseError> {
        let State::Header { text, readable } = &self.state else { return Ok(()) };
        if let (Some(role), false) = (self.given_role, text.is_empty()) {
            let (header, content) = header::read_unfinished(header_text(text, *readable)?, role)?;
            self.messages.push(message(header, content));
        }
        self.given_role = None;
        self.state = State::Start;
        Ok(())
    }

    /// The messages that are complete.
    pub fn messages(&self) -> &[Message] {
        &self.messages
    }

    /// The messages that are complete.
    pub fn into_messages(self) -> Vec<Message> {
        self.messages
    }

    /// `start`, `header` or `content`.
    pub fn state_name(&self) -> &'static str {
        match self.state {
            State::Start => "start",
            State::Header { .. } => "header",
            State::Content { .. } => "content",
        }
    }

    /// The role of the message being read, or the one given for the first message.
    pub fn role(&self) -> Option<Role> {
        self.header().map_or(self.given_role, |h| Some(h.role))
    }

    /// The channel of the message whose content is being read.
    pub fn channel(&self) -> Option<&str> {
        self.header()?.channel.as_deref()
    }

    /// The recipient of the message whose content is being read.
    pub fn recipient(&self) -> Option<&str> {
        self.header()?.recipient.as_deref()
    }

    /// The content type of the message whose content is being read.
    pub fn content_type(&self) -> Option<&str> {
        self.header()?.content_type.as_deref()
    }

    /// The text so far of the message being read.
    pub fn content(&self) -> &str {
        match &self.state {
            State::Content { text, .. } => text,
            _ => "",
        }
    }

    fn header(&self) -> Option<&ReferenceHeader> {
        match &self.state {
            State::Content { header, .. } => Some(header),
            _ => None,
        }
    }
}

fn header_text(text: &[u8], readable: bool) -> Result<&str, ParseError> {
    match std::str::from_utf8(text) {
        Ok(text) if readable => Ok(text),
        _ => Err(ParseError::HeaderNotText),
    }
}

fn message(header: ReferenceHeader, text: String) -> Message {
    Message {
        role: header.role,
        name: header.name,
        content: vec![Content::Text { text }],
        channel: header.channel,
        recipient: header.recipient,
        content_type: header.content_type,
    }
}

/// Parses complete tokens as the reference does; with a role, the first message's `<|start|>` and role are not in the tokens.
///
/// ```
/// use ossmith_harmony::{Conversation, Message, RenderOptions, Strictness, parse, render};
/// let conversation = Conversation::new([Message::user("Hi!"), Message::assistant("Hello.").on_channel("final")]);
/// let tokens = render(&conversation, &RenderOptions::default())?;
/// assert_eq!(parse(&tokens, None, Strictness::Strict)?, conversation.messages);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn parse(
    tokens: &[Token],
    role: Option<Role>,
    strictness: Strictness,
) -> Result<Vec<Message>, ParseError> {
    let mut parser = ReferenceParser::new(role, strictness);
    for &token in tokens {
        parser.push(token)?;
    }
    parser.finish()?;
    Ok(parser.into_messages())
}
