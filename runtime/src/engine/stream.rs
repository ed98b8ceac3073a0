//! Several requests at once on the caller's own thread: all answers whole, or token by token. Both only drive
//! [`Engine::step`].

use std::collections::VecDeque;

use super::{Completion, Engine, FinishReason, Request, RequestId, SamplingParams, TokenEvent};
use crate::{Error, Result};

impl Engine {
    /// Generates an answer to each prompt, as many at once as fit. `params` holds one entry for all prompts or one
    /// for each.
    ///
    /// # Errors
    /// As [`Engine::complete`].
    pub fn generate<P: AsRef<[u32]>>(
        &mut self,
        prompts: &[P],
        params: &[SamplingParams],
    ) -> Result<Vec<Completion>> {
        let requests = requests(prompts, params)?;
        self.complete(requests)
    }

    /// Generates what requests ask for: an entry a sample, those of a request next to each other.
    ///
    /// # Errors
    /// [`Error::Request`] before anything runs, naming the first request that cannot be served and why; what the
    /// backend reports afterwards. To serve the good requests of a mixed lot, give each to [`Engine::submit`].
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

    /// As [`Engine::generate`], but gives each token as soon as it is known, with the index of its prompt.
    /// Dropping the stream cancels what is unfinished.
    ///
    /// # Errors
    /// As [`Engine::stream_requests`].
    pub fn stream<P: AsRef<[u32]>>(
        &mut self,
        prompts: &[P],
        params: &[SamplingParams],
    ) -> Result<Stream<'_>> {
        let requests = requests(prompts, params)?;
        self.stream_requests(requests)
    }

    /// As [`Engine::complete`], but gives each token as soon as it is known, with the index of its request.
    ///
    /// # Errors
    /// [`Error::Request`] before anything runs, as for [`Engine::complete`], or while other requests are under way.
    pub fn stream_requests(&mut self, requests: Vec<Request>) -> Result<Stream<'_>> {
        if !self.is_idle() {
            let busy = "the engine has requests under way; step until it is idle or cancel them";
            return Err(Error::Request(busy.to_owned()));
        }
        let count = requests.len();
        let mut stream = Stream { engine: self, requests: Vec::new(), known: VecDeque::new() };
        for (index, request) in requests.into_iter().enumerate() {
            // On a refusal the stream is dropped, which takes back what was queued so far.
            let id = stream.engine.submit(request);
            stream.requests.push(id.map_err(|error| name_prompt(error, index, count))?);
        }
        Ok(stream)
    }
}

fn requests<P: AsRef<[u32]>>(prompts: &[P], params: &[SamplingParams]) -> Result<Vec<Request>> {
    if params.len() != 1 && params.len() != prompts.len() {
        return Err(Error::Request(format!(
            "{} sampling settings for {} prompts; give one for all or one for each",
            params.len(),
            prompts.len()
        )));
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
        prompt: super::PromptInfo::default(),
        finish: FinishReason::Cancelled,
    }
}

fn name_prompt(error: Error, index: usize, prompts: usize) -> Error {
    match error {
        Error::Request(why) if prompts > 1 => Error::Request(format!("prompt {index}: {why}")),
        other => other,
    }
}

/// Tokens of a call's requests, in the order in which they become known, each with its request's index; ends when all
/// have finished.
#[derive(Debug)]
pub struct Stream<'a> {
    engine: &'a mut Engine,
    /// In the order of the call, so ascending.
    requests: Vec<RequestId>,
    known: VecDeque<TokenEvent>,
}

impl Iterator for Stream<'_> {
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
        if let Some(FinishReason::Failed(why)) = &event.finish {
            let why = why.to_string();
            return Some(Err(Error::Device(why)));
        }
        let index = self.requests.binary_search(&event.request).ok()?;
        Some(Ok((index, event)))
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
