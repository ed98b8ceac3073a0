//! Logits of a whole prompt, for checks and for scoring: no sampling, no queue, chunk by chunk.

use super::{Engine, accept};
use crate::backend::{Input, LogitRows, Output, PAGE_TOKENS, Sequence, Step};
use crate::{Error, Result};

/// How [`Engine::logits`] reads the prompt.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LogitsOptions {
    /// Tokens a step; `None` takes as many as the backend allows.
    pub chunk: Option<usize>,
    /// Also return residual rows and router choices of every layer.
    pub taps: bool,
}

impl Engine {
    /// Runs a prompt and hands every token's logits to `each`, a chunk at a time: the position of the chunk's first
    /// token, then the step's output, whose `logits[0]` is `[tokens of the chunk, vocab]`.
    ///
    /// # Errors
    /// [`Error::Request`] if the prompt is empty, too long or out of range, the chunk is 0 or over the limits, or
    /// requests are under way; what the backend or `each` reports.
    pub fn logits(
        &mut self,
        prompt: &[u32],
        options: LogitsOptions,
        each: &mut dyn FnMut(usize, Output) -> Result<()>,
    ) -> Result<()> {
        self.check_alive()?;
        let chunk = self.check_logits(prompt, options)?;
        // Pages are used from the first on, whatever they held.
        self.reset_prefix_cache();
        let pages: Vec<u32> = (0..self.limits.pages as u32).collect();
        for start in (0..prompt.len()).step_by(chunk) {
            let end = prompt.len().min(start + chunk);
            let sequence = Sequence {
                slot: 0,
                start,
                input: Input::Tokens(&prompt[start..end]),
                pages: &pages[..end.div_ceil(PAGE_TOKENS)],
                sample: None,
                logits: LogitRows::All,
            };
            let step = Step { sequences: &[sequence], taps: options.taps };
            let output = self.backend.run(&step).inspect_err(|error| {
                self.failure = Some(error.to_string().into());
            })?;
            each(start, output)?;
        }
        Ok(())
    }

    /// Returns the chunk to use.
    fn check_logits(&self, prompt: &[u32], options: LogitsOptions) -> Result<usize> {
        let refuse = |why: String| Err(Error::Request(why));
        if !self.is_idle() {
            return refuse("the engine has requests under way; wait until it is idle".to_owned());
        }
        accept::prompt(prompt, self.spec)?;
        let (tokens, context) = (prompt.len(), self.spec.context);
        if tokens > context {
            return refuse(format!(
                "the prompt has {tokens} tokens, but the context of {} is {context}: shorten it by {}",
                self.spec.name,
                tokens - context
            ));
        }
        let (needed, pages) = (tokens.div_ceil(PAGE_TOKENS), self.limits.pages);
        if needed > pages {
            return refuse(format!(
                "{tokens} tokens need {needed} cache pages of {PAGE_TOKENS} tokens, but there are \
                 {pages}: shorten the prompt or load the model with more pages"
            ));
        }
        let most = self.limits.max_step_tokens.min(self.backend.max_append());
        match options.chunk {
            None => Ok(most),
            Some(0) => refuse("the chunk is 0 tokens; it must be at least 1".to_owned()),
            Some(chunk) if chunk > most && tokens > most => refuse(format!(
                "the chunk is {chunk} tokens, but one step takes at most {most}: ask for less"
            )),
            Some(chunk) => Ok(chunk.min(most)),
        }
    }
}
