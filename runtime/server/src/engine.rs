//! The seam between HTTP and the engine: what one generation asks for, what comes back, and the trait that the real engine
//! (`live`) and the scripted one (`stub`) implement. Nothing here knows HTTP or text.

use std::task::{Context, Poll};
use std::time::Duration;

use tokio::sync::mpsc;

use crate::error::ApiError;
use crate::guide::Guide;

/// How tokens are drawn and when an answer ends.
#[derive(Clone, Debug, PartialEq)]
pub struct Sampling {
    /// Divides the logits; 0 is greedy.
    pub temperature: f32,
    /// Keep this many best tokens; 0 keeps all.
    pub top_k: u32,
    /// Keep the smallest set of best tokens with this much probability.
    pub top_p: f32,
    /// Drop tokens less likely than this share of the best one.
    pub min_p: f32,
    /// Taken off the logit of a token that the answer has.
    pub presence_penalty: f32,
    /// The same for each time it has it.
    pub frequency_penalty: f32,
    /// Divides (or multiplies) the logits of tokens that prompt or answer have; 1 does nothing.
    pub repetition_penalty: f32,
    /// Seed of the draws; none takes a fresh one.
    pub seed: Option<u64>,
    /// Added to logits.
    pub logit_bias: Vec<(u32, f32)>,
    /// Only these tokens, if any are named.
    pub allowed_token_ids: Option<Vec<u32>>,
    /// Token sequences that must not come.
    pub bad_words: Vec<Vec<u32>>,
    /// Tokens that end the answer besides the model's own.
    pub stop_token_ids: Vec<u32>,
    /// The model's own stop tokens do not end the answer.
    pub ignore_eos: bool,
    /// No stop token before this many tokens.
    pub min_tokens: usize,
    /// Most tokens; none takes all that fits.
    pub max_tokens: Option<usize>,
    /// Log-probabilities: of the token drawn and of this many best ones.
    pub logprobs: Option<u32>,
    /// The same for the prompt's tokens.
    pub prompt_logprobs: Option<u32>,
    /// Lower goes first.
    pub priority: i32,
}

impl Default for Sampling {
    fn default() -> Sampling {
        Sampling {
            temperature: 1.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            repetition_penalty: 1.0,
            seed: None,
            logit_bias: Vec::new(),
            allowed_token_ids: None,
            bad_words: Vec::new(),
            stop_token_ids: Vec::new(),
            ignore_eos: false,
            min_tokens: 0,
            max_tokens: None,
            logprobs: None,
            prompt_logprobs: None,
            priority: 0,
        }
    }
}

/// One generation.
#[derive(Debug)]
pub struct Ask {
    /// Prompt tokens.
    pub prompt: Vec<u32>,
    /// How tokens are drawn.
    pub sampling: Sampling,
    /// What may be drawn, token by token.
    pub guide: Option<Guide>,
    /// Which of the alternatives for its prompt this is, from 0.
    pub alternative: usize,
    /// Time after which it ends with a failure, whether or not anyone reads what comes.
    pub timeout: Option<Duration>,
}

/// A token with its log-probability.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Candidate {
    /// The token.
    pub token: u32,
    /// Natural logarithm of its probability.
    pub logprob: f32,
}

/// Log-probabilities at one position.
#[derive(Clone, Debug, PartialEq)]
pub struct Logprobs {
    /// Of the token that stands there.
    pub logprob: f32,
    /// Its rank, from 1.
    pub rank: u32,
    /// The best ones, best first.
    pub top: Vec<Candidate>,
}

/// Why the engine ended an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finish {
    /// A stop token was drawn; it is the last token.
    Stop,
    /// The limit of tokens or of the context.
    Length,
}

/// What comes back for one generation.
#[derive(Clone, Debug, PartialEq)]
pub enum Update {
    /// About the prompt, once, before any token.
    Prompt {
        /// Prompt tokens whose cache was there already.
        cached: usize,
        /// How long it waited for its first step.
        queued: Duration,
        /// One entry a prompt token (none for the first), if asked for.
        logprobs: Vec<Option<Logprobs>>,
    },
    /// The next token.
    Token {
        /// The token.
        id: u32,
        /// If asked for.
        logprobs: Option<Logprobs>,
        /// Set with the last token.
        finish: Option<Finish>,
    },
    /// The engine gave up; nothing follows.
    Failed(ApiError),
}

/// The updates of one generation. Dropping it frees the generation's place within one step.
pub trait Answer: Send {
    /// The next update; none after the last.
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Option<Update>>;
}

impl Answer for mpsc::Receiver<Update> {
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Option<Update>> {
        self.poll_recv(context)
    }
}

/// What the engine is doing now.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct EngineStats {
    /// Requests under way.
    pub running: usize,
    /// Requests that wait for a place.
    pub waiting: usize,
    /// Share of the cache's pages in use, 0 to 1.
    pub cache_usage: f64,
    /// Requests that lost their place for a while.
    pub preemptions: u64,
    /// Prompt tokens looked up in the prefix cache.
    pub prefix_queries: u64,
    /// Prompt tokens found there.
    pub prefix_hits: u64,
    /// Drafted runs of tokens, drafted tokens, accepted ones.
    pub drafts: [u64; 3],
    /// Accepted ones by their place in the draft.
    pub accepted_by_place: Vec<u64>,
    /// Tokens of the cache's page, and how many pages there are.
    pub page_tokens: usize,
    /// Pages of the cache.
    pub pages: usize,
    /// Tokens of each step.
    pub step_tokens: Counts,
}

/// A histogram that the engine keeps.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Counts {
    /// Upper bounds, ascending.
    pub bounds: &'static [f64],
    /// One count a bound, not cumulative, and one for what is above all of them.
    pub counts: Vec<u64>,
    /// Sum of all values.
    pub sum: f64,
}

/// Something that generates tokens.
pub trait Source: Send + Sync {
    /// Starts a generation, or says at once why not: [`ApiError::overloaded`] if the queue is full.
    ///
    /// # Errors
    /// What the client is to be told.
    fn submit(&self, ask: Ask) -> Result<Box<dyn Answer>, ApiError>;

    /// What it is doing now.
    fn stats(&self) -> EngineStats;

    /// Why nothing can be generated any more, if so.
    fn failure(&self) -> Option<String>;

    /// Forgets cached prefixes that no generation holds.
    fn reset_prefix_cache(&self);

    /// Stops: what is under way ends with a failure.
    fn stop(&self);
}
