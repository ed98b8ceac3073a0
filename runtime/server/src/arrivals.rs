//! When generations came and how long they were, without a word of what was in them: load that can be recorded and replayed.

use std::sync::Arc;
use std::time::Instant;

use serde::{Deserialize, Serialize};

use crate::clock;

/// One generation that has ended.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Arrival {
    /// When it came, in seconds since the recording began.
    pub at_seconds: f64,
    /// Tokens of its prompt.
    pub prompt_tokens: usize,
    /// Of these, tokens that were found in the prefix cache.
    pub cached_tokens: usize,
    /// Its limit of tokens, if it named one.
    pub max_tokens: Option<usize>,
    /// Tokens that it generated.
    pub generated_tokens: usize,
    /// From its arrival to its first token, if it had one.
    pub first_token_seconds: Option<f64>,
    /// From its arrival to its end.
    pub seconds: f64,
    /// `stop`, `length`, `abort` or `error`.
    pub finish: String,
}

/// Takes what is recorded.
type Write = dyn Fn(&Arrival) + Send + Sync;

/// Whoever wants the arrivals: each is handed over when its generation has ended.
#[derive(Clone)]
pub struct ArrivalSink {
    begin: Instant,
    write: Arc<Write>,
}

impl ArrivalSink {
    /// A recording that begins now. `write` is called on threads that serve requests.
    pub fn new(write: impl Fn(&Arrival) + Send + Sync + 'static) -> ArrivalSink {
        ArrivalSink { begin: clock::now(), write: Arc::new(write) }
    }

    /// Records a generation that came at `arrival`.
    pub(crate) fn record(&self, arrival: Instant, mut one: Arrival) {
        one.at_seconds = arrival.saturating_duration_since(self.begin).as_secs_f64();
        (self.write)(&one);
    }
}

impl std::fmt::Debug for ArrivalSink {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ArrivalSink").finish_non_exhaustive()
    }
}
