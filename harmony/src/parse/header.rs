//! How the reference library reads a header, and why it fails.
//!
//! The header is read as text, special tokens by name, so everything here is about words. The rules are stated where they are
//! applied; `lenient_header` has better ones.

use crate::special::Token;
use crate::types::Role;

/// Why tokens were not parsed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    /// Something else where a message has to begin.
    #[error("token {token} stands between messages, where only <|start|> (200006) may be")]
    ExpectedStart {
        /// The token.
        token: Token,
    },
    /// The input ended before `<|message|>`.
    #[error("the input ends inside a header, before <|message|>")]
    EndInHeader,
    /// The header's tokens are not text.
    #[error("a header's tokens are not UTF-8, or an id in it is not in the vocabulary")]
    HeaderNotText,
    /// `<|channel|>` with no name after it.
    #[error("a header has <|channel|> with no name after it")]
    EmptyChannel,
    /// A header with no words.
    #[error("a header has no role")]
    NoRole,
    /// The first word is no role and too little follows for it to be a tool's name.
    #[error("a header begins with {word:?}, which is no role")]
    UnknownRole {
        /// The word.
        word: String,
    },
    /// More words than a header can have.
    #[error("a header has words that mean nothing there: {words:?}")]
    WordsLeftInHeader {
        /// The words.
        words: String,
    },
}

/// What a header holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ReferenceHeader {
    pub(super) role: Role,
    pub(super) name: Option<String>,
    pub(super) channel: Option<String>,
    pub(super) recipient: Option<String>,
    pub(super) content_type: Option<String>,
}

const CHANNEL_MARK: &str = "<|channel|>";
const CONSTRAIN_MARK: &str = "<|constrain|>";

/// Reads a whole header; `role` is the one given from outside, if any.
pub(super) fn read(text: &str, role: Option<Role>) -> Result<ReferenceHeader, ParseError> {
    let (channel, rest) = cut_channel(text)?;
    let mut words: Vec<&str> = rest.split_ascii_whitespace().collect();
    let (role, name) = match role {
        Some(role) => (role, None),
        None => author(&words)?,
    };
    if words.first().is_some_and(|&first| first == role.as_str() || name.as_deref() == Some(first))
    {
        words.remove(0);
    }
    let (recipient, content_type) = recipient_and_type(&mut words);
    match words.is_empty() {
        true => Ok(ReferenceHeader { role, name, channel, recipient, content_type }),
        false => Err(ParseError::WordsLeftInHeader { words: words.join(" ") }),
    }
}

/// Reads a header that ended early: its channel, and the words after the role as one text.
pub(super) fn read_unfinished(
    text: &str,
    role: Role,
) -> Result<(ReferenceHeader, String), ParseError> {
    let (channel, rest) = cut_channel(text)?;
    let mut words: Vec<&str> = rest.split_ascii_whitespace().collect();
    if words.first() == Some(&role.as_str()) {
        words.remove(0);
    }
    Ok((
        ReferenceHeader { role, name: None, channel, recipient: None, content_type: None },
        words.join(" "),
    ))
}

/// Cuts out the first channel mark with the name after it, which ends at white space or `<`; what is left is trimmed and has a
/// space before each constrain mark.
fn cut_channel(text: &str) -> Result<(Option<String>, String), ParseError> {
    let spaced = |text: &str| text.trim().replace(CONSTRAIN_MARK, " <|constrain|>");
    let Some(mark) = text.find(CHANNEL_MARK) else { return Ok((None, spaced(text))) };
    let after = &text[mark + CHANNEL_MARK.len()..];
    let end = after.find(|c: char| c.is_whitespace() || c == '<').unwrap_or(after.len());
    if end == 0 {
        return Err(ParseError::EmptyChannel);
    }
    Ok((Some(after[..end].to_owned()), spaced(&format!("{}{}", &text[..mark], &after[end..]))))
}

/// The first word is the role; another word is a tool's name if something follows it (or if it is a recipient).
fn author(words: &[&str]) -> Result<(Role, Option<String>), ParseError> {
    let Some(&first) = words.first() else { return Err(ParseError::NoRole) };
    match Role::by_name(first) {
        Some(Role::Tool) => Ok((Role::Tool, Some(first.to_owned()))),
        Some(role) => Ok((role, None)),
        None if words.len() > 1 || first.starts_with("to=") => {
            Ok((Role::Tool, Some(first.to_owned())))
        }
        None => Err(ParseError::UnknownRole { word: first.to_owned() }),
    }
}

/// A last word `to=X` is the recipient and so is a lone word; otherwise the last word is the content type and the recipient
/// stands before it.
fn recipient_and_type(words: &mut Vec<&str>) -> (Option<String>, Option<String>) {
    let Some(last) = words.pop() else { return (None, None) };
    if let Some(recipient) = last.strip_prefix("to=") {
        return (Some(recipient.to_owned()), None);
    }
    match words.pop() {
        None => (Some(last.to_owned()), None),
        Some(word) => {
            (Some(word.strip_prefix("to=").unwrap_or(word).to_owned()), Some(last.to_owned()))
        }
    }
}
