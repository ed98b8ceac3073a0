//! The harmony format of OpenAI's gpt-oss models: tokenize, render, parse, stream.
//!
//! A harmony conversation is a list of messages, each with a header (role, channel, recipient, content type) and a content, written
//! as tokens of the vocabulary `o200k_harmony`. This crate turns conversations into tokens and tokens into messages. It knows no
//! model, no file, no network and no thread: the vocabulary is embedded in a form that needs no loading.
//!
//! ```
//! use ossmith_harmony::{
//!     Conversation, DeveloperContent, Event, LenientOptions, Message, Role, StreamParser, SystemContent, encode,
//!     render_for_completion, special,
//! };
//! let conversation = Conversation::new([
//!     Message::system(SystemContent::gpt_oss()),
//!     Message::developer(DeveloperContent::new("Answer in riddles.")),
//!     Message::user("What is 2 + 2?"),
//! ]);
//! let prompt = render_for_completion(&conversation)?; // ends with <|start|>assistant
//! # assert!(prompt.len() > 60);
//!
//! // What a model might sample, one token after the other:
//! let mut sampled = vec![special::CHANNEL];
//! sampled.extend(encode("final"));
//! sampled.push(special::MESSAGE);
//! sampled.extend(encode("What two pairs of wings carry."));
//! sampled.push(special::RETURN);
//!
//! let mut parser = StreamParser::new(Some(Role::Assistant), LenientOptions::default());
//! let mut answer = String::new();
//! for token in sampled {
//!     parser.push(token, |event| {
//!         if let Event::Text(delta) = event {
//!             answer.push_str(delta);
//!         }
//!     });
//! }
//! assert_eq!(answer, "What two pairs of wings carry.");
//! # Ok::<(), ossmith_harmony::RenderError>(())
//! ```
//!
//! Where to look:
//!
//! | task | start at |
//! | --- | --- |
//! | text and tokens | [`encode`], [`decode`], [`encode_with_special`], [`TextDecoder`], [`special`] |
//! | build a conversation | [`Conversation`], [`Message`], [`SystemContent`], [`DeveloperContent`], [`Tool`] |
//! | render | [`render_for_completion`], [`render()`], [`render_for_training`], [`RenderOptions`] |
//! | which message a token comes from | [`render_spans`], [`Rendered`] |
//! | read what a model writes | [`StreamParser`], [`parse_lenient`], [`RepairKind`] |
//! | read it as the reference library does | [`ReferenceParser`], [`parse()`] |
//! | constrain headers while sampling | [`HeaderGrammar`] |
//! | Chat Completions and Responses | [`chat_conversation`], [`responses_conversation`], [`Route`] |
//! | the tokenizer in Hugging Face's files | [`write_tokenizer_json`], [`tokenizer_config`], [`CHAT_TEMPLATE`] |
//! | the command `ossmith harmony` | [`serve_lines`] |
//!
//! Defaults equal the reference library (`openai-harmony` 0.0.8) token for token; everything that differs is an option.

#![forbid(unsafe_code)]

mod bpe;
mod convert;
mod encoding;
mod export;
mod grammar;
mod parse;
mod protocol;
mod render;
pub mod special;
mod types;
mod utf8;

pub use convert::{
    ApiContent, ApiPart, ChatFunctionCall, ChatMessage, ChatReply, ChatToolCall, ConvertError,
    MessageItem, OutputItem, PromptOptions, ResponseFormat, ResponseItem, Route, TypedItem,
    chat_conversation, chat_reply, omitted_result, response_items, responses_conversation,
};
pub use encoding::{
    DecodeError, EncodeError, SpecialSet, decode, decode_bytes, decode_lossy, encode, encode_into,
    encode_with_special, token_bytes,
};
pub use export::{
    CHAT_TEMPLATE, MODEL_MAX_LENGTH, special_tokens_map, tokenizer_config, write_tokenizer_json,
};
pub use grammar::{CallChoice, HeaderChoices, HeaderGrammar, HeaderState};
pub use parse::{
    Collector, Event, Header, LenientOptions, ParseError, Parsed, ReferenceParser, Repair,
    RepairKind, Stop, StreamParser, Strictness, parse, parse_lenient,
};
pub use protocol::{answer_line, serve_lines};
pub use render::{
    DropAnalysis, MessageSpan, RecipientPlace, RenderError, RenderOptions, Rendered, SchemaStyle,
    render, render_for_completion, render_for_completion_with, render_for_training, render_message,
    render_message_with, render_spans, render_spans_for_training,
};
pub use special::Token;
pub use types::{
    ChannelConfig, Content, Conversation, DeveloperContent, Message, ReasoningEffort, Role,
    SystemContent, Tool, ToolNamespace,
};
pub use utf8::TextDecoder;

/// The README's examples, run as tests.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
