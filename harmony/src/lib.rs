//! The harmony format of OpenAI's gpt-oss models: tokenize, render, parse, stream.

#![forbid(unsafe_code)]

mod bpe;
mod convert;
mod encoding;
mod grammar;
mod parse;
mod protocol;
mod render;
pub mod special;
mod types;
mod utf8;

pub use convert::{
    ApiContent, ApiPart, ChatMessage, ChatReply, ChatToolCall, ConvertError, MessageItem,
    OutputItem, PromptOptions, ResponseFormat, ResponseItem, Route, TypedItem, chat_conversation,
    chat_reply, response_items, responses_conversation,
};
pub use encoding::{
    DecodeError, EncodeError, SpecialSet, decode, decode_bytes, decode_lossy, encode, encode_into,
    encode_with_special, token_bytes,
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
