//! Token counts of one request, and how Chat Completions and Completions report them.

use serde_json::{Value, json};

/// Token counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Usage {
    pub(crate) prompt: usize,
    /// Prompt tokens that were found in the prefix cache.
    pub(crate) cached: usize,
    pub(crate) completion: usize,
    /// Completion tokens that are reasoning.
    pub(crate) reasoning: usize,
}

impl Usage {
    pub(crate) fn json(&self) -> Value {
        json!({
            "prompt_tokens": self.prompt,
            "completion_tokens": self.completion,
            "total_tokens": self.prompt + self.completion,
            "prompt_tokens_details": {"cached_tokens": self.cached},
            "completion_tokens_details": {"reasoning_tokens": self.reasoning},
        })
    }
}
