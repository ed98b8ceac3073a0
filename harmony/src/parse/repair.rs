//! The repairs of the lenient parser, each by a stated rule.

use crate::special::Token;

/// One repair.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Repair {
    /// Index of the token at which it was made (the number of tokens for one at the end of the input).
    pub position: usize,
    /// What was wrong.
    pub kind: RepairKind,
}

/// What was wrong, and the rule by which it was repaired.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RepairKind {
    /// A message begins without `<|start|>`: it is the assistant's.
    MissingStart,
    /// A message begins before the last one ended: the last one ends there.
    MissingEnd,
    /// A header has no role: it is the assistant's.
    MissingRole,
    /// An assistant's message has no channel: a call is on `commentary`, anything else on `final`.
    MissingChannel,
    /// An assistant's message is on a channel that is not offered: it is on `commentary`.
    UnknownChannel(String),
    /// A recipient without `to=`: a word that begins like a tool's name counts as one.
    BareRecipient,
    /// A word and what follows it are written together (`commentaryto=…`): they are read apart.
    GluedWords,
    /// A second recipient, channel or format, or words that mean nothing: the first stands, these are set aside here.
    ExtraWords(String),
    /// `<|channel|>` or `<|constrain|>` twice in a header: the second is passed over.
    RepeatedMark(Token),
    /// A message stops before `<|message|>`: what follows its role and channel is its content.
    HeaderWithoutMessage,
    /// A header is longer than any real one: it is content.
    HeaderTooLong,
    /// A special token that means nothing where it stands: it is passed over.
    StrayToken(Token),
    /// An id outside the vocabulary: it is passed over.
    UnknownToken(Token),
    /// Bytes that are not UTF-8: each invalid sequence is U+FFFD.
    InvalidUtf8,
}

impl RepairKind {
    /// A short name for counters, the same for all repairs of a kind.
    ///
    /// ```
    /// assert_eq!(ossmith_harmony::RepairKind::UnknownToken(300_000).name(), "unknown_token");
    /// ```
    pub fn name(&self) -> &'static str {
        match self {
            Self::MissingStart => "missing_start",
            Self::MissingEnd => "missing_end",
            Self::MissingRole => "missing_role",
            Self::MissingChannel => "missing_channel",
            Self::UnknownChannel(_) => "unknown_channel",
            Self::BareRecipient => "bare_recipient",
            Self::GluedWords => "glued_words",
            Self::ExtraWords(_) => "extra_words",
            Self::RepeatedMark(_) => "repeated_mark",
            Self::HeaderWithoutMessage => "header_without_message",
            Self::HeaderTooLong => "header_too_long",
            Self::StrayToken(_) => "stray_token",
            Self::UnknownToken(_) => "unknown_token",
            Self::InvalidUtf8 => "invalid_utf8",
        }
    }
}
