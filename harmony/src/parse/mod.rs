//! Tokens to messages.

mod header;
mod reference;

pub use reference::{ParseError, ReferenceParser, Strictness, parse};
