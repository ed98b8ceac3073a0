//! What is asked and what comes out, as plain data: a [`Request`] goes in, [`TokenEvent`]s come out, and a
//! [`Completion`] is all of one sample's events together. Settings of the draw are in [`super::params`].

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::mask::MaskSource;
use super::params::SamplingParams;
use super::text::Vocabulary;

/// Names one request for as long as its engine lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RequestId(pub u64);

/// A prompt with everything that is asked of it.
#[derive(Clone)]
pub struct Request {
    /// Token ids, at least one.
    pub prompt: Vec<u32>,
    /// How tokens are drawn and when to end.
    pub params: SamplingParams,
    /// Lower runs earlier; requests of one priority run in order of arrival.
    pub priority: i32,
    /// When to end at the latest, whatever has come by then.
    pub deadline: Option<Instant>,
    /// What tokens spell, for events with text and for stop strings. `None`: events carry no text.
    pub text: Option<Arc<dyn Vocabulary>>,
    /// Which tokens may come next. `None`: all.
    pub mask: Option<Arc<dyn MaskSource>>,
    /// Requests share cached prefixes only with requests of the same salt.
    pub cache_salt: u64,
}

impl Request {
    /// A request of ordinary priority, with neither deadline, text nor mask.
    #[must_use]
    pub fn new(prompt: impl Into<Vec<u32>>, params: SamplingParams) -> Request {
        Request {
            prompt: prompt.into(),
            params,
            priority: 0,
            deadline: None,
            text: None,
            mask: None,
            cache_salt: 0,
        }
    }
}

impl std::fmt::Debug for Request {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Request")
            .field("prompt_tokens", &self.prompt.len())
            .field("params", &self.params)
            .field("priority", &self.priority)
            .field("deadline", &self.deadline)
            .field("text", &self.text.is_some())
            .field("mask", &self.mask.is_some())
            .finish_non_exhaustive()
    }
}

/// Why a sample ended.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum FinishReason {
    /// A stop token was drawn; it is the sample's last token.
    Stop,
    /// The stop string of this index in [`SamplingParams::stop`] was written.
    StopString(usize),
    /// `max_tokens` or the end of the context was reached.
    Length,
    /// The request's deadline passed.
    Deadline,
    /// The request was cancelled, or the engine was shut down.
    Cancelled,
    /// The engine could not go on with it; the text says why.
    Failed(Arc<str>),
}

impl FinishReason {
    /// `stop`, `length`, `abort` or `error`, as APIs spell it.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            FinishReason::Stop | FinishReason::StopString(_) => "stop",
            FinishReason::Length => "length",
            FinishReason::Deadline | FinishReason::Cancelled => "abort",
            FinishReason::Failed(_) => "error",
        }
    }
}

/// How likely a token was, and which were likeliest. Logarithms of probabilities of the model's own distribution,
/// before temperature, penalties, bias and masks.
#[derive(Clone, Debug, PartialEq)]
pub struct TokenLogprobs {
    /// Of the token itself.
    pub logprob: f32,
    /// How many tokens were likelier, plus one.
    pub rank: u32,
    /// The likeliest tokens, as many as asked for, best first, the lowest id among equals.
    pub top: Vec<(u32, f32)>,
}

/// What became of the prompt; it comes with the first event of each sample.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PromptInfo {
    /// Tokens that a cached prefix spared.
    pub cached_tokens: usize,
    /// From arrival to the sample's first step.
    pub queued: Duration,
    /// If asked for: an entry for each prompt token; the first has none.
    pub logprobs: Vec<Option<TokenLogprobs>>,
}

/// One generated token, or the end of a sample.
#[derive(Clone, Debug, PartialEq)]
pub struct TokenEvent {
    /// Whose.
    pub request: RequestId,
    /// Which of the request's `n` samples.
    pub sample: usize,
    /// The token; `None` only where a sample ends without one.
    pub token: Option<u32>,
    /// Text that became certain with it; empty while a character or a stop string may be under way, and if the
    /// request has no vocabulary.
    pub text: String,
    /// If asked for.
    pub logprobs: Option<TokenLogprobs>,
    /// With the sample's first event.
    pub prompt: Option<Box<PromptInfo>>,
    /// With the sample's last event.
    pub finish: Option<FinishReason>,
}

impl TokenEvent {
    /// The end of a sample without a token.
    pub(super) fn end(request: RequestId, sample: usize, why: FinishReason) -> TokenEvent {
        let (text, finish) = (String::new(), Some(why));
        TokenEvent { request, sample, token: None, text, logprobs: None, prompt: None, finish }
    }
}

/// A finished sample.
#[derive(Clone, Debug, PartialEq)]
pub struct Completion {
    /// Generated tokens, the stop token included.
    pub tokens: Vec<u32>,
    /// What they spell, up to a stop string; empty if the request has no vocabulary.
    pub text: String,
    /// If asked for, an entry a token.
    pub logprobs: Vec<TokenLogprobs>,
    /// What became of the prompt.
    pub prompt: PromptInfo,
    /// Why it ended.
    pub finish: FinishReason,
}
