//! Several prompts at once: all answers whole, or token by token. Both only drive [`Engine::step`].

use std::collections::VecDeque;

use super::{Completion, Engine, FinishReason, RequestId, SamplingParams, TokenEvent};
use crate::{Error, Result};

/// One generated token of one of a call's prompts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    /// Index of the prompt in the call.
    pub prompt: usize,
    /// The token.
    pub token: u32,
    /// Set with the prompt's last token.
    pub finish: Option<FinishReason>,
}

impl Engine {
    /// Generates an answer to each prompt, as many at once as fit. `params` holds one entry for all prompts or one
    /// for each.
    ///
    /// # Errors
    /// [`Error::Request`] before anything runs, naming the first prompt that cannot be served and why; what the
    /// backend reports afterwards. To serve the good prompts of a mixed lot, give each to [`Engine::submit`].
    pub fn generate<P: AsRef<[u32]>>(
        &mut self,
        prompts: &[P],
        params: &[SamplingParams],
    ) -> Result<Vec<Completion>> {
        let mut answers = vec![(Vec::new(), None); prompts.len()];
        for event in self.stream(prompts, params)? {
            let event = event?;
            answers[event.prompt].0.push(event.token);
            answers[event.prompt].1 = event.finish;
        }
        let whole = |(tokens, finish): (Vec<u32>, Option<FinishReason>)| {
            let unfinished = || Error::Internal("an answer was left unfinished".to_owned());
            Ok(Completion { tokens, finish: finish.ok_or_else(unfinished)? })
        };
        answers.into_iter().map(whole).collect()
    }

    /// As [`Engine::generate`], but gives each token as soon as it is known. Dropping the stream cancels what is
    /// unfinished.
    ///
    /// # Errors
    /// [`Error::Request`] before anything runs, as for [`Engine::generate`], or while other requests are under way.
    pub fn stream<P: AsRef<[u32]>>(
        &mut self,
        prompts: &[P],
        params: &[SamplingParams],
    ) -> Result<Stream<'_>> {
        if !self.is_idle() {
            let busy = "the engine has requests under way; step until it is idle or cancel them";
            return Err(Error::Request(busy.to_owned()));
        }
        if params.len() != 1 && params.len() != prompts.len() {
            return Err(Error::Request(format!(
                "{} sampling settings for {} prompts; give one for all or one for each",
                params.len(),
                prompts.len()
            )));
        }
        let of = |index: usize| if params.len() == 1 { &params[0] } else { &params[index] };
        let mut stream = Stream { engine: self, requests: Vec::new(), known: VecDeque::new() };
        for (index, prompt) in prompts.iter().enumerate() {
            // On a refusal the stream is dropped, which takes back what was queued so far.
            let id = stream.engine.submit(prompt.as_ref(), of(index));
            stream.requests.push(id.map_err(|error| name_prompt(error, index, prompts.len()))?);
        }
        Ok(stream)
    }
}

fn name_prompt(error: Error, index: usize, prompts: usize) -> Error {
    match error {
        Error::Request(why) if prompts > 1 => Error::Request(format!("prompt {index}: {why}")),
        other => other,
    }
}

/// Tokens of a call's prompts, in the order in which they become known; ends when all have finished.
#[derive(Debug)]
pub struct Stream<'a> {
    engine: &'a mut Engine,
    /// In prompt order, so ascending.
    requests: Vec<RequestId>,
    known: VecDeque<TokenEvent>,
}

impl Iterator for Stream<'_> {
    type Item = Result<Event>;

    fn next(&mut self) -> Option<Result<Event>> {
        while self.known.is_empty() {
            if self.engine.is_idle() {
                return None;
            }
            match self.engine.step() {
                Ok(events) => self.known.extend(events),
                Err(error) => return Some(Err(error)),
            }
        }
        let TokenEvent { request, token, finish } = self.known.pop_front()?;
        let prompt = self.requests.binary_search(&request).ok()?;
        Some(Ok(Event { prompt, token, finish }))
    }
}

impl Drop for Stream<'_> {
    fn drop(&mut self) {
        for &request in &self.requests {
            self.engine.cancel(request);
        }
        // Steps under way still name the slots; a failure here has stopped the engine, and the next call says so.
        while !self.engine.is_idle() && self.engine.step().is_ok() {}
    }
}
