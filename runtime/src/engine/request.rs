//! A request's data, from what was asked to what came out; no behaviour.

use crate::Sampling;

/// Names one request for as long as its engine lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RequestId(pub u64);

/// Why an answer ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum FinishReason {
    /// A stop token was drawn; it is the answer's last token.
    Stop,
    /// `max_tokens` or the end of the context was reached.
    Length,
}

impl FinishReason {
    /// `stop` or `length`, as APIs spell it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            FinishReason::Stop => "stop",
            FinishReason::Length => "length",
        }
    }
}

/// One generated token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TokenEvent {
    /// Whose.
    pub request: RequestId,
    /// The token.
    pub token: u32,
    /// Set with the answer's last token.
    pub finish: Option<FinishReason>,
}

/// A finished answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Completion {
    /// Generated tokens, the stop token included.
    pub tokens: Vec<u32>,
    /// Why it ended.
    pub finish: FinishReason,
}

/// A prompt that was checked: its tokens exist, it fits, and at least one token may be generated.
#[derive(Clone, Debug)]
pub(super) struct Request {
    pub(super) prompt: Vec<u32>,
    pub(super) sampling: Sampling,
    /// Ascending.
    pub(super) stops: Vec<u32>,
    /// At least 1.
    pub(super) max_tokens: usize,
}

impl Request {
    /// Positions that its cache needs in all: the last token drawn is never fed back.
    pub(super) fn positions(&self) -> usize {
        self.prompt.len() + self.max_tokens - 1
    }
}
