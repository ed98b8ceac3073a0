//! Several requests at once on the caller's own thread: whole answers, or token by token. Both only drive
//! [`Engine::step`].

use std::collections::VecDeque;

use super::Engine;
use super::params::SamplingParams;
use super::request::{Completion, FinishReason, PromptInfo, Request, RequestId, TokenEvent};
use crate::{Error, Result};

impl Engine {
    /// Generates an answer to each prompt, as many at once as fit. `params` holds one entry for all prompts or one
    /// for each.
    ///
    /// # Errors
    /// The errors of [`Engine::complete`].
    pub fn generate<P: AsRef<[u32]>>(
        &mut self,
        prompts: &[P],
        params: &[SamplingParams],
    ) -> Result<Vec<Completion>> {
        let requests = requests(prompts, params)?;
        self.complete(requests)
    }

    /// Generates what the requests ask for and returns one entry per sample, those of a request next to each other.
    ///
    /// # Errors
    /// Those of [`Engine::stream_requests`] before anything runs, [`Error::RequestFailed`] or [`Error::Stopped`]
    /// afterwards. To serve the valid requests of a mixed set, pass each to [`Engine::submit`].
    pub fn complete(&mut self, requests: Vec<Request>) -> Result<Vec<Completion>> {
        let mut first = Vec::with_capacity(requests.len());
        let mut answers = Vec::new();
        for request in &requests {
            first.push(answers.len());
            answers.resize_with(answers.len() + request.params.n, || (empty(), false));
        }
        for event in self.stream_requests(requests)? {
            let (index, event) = event?;
            let (answer, done) = &mut answers[first[index] + event.sample];
            answer.tokens.extend(event.token);
            answer.text.push_str(&event.text);
            answer.logprobs.extend(event.logprobs);
            if let Some(prompt) = event.prompt {
                answer.prompt = *prompt;
            }
            if let Some(finish) = event.finish {
                (answer.finish, *done) = (finish, true);
            }
        }
        let whole = |(answer, done)| {
            let unfinished = || Error::Internal("an answer was left unfinished".to_owned());
            if done { Ok(answer) } else { Err(unfinished()) }
        };
        answers.into_iter().map(whole).collect()
    }

    /// Like [`Engine::generate`], but yields each token as soon as it is known, with the index of its prompt.
    /// Dropping the stream cancels what is unfinished.
    ///
    /// # Errors
    /// The errors of [`Engine::stream_requests`].
    pub fn stream<P: AsRef<[u32]>>(
        &mut self,
        prompts: &[P],
        params: &[SamplingParams],
    ) -> Result<TokenStream<'_>> {
        let requests = requests(prompts, params)?;
        self.stream_requests(requests)
    }

    /// Like [`Engine::complete`], but yields each token as soon as it is known, with the index of its request.
    ///
    /// # Errors
    /// [`Error::NotIdle`] while other requests are in flight, and the errors of [`Engine::submit`]; those of one among
    /// several requests as [`Error::Prompt`]. Nothing has run then.
    pub fn stream_requests(&mut self, requests: Vec<Request>) -> Result<TokenStream<'_>> {
        if !self.is_idle() {
            return Err(Error::NotIdle { action: "generate on the caller's thread" });
        }
        let count = requests.len();
        let mut stream = TokenStream { engine: self, requests: Vec::new(), known: VecDeque::new() };
        for (index, request) in requests.into_iter().enumerate() {
            // On a refusal the stream is dropped, which cancels what was queued so far.
            let id = stream.engine.submit(request);
            stream.requests.push(id.map_err(|error| name_prompt(error, index, count))?);
        }
        Ok(stream)
    }
}

fn requests<P: AsRef<[u32]>>(prompts: &[P], params: &[SamplingParams]) -> Result<Vec<Request>> {
    if params.len() != 1 && params.len() != prompts.len() {
        return Err(Error::invalid_request(
            "params",
            format!(
                "{} sampling settings for {} prompts; give one for all or one for each",
                params.len(),
                prompts.len()
            ),
        ));
    }
    let of = |index: usize| if params.len() == 1 { &params[0] } else { &params[index] };
    let request = |(index, prompt): (usize, &P)| Request::new(prompt.as_ref(), of(index).clone());
    Ok(prompts.iter().enumerate().map(request).collect())
}

fn empty() -> Completion {
    Completion {
        tokens: Vec::new(),
        text: String::new(),
        logprobs: Vec::new(),
        prompt: PromptInfo::default(),
        finish: FinishReason::Cancelled,
    }
}

fn name_prompt(error: Error, index: usize, prompts: usize) -> Error {
    if prompts > 1 && error.is_bad_request() {
        Error::Prompt { index, source: Box::new(error) }
    } else {
        error
    }
}

/// Tokens of a call's requests, in the order in which they become known, each with its request's index; ends when all
/// have finished.
#[derive(Debug)]
pub struct TokenStream<'a> {
    engine: &'a mut Engine,
    /// In the order of the call, so ascending.
    requests: Vec<RequestId>,
    known: VecDeque<TokenEvent>,
}

impl Iterator for TokenStream<'_> {
    type Item = Result<(usize, TokenEvent)>;

    fn next(&mut self) -> Option<Result<(usize, TokenEvent)>> {
        while self.known.is_empty() {
            if self.engine.is_idle() {
                return None;
            }
            match self.engine.step() {
                Ok(events) => self.known.extend(events),
                Err(error) => return Some(Err(error)),
            }
        }
        let event = self.known.pop_front()?;
        if let Some(FinishReason::Failed(reason)) = &event.finish {
            return Some(Err(Error::RequestFailed { reason: reason.to_string() }));
        }
        let index = self.requests.binary_search(&event.request).ok()?;
        Some(Ok((index, event)))
    }
}

impl Drop for TokenStream<'_> {
    fn drop(&mut self) {
        for &request in &self.requests {
            self.engine.cancel(request);
        }
        // Steps in flight still name the sequence slots; a failure here has stopped the engine, and the next call
        // reports it.
        while !self.engine.is_idle() && self.engine.step().is_ok() {}
    }
}
