//! Logits of a whole prompt, for checks and for scoring: no sampling, no queue, chunk by chunk.

use super::{Engine, validate};
use crate::backend::{Input, LogitRows, PAGE_TOKENS, Sequence, Step, StepOutput};
use crate::{Error, Result};

/// How [`Engine::logits`] reads the prompt.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LogitsOptions {
    /// Tokens per step; `None` takes as many as the backend allows.
    pub chunk: Option<usize>,
    /// Also return residual rows and router choices of every layer.
    pub capture_activations: bool,
}

impl Engine {
    /// Runs a prompt and hands every token's logits to `each`, a chunk at a time: the position of the chunk's first
    /// token, then the step's output, whose `logits[0]` is `[tokens of the chunk, vocab]`.
    ///
    /// # Errors
    /// [`Error::InvalidRequest`], [`Error::PromptTooLong`] or [`Error::CacheTooSmall`] for the prompt,
    /// [`Error::InvalidOption`] for a chunk of 0 or over the limits, [`Error::NotIdle`]; what the backend or `each`
    /// reports.
    #[doc(hidden)]
    pub fn logits(
        &mut self,
        prompt: &[u32],
        options: LogitsOptions,
        each: &mut dyn FnMut(usize, StepOutput) -> Result<()>,
    ) -> Result<()> {
        self.check_running()?;
        let chunk = self.check_logits(prompt, options)?;
        // Pages are used from the first one on, whatever they held.
        self.reset_prefix_cache();
        // The slot may have the adapter of the last request in it.
        self.backend.set_adapter(0, None)?;
        if let Some(known) = self.slot_adapters.first_mut() {
            *known = 0;
        }
        let pages: Vec<u32> = (0..self.limits.pages as u32).collect();
        for start in (0..prompt.len()).step_by(chunk) {
            let end = prompt.len().min(start + chunk);
            let sequence = Sequence {
                seq_slot: 0,
                start,
                input: Input::Tokens(&prompt[start..end]),
                pages: &pages[..end.div_ceil(PAGE_TOKENS)],
                sample: None,
                prompt_report: None,
                logits: LogitRows::All,
            };
            let step =
                Step { sequences: &[sequence], capture_activations: options.capture_activations };
            let output = self.backend.run(&step).inspect_err(|error| {
                self.failure = Some(error.to_string().into());
            })?;
            each(start, output)?;
        }
        Ok(())
    }

    /// Returns the chunk to use.
    fn check_logits(&self, prompt: &[u32], options: LogitsOptions) -> Result<usize> {
        if !self.is_idle() {
            return Err(Error::NotIdle { action: "compute the logits of a prompt" });
        }
        validate::check_prompt(prompt, self.spec)?;
        let (tokens, context) = (prompt.len(), self.spec.context);
        if tokens > context {
            return Err(Error::PromptTooLong { tokens, limit: context });
        }
        let (needed_pages, pages) = (tokens.div_ceil(PAGE_TOKENS), self.limits.pages);
        if needed_pages > pages {
            return Err(Error::CacheTooSmall {
                prompt_tokens: tokens,
                new_tokens: 0,
                needed_pages,
                pages,
            });
        }
        let limit = self.limits.max_step_tokens.min(self.backend.max_append());
        match options.chunk {
            None => Ok(limit),
            Some(0) => {
                let problem = "the chunk is 0 tokens; it must be at least 1";
                Err(Error::invalid_option("chunk", problem))
            }
            Some(chunk) if chunk > limit && tokens > limit => Err(Error::invalid_option(
                "chunk",
                format!("the chunk is {chunk} tokens, but one step takes at most {limit}"),
            )),
            Some(chunk) => Ok(chunk.min(limit)),
        }
    }
}
